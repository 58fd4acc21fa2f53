"""A YAML file as data, with the place that each key came from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from alignment.errors import UsageError

Location = tuple[str | int, ...]


class Source:
    """Mapping read from ``path``, to which ``--set`` overrides can be applied.

    ``where(location)`` says who set a key: ``recipe.yaml:12`` or ``--set sft.steps=3``.
    """

    def __init__(self, path: Path, kind: str = "recipe"):
        self.path = path
        self.origins: dict[Location, str] = {}
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UsageError(f"{path}: there is no such {kind}{_neighbours(path)}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not a text file in UTF-8 (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read as YAML ({error.strerror})") from None
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                self._walk(root, (), [])
            self.data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise UsageError(f"{path}{line}: malformed YAML, {error.problem or error.context}") from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UsageError(f"{path}: malformed YAML, {str(error).splitlines()[0]}") from None
        if not isinstance(self.data, dict):
            a_kind = f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
            raise UsageError(f"{path}: {a_kind} is a mapping of keys such as 'name: my-run'; this file is not")

    def _walk(self, node: yaml.Node, location: Location, parents: list[yaml.Node]) -> None:
        if node in parents:  # an alias to an enclosing node
            return
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*location, str(key.value))
                origin = f"{self.path}:{key.start_mark.line + 1}"
                # PyYAML keeps the last of two equal keys without a word.
                if here in self.origins and key.tag != "tag:yaml.org,2002:merge":
                    dotted = ".".join(map(str, here))
                    raise UsageError(f'{origin}: "{dotted}" is given twice (first at {self.origins[here]}); keep one')
                self.origins[here] = origin
                self._walk(value, here, [*parents, node])
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.origins[(*location, index)] = f"{self.path}:{value.start_mark.line + 1}"
                self._walk(value, (*location, index), [*parents, node])

    def override(self, assignment: str) -> None:
        """Apply ``a.b=value``; the value is YAML. List items are addressed by their number."""
        dotted, equals, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        origin = f"--set {assignment}"
        if not equals or not all(keys):
            raise UsageError(f"{origin}: write it as --set section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise UsageError(f"{origin}: the value is malformed YAML, {reason}") from None
        place: Any = self.data
        location: Location = ()
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(place, list):
                if not key.isdigit() or int(key) >= len(place):
                    at = ".".join(keys[:depth])
                    raise UsageError(f"{origin}: {at} is a list of {len(place)}; number its items from 0")
                step: str | int = int(key)
            else:
                step = key
                if not last and not isinstance(place.get(step), dict | list):
                    place[step] = {}
                    self._set_origin((*location, step), origin)
            location = (*location, step)
            if last:
                place[step] = value
            else:
                place = place[step]
                if not isinstance(place, dict | list):
                    raise UsageError(f"{origin}: {'.'.join(keys[: depth + 1])} has no keys of its own")
        self._set_origin(location, origin)

    def _set_origin(self, location: Location, origin: str) -> None:
        for below in [known for known in self.origins if known[: len(location)] == location]:
            del self.origins[below]
        self.origins[location] = origin

    def where(self, location: Location) -> str:
        """The place of a key, or of the nearest section around it."""
        for end in range(len(location), 0, -1):
            if location[:end] in self.origins:
                return self.origins[location[:end]]
        return str(self.path)


def did_you_mean(word: str, known: list[str]) -> str:
    """``; did you mean "steps"?``, or an empty string where nothing is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _neighbours(path: Path) -> str:
    folder = path.parent
    names = sorted(str(folder / p.name) for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    return did_you_mean(str(path), names) or (f"; {folder} has {', '.join(names[:6])}" if names else "")
