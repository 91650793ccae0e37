"""The state dict of a file, without what trainers wrap around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from coda_cli.checkpoints.class_lists import names_in
from coda_cli.checkpoints.headers import odd_name
from coda_cli.checkpoints.pickled import STORAGES, Opaque, StoredTensor
from coda_cli.checkpoints.torch_files import TorchFile
from coda_cli.errors import CheckpointError, UsageError

# The entries of trainers' files that hold a state dict, and those that hold the moving average of one.
_WRAPPINGS = ("the_model", "model_state_dict", "state_dict", "model", "net", "network", "weights", "module")
_AVERAGES = (
    "model_ema", "state_dict_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict", "ema_model_state_dict",
)  # fmt: skip
_DEEPEST = 4  # wrappings inside wrappings
_AVERAGE, _WEIGHTS = "ema.module.", "model."  # both in one state dict
_WRAPPERS = ("module", "_orig_mod")  # parts of names: DataParallel's and torch.compile's
_COUNT = "n_averaged"  # a tensor that only torch's AveragedModel has

AVERAGE_TAKEN = "the moving average of the weights that it holds was taken"
_NAMELESS = "the weights of the last step were taken; its moving average is a list of tensors without names"
WEIGHTS_TAKEN = "the weights of the last step were taken, not the moving average that it also holds"


@dataclass(frozen=True)
class StateDict:
    """The state dict of a file that is open; its tensors are not read yet.

    Attributes:
        shapes: tensors without memory, by name: their shapes and types.
        assumed: a sentence for each choice that was made.
        read: reads the tensors, by name.
        experiment: which experiment a file of the authors' trainers says that it is of, as DATASET/NETWORKS/NAME.
    """

    shapes: dict[str, Tensor]
    assumed: tuple[str, ...]
    read: Callable[[], dict[str, Tensor]]
    experiment: str = ""

    def named(self, names: Mapping[str, str], assumed: tuple[str, ...]) -> StateDict:
        """The same under other names.

        Args:
            names: those that it has by those that it gets; others are left out.
            assumed: a sentence for each choice that this makes.

        Returns:
            The state dict.
        """

        def read() -> dict[str, Tensor]:
            tensors = self.read()
            return {new: tensors[old] for new, old in names.items()}

        shapes = {new: self.shapes[old] for new, old in names.items()}
        return replace(self, shapes=shapes, assumed=tuple(s for s in (*self.assumed, *assumed) if s), read=read)


@dataclass(frozen=True)
class Weights:
    """All that an open file tells about a network, before it is known which network.

    Attributes:
        state: its state dict, under the names in the file.
        path: of the file.
        ema: whether the moving average is wanted, see ``open_weights``.
        classes: names of the classes, where the file holds them.
    """

    state: StateDict
    path: Path
    ema: bool | None = None
    classes: tuple[str, ...] | None = None

    def trimmed(self) -> StateDict:
        """The state dict under names without the prefixes of trainers, for networks whose names are not known yet.

        Returns:
            The state dict.

        Raises:
            UsageError: the file does not hold what ``ema`` asks for.
        """
        names = [name for name in self.state.shapes if name != _COUNT]
        averages, weights = (any(name.startswith(prefix) for name in names) for prefix in (_AVERAGE, _WEIGHTS))
        self._refuse_absent(averages or len(names) < len(self.state.shapes), weights or not averages)
        taken, said = "", ""
        if averages and self.ema is not False:
            taken, said = _AVERAGE, AVERAGE_TAKEN
        elif weights:
            taken, said = _WEIGHTS, WEIGHTS_TAKEN if averages else ""
        found = self._plain(name for name in names if name.startswith(taken))
        taken = _without_wrappers(taken)
        trimmed = {name.removeprefix(taken): stored_as for name, stored_as in found.items()}
        return self.state.named(trimmed, (said,) if said else _said(taken, trimmed, trimmed.values()))

    def named_as(self, wanted: Collection[str]) -> StateDict:
        """The state dict under the names that a network has, as far as the file has them in any wrapping.

        Args:
            wanted: the names of the network's tensors.

        Returns:
            The state dict, with every tensor that stands where one of the network's does. What belongs to other parts
            of the trained program, such as its loss, is left out where all of the network's tensors are there.

        Raises:
            CheckpointError: the file holds several networks with such names.
            UsageError: the file does not hold what ``ema`` asks for.
        """
        stored = self.state.shapes
        plain = {name: name for name in stored}
        if not set(wanted) <= set(stored):  # a network can have a part that is called "module" itself
            plain = self._plain(name for name in stored if name != _COUNT)
        found = _prefixes(plain, wanted)
        averages = [prefix for prefix in found if "ema" in prefix.lower().replace("_", ".").split(".")]
        others = [prefix for prefix in found if prefix not in averages]
        self._refuse_absent(bool(averages) or _COUNT in stored, bool(others) or not averages)
        chosen = averages if averages and self.ema is not False else others
        if len(chosen) > 1:
            raise CheckpointError(
                f"holds {len(chosen)} networks with such tensors, below {' and '.join(chosen)}; save the state dict of "
                "one of them",
                item=self.path,
            )
        prefix = chosen[0] if chosen else ""
        names = {name.removeprefix(prefix): stored_as for name, stored_as in plain.items() if name.startswith(prefix)}
        return self.state.named(names, (*_choice(averages, others, self.ema), *_said(prefix, names, stored)))

    def _plain(self, names: Iterable[str]) -> dict[str, str]:
        """Names without the parts of wrappers, and what they are in the file. Raises CheckpointError."""
        found: dict[str, str] = {}
        for name in names:
            if (other := found.setdefault(_without_wrappers(name), name)) != name:
                raise CheckpointError(f"holds {other} and {name}, one of which would do", item=self.path)
        return found

    def _refuse_absent(self, averages: bool, weights: bool) -> None:
        """Raise UsageError where a file does not hold the average, or the weights, that ``ema`` asks for."""
        if self.ema and not averages and AVERAGE_TAKEN not in self.state.assumed:
            raise UsageError("--ema: holds no moving average of the weights", item=self.path)
        if self.ema is False and (not weights or _COUNT in self.state.shapes):
            raise UsageError("--no-ema: holds only the moving average of the weights", item=self.path)


def _without_wrappers(name: str) -> str:
    """A tensor's name without the parts that DataParallel and torch.compile put into it, however often."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(names: Collection[str], wanted: Collection[str]) -> list[str]:
    """What stands before the names that a network wants, where most of them are found; several if equally many are.

    It is nothing where fewer than half of them are found anywhere: the file is of another network.
    """
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        rests = (".".join(parts[n:]) for n in range(len(parts)))
        counts.update(name.removesuffix(rest) for rest in rests if rest in wanted)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    return [""] if "" in best or 2 * most < len(wanted) else best


def _choice(averages: list[str], others: list[str], ema: bool | None) -> tuple[str, ...]:
    """What is said of the choice between weights and their moving average in one state dict."""
    if not averages:
        return ()
    return (AVERAGE_TAKEN,) if ema is not False else (WEIGHTS_TAKEN,) if others else ()


def _said(prefix: str, names: Mapping[str, str], stored: Collection[str]) -> tuple[str, ...]:
    """What is said of the prefixes that tensors lost, and of the tensors that were left out."""
    parts = {part for name in names.values() for part in name.split(".") if part in _WRAPPERS}
    kept = {part for name in names for part in name.split(".")}
    dropped = [f"{part}." for part in _WRAPPERS if part in parts - kept] + ([prefix] if prefix else [])
    without = (f"the names of its tensors were read without {' and '.join(dropped)}",) if dropped else ()
    left = len(set(stored) - {_COUNT} - set(names.values()))
    return without + ((f"tensors that are not below {prefix} were left out: {left}",) if left else ())


@contextmanager
def open_weights(path: Path, *, ema: bool | None = None) -> Iterator[Weights]:
    """Open a torch file, zip or legacy, for its state dict.

    Args:
        path: of the file.
        ema: whether the moving average of the weights is taken, or the weights of the last step, where the file holds
            both; None takes the average.

    Yields:
        What the file tells.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
        UsageError: the file does not hold what ``ema`` asks for.
    """
    with TorchFile(path) as file:
        content, assumed = _chosen(file.content, ema, path)
        stored = _tensors(content, path)
        shapes = {key: _shape(value) for key, value in stored.items()}
        experiment = _experiment(file.content)
        state = StateDict(
            shapes, assumed, lambda: {key: file.tensor(value) for key, value in stored.items()}, experiment
        )
        yield Weights(state, path, ema, names_in(file.content))


def _experiment(content: object) -> str:
    """The experiment that a file of the authors' trainers names among its hyperparameters; "" where there is none."""
    told = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(told, dict):
        return ""
    parts = [told.get(key) for key in ("dataset", "base_network", "experiment_name")]
    return "/".join(map(str, parts)) if all(isinstance(p, str) and not odd_name(p) for p in parts) else ""


def _chosen(content: object, ema: bool | None, path: Path) -> tuple[object, tuple[str, ...]]:
    """The state dict inside a trainer's file, and a sentence for each choice. Raises CheckpointError, UsageError."""
    average, weights = _average_in(content), _inside(content, set(), averages=False)
    if average and ema is not False:
        return average.tensors, (AVERAGE_TAKEN,)
    if average and weights is None:
        raise UsageError("--no-ema: holds only the moving average of the weights", item=path)
    whole = [content, *(content.get(key) for key in _WRAPPINGS if isinstance(content, dict))]
    if weights is None and (made := [part.made_by for part in whole if isinstance(part, Opaque)]):
        raise CheckpointError(
            f"holds a whole object ({ascii(made[0])[1:-1][:80]}) and no state dict; to read it, its code would have "
            "to run; where it was made, torch.save(model.state_dict(), FILE) writes what is needed",
            item=path,
        )
    if weights is None:
        return content, ()
    entry = (f"the tensors of its entry {weights.entry!r} were taken",) if weights.entry else ()
    left = (WEIGHTS_TAKEN,) if average else (_NAMELESS,) if ema is None and _has_nameless_average(content) else ()
    return weights.tensors, (*entry, *left)


class _Found(NamedTuple):
    """A state dict inside a file, and the entries without a usual name that it was found below."""

    tensors: dict[object, object]
    entry: str = ""


def _is_average(key: object) -> bool:
    """Whether an entry is called the moving average of something: "ema", "model_ema", "ema_weights"."""
    return isinstance(key, str) and "ema" in key.lower().replace("-", "_").replace(".", "_").split("_")


def _average_in(content: object, depth: int = _DEEPEST) -> _Found | None:
    """The state dict below the first entry that is called an average, here or inside the usual wrappings."""
    if not isinstance(content, dict) or not depth:
        return None
    known = [key for key in _AVERAGES if key in content]
    for key in (*known, *(key for key in content if _is_average(key) and key not in known)):
        if found := _inside(content[key], set(), averages=True):
            return found
    return next(filter(None, (_average_in(content.get(key), depth - 1) for key in _WRAPPINGS)), None)


def _inside(content: object, seen: set[int], *, averages: bool, depth: int = _DEEPEST) -> _Found | None:
    """The state dict in a trainer's dictionary or list: below a usual name, itself, or below the only entry with one.

    ``seen`` are the dictionaries that were looked at: one that a file repeats is looked at once. Entries that are
    called averages count with ``averages`` alone.
    """
    if isinstance(content, list | tuple):  # (weights, epoch)
        content = {f"item {n}": value for n, value in enumerate(content) if not isinstance(value, StoredTensor)}
    elif id(content) in seen:
        return None
    if not isinstance(content, dict) or not depth:
        return None
    seen.add(id(content))
    for key in (*_AVERAGES, *_WRAPPINGS) if averages else _WRAPPINGS:
        if found := _inside(content.get(key), seen, averages=averages, depth=depth - 1):
            return found
    if any(isinstance(value, StoredTensor) for value in content.values()):
        return _Found(content) if depth < _DEEPEST or averages else None  # the whole file needs no choice
    named = {k: v for k, v in content.items() if isinstance(k, str) and not odd_name(k)}
    others = {k: v for k, v in named.items() if averages or not _is_average(k)}
    inner = {k: _Found(v) for k, v in others.items() if _holds_tensors(v)}
    if not inner:  # what optimisers and losses keep lies deeper than the network
        deeper = ((k, _inside(v, seen, averages=averages, depth=depth - 1)) for k, v in others.items())
        inner = {k: found for k, found in deeper if found}
    if len(inner) != 1:
        return None
    ((key, only),) = inner.items()
    return _Found(only.tensors, f"{key}.{only.entry}" if only.entry else key)


def _has_nameless_average(content: object) -> bool:
    """Whether an entry that is called an average is, or has, a list of tensors: which is whose stands nowhere."""
    entries = [v for k, v in content.items() if _is_average(k)] if isinstance(content, dict) else []
    parts = [part for entry in entries for part in (entry.values() if isinstance(entry, dict) else [entry])]
    return any(isinstance(p, list | tuple) and any(isinstance(t, StoredTensor) for t in p) for p in parts)


def _holds_tensors(value: object) -> bool:
    """Whether an entry of a file is a dictionary of tensors by name."""
    return isinstance(value, dict) and any(
        isinstance(key, str) and isinstance(inner, StoredTensor) for key, inner in value.items()
    )


def _tensors(content: object, path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict, with the names that they have in the file."""
    if not isinstance(content, dict) or not content:
        raise CheckpointError("holds no state dict (a dictionary of tensors)", item=path)
    found: dict[str, StoredTensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or odd_name(key):
            raise CheckpointError("holds no state dict: a tensor has a name that is none", item=path)
        if isinstance(value, Opaque) and ("tensor" in value.made_by or value.made_by.endswith("Storage")):
            raise CheckpointError(
                f"holds no state dict of plain tensors: {key} needs {ascii(value.made_by)[1:-1][:80]}", item=path
            )
        if not isinstance(value, StoredTensor):
            names = [k for k, v in content.items() if isinstance(k, str) and not odd_name(k) and _holds_tensors(v)]
            several = f", but {len(names)} of them, {' and '.join(names[:2])} the first; save one" if names else ""
            raise CheckpointError(f"holds no state dict (a dictionary of tensors){several}", item=path)
        found[key] = value
    return found


def _shape(stored: StoredTensor) -> Tensor:
    """A tensor without memory."""
    dtype = getattr(torch, STORAGES[stored.storage.type][0])
    return torch.empty_strided(stored.shape, stored.stride, dtype=dtype, device="meta")
