"""The page of ``coda demo``: visitors drop a picture or a clip, and read its explanation."""
