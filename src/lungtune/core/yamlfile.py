"""YAML as people mean it: ``1e-4`` is a number, ``no`` is a word, a key stands once, every key knows its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lungtune.errors import SpaceError

MAX_BYTES = 1_000_000


class Block(dict[str, Any]):
    """A mapping read from a file; ``lines[key]`` is the line (from 1) on which a key stands."""

    lines: dict[str, int]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, no aliases, no duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise SpaceError(f"line {mark.line + 1}: aliases (*name) are not read here; write the value out.")
        return super().compose_node(parent, index)

    def construct_block(self, node: yaml.MappingNode) -> Block:
        block = Block()
        block.lines = {}
        for key_node, value_node in node.value:
            plain = isinstance(key_node, yaml.ScalarNode)
            key, line = str(key_node.value if plain else self.construct_object(key_node)), key_node.start_mark.line + 1
            if key in block:
                raise SpaceError(f"line {line}: '{key}' stands twice (first on line {block.lines[key]}); keep one.")
            block[key] = self.construct_object(value_node, deep=True)
            block.lines[key] = line
        return block


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_block)
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse(text: str, where: str) -> Any:
    """Parse YAML ``text``; mappings come back as :class:`Block`.

    Raises:
        SpaceError: the text is not YAML, has aliases or duplicate keys; ``where`` names the file.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise SpaceError(f"{where}{line}: not readable as YAML: {getattr(error, 'problem', error)}.") from error
    except SpaceError as error:
        raise SpaceError(f"{where}:{str(error).removeprefix('line ')}") from error


def load(path: Path) -> Block:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SpaceError: the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(raw) > MAX_BYTES:
        raise SpaceError(f"{path}: must be at most {MAX_BYTES} bytes, but has {len(raw)}.")
    try:
        block = parse(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise SpaceError(f"{path}: must be UTF-8 text, but byte {error.start} is not.") from error
    if not isinstance(block, Block):
        raise SpaceError(f"{path}: the top level must be a mapping (key: value), but is {type(block).__name__}.")
    return block
