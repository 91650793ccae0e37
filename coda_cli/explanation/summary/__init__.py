"""Many records in numbers: what `coda summary` reads, adds up and writes.

It reads what ``coda explain`` wrote and explains nothing itself: records hold every number that is needed, so that a
folder is explained once and summarised as often as one likes, also on a machine without the pictures or the network.
"""
