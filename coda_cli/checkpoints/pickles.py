"""Reads a pickle without running anything that it names.

A pickle is a program for a small machine that can call any function. Here only the machine's data are kept:
dictionaries, lists, tuples, numbers and texts, and of a tensor where its numbers lie. Every other name stays a name and
every other object an ``Opaque``, so that no pickle can import, call or change anything.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Iterable, Sequence

from coda_cli.checkpoints.pickled import (
    STORAGES,
    Named,
    Opaque,
    PickleError,
    PickleRefusedError,
    Storage,
    StoredTensor,
    tensor_of,
)

# Measured: the bundled configurations need about 25 steps and 120 bytes a tensor, so a trainer's file of the largest
# published network, with its optimiser, stays below 30,000 steps; 500,000 steps take 0.5 s and at most 100 MB.
MAX_STEPS = 500_000
MAX_BYTES = 8 << 20
MAX_INTEGER_BYTES = 64


class PickleReader:
    """Reads pickles that follow each other in some bytes.

    Attributes:
        at: the place of the next byte.
        storages: all that the pickles refer to.
    """

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte.

        Args:
            data: the pickles, and perhaps something behind them.
        """
        self.at, self.storages = 0, list[Storage]()
        self._data, self._steps = data, 0
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks before each mark
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """Read the next pickle.

        Returns:
            What it holds: data, ``Named``, ``Opaque``, ``Storage`` and ``StoredTensor``.

        Raises:
            PickleError: it is damaged, too large, or asks for more than data.
        """
        self._stack, self._below, self._memo = [], [], {}
        try:
            while True:
                self._count(1)
                code = self._take(1)[0]
                if code == _STOP:
                    return self._stack.pop()
                if code not in _ACTIONS:
                    raise PickleError(f"it has an unknown instruction, {code}")
                _ACTIONS[code](self)
        except PickleError:
            raise
        except IndexError as error:
            raise PickleError("its instructions do not fit each other") from error
        except (ValueError, struct.error, OverflowError) as error:  # also of texts that are no UTF-8
            raise PickleError("it holds a number or text that is none") from error

    # ---- bytes -------------------------------------------------------------------------------------------------------

    def _count(self, steps: int) -> None:
        """Count work that the pickle causes, so that a short one cannot cause a lot."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PickleError(f"it needs more than {MAX_STEPS} steps")

    def _take(self, length: int) -> bytes:
        """The next bytes."""
        end = self.at + length
        if not self.at <= end <= len(self._data):
            raise PickleError("it ends too early")
        part, self.at = self._data[self.at : end], end
        return part

    def _number(self, form: str) -> int:
        """The next number, of a form of ``struct``."""
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _line(self) -> bytes:
        """The bytes up to the next line end, without it."""
        end = self._data.find(b"\n", self.at, self.at + MAX_BYTES)
        if end < 0:
            raise PickleError("it ends too early")
        return self._take(end + 1 - self.at)[:-1]

    # ---- stack -------------------------------------------------------------------------------------------------------

    def _pop_mark(self) -> list[object]:
        """Everything above the last mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_one(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError("its instructions do not fit each other")
        self._stack.append(self._memo[index])

    # ---- containers --------------------------------------------------------------------------------------------------

    def _append(self, items: list[object]) -> None:
        """Put items into the list on the stack."""
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise PickleRefusedError("it adds items to what is no list")

    def _set(self, items: list[object]) -> None:
        """Put keys and values into the dictionary on the stack."""
        target = self._stack[-1]
        if isinstance(target, dict):
            _fill(target, zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Opaque):
            raise PickleRefusedError("it adds entries to what is no dictionary")

    def _build(self) -> None:
        """Set attributes: of what is kept here none has any that matter."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict | Opaque | StoredTensor):
            raise PickleRefusedError("it changes what it did not make")

    # ---- calls, none of which is made --------------------------------------------------------------------------------

    def _make(self, cls: object) -> None:
        """An object of a class."""
        if not isinstance(cls, Named):
            raise PickleRefusedError("it calls what is no name")
        self._stack.append({} if _is(cls, "collections", "OrderedDict") else Opaque(f"{cls.module}.{cls.name}"))

    def _reduce(self) -> None:
        """The result of calling a function."""
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise PickleRefusedError("it calls what is no name")
        if _is(function, "torch._tensor", "_rebuild_from_type_v2") and len(arguments) == 4:
            function, arguments = arguments[0], arguments[2]  # a subclass of tensors: what it is made of
            if not isinstance(function, Named) or not isinstance(arguments, tuple):
                raise PickleRefusedError("it calls what is no name")
        self._stack.append(self._result(function, arguments))

    def _result(self, function: Named, arguments: tuple[object, ...]) -> object:
        """What the few functions return that data need, and ``Opaque`` for all others."""
        if _is(function, "collections", "OrderedDict") or _is(function, "collections", "defaultdict"):
            result: dict[object, object] = {}
            if function.name == "OrderedDict" and arguments:
                pairs = arguments[0] if isinstance(arguments[0], list | tuple) else ()
                self._count(len(pairs))
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    raise PickleError("it has a dictionary of entries that are no pairs")
                _fill(result, pairs)
            return result
        if _is(function, "torch", "Size") and len(arguments) == 1 and isinstance(arguments[0], tuple):
            return arguments[0]
        if function.module == "torch._utils" and arguments:
            if function.name in ("_rebuild_tensor", "_rebuild_tensor_v2") and len(arguments) >= 4:
                return tensor_of(*arguments[:4])
            if function.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
                return arguments[0]
        return Opaque(f"{function.module}.{function.name}")

    def _persistent(self) -> None:
        """What lies in the file beside the pickle: the numbers of tensors."""
        match self._stack.pop():
            case ("storage", Named() as kind, str(key), _, int(count), *view) if 0 <= count < 1 << 40 and not any(view):
                known = kind.module in ("torch", "torch.cuda") and kind.name in STORAGES
                storage = Storage(key, kind.name if known else f"{kind.module}.{kind.name}", count)
                self.storages.append(storage)
                self._stack.append(storage)
            case ("module", Named() as kind, *_):
                self._stack.append(kind)
            case _:
                raise PickleRefusedError("it refers to what is no storage")


def _is(named: Named, module: str, name: str) -> bool:
    return named.module == module and named.name == name


def _fill(target: dict[object, object], pairs: Iterable[Sequence[object]]) -> None:
    """Put pairs into a dictionary; keys are what has a plain hash. (Integers beyond 2**60 can be made to collide.)"""
    for key, value in pairs:
        if not isinstance(key, str | bytes | float | Named | Opaque | None) and not (
            isinstance(key, int) and abs(key) < 1 << 60
        ):
            raise PickleError("it has a dictionary with a key that is no text or number")
        target[key] = value


# ---- instructions ----------------------------------------------------------------------------------------------------

_STOP = ord(".")
Action = Callable[[PickleReader], object]


def _push(value: Callable[[PickleReader], object]) -> Action:
    """An instruction that puts a value on the stack."""

    def act(r: PickleReader) -> None:
        made = value(r)  # first: it can change which list the stack is
        r._stack.append(made)

    return act


def _text(length: str) -> Action:
    """A text with its length in front. (Texts can hold parts of characters that are no UTF-8 by themselves.)"""
    return _push(lambda r: r._take(r._number(length)).decode(errors="surrogatepass"))


def _bytes(length: str) -> Action:
    return _push(lambda r: r._take(r._number(length)))


def _tuple(count: int) -> Action:
    def act(r: PickleReader) -> None:
        parts = [r._stack.pop() for _ in range(count)]
        r._stack.append(tuple(reversed(parts)))

    return act


def _long(length: str) -> Action:
    def value(r: PickleReader) -> int:
        count = r._number(length)
        if not 0 <= count <= MAX_INTEGER_BYTES:
            raise PickleError("it has an integer that is too long")
        return int.from_bytes(r._take(count), "little", signed=True)

    return _push(value)


def _integer_line(r: PickleReader) -> object:
    text = r._line()
    if text in (b"00", b"01"):  # how the oldest pickles write truth values
        return text == b"01"
    if len(text) > 2 * MAX_INTEGER_BYTES:
        raise PickleError("it has an integer that is too long")
    return int(text.removesuffix(b"L"))


def _quoted(r: PickleReader) -> str:
    text = r._line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"'\"":
        raise PickleError("it holds a number or text that is none")
    return codecs.escape_decode(text[1:-1])[0].decode()


def _named_in_lines(r: PickleReader) -> Named:
    module, name = r._line(), r._line()
    return Named(module.decode()[:200], name.decode()[:200])


def _named_on_stack(r: PickleReader) -> None:
    name, module = r._stack.pop(), r._stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise PickleError("its instructions do not fit each other")
    r._stack.append(Named(module[:200], name[:200]))


def _frozen_set(r: PickleReader) -> None:
    r._pop_mark()
    r._stack.append(Opaque("frozenset"))


def _dictionary(r: PickleReader) -> None:
    items = r._pop_mark()
    r._stack.append({})
    r._set(items)


def _new_object(r: PickleReader, arguments: int) -> None:
    for _ in range(arguments):
        r._stack.pop()
    r._make(r._stack.pop())


def _old_instance(r: PickleReader) -> None:
    cls = _named_in_lines(r)
    r._pop_mark()
    r._make(cls)


def _refuse_persistent_line(_: PickleReader) -> None:
    raise PickleRefusedError("it refers to what is no storage")


# The instructions of protocols 0 to 5 (see Python's pickletools), without the extension registry and outside buffers.
_ACTIONS: dict[int, Action] = {
    ord("("): PickleReader._mark,
    ord("0"): PickleReader._pop_one,
    ord("1"): PickleReader._pop_mark,
    ord("2"): lambda r: r._stack.append(r._stack[-1]),
    ord("F"): _push(lambda r: float(r._line())),
    ord("G"): _push(lambda r: r._number(">d")),
    ord("I"): _push(_integer_line),
    ord("L"): _push(_integer_line),
    ord("J"): _push(lambda r: r._number("<i")),
    ord("K"): _push(lambda r: r._number("<B")),
    ord("M"): _push(lambda r: r._number("<H")),
    0x8A: _long("<B"),
    0x8B: _long("<i"),
    ord("N"): _push(lambda _: None),
    0x88: _push(lambda _: True),
    0x89: _push(lambda _: False),
    ord("S"): _push(_quoted),
    ord("V"): _push(lambda r: r._line().decode("raw-unicode-escape")),
    ord("T"): _text("<I"),
    ord("U"): _text("<B"),
    ord("X"): _text("<I"),
    0x8C: _text("<B"),
    0x8D: _text("<Q"),
    ord("B"): _bytes("<I"),
    ord("C"): _bytes("<B"),
    0x8E: _bytes("<Q"),
    0x96: _bytes("<Q"),
    ord("]"): _push(lambda _: []),
    ord("l"): _push(lambda r: r._pop_mark()),
    ord("a"): lambda r: r._append([r._stack.pop()]),
    ord("e"): lambda r: r._append(r._pop_mark()),
    ord(")"): _push(lambda _: ()),
    ord("t"): _push(lambda r: tuple(r._pop_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("}"): _push(lambda _: {}),
    ord("d"): _dictionary,
    ord("s"): lambda r: r._set([r._stack.pop(), r._stack.pop()][::-1]),
    ord("u"): lambda r: r._set(r._pop_mark()),
    0x8F: _push(lambda _: Opaque("set")),
    0x90: PickleReader._pop_mark,
    0x91: _frozen_set,
    ord("p"): lambda r: r._remember(int(r._line()[:20])),
    ord("q"): lambda r: r._remember(r._number("<B")),
    ord("r"): lambda r: r._remember(r._number("<I")),
    0x94: lambda r: r._remember(len(r._memo)),
    ord("g"): lambda r: r._recall(int(r._line()[:20])),
    ord("h"): lambda r: r._recall(r._number("<B")),
    ord("j"): lambda r: r._recall(r._number("<I")),
    ord("c"): _push(_named_in_lines),
    0x93: _named_on_stack,
    ord("R"): PickleReader._reduce,
    ord("b"): PickleReader._build,
    ord("i"): _old_instance,
    ord("o"): lambda r: r._make(r._pop_mark()[0]),
    0x81: lambda r: _new_object(r, 1),
    0x92: lambda r: _new_object(r, 2),
    ord("P"): _refuse_persistent_line,
    ord("Q"): PickleReader._persistent,
    0x80: lambda r: r._take(1),
    0x95: lambda r: r._take(8),
}
