"""Networks in repositories of the Hugging Face hub, by the address ``hf:OWNER/NAME[/FILE][@REVISION]``.

Only safetensors with coda's own description are taken: nothing in them runs. A pull remembers which commit it took, and
the sha256 of the file. Loading looks at these alone, so it needs no connection, and no package of the hub's.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coda_cli.checkpoints.descriptions import read_json
from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.manifest import METADATA_KEY, cache_folder
from coda_cli.errors import CheckpointError, CodaError, DownloadError, MediaError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX, SUFFIX, CARD = "hf:", ".safetensors", "README.md"
_PLACE = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./ -]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Place:
    """Where a network is on the hub.

    Attributes:
        repository: "OWNER/NAME".
        file: its name inside the repository; None is the only one of safetensors.
        revision: a branch, a tag or a commit; None is the newest of the repository's main branch.
    """

    repository: str
    file: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read an address.

        Args:
            text: "hf:OWNER/NAME[/FILE][@REVISION]".

        Returns:
            The place.

        Raises:
            UsageError: it is no such address.
        """
        found = _PLACE.fullmatch(text)
        if not found or ".." in text or (found["file"] and not found["file"].endswith(SUFFIX)):
            raise UsageError(f"{text[:100]!r}: expected hf:OWNER/NAME[/FILE{SUFFIX}][@REVISION]")
        return cls(found["repository"], found["file"], found["revision"])

    def __str__(self) -> str:
        file, revision = (f"/{self.file}" if self.file else ""), (f"@{self.revision}" if self.revision else "")
        return f"{PREFIX}{self.repository}{file}{revision}"

    @property
    def record(self) -> Path:
        """The file that remembers what was pulled from here."""
        return cache_folder() / "hub" / (re.sub(r"[/@]", "--", str(self).removeprefix(PREFIX)) + ".json")


@dataclass(frozen=True)
class Pulled:
    """What a pull took.

    Attributes:
        place: the address that was pulled.
        commit: of the repository, in hex digits.
        file: its name in the repository.
        sha256: of the file, 64 hex digits.
        path: where the file is on this machine.
    """

    place: str
    commit: str
    file: str
    sha256: str
    path: str

    @property
    def sentence(self) -> str:
        """Where the network comes from, for records."""
        return f"from {self.place}, commit {self.commit[:12]}"


def pulled(text: str) -> Pulled:
    """Find what was pulled from an address, without any connection.

    Args:
        text: the address.

    Returns:
        What is here; its file exists.

    Raises:
        UsageError: it is no address on the hub.
        CheckpointError: nothing was pulled from there, or it is gone.
    """
    place = Place.parse(text)
    found = _remembered(place)
    if found is None or not Path(found.path).is_file():
        raise CheckpointError(f"{text!r} is not on this machine; get it with: coda models pull {text}")
    return found


def _remembered(place: Place) -> Pulled | None:
    """What the last pull from a place wrote down; None where that is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, CodaError):
        found = read_json(place.record.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
            kept = Pulled(**found)
            return kept if kept.place == str(place) else None  # of a/b and a--b the file has one name
    return None


def pull(text: str, *, force: bool = False, offline: bool = False, progress: Progress | None = None) -> Pulled:
    """Make sure that a network of the hub is on this machine, and that it is one of coda's.

    The file goes into the hub's own cache folder. Private repositories are asked with the token that the hub's own
    tools keep, which coda neither sees nor stores.

    Args:
        text: the address.
        force: ask the hub even where the commit that is asked for is here.
        offline: ask nobody.
        progress: called during the download with the bytes that are here, and the bytes in all.

    Returns:
        What is here.

    Raises:
        UsageError: it is no address, or the package for the hub is not installed.
        DownloadError: the hub does not give it.
        CheckpointError: it is no network of coda's, or another one than a pull of the same commit has recorded.
        MediaError: the cache folder cannot be written.
    """
    place = Place.parse(text)
    before = _remembered(place)
    fixed = bool(before and place.revision and _COMMIT.fullmatch(place.revision) and Path(before.path).is_file())
    if before and Path(before.path).is_file() and (offline or (fixed and not force)):
        return _sound(before)
    if offline:
        raise DownloadError(f"{text!r} cannot be pulled without a connection; pull it online first")
    found = _download(place, progress)
    if before and (before.commit, before.file) == (found.commit, found.file) and before.sha256 != found.sha256:
        raise CheckpointError(
            f"{text}: commit {found.commit[:12]} gave another file than before, whose sha256 is {before.sha256}; "
            f"if that is right, delete {place.record} and pull again"
        )
    _remember(place, found)
    return found


def _sound(found: Pulled) -> Pulled:
    """The same, if the file is still what was pulled. Raises CheckpointError."""
    from coda_cli.checkpoints.loading import file_sha256

    if (sha256 := file_sha256(Path(found.path))) != found.sha256:
        raise CheckpointError(
            f"sha256 is {sha256}, the pull recorded {found.sha256}; coda models pull {found.place} --force",
            item=Path(found.path),
        )
    return found


def _remember(place: Place, found: Pulled) -> None:
    from coda_cli.media.files import write_with

    try:
        place.record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{place.record.parent}: cannot be written ({error.strerror or error})") from error
    write_with(place.record, lambda stream: stream.write(json.dumps(asdict(found)).encode()))


# ---- what the hub is asked -------------------------------------------------------------------------------------------


def _api() -> HfApi:
    """The hub's own client, quiet. Raises UsageError where it is not installed."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UsageError("networks of the hub need: pip install 'coda-cli[hub]'") from error
    except ValueError as error:  # of a setting of the hub's, HF_...
        raise UsageError(
            "HF_ENDPOINT, or another setting HF_... of the hub, is not valid; correct or unset it"
        ) from error
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return huggingface_hub.HfApi(library_name="coda-cli")


def _download(place: Place, progress: Progress | None) -> Pulled:
    from coda_cli.checkpoints.loading import load

    api = _api()
    with _hub_errors(place):
        info = api.model_info(place.repository, revision=place.revision, files_metadata=True)
        if not _COMMIT.fullmatch(info.sha or ""):  # its client makes names of files of it
            raise ValueError("no commit")
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
        file = _chosen(place, sizes)
        path = Path(api.hf_hub_download(place.repository, file, revision=info.sha, tqdm_class=_bar(progress)))
    if METADATA_KEY not in read_metadata(path):
        raise CheckpointError(
            f"{place}: {file} has no description of coda's; download it, and say what it is: coda models convert"
        )
    return Pulled(str(place), str(info.sha), file, load(path, cut=None).sha256, str(path))


def _chosen(place: Place, sizes: dict[str, int]) -> str:
    """The name of the file. Raises DownloadError, UsageError."""
    from coda_cli.checkpoints.fetch import LARGEST

    if place.file and place.file not in sizes:
        raise DownloadError(f"{place}: no such file in the repository")
    files = [place.file] if place.file else [name for name in sizes if name.endswith(SUFFIX)]
    if not files:
        raise DownloadError(f"{place}: the repository has no {SUFFIX} file; others are not read from the hub")
    if len(files) > 1:
        raise UsageError(f"{place}: has {len(files)} networks; say which: {PREFIX}{place.repository}/{files[0]}")
    if sizes[files[0]] > LARGEST:
        raise DownloadError(f"{place}: {files[0]} has {sizes[files[0]]} bytes; the limit is {LARGEST}")
    return files[0]


def _bar(progress: Progress | None) -> type[Any]:
    """What the hub's client moves while it downloads: draws nothing, tells ``progress``, ends what is too much."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # the hub's client needs it, too

    from coda_cli.checkpoints.fetch import LARGEST

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that watches it

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": False, "file": io.StringIO()})  # a disabled one counts not

        def update(self, n: float | None = 1) -> bool | None:
            moved: bool | None = super().update(n)
            if self.n > LARGEST:  # whatever size was announced
                raise DownloadError(f"the hub sends more than {LARGEST} bytes; no network has as many")
            if progress and self.total:
                progress(int(self.n), int(self.total))
            return moved

    return Bar


@contextlib.contextmanager
def _hub_errors(place: Place) -> Iterator[None]:
    """Every way in which the hub can say no, in one line; what its client says may hold addresses with signatures."""
    from huggingface_hub import errors

    kinds = {
        errors.GatedRepoError: "its owner has to allow you to read it; ask on its page, then: hf auth login",
        errors.RepositoryNotFoundError: "no such repository, or it is private; log in with: hf auth login",
        errors.RevisionNotFoundError: f"has no revision {place.revision!r}",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE forbids connections; pull it online first",
        errors.LocalTokenNotFoundError: "needs a token; log in with: hf auth login",
        errors.HFValidationError: "is no name that the hub takes",
        UnicodeEncodeError: "the token has letters that no token has; log in with: hf auth login",
    }
    # The errors of the HTTP library, which differs by version.
    library: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    # The client takes for granted what an answer holds.
    unforeseen = (ValueError, LookupError, TypeError, AttributeError)
    try:
        yield
    except CodaError:
        raise
    except (library, OSError, *unforeseen) as error:
        said = next((text for kind, text in kinds.items() if isinstance(error, kind)), None)
        if said is None and isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            said = f"the hub answers with HTTP {status}; try again later"
            if status in (401, 403):
                said = "you may not do that with this token; log in with: hf auth login"
        elif isinstance(error, unforeseen):
            said = said or "the answer is none of the hub; is HF_ENDPOINT set to another server?"
        raise DownloadError(f"{place}: {said or 'the hub cannot be reached, or broke off; try again'}") from error


# ---- push ------------------------------------------------------------------------------------------------------------


def push(path: Path, text: str, card: str, *, private: bool = False, force: bool = False) -> Pulled:
    """Put a network with its card into a repository of the hub, which is made where it is not there.

    Nothing that the repository has is replaced unless asked for: neither another file of this name nor its card.

    Args:
        path: a safetensors file with coda's description.
        text: the address; without a file in it the file keeps its name, and the revision is a branch.
        card: text of the card, in Markdown.
        private: of a repository that is made: nobody else sees it.
        force: replace both.

    Returns:
        What is there now.

    Raises:
        UsageError: it is no address, or the package for the hub is not installed.
        DownloadError: the hub does not take it.
        CheckpointError: the file is no network of coda's.
        MediaError: the repository has another file of that name.
    """
    from coda_cli.checkpoints.loading import load

    place = Place.parse(text)
    if path.suffix != SUFFIX or METADATA_KEY not in read_metadata(path):
        raise CheckpointError("only networks with coda's description go to the hub; coda models convert", item=path)
    sha256, name, api = load(path, cut=None).sha256, place.file or path.name, _api()
    with _hub_errors(place):
        from huggingface_hub import CommitOperationAdd

        api.create_repo(place.repository, private=private, exist_ok=True)
        info = api.model_info(place.repository, revision=place.revision, files_metadata=True)
        there = {entry.rfilename: entry for entry in info.siblings or ()}
        if name in there and not force:
            raise MediaError(f"{place}: {name} is there already; --force replaces it")
        operations = [CommitOperationAdd(name, str(path))]
        if force or CARD not in there:
            operations.append(CommitOperationAdd(CARD, card.encode()))
        done = api.create_commit(place.repository, operations, commit_message=f"Add {name}", revision=place.revision)
    return Pulled(str(place), done.oid, name, sha256, str(path))
