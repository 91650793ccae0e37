"""Explain a clip frame by frame, and write it as a clip; ``run.explain_clip`` is the function to start from.

``survey`` classifies the whole clip first, ``record`` makes records, ``drawing`` draws frames, ``files`` writes them.
"""
