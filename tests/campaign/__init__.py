"""A campaign of hostile inputs against the program; see ``__main__.py``."""
