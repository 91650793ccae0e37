"""Hostile checkpoints, descriptions and sidecars."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from campaign.case import Case
from campaign.mutations import deep, odd_value, spoiled, spoiled_json
from campaign.pictures import whole
from coda_cli.core.networks import build

RANK_4 = "9L-S-CoDA-SQ-rank-4"
SMALL: dict[str, dict[str, Any]] = {
    "coda_net": {
        "channels": [6, 4, 2],
        "kernels": [3, 1],
        "strides": [2, 1],
        "ranks": [2, 2],
        "norm": "SQ",
        "temperature": 1.0,
        "paddings": [1, 0],
    },
    "bcos_vit": {"dim": 64, "depth": 1, "classes": 2, "bias": 0.0, "patch": 4},
}
# 0: it loads. 1: it loads and no picture can be explained. 2: a class. 3: it is refused. 4: its weights are not exact.
ANY_ANSWER = (0, 2, 3, 4)
REFUSED = (3,)


class Canary:
    """A pickle of it makes a file when it is loaded by a loader that runs code."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def make(folder: Path, rng: random.Random) -> Case:
    """A checkpoint that is not what it should be."""
    (folder / "a.png").write_bytes(whole("png", "RGB"))
    kinds: tuple[Callable[[Path, random.Random], Case], ...] = (
        _description,
        _header,
        _own_bytes,
        _pickle,
        _stream,
        _zip,
        _tensors,
        _sidecar,
        _link,
    )
    return rng.choices(kinds, (30, 12, 8, 10, 12, 8, 8, 8, 4))[0](folder, rng)


def _command(name: str, rng: random.Random, *more: str) -> list[str]:
    commands: tuple[list[str], ...] = (
        ["explain", "a.png", "-m", name, "-o", "out", *more],
        ["explain", "a.png", "-m", name, "-o", "out", *more],
        ["models", "verify", name, *more],
        ["models", "convert", name, "-o", "new.safetensors", *more],
    )
    if name.endswith(".safetensors") and not more:
        commands += (["models", "show", name], ["models", "show", name, "--json"])
    if name.endswith(".safetensors") and rng.random() < 0.1:
        return ["explain", "a.png", "-m", name, "-o", "out", "--name", "{stem}.{class}.{kind}.{ext}"]
    return rng.choice(commands)


@cache
def small(architecture: str) -> dict[str, Tensor]:
    """The weights of a small network."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = build(architecture, SMALL[architecture]).state_dict()
    return state


def description(architecture: str) -> dict[str, Any]:
    """A sound description of a small network."""
    return {
        "format": 1,
        "name": "tiny",
        "architecture": architecture,
        "arguments": dict(SMALL[architecture]),
        "classes": ["a", "b"],
        "wnids": None,
        "synonyms": None,
        "preprocessing": {"resize": 16, "crop": 16},
        "accuracy": {"value": 0.5, "pictures": 10, "split": "test"},
        "training": {"data": "none"},
        "licence": "none",
    }


def own(architecture: str, metadata: Any, change: Callable[[dict[str, Any]], Any] | None = None) -> bytes:
    """A safetensors file, put together here so that nothing is refused while it is written."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data, at = b"", 0
    for key, value in small(architecture).items():
        raw = value.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        header[key] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        data, at = data + raw, at + len(raw)
    text = json.dumps(change(header) if change else header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _description(folder: Path, rng: random.Random) -> Case:
    architecture = rng.choice(list(SMALL))
    place, value = spoiled_json(description(architecture), rng)
    if rng.random() < 0.2:
        _, value = spoiled_json(value, rng)
    text = deep(rng).decode() if rng.random() < 0.05 else json.dumps(value)
    (folder / "m.safetensors").write_bytes(own(architecture, {"coda": text, "format": "pt"}))
    place = ".".join(part for part in place.split(".") if not part.isdecimal())[:40] or "all"
    if not place.isprintable():
        place = "odd key"
    return Case(f"description, {place}", _command("m.safetensors", rng), ANY_ANSWER)


def _header(folder: Path, rng: random.Random) -> Case:
    """The header of a safetensors file: shapes, types, offsets, metadata."""
    architecture = rng.choice(list(SMALL))
    metadata = {"coda": json.dumps(description(architecture)), "format": "pt"}
    data = own(architecture, metadata, lambda header: spoiled_json(header, rng)[1])
    if rng.random() < 0.15:
        text = deep(rng)
        data = struct.pack("<Q", len(text)) + text
    elif rng.random() < 0.1:
        data = struct.pack("<Q", rng.choice((0, 1, 99_999_999, 2**40, 2**63, 2**64 - 1))) + data[8:]
    (folder / "m.safetensors").write_bytes(data)
    return Case("header of safetensors", _command("m.safetensors", rng), ANY_ANSWER)


def _own_bytes(folder: Path, rng: random.Random) -> Case:
    architecture = rng.choice(list(SMALL))
    data = own(architecture, {"coda": json.dumps(description(architecture)), "format": "pt"})
    how, data = spoiled(data, rng)
    (folder / "m.safetensors").write_bytes(data)
    return Case(f"safetensors, {how}", _command("m.safetensors", rng), ANY_ANSWER)


@cache
def theirs() -> bytes:
    """A file as the authors of CoDA-Nets write them, of a network with few weights."""
    from foreign import flat_file

    return flat_file(RANK_4)


def _pickle(folder: Path, rng: random.Random) -> Case:
    """Objects that run code when they are unpickled by a loader that lets them."""
    canary = Canary(str(folder / "canary"))
    inner: Any = rng.choice((canary, {"0.weight": canary}, [canary], OrderedDict(a=canary)))
    wrapped = rng.choice((inner, {"state_dict": inner}, {"model_state_dict": {"a": torch.ones(2)}, "epoch": inner}))
    name = f"m.{rng.choice(('pkl', 'pt', 'pth', 'ckpt'))}"
    if rng.random() < 0.5:
        (folder / name).write_bytes(pickle.dumps(wrapped, rng.randrange(6)))
    else:
        torch.save(wrapped, folder / name, _use_new_zipfile_serialization=rng.random() < 0.5)
    return Case("pickle with code", _command(name, rng, "--arch", RANK_4), REFUSED)


# Operations of pickles, with arguments that are allowed to be anything.
_NAMES = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"ctorch\nload\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nSize\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\ndevice\n",
    b"ctorch\nfoo.bar\n",
    b"ctorch.serialization\n_load\n",
    b"c__builtin__\nglobals\n",
)
_OPERATIONS = (
    b"(",
    b"]",
    b"}",
    b")",
    b"N",
    b"K\x01",
    b"X\x01\0\0\0a",
    b"t",
    b"l",
    b"d",
    b"R",
    b"b",
    b"\x81",
    b"o",
    b"s",
    b"u",
    b"a",
    b"e",
    b"0",
    b"2",
    b"Q",
    b"\x85",
    b"\x86",
    b"\x87",
    b"q\0",
    b"h\0",
    b"p0\n",
    b"g0\n",
    b"\x93",
    b"\x94",
    b"\x92",
    b"\x8f",
    b"\x90",
)
_BOMBS = (
    b"\x80\x02Nr\xff\xff\xff\x0fN.",
    b"\x80\x02Nr\xff\xff\xff\x7fN.",
    b"\x80\x02Np999999999\n.",
    b"\x80\x04X\xff\xff\xff\x7fa.",
    b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\x00\x00a.",
    b"\x80\x04\x8e\xff\xff\xff\xff\x0f\0\0\0a.",
    b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    b"(" * 200_000 + b"N.",
    b"\x80\x02" + b"]a" * 50_000 + b".",
    b"]" + b"2a" * 50 + b".",
    b"I" + b"9" * 200_000 + b"\n.",
    b"\x80\x02]q\0(" + b"h\0" * 30_000 + b"e.",
    b"\x80\x02Nj\xff\xff\xff\xff.",
)


def _stream(folder: Path, rng: random.Random) -> Case:
    """Pickles made of random operations, and those that take much from few bytes."""
    bomb = rng.random() < 0.4
    if bomb:
        data = rng.choice(_BOMBS)
    else:
        parts = [
            rng.choice(_NAMES) if rng.random() < 0.25 else rng.choice(_OPERATIONS) for _ in range(rng.randrange(2, 40))
        ]
        data = b"\x80" + bytes([rng.randrange(6)]) + b"".join(parts) + b"."
    if rng.random() < 0.4:  # as the pickle inside a zip of torch's
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
        data = stream.getvalue()
    (folder / "m.pkl").write_bytes(data)
    return Case(
        "pickle bomb" if bomb else "pickle of random operations", _command("m.pkl", rng, "--arch", RANK_4), REFUSED
    )


def _zip(folder: Path, rng: random.Random) -> Case:
    """A torch file with spoiled bytes, or whose entries lie about their size."""
    if rng.random() < 0.6:
        how, data = spoiled(theirs(), rng)
    elif rng.random() < 0.3:
        how, data = "sizes", _other_sizes(theirs(), rng)
    else:
        how, stream = "bomb", io.BytesIO()
        with (
            zipfile.ZipFile(io.BytesIO(theirs())) as archive,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for entry in archive.namelist():
                content = archive.read(entry)
                if entry.endswith(rng.choice(("data.pkl", "data/0", "version"))):
                    content = content[:10] + bytes(rng.choice((10_000_000, 400_000_000)))
                new.writestr(entry, content)
                if rng.random() < 0.1:
                    new.writestr(entry + "x" * 60_000 if len(entry) < 5000 else entry, b"")
        data = stream.getvalue()
    (folder / "m.pkl").write_bytes(data)
    return Case(f"torch zip, {how}", _command("m.pkl", rng, "--arch", RANK_4), ANY_ANSWER)


def _other_sizes(data: bytes, rng: random.Random) -> bytes:
    """A zip whose directory states other sizes, places or a number of entries than are true."""
    at, out = data.index(b"PK\x01\x02"), bytearray(data)
    field = rng.choice((20, 24, 42))  # the packed size, the size, and where an entry begins
    value = rng.choice((0, 1, 10**6, 2**31, 2**32 - 1))
    while at >= 0:
        if rng.random() < 0.5:
            out[at + field : at + field + 4] = value.to_bytes(4, "little")
        at = data.find(b"PK\x01\x02", at + 1)
    return bytes(out)


def _tensors(folder: Path, rng: random.Random) -> Case:
    """State dicts whose tensors or keys are of an odd kind."""
    from foreign import rank_4_state

    odd: dict[str, Callable[[], Any]] = {
        "meta": lambda: torch.empty(2, 3, device="meta"),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "complex": lambda: torch.ones(2, 2, dtype=torch.complex64),
        "bool": lambda: torch.ones(2, dtype=torch.bool),
        "quantised": quantised,
        "expanded": lambda: torch.ones(1).expand(200_000, 200_000),
        "empty": lambda: torch.empty(0),
        "scalar": lambda: torch.tensor(1.0),
        "nan": lambda: torch.full((3,), float("nan")),
        "int": lambda: 5,
        "deep": lambda: nested(rng.choice((300, 900))),
        "list": lambda: [torch.ones(2)],
        "text": lambda: "x" * 1000,
    }
    state: dict[Any, Any] = dict(rank_4_state())
    kind = rng.choice(list(odd))
    key: Any = rng.choice(list(state))
    if rng.random() < 0.2:
        key = rng.choice((5, None, (1, 2), "a\x1b[31mb", "x" * 100_000, "\ud800", b"bytes", "0.weight_mod.\0"))
    try:
        state[key] = odd[kind]()
        torch.save(state, folder / "m.pt")
    except (RuntimeError, NotImplementedError, pickle.PicklingError, RecursionError, UnicodeError):
        (folder / "m.pt").write_bytes(b"")
    return Case(f"state dict, {kind}", _command("m.pt", rng, "--arch", RANK_4), ANY_ANSWER)


def quantised() -> Tensor:
    """A tensor of a kind that torch will drop, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


def nested(depth: int) -> dict[str, Any]:
    """Dictionaries inside each other."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"state_dict": value}
    return value


def _sidecar(folder: Path, rng: random.Random) -> Case:
    """FILE.json beside a file of weights."""
    (folder / "m.pkl").write_bytes(theirs())
    sound = description("coda_net")
    kind, sidecar = rng.choice(("spoiled", "spoiled", "bytes", "deep", "fifo", "zero", "odd")), folder / "m.pkl.json"
    if kind == "fifo":
        os.mkfifo(sidecar)
    elif kind == "zero":
        sidecar.symlink_to("/dev/zero")
    elif kind == "bytes":
        sidecar.write_bytes(spoiled(json.dumps(sound).encode(), rng)[1])
    else:
        value = spoiled_json(sound, rng)[1] if kind == "spoiled" else odd_value(rng)
        sidecar.write_bytes(deep(rng) if kind == "deep" else json.dumps(value).encode())
    return Case(f"sidecar, {kind}", _command("m.pkl", rng), ANY_ANSWER)


def _link(folder: Path, rng: random.Random) -> Case:
    """No file of weights at all under the name of one."""
    suffix = rng.choice(("safetensors", "pkl", "pt"))
    kind, path = (
        rng.choice(("zero", "fifo", "folder", "sparse", "dangling", "picture", "itself")),
        folder / f"m.{suffix}",
    )
    if kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(20_000_000_000)
    elif kind == "picture":
        path.write_bytes(whole("png", "RGB"))
    else:
        path.symlink_to("nowhere" if kind == "dangling" else path.name)
    return Case(f"{kind} as a checkpoint", _command(path.name, rng), (2, 3))
