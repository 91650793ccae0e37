"""Sums of contributions inside regions that a user gives: boxes, masks and files of annotations.

``asked`` says what is given, ``shapes`` lays it on a view, ``sums`` adds up; ``annotations`` and ``coco`` read files.
"""
