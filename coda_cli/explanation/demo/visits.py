"""The files of visitors: each has one upload and one answer at a time, and nothing is kept after they leave."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from coda_cli.errors import CodaError, UsageError

MOST_GONE = 10_000  # visitors who left that are remembered: what they had asked for may still wait for its turn
OLDEST = 3600.0  # seconds after which a file is removed that belongs to nobody: an upload that was broken off


@dataclass
class _Visit:
    """What one visitor has here."""

    upload: Path
    answer: Path


class Visits:
    """The visitors of a page, by the name that their browser was given. Any thread may call it.

    Args:
        root: the folder of all their files, and of nothing else. Uploads come into it in folders of their own.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._here, self._alone = root, dict[str, _Visit](), Lock()
        self._gone = deque[str](maxlen=MOST_GONE)

    def begin(self, visitor: str, upload: Path) -> Path:
        """Make room for an answer; the visitor's answer before it is removed, and the upload, if that is another one.

        Args:
            visitor: who asks.
            upload: the file that is asked about, below the root.

        Returns:
            A new folder for the answer. Its name cannot be guessed: who knows it can read what is in it.

        Raises:
            CodaError: the visitor left, or the upload is no longer there.
        """
        visit = _Visit(upload, self._root / secrets.token_urlsafe(16))
        with self._alone:
            before = self._here.pop(visitor, None)
            if visitor not in self._gone:
                self._here[visitor] = visit
            if before:
                self._remove(before)
            self._sweep()
            if visitor in self._gone:
                self._remove(visit)
                raise UsageError("you left this page in between; load it again")
            if not upload.exists():
                raise CodaError("is no longer here; drop it again", item=upload.name)
            visit.answer.mkdir(mode=0o700)
        return visit.answer

    def settle(self, visitor: str, answer: Path) -> None:
        """Remove an answer that was made while its visitor left.

        Args:
            visitor: who asked.
            answer: its folder.
        """
        with self._alone:
            if visitor not in self._here:
                shutil.rmtree(answer, ignore_errors=True)

    def leave(self, visitor: str) -> None:
        """Remove all that a visitor has here, and take no more from there.

        Args:
            visitor: who closed the page.
        """
        self._gone.append(visitor)
        self.end(visitor)

    def end(self, visitor: str) -> None:
        """Remove all that a visitor has here.

        Args:
            visitor: who takes the upload away.
        """
        with self._alone:
            if before := self._here.pop(visitor, None):
                self._remove(before)

    def page(self, answer: str, name: str) -> Path | None:
        """Find a file of an answer.

        Args:
            answer: the name of its folder.
            name: of the file.

        Returns:
            Its path; None where no visitor has such an answer.
        """
        with self._alone:
            folders = [visit.answer for visit in self._here.values() if visit.answer.name == answer]
        return next((path for folder in folders for path in folder.iterdir() if path.name == name), None)

    def _remove(self, visit: _Visit) -> None:
        """Remove an answer, and its upload, unless another visitor sent the same file: they lie in one place."""
        shutil.rmtree(visit.answer, ignore_errors=True)
        if not any(visit.upload == other.upload for other in self._here.values()):
            self._discard(self._root / visit.upload.relative_to(self._root).parts[0])

    def _sweep(self) -> None:
        """Remove what belongs to nobody and is old."""
        used = {path for visit in self._here.values() for path in (visit.answer, visit.upload)}
        for path in self._root.iterdir():
            if not any(one.is_relative_to(path) for one in used) and _age(path) > OLDEST:
                self._discard(path)

    def _discard(self, path: Path) -> None:
        """Remove a file or a folder."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since a file or a folder was changed; 0 where it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
