"""The verb for a clip: explain it frame by frame, and write it as a clip. ``run.explain_clip`` is the door.

``survey`` looks at the whole clip first, ``account`` counts what passes, ``sheets`` draws it, ``sink`` writes it.
"""
