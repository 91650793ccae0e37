"""OpenCV, which draws and resizes: the one place that imports it, because it fails on many machines without a screen.

opencv-python wants libraries of a graphical system, such as libGL; opencv-python-headless is the same without them.
"""

from __future__ import annotations

from coda_cli.errors import UsageError

try:
    import cv2
except ImportError as error:
    if error.name != "cv2" and "No such file" not in str(error):  # where memory ran out, app.py says so
        raise
    raise UsageError(
        f"OpenCV does not start ({error}); install the one that needs no screen: "
        "pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless"
    ) from error

__all__ = ["cv2"]
