"""How much is computed at once, where, and in which numbers."""
