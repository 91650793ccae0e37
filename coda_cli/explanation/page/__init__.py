"""One HTML file about many pictures: every map is in it, so that it can be read and summed without coda.

``maps`` packs a map into few bytes and says how far that can be off, ``entry`` makes the part about one picture,
``report`` the file. The templates, the style and the script are beside them.
"""
