"""Files of a user's that a recipe names: a task, a function that scores, a tool, plain text. Free of torch."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from agents.config import TOOLS
from alignment.errors import UsageError
from alignment.scoring import RewardFunction
from graphs.source import did_you_mean

if TYPE_CHECKING:
    from smolagents import Tool


@dataclass(frozen=True)
class NamedFunction:
    """A function that scores responses, its ``name`` (with a file's absolute path), and the ``sha256`` of its file."""

    name: str
    call: RewardFunction
    sha256: str


def load_function(given: str, base: str | Path = ".", what: str = "reward function") -> NamedFunction:
    """The function that ``file.py:name`` (relative to ``base``) or ``package.module:name`` names. Raises UsageError,
    which begins with ``what`` it is for."""
    what = f"{what} {given!r}"
    place, name, module = _place(given, base, what)
    function = getattr(module, name, None)
    if not callable(function):
        found = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise UsageError(f"{what}: {place} has no function {name!r}; it has {', '.join(found[:6]) or 'none'}")
    file = getattr(module, "__file__", None)  # what is built in has none
    source = Path(file).read_bytes() if file else b""
    return NamedFunction(f"{place}:{name}", function, hashlib.sha256(source).hexdigest())


def load_tool(given: str, base: str | Path = ".") -> tuple[str, Tool]:
    """The Tool of smolagents that ``file.py:name`` (relative to ``base``) or ``package.module:name`` names, and that
    name with a file's absolute path. Raises UsageError."""
    from smolagents import Tool  # most of a second

    what = f"tool {given!r}"
    if ":" not in given:
        known = f"; there are {', '.join(TOOLS)}, and your own as my_tools.py:name"
        raise UsageError(f"there is no tool {given!r}{did_you_mean(given, list(TOOLS)) or known}")
    place, name, module = _place(given, base, what)
    tool = getattr(module, name, None)
    if not isinstance(tool, Tool):
        found = sorted(key for key, value in vars(module).items() if isinstance(value, Tool))
        has = f"it has {', '.join(found[:6]) or 'none'}"
        if isinstance(tool, type):
            has = "that is a class; make one of it, and give it a name"
        raise UsageError(f"{what}: {place} has no smolagents Tool {name!r}; {has}")
    return f"{place}:{name}", tool


def _place(given: str, base: str | Path, what: str) -> tuple[str, str, ModuleType]:
    """Where something is that a recipe names, how it is called there, and the module."""
    place, colon, name = given.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise UsageError(f"{what}: write it as my_rewards.py:name or package.module:name")
    if place.endswith(".py"):
        place = str(file_of(place, Path(base)))
        return place, name, module_from_file(place, Path(base), what)
    try:
        return place, name, importlib.import_module(place)
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(f"{what}: the module {place!r} cannot be imported, {error}") from error


def file_of(given: str, base: Path) -> Path:
    """The absolute path of a file that a recipe in ``base`` names; ``~`` and ``$VARIABLE`` are expanded."""
    return (base / Path(os.path.expandvars(given)).expanduser()).resolve()


def module_from_file(given: str, base: Path, what: str) -> ModuleType:
    """Runs a ``.py`` file as a module. Raises UsageError, which begins with ``what``."""
    path = file_of(given, base)
    if not path.is_file():
        raise UsageError(f"{what}: there is no file {path}; the path is relative to the recipe's folder")
    name = f"junto_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{what}: {error.filename}:{error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UsageError(f"{what}: {path} cannot be imported, {error}") from error
    except Exception as error:
        raise UsageError(f"{what}: {path} raised {type(error).__name__} while it was read, {error}") from error
    return module


def plain_text(given: str | None, base: str | Path = ".") -> str:
    """The text of the file ``given`` (``ppo.ptx_corpus``, relative to ``base``); empty where there is none. Raises
    UsageError."""
    if given is None:
        return ""
    path = file_of(given, Path(base))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"ppo.ptx_corpus: {path} cannot be read as UTF-8 text ({error}); the path is relative to the recipe"
        ) from None
