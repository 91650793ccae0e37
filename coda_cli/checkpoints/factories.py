"""Networks that a function of the user's makes: the one place where coda runs code that it does not come with."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType

from torch import nn

from coda_cli.checkpoints.manifest import LIBRARIES
from coda_cli.errors import UsageError

Factory = Callable[..., nn.Module]
CLASSES = "num_classes"  # the argument that a function gets where it takes it


def find_factory(text: str) -> Factory:
    """Import the function that a user names. Its module's code runs.

    Args:
        text: "package.module:function". The module is also looked for in the current folder, as ``python -m`` does.

    Returns:
        The function.

    Raises:
        UsageError: there is no such module or function, or the module's code fails.
    """
    name, _, function = text.partition(":")
    if not all(part.isidentifier() for part in (*name.split("."), *function.split("."))):
        raise UsageError(f"--arch {text}: expected package.module:function, as Python imports it, without / and .py")
    found: object = _module(text, name)
    for part in function.split("."):
        if not hasattr(found, part):
            raise UsageError(f"--arch {text}: {name} has no {part!r}; {_near(found, part)}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"--arch {text}: a {type(found).__name__}, not a function that makes a network")
    return found


def _module(text: str, name: str) -> ModuleType:
    """Import a module. Raises UsageError."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _output_to_stderr():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            here = [*LIBRARIES, *(module.name for module in pkgutil.iter_modules([os.getcwd()]))]
            close = [f"{known}:" for known in difflib.get_close_matches(name, here, n=3)]
            mend = f"did you mean {' or '.join(close)}?" if close else "run coda in the folder that it is in"
            raise UsageError(
                f"--arch {text}: there is no module {error.name!r} here or among the installed ones; {mend}"
            ) from error
        raise UsageError(f"--arch {text}: {name} cannot be imported: {_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"--arch {text}: {name} cannot be imported: {_line(error)}") from error


def _near(module: object, name: str) -> str:
    """What a message suggests instead of a name that a module has not."""
    callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    own = [
        key for key in callables if getattr(getattr(module, key), "__module__", "") == getattr(module, "__name__", "")
    ]
    close = difflib.get_close_matches(name, callables, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"it has {', '.join((own or callables)[:10]) or 'no functions'}"


def takes_classes(factory: Factory) -> bool:
    """Tell whether a function takes the number of classes.

    Args:
        factory: the function.

    Returns:
        Whether it has an argument ``num_classes``.
    """
    try:
        return CLASSES in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some that are not written in Python
        return False


def make(factory: Factory, said: str, classes: int | None) -> nn.Module:
    """Call a function that makes a network.

    Args:
        factory: the function.
        said: how messages name it.
        classes: how many classes it is told; None tells it nothing.

    Returns:
        The network, in evaluation mode and in float32 on the CPU, whatever the function does.

    Raises:
        UsageError: it fails, or gives something else.
    """
    try:
        with _output_to_stderr():
            model = factory() if classes is None else factory(**{CLASSES: classes})
    except (Exception, SystemExit) as error:
        given = "" if classes is None else f"{CLASSES}={classes}"
        raise UsageError(
            f"--arch {said}: called as {said.partition(':')[2] or said}({given}), it failed: {_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--arch {said}: gave a {type(model).__name__}, not a torch.nn.Module")
    return model.eval().cpu().float()


def name_of(factory: Factory) -> str:
    """Name a function as ``--arch`` would.

    Args:
        factory: the function.

    Returns:
        "package.module:function", as far as the function has these.
    """
    kind = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{getattr(factory, '__module__', kind.__module__)}:{kind.__qualname__}"


def _line(error: BaseException) -> str:
    """What an error of somebody else's code says, as a part of a line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """What the user's code prints is no result of coda's."""
    with redirect_stdout(sys.stderr):
        yield
