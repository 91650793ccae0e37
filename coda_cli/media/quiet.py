"""Libraries that read pictures say nothing of their own: what is wrong with a file, coda's error says."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from functools import cache

from PIL import _imaging

# A library's log without a handler would be printed on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _Silence:
    """Inside ``with``, Pillow's warnings are not shown, neither those about odd files nor that about many pixels.

    ``warnings.catch_warnings`` alone is not safe in threads. Here the first thread that enters sets the filter, and the
    last one that leaves restores what was there before.
    """

    def __init__(self) -> None:
        self.lock, self.users, self.caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        _quieten_libtiff()
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.caught.__exit__(None, None, None)


pillow_silent = _Silence()


@cache
def _quieten_libtiff() -> None:
    """Take the functions away with which libtiff writes to the process's stderr, for good.

    Nothing is redirected for that: a line of coda's that another thread writes at the same time is not lost. Where
    Pillow hides the library's functions, as it may outside Linux, libtiff goes on speaking.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetErrorHandlerExt", "TIFFSetWarningHandler"):
            function = getattr(library, name)
            function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            function(None)
    except (AttributeError, OSError):
        return
