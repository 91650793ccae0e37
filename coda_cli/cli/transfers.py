"""``coda models pull`` and ``push``: networks of others come here, and one's own go to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coda_cli.checkpoints import manifest
from coda_cli.cli import catalogue, complete
from coda_cli.cli.console import console
from coda_cli.cli.options import Offline, Quiet, Verbose


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|hf:OWNER/NAME",
            autocompletion=complete.published,
            help="A network's name, or its address on the Hugging Face hub.",
        ),
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Download again, even if the file exists.")] = False,
    offline: Offline = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Download a published network.

    A file that exists already is only checked. A download that was interrupted continues where it stopped. Set
    CODA_MIRROR to download from another address, which has the files as NAME/FILE, and CODA_CACHE_DIR to keep them in
    another folder.

    \b
    coda models pull 9L-S-CoDA-SQ-1000
    CODA_MIRROR=https://mirror.example.org/coda coda models pull 9L-L-CoDA-SQ-100000
    coda models pull hf:OWNER/NAME@v1 && coda explain photo.jpg -m hf:OWNER/NAME@v1
    """
    from coda_cli.checkpoints import fetch, hub

    if name.startswith(hub.PREFIX):
        with console.progress(f"{name}, kB") as advance:
            found = hub.pull(
                name, force=force, offline=offline, progress=lambda done, total: advance(done // 1000, total // 1000)
            )
        console.say(f"{name}: {found.file} of commit {found.commit}, sha256 {found.sha256}")
        console.result(Path(found.path).as_posix())
        return
    entry = manifest.find(name)
    if entry.bundled:
        console.say(f"{name} comes with coda; there is nothing to download")
        console.result(entry.path.as_posix())
        return
    console.say(f"{name}: {entry.checkpoint.licence}")
    with console.progress(f"{name}, kB") as advance:
        path = fetch.pull(
            name, force=force, offline=offline, progress=lambda done, total: advance(done // 1000, total // 1000)
        )
    recorded = manifest.find(name).sha256
    if entry.sha256 is None:
        compared = f"begins with the published {entry.sha256_prefix}" if entry.sha256_prefix else "none was published"
        console.say(f"sha256 {recorded} is recorded, later pulls must match it; {compared}")
    else:
        console.say(f"sha256 {recorded} as recorded by the first pull")
    console.result(path.as_posix())


def push(
    network: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A network's name, a file, or the folder of a run.")
    ],
    place: Annotated[
        str, typer.Argument(metavar="hf:OWNER/NAME", help="Where it goes: hf:OWNER/NAME[/FILE][@BRANCH].")
    ],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made is seen by you alone.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file and the card that are there.")] = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
) -> None:
    """Put a network and its card into a repository of the Hugging Face hub.

    Log in once with the hub's own program, hf auth login; coda never sees the token.

    \b
    coda models push run/photos.safetensors hf:OWNER/photos --private
    """
    from coda_cli.checkpoints import hub

    entry = catalogue.entry_of(network)
    done = hub.push(entry.path, place, catalogue.card(entry, place), private=private, force=force)
    console.say(f"{done.file} is in {done.place}, sha256 {done.sha256}")
    console.result(f"{hub.PREFIX}{hub.Place.parse(place).repository}/{done.file}@{done.commit}")
