"""The verb: explain a picture, many, a clip; draw it, write it, record it."""
