"""Write the files about pictures to an address or into a tar: by the rules of a folder on a disk, the record last."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.request import Input, Request
from coda_cli.explanation.writer import Outcome, Output, Writer
from coda_cli.media.elsewhere import Elsewhere
from coda_cli.media.sources import Item
from coda_cli.media.stills import Picture
from coda_cli.schema.pictures import Record


class RemoteWriter(Writer):
    """A writer whose files are made on this disk, and then put elsewhere.

    Args:
        net: the network.
        items: the inputs, which are never written over.
        request: what is asked.
        output: what is written, and where.
        remote: where they are put: a folder at an address, or a tar.

    Raises:
        UsageError: files there are to be renamed, which needs a disk, or a tar is to have no records.
    """

    def __init__(self, net: Net, items: Sequence[Item], request: Request, output: Output, remote: Elsewhere) -> None:
        if output.if_exists == "rename":
            raise UsageError("--if-exists rename: is for folders on a disk; choose another --output", item=remote.name)
        if remote.packed and "json" not in output.drawing.kinds:
            raise UsageError("is continued by its records; add json to --write", item=remote.name)
        super().__init__(net, items, request, output)
        self._remote, self._names = remote, {item.name for item in items if item.stored}
        self._fetched = threading.local()

    def known(self, item: Item) -> Outcome | None:
        """Look for the results of an input by the list of what is there; the input is not read.

        Its record is read only where ``Output.tells_skipped`` says so.

        Args:
            item: the input.

        Returns:
            The outcome of an input that has a record, where such are skipped unseen; None for all others.

        Raises:
            MediaError: its record is needed, and cannot be read.
        """
        if self.output.if_exists != "skip" or self.output.entry or "json" not in self.output.drawing.kinds:
            return None
        path = self.output.naming.record_path(item)
        if not self._is_there(path):
            return None
        try:
            record = self._record_at(path) if self.output.tells_skipped else None
        except CodaError as error:
            raise self._at_address(error) from error
        finally:
            self._clear()
        there = tuple(f for f in self._files_of_record(record, path) if self._is_there(f))
        return self._moved(Outcome(item, record, skipped=True, written=there))

    def write(self, source: Input, explanation: Explanation) -> Outcome:
        """Write every file about an explained picture, and put them where they go, its record last.

        Args:
            source: the picture as it was read.
            explanation: its explanation.

        Returns:
            The outcome, with its record and the addresses of its files.

        Raises:
            MediaError: a file cannot be written, or exists and may not be replaced.
        """
        try:
            outcome = super().write(source, explanation)
            self._remote.put(*outcome.written)
        except CodaError as error:
            raise self._at_address(error) from error
        finally:
            self._clear()
        return self._moved(outcome)

    def stored(self, item: Item, picture: Picture, regions: Mapping[str, str]) -> Outcome | None:
        """Look for the results of an input: its record is read where the list has one.

        Args:
            item: the input.
            picture: the picture as it was read; its hash is compared.
            regions: the files that its regions are from, with their hashes.

        Returns:
            The outcome of an input whose results exist; None when it has to be explained.

        Raises:
            MediaError: results exist that may not be replaced.
        """
        try:
            outcome = super().stored(item, picture, regions)
        except CodaError as error:
            raise self._at_address(error) from error
        finally:
            self._clear()
        return outcome and self._moved(outcome)

    # ---- the steps of a writer, with what is at the address ----------------------------------------------------------

    def _record_at(self, path: Path) -> Record | None:
        self._fetch(path)
        return super()._record_at(path)

    def _is_there(self, path: Path) -> bool:
        return path in self._remote

    def _place(self, path: Path, source: Input) -> Path:
        """Where a file about an input that was read goes; one that is there is fetched, unless it is replaced."""
        path = super()._place(path, source)
        if self._remote.shown(path) in self._names:
            why = "is one of the inputs and is not overwritten; choose another --output or --name"
            raise MediaError(why, item=path)
        if self.output.if_exists != "overwrite":
            self._fetch(path)
        return path

    def _prepare_folder(self, source: Input) -> None:
        super()._prepare_folder(source)
        if self.output.if_exists == "overwrite":
            self._remote.remove(self.output.naming.record_path(source.item))

    def _fetch(self, path: Path) -> None:
        self._remote.fetch(path)
        self._fetched.paths = [*getattr(self._fetched, "paths", ()), path]

    def _clear(self) -> None:
        """Remove what was fetched for an input; reading and writing one take a thread each from beginning to end."""
        for path in getattr(self._fetched, "paths", ()):
            path.unlink(missing_ok=True)
        self._fetched.paths = []

    def _moved(self, outcome: Outcome) -> Outcome:
        """The outcome with addresses in the place of files on this disk."""
        return replace(outcome, written=(), addresses=tuple(map(self._remote.shown, outcome.written)))

    def _at_address(self, error: CodaError) -> CodaError:
        """The error about a file on this disk as one about its address."""
        if error.item is not None and Path(error.item).is_relative_to(self._remote.folder):
            return type(error)(error.message, item=self._remote.shown(Path(error.item)))
        return error
