"""Match the records of two runs; only keys are held, so that memory does not grow with what the records say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from coda_cli.explanation.runs.stored import Stored, Where
from coda_cli.schema.runs import How


@dataclass(frozen=True, slots=True)
class Key:
    """By what a record is matched.

    Attributes:
        sha256: of the picture.
        path: of the picture, as its run named it.
        where: the record's place.
    """

    sha256: str
    path: str
    where: Where


@dataclass(frozen=True)
class Pair:
    """The keys of one picture.

    Attributes:
        first: in RUN1; None where RUN2 alone has it.
        second: in RUN2; None where RUN1 alone has it.
        how: by what the two were matched.
    """

    first: Key | None
    second: Key | None
    how: How = "sha256"


def keys(stored: Iterable[Stored]) -> list[Key]:
    """Keep of each record what it is matched by.

    Args:
        stored: the records of a run.

    Returns:
        A key for each, in order.
    """
    return [Key(s.record.source.sha256, s.record.source.path, s.where) for s in stored]


def pairs(first: list[Key], second: list[Key]) -> Iterator[Pair]:
    """Match two runs: by hash and path, then by hash, then by path where the picture was changed.

    Args:
        first: the keys of RUN1.
        second: the keys of RUN2.

    Yields:
        What RUN1 has, in its order, then what RUN2 alone has, in its order. Every record is in one pair.
    """
    partner: dict[int, tuple[int, How]] = {}
    left = set(range(len(second)))
    by: tuple[tuple[Callable[[Key], object], How], ...] = (
        (lambda key: (key.sha256, key.path), "sha256"),
        (lambda key: key.sha256, "sha256"),
        (lambda key: key.path, "path"),
    )
    for of, how in by:
        free = defaultdict[object, list[int]](list)
        for n in sorted(left, reverse=True):
            free[of(second[n])].append(n)
        for k, key in enumerate(first):
            if k not in partner and (there := free.get(of(key))):
                partner[k] = there.pop(), how
                left.discard(partner[k][0])
    for k, key in enumerate(first):
        if k in partner:
            n, how = partner[k]
            yield Pair(key, second[n], how)
        else:
            yield Pair(key, None)
    yield from (Pair(None, second[n]) for n in sorted(left))
