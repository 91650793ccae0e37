"""One HTML file about many pictures or clips: every map is in it, so that it can be read and summed without coda.

``maps`` packs a map into few bytes and says how far that can be off, ``entry`` makes the part about one picture,
``report`` the file; ``plot``, ``clip_entry`` and ``clip_report`` do the same for clips. The templates, the style and
the scripts are beside them.
"""
