"""Seeded ways to spoil bytes and descriptions."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from typing import Any

EXTREME = (0, 1, -1, 2, 255, 256, 32767, -32768, 65535, 20_000, 11_000, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)
ODD_TEXTS = (
    "",
    "\0",
    "\x1b[2J",
    "\x9b31m",
    "\x7f",
    "a\nb",
    "\ud800",
    "../../up",
    "/",
    "x" * 5000,
    "é" * 300,
    "nan",
    "{}",
)
ODD_NUMBERS = (0, -1, 1, 2, 7, 1000, 20_000, 10**9, 2**63, 10**30, 0.5, -0.0, 1e-30, 1e300, float("inf"), float("nan"))


def flip(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes anywhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def flip_head(data: bytes, rng: random.Random) -> bytes:
    """Change bytes near the beginning, where headers are."""
    head = min(len(data), 200)
    return flip(data[:head], rng) + data[head:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data) + 1)]


def remove(data: bytes, rng: random.Random) -> bytes:
    """Take a piece out."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 16, 500)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Put a piece in twice or many times."""
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 64, 1000))]
    return data[:start] + piece * rng.choice((2, 3, 100)) + data[start:]


def noise(data: bytes, rng: random.Random) -> bytes:
    """Write random bytes over a piece."""
    start = rng.randrange(len(data) + 1)
    piece = rng.randbytes(rng.choice((4, 32, 300)))
    return data[:start] + piece + data[start + len(piece) :]


def extreme(data: bytes, rng: random.Random) -> bytes:
    """Write an extreme number, of either byte order, near the beginning or anywhere."""
    size = rng.choice((2, 4, 8))
    number = (rng.choice(EXTREME) % 256**size).to_bytes(size, rng.choice(("little", "big")))
    at = rng.randrange(max(1, min(len(data), rng.choice((64, 300, len(data) or 1)))))
    return data[:at] + number + data[at + size :]


def append(data: bytes, rng: random.Random) -> bytes:
    """Put something after the end."""
    return data + rng.choice((b"\0" * 1000, b"<?php ", data, rng.randbytes(100)))


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    f.__name__.replace("_", " "): f
    for f in (flip, flip_head, truncate, remove, repeat, noise, extreme, append)
}  # fmt: skip


def spoiled(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One kind of change, once or a few times: its name and the bytes."""
    name = rng.choice(list(BYTES))
    for _ in range(rng.choice((1, 1, 1, 3))):
        data = BYTES[name](data, rng)
    return name, data


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """A value of any type that JSON has, most of them not expected anywhere."""
    kind = rng.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind <= 2:
        return rng.choice(ODD_NUMBERS)
    if kind <= 4:
        return rng.choice(ODD_TEXTS)
    if kind == 5:
        return [odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3, 40)))]
    return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}


def spoiled_json(value: Any, rng: random.Random) -> tuple[str, Any]:
    """Change one place of a JSON value: the place and the new value."""
    value = copy.deepcopy(value)
    place, at, key = "", value, None
    parent: Any = None
    while isinstance(at, dict | list) and at and (parent is None or rng.random() < 0.85):
        parent, key = at, rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        place, at = f"{place}.{key}", at[key]
    if parent is None:
        return "all", odd_value(rng)
    how = rng.random()
    if how < 0.12:
        del parent[key]
    elif how < 0.2 and isinstance(parent, dict):
        parent[rng.choice(ODD_TEXTS)] = parent.pop(key)
    elif how < 0.3 and isinstance(parent, list):
        parent.extend([at] * rng.choice((1, 5, 5000)))
    elif isinstance(at, int | float) and how < 0.75:
        parent[key] = rng.choice(ODD_NUMBERS)
    else:
        parent[key] = odd_value(rng)
    return place.strip("."), value


def deep(rng: random.Random) -> bytes:
    """JSON nested deeper than parsers like."""
    count = rng.choice((500, 1100, 5_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opening * count + b"1" * (opening != b"[") + closing * rng.choice((count, 0))


def number(value: int, size: int = 4, big: bool = True) -> bytes:
    """An unsigned number in so many bytes."""
    return struct.pack((">" if big else "<") + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], value)
