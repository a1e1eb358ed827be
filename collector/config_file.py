"""The YAML file of settings, read as hostile input: bounded, without tags, aliases or duplicate keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from msgspec import Struct

from ..native.errors import UsageError

MAX_BYTES = 65536
MAX_DEPTH = 8
GIVEN_TWICE = "given twice"


class Entry(Struct, frozen=True):
    """One key of the file, dotted. `raw` is None for an empty value; `fault` says why no value can be taken."""

    key: str
    line: int
    raw: str | None = None
    fault: str = ""


def read_entries(path: Path, sections: frozenset[str]) -> Iterator[Entry]:
    """Every key of the file that is not one of the `sections`, dotted, in the order of the file.

    Scalars stay text, whatever YAML would make of them: a node called `no` or `0123` keeps its name.
    Raises UsageError when the file cannot be read or is not a mapping of plain YAML.
    """
    root = _compose(path)
    if root is None or _is_null(root):
        return
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}: the file must be a mapping, such as `interval: 500ms`")
    yield from _walk(root, "", sections, set())


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(_read(path), Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: not plain YAML: {_one_line(error)}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: {reason}", remedy="name a readable file with --config or EAGLE_EYE_CONFIG") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES} bytes, more than any settings need")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = cast(Any, self).peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not supported", problem_mark=mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH}", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _walk(mapping: yaml.MappingNode, prefix: str, sections: frozenset[str], seen: set[str]) -> Iterator[Entry]:
    for name, value in mapping.value:
        key = prefix + (name.value if isinstance(name, yaml.ScalarNode) else "?")
        line = name.start_mark.line + 1
        if key in seen:
            yield Entry(key, line, fault=GIVEN_TWICE)
        elif key not in sections:
            yield _entry(key, value, line)
        elif isinstance(value, yaml.MappingNode):
            yield from _walk(value, key + ".", sections, seen)
        elif not _is_null(value):
            yield Entry(key, line, fault="a mapping is expected here")
        seen.add(key)


def _entry(key: str, value: yaml.Node, line: int) -> Entry:
    if isinstance(value, yaml.ScalarNode):
        return Entry(key, line, raw=None if _is_null(value) else value.value)
    shape = "mapping" if isinstance(value, yaml.MappingNode) else "list"
    return Entry(key, line, fault=f"a {shape} is not allowed here")


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or ' '.join(str(error).split())}{where}"[:300]
