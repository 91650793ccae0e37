"""Records that are there: two runs compared, and a record proven again or repeated.

Such files come from others, too, and are read strictly and with limits.
"""
