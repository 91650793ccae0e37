"""Where visitors ask: one decomposition at a time, and a sentence where there is no answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from coda_cli.errors import CodaError
from coda_cli.explanation.demo.answers import Answer, answer_of
from coda_cli.explanation.demo.networks import Networks
from coda_cli.explanation.demo.visits import Visits

FAULT = "coda failed on this file; whoever runs this page finds the reason in the terminal"


class Desk:
    """Answers visitors, one after the other.

    Args:
        networks: what they may choose.
        visits: their files.

    Attributes:
        closed: whether no more work is taken.
    """

    def __init__(self, networks: Networks, visits: Visits) -> None:
        self._networks, self._visits, self._alone, self.closed = networks, visits, Lock(), False

    def answer(
        self, visitor: str, upload: Path, network: str, classes: Sequence[int], on_frame: Callable[[int], None]
    ) -> Answer | str:
        """Explain an upload.

        Args:
            visitor: who asks.
            upload: the file.
            network: its name.
            classes: indices of the classes to explain; none is the predicted class.
            on_frame: called with the number of frames of a clip that are explained.

        Returns:
            The answer, or the sentence that says why there is none.
        """

        def going_on(frames: int) -> None:
            if self.closed:
                raise CodaError("this page was closed")
            on_frame(frames)

        with self._alone:
            try:
                going_on(0)
                folder = self._visits.begin(visitor, upload)
                try:
                    return answer_of(upload, self._networks[network], classes, folder, going_on)
                finally:
                    self._visits.settle(visitor, folder)
            except CodaError as error:
                return str(error)
            except Exception as error:  # a fault of the program: the page goes on for everybody else
                logging.getLogger(__name__).warning("demo: %s: %r", upload.name, error)
                return FAULT

    def classes(self, network: str) -> list[tuple[str, int]]:
        """List the classes of a network.

        Args:
            network: its name.

        Returns:
            Each class's name, told apart from others of the same name, and its index.

        Raises:
            CodaError: the network cannot be loaded.
        """
        names = self._networks[network].checkpoint.classes
        return [(name if names.count(name) == 1 else f"{name} ({n})", n) for n, name in enumerate(names)]

    def close(self, patience: float) -> None:
        """Take no more work, and wait for what is under way: it writes files.

        Args:
            patience: seconds to wait for it.
        """
        self.closed = True
        self._alone.acquire(timeout=patience)
