"""Reading and writing of YAML files with ruamel.yaml.

Scalars are those of the YAML 1.2 core schema (``1e-4`` is a number, ``no`` and ``2026-01-31`` are text). Stricter than
YAML: a key may occur once, aliases are refused, nesting is limited. The line of every key is recorded.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tag import Tag

from lungtune.errors import SpaceError

MAX_BYTES = 250_000
MAX_DEPTH = 64
"""Deepest nesting of mappings and lists that is read."""

_PREFIX = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_CORE = {f"{_PREFIX}{kind}" for kind in ("bool", "int", "float", "null")}


class Block(dict[str, Any]):
    """A mapping read from a file; ``lines[key]`` is the line (from 1) of a key."""

    lines: dict[str, int]


class _Resolver(VersionedResolver):
    """YAML 1.2 core schema: ruamel's resolver without timestamps, ``<<`` and underscores in numbers."""

    processing_version = (1, 2)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if kind is ScalarNode and implicit[0] and (str(tag) not in _CORE or "_" in value):
            return Tag(suffix=f"{_PREFIX}str")
        return tag


class _Composer(Composer):
    """Refuses aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            mark = self.parser.peek_event().start_mark
            raise SpaceError(f"line {mark.line + 1}: aliases (*name) are not read here; write the value out.")
        return super().compose_node(parent, index)


class _Constructor(SafeConstructor):
    """Plain values; mappings become :class:`Block`."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as a number of thousands of digits
            raise MarkedYAMLError(problem=str(error).partition(";")[0], problem_mark=node.start_mark) from error

    def construct_block(self, node: MappingNode) -> Block:
        block = Block()
        block.lines = {}
        for key_node, value_node in node.value:
            plain = isinstance(key_node, ScalarNode)
            key, line = str(key_node.value if plain else self.construct_object(key_node)), key_node.start_mark.line + 1
            if key in block:
                raise SpaceError(f"line {line}: '{key}' occurs twice (first on line {block.lines[key]}); keep one.")
            block[key] = self.construct_object(value_node, deep=True)
            block.lines[key] = line
        return block


_Constructor.add_constructor(f"{_PREFIX}map", _Constructor.construct_block)


def parse(text: str, where: str) -> Any:
    """Parse YAML ``text``; mappings come back as :class:`Block`.

    Raises:
        SpaceError: the text is not YAML, has aliases or duplicate keys, or is nested too deep; ``where`` names the
            file.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Composer, yaml.Constructor = _Resolver, _Composer, _Constructor
    yaml.max_depth = MAX_DEPTH
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        if isinstance(error, MaxDepthExceededError):
            raise SpaceError(f"{where}{line}: values may be nested at most {MAX_DEPTH} deep.") from error
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SpaceError(f"{where}{line}: not readable as YAML: {problem}.") from error
    except SpaceError as error:
        raise SpaceError(f"{where}:{str(error).removeprefix('line ')}") from error


def load(path: Path) -> Block:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SpaceError: the file is missing, no regular file, too large, not UTF-8, empty, not YAML, or not a mapping.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise SpaceError(f"{path}: must be a file, but is none.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(raw) > MAX_BYTES:
        raise SpaceError(f"{path}: must have at most {MAX_BYTES} bytes, but has more.")
    try:
        block = parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise SpaceError(f"{path}: must be UTF-8 text, but byte {error.start} is not; save it as UTF-8.") from error
    if block is None:
        raise SpaceError(f"{path}: the top level must be a mapping (key: value), but the file is empty.")
    if not isinstance(block, Block):
        raise SpaceError(f"{path}: the top level must be a mapping (key: value), but is {type(block).__name__}.")
    return block


class _Representer(RoundTripRepresenter):
    """Writes ``null`` out, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_null(self, data: None) -> Any:
        return self.represent_scalar(f"{_PREFIX}null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


class Document:
    """A commented mapping to be written as YAML that :func:`parse` reads back as equal values of equal types.

    Text is written in double quotes, lists and mappings inside lists in flow style.
    """

    def __init__(self) -> None:
        self._map = CommentedMap()

    def heading(self, text: str) -> None:
        """Set the comment above everything."""
        if text:
            self._map.yaml_set_start_comment("\n".join(map(_printable, text.split("\n"))))

    def add(self, key: str, value: Any, comment: str = "", *, apart: bool = False) -> None:
        """Append a key.

        Args:
            key: any text.
            value: a scalar, a list, a mapping, or another :class:`Document`.
            comment: written behind the value, in one line.
            apart: leave an empty line before it.
        """
        self._map[_key(key)] = value._map if isinstance(value, Document) else _node(value)
        if comment:
            self._map.yaml_add_eol_comment(_printable(" ".join(comment.split())), key, column=0)
        if apart:
            self._map.yaml_set_comment_before_after_key(key, before="\n")

    def rows(self, key: str, values: Sequence[tuple[Mapping[str, Any], str]], comment: str) -> None:
        """Append a list of mappings, one a line.

        Args:
            key: any text.
            values: (mapping, comment behind it).
            comment: lines written above the key, after an empty one.
        """
        rows = CommentedSeq(_flow(_node(value)) for value, _ in values)
        for place, (_, each) in enumerate(values):
            rows.yaml_add_eol_comment(_printable(each), place, column=0)
        self._map[_key(key)] = rows
        self._map.yaml_set_comment_before_after_key(key, before="\n" + "\n".join(map(_printable, comment.split("\n"))))

    def text(self) -> str:
        """Return the YAML."""
        yaml = YAML(typ="rt", pure=True)
        yaml.Representer = _Representer
        yaml.width = MAX_BYTES
        stream = io.StringIO()
        yaml.dump(self._map, stream)
        return stream.getvalue()


def _node(value: Any) -> Any:
    if isinstance(value, str):
        return DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        node = CommentedMap((_key(key), _flow(_node(item))) for key, item in value.items())
        return node if node else _flow(node)
    if isinstance(value, (list, tuple)):
        return _flow(CommentedSeq(map(_node, value)))
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else float(value)


def _key(text: str) -> str:
    return text if _PLAIN_KEY.fullmatch(text) else DoubleQuotedScalarString(text)


def _flow(node: Any) -> Any:
    if isinstance(node, (CommentedMap, CommentedSeq)):
        node.fa.set_flow_style()
    return node


def _printable(text: str) -> str:
    """Escape what a YAML comment may not hold."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
