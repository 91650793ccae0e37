"""Loaded by a child of ``program.started(most=...)``, and by its own children: its next records wait until it may go on.

So a test that disturbs a run finds it at work, however late the test itself is.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER, MOST = Path(os.environ["HELD_FOLDER"]), int(os.environ["HELD_MOST"])


def _held(place: Callable[..., None]) -> Callable[..., None]:
    def placed(source: Any, target: Any, **more: Any) -> None:
        if str(target).endswith(".coda.json"):
            with (FOLDER / "placed").open("ab") as count:  # a byte for each record, of all processes together
                while count.tell() >= MOST and not (FOLDER / "go").exists():
                    time.sleep(0.005)
                    count.seek(0, os.SEEK_END)
                count.write(b".")
        place(source, target, **more)

    return placed


os.link, os.replace = _held(os.link), _held(os.replace)
