"""``coda explain`` over the same photographs from every kind of source and in every way of sharing them out."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from folder import AND_ITS_PEAK, network_alone, scene
from PIL import Image

from coda_cli.checkpoints.manifest import DEFAULT
from coda_cli.media import addresses
from coda_cli.media.sources import find

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
logging.basicConfig(level=logging.INFO)  # a line for each request on stderr
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""
KEYS = 1_000_000


def sources_table(quick: bool) -> None:
    """Wall and processor time of whole programs, against their network alone; peak memory; a long listing."""
    count = 48 if quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for n in range(count):
            scene(n).save(folder / f"{n:04d}.jpg", quality=90)
        with tarfile.open(Path(name, "pictures.tar"), "w") as archive:
            archive.add(folder, "pictures")
        network = network_alone(folder, "float32")
        print(f"\ncoda explain, {count} JPEG of 640 x 480, network {DEFAULT}; of Ray, processor time is of its driver")
        print(f"the network alone                {network:>8.1f} s")
        for title, commands, environment in _ways(Path(name), folder):
            wall, processor = _seconds(commands, environment)
            print(f"{title:<32}{wall:>9.1f} s, ratio {wall / network:.2f}; processor {processor:.1f} s")
    _memory(2000 if quick else 20_000)
    _listing()


def _ways(root: Path, folder: Path) -> Iterator[tuple[str, list[list[str]], dict[str, str]]]:
    """What each way is called, its commands, which run at once, and what is added to their environment."""
    source = str(folder)
    yield "folder", [[source, "-o", str(root / "a")]], {}
    yield (
        "--shard, two processes",
        [[source, "-o", str(root / "b"), "--shard", f"{n}/2"] for n in (1, 2)],
        {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))},
    )
    yield "tar", [[str(root / "pictures.tar"), "-o", str(root / "c")]], {}
    if all(map(importlib.util.find_spec, ("moto", "s3fs", "boto3"))):
        with _bucket(folder, root / "requests.txt") as (environment, requests):
            requests()
            yield "S3 server of this machine", [["s3://photos/", "-o", str(root / "d")]], environment
            print(f"  its requests: {requests()}")
            yield "the same, written there, too", [["s3://photos/", "-o", "s3://results/"]], environment
            print(f"  its requests: {requests()}")
    if importlib.util.find_spec("ray"):
        yield "--engine ray, started for it", [[source, "-o", str(root / "e"), "--engine", "ray"]], {}


@contextmanager
def _bucket(folder: Path, log: Path) -> Iterator[tuple[dict[str, str], Callable[[], str]]]:
    """A server with the pictures in its bucket: the environment of a user, and what counts new requests."""
    import boto3

    seen = 0

    def requests() -> str:
        nonlocal seen
        lines = log.read_text().splitlines()
        kinds = Counter(found[1] for line in lines[seen:] if (found := re.search(r"([A-Z]{3,}) /", line)))
        seen = len(lines)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())

    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as s,
    ):
        assert s.stdin
        assert s.stdout
        environment = {
            "AWS_ENDPOINT_URL": s.stdout.readline().strip(),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        client = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id="key",
                              aws_secret_access_key="secret", region_name="us-east-1")  # fmt: skip
        client.create_bucket(Bucket="photos")
        client.create_bucket(Bucket="results")
        for path in sorted(folder.iterdir()):
            client.upload_file(str(path), "photos", path.name)
        yield environment, requests
        s.stdin.close()


def _seconds(commands: list[list[str]], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and processor time of processes that run at once, with those that they start."""

    def processor() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, start = processor(), time.perf_counter()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "coda_cli", "explain", *command, "-qq", "--device", "cpu"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
        )
        for command in commands
    ]
    ended = [child.wait() for child in children]
    assert not any(ended), commands
    return time.perf_counter() - start, processor() - before


def _memory(most: int) -> None:
    """Peak memory of one process with few and with many small pictures."""
    print("\npeak memory of coda explain, pictures of 32 x 32, network cifar10, records written")
    for count in (100, most):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "pictures")
            folder.mkdir()
            for n in range(count):
                Image.effect_noise((32, 32), 80).convert("RGB").save(folder / f"{n}.png")
            command = ["explain", str(folder), "-o", str(Path(name, "out")), "-m", "cifar10", "--write", "json", "-qq"]
            child = subprocess.run(
                [sys.executable, "-c", AND_ITS_PEAK, *command], check=True, capture_output=True, text=True
            )
        print(f"{count:>7} pictures{1024 * int(child.stdout.splitlines()[-1]) / 1e6:>10.0f} MB")


def _listing() -> None:
    """How long the first and the last of a million keys take, from a store that answers at once."""
    print(f"\n{KEYS} keys of a store that answers at once: when the first and the last are given out")
    system: Callable[[str], tuple[Any, str]] = addresses.system_of
    try:
        for title, folders in (("in 1000 folders, by folder", 1000), ("in one folder, by folder", 1)):
            addresses.system_of = lambda _, folders=folders: (_Store(folders), "photos")  # type: ignore[assignment]
            start = time.process_time()
            found = find(["s3://photos/"], recursive=True, by_folder=True)
            next(found)
            first = time.process_time() - start
            for _ in found:
                pass
            print(f"{title:<32}{first:>8.2f} s,{time.process_time() - start:>7.1f} s of processor time")
    finally:
        addresses.system_of = system


class _Store:
    """What the listing asks of a file system of fsspec."""

    def __init__(self, folders: int) -> None:
        self.folders = folders

    def walk(self, path: str, maxdepth: int | None) -> Iterator[tuple[str, list[str], list[str]]]:
        """The keys, folder by folder."""
        del maxdepth
        for folder in range(self.folders):
            yield f"{path}/{folder:04}", [], [f"img{n}.jpg" for n in range(KEYS // self.folders)]
