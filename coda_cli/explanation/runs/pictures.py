"""Where the picture of a record is: a file, in an archive, at an address, or a page of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from coda_cli.errors import MediaError, UsageError
from coda_cli.media.addresses import at, is_address
from coda_cli.media.archives import Listing, is_archive, list_archive
from coda_cli.media.pages import page_of, split
from coda_cli.media.sources import Item
from coda_cli.media.stored import Document

LISTINGS = 2  # of archives that are kept: the records of a run lie beside each other


class Pictures:
    """Finds the pictures that records name.

    Args:
        folder: a folder in which they are looked for; None looks where the records say.
        allow_private: whether addresses may lead into a private network. A record may be a stranger's.
    """

    def __init__(self, folder: Path | None = None, *, allow_private: bool = False) -> None:
        self._folder, self._allow_private = folder, allow_private
        self._listings = dict[Path, Listing]()
        self._documents = dict[Path | str, Document]()  # the last one: records of its pages lie beside each other

    def of(self, name: str) -> Iterator[Item]:
        """Look for the picture of a record.

        Args:
            name: what the record calls it.

        Yields:
            What may be the picture; its hash tells. In a folder it is what has the end of the name for its path.

        Raises:
            MediaError: an archive cannot be read, or no such addresses are.
        """
        whole, pages = split(name)
        for item in self._wholes(whole):
            yield item if pages is None else page_of(item, pages.first, self._document(item))

    def _document(self, whole: Item) -> Document:
        """What reads a picture with pages, the same as for the page before."""
        if whole.key not in self._documents:
            self._documents = {whole.key: Document(whole.content)}
        return self._documents[whole.key]

    def _wholes(self, name: str) -> Iterator[Item]:
        if self._folder is None and is_address(name):
            try:
                stored = at(name, private="always" if self._allow_private else "never", chains=False)
            except UsageError as error:
                raise MediaError(error.message, item=error.item) from error
            yield Item(Path(name), stored=stored)
            return
        parts = [part for part in PurePath(name).parts if part not in ("/", "..")]
        paths = [self._folder / Path(*parts[k:]) for k in range(len(parts))] if self._folder else [Path(name)]
        for path in paths:
            try:
                if path.is_file():
                    yield Item(path)
                    continue
                archive = next((p for p in path.parents if is_archive(p.name) and p.is_file()), None)
            except (OSError, ValueError):  # no file can have this name
                continue
            if archive:
                inside = PurePosixPath(path.relative_to(archive).as_posix())
                if (entry := self._listing(archive).pictures.get(inside)) is not None:
                    yield Item(path, stored=entry)

    def _listing(self, archive: Path) -> Listing:
        """What is in an archive; the last few are kept. Raises MediaError."""
        if archive not in self._listings:
            while len(self._listings) >= LISTINGS:
                del self._listings[next(iter(self._listings))]
            self._listings[archive] = list_archive(archive)
        return self._listings[archive]
