"""Reads an engine's page of metrics, whatever the engine calls them: the table is metric_names.yaml."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

_CHOICE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(\w+)=([^}]*)\}|\[(\w+)\])?")
_RATIOS = frozenset({"kv_usage_ratio"})
_MAX_SERIES = 4096
_MAX_RANKS = 64
_MAX_TEXT = 256

Labels = Mapping[str, str]


class Name(Struct, frozen=True):
    """Series of one name; of those, ones whose `label` is `value`, or the number in their label `of`."""

    name: str
    label: str = ""
    value: str = ""
    of: str = ""


class Engine(Struct, frozen=True):
    """One engine's names, by field of EngineState."""

    engine: str
    model: tuple[str, ...]
    rank: tuple[str, ...]
    fields: dict[str, tuple[Name, ...]]


class Reading(Struct, frozen=True):
    """One rank on a page: `values` are fields of EngineState; what the page lacks is not in it."""

    engine: str
    model: str
    dp_rank: int
    values: dict[str, float]


@cache
def engines() -> tuple[Engine, ...]:
    table = yaml.safe_load(resources.files(__package__).joinpath("metric_names.yaml").read_text(encoding="utf-8"))
    return tuple(_engine(name, dict(entry)) for name, entry in table.items())


def readings(page: str) -> list[Reading]:
    """Of the ranks on a page, none where it is no engine's. Lines that are not wanted are not even parsed."""
    samples = list(_samples(page))
    for engine in engines():
        wanted = {name.name for names in engine.fields.values() for name in names}
        mine = [sample for sample in samples if sample[0] in wanted]
        if mine:
            return _readings(engine, mine)
    return []


def _readings(engine: Engine, samples: list[tuple[str, Labels, float]]) -> list[Reading]:
    by_rank: dict[tuple[str, int], dict[str, float]] = {}
    for key in {_key(engine, labels) for _, labels, _ in samples}:
        mine = [sample for sample in samples if _key(engine, sample[1]) == key]
        if len(by_rank) < _MAX_RANKS:
            by_rank[key] = dict(_values(engine, mine))
    by_rank = _with_shared(by_rank)
    return [Reading(engine.engine, model, rank, values) for (model, rank), values in sorted(by_rank.items()) if values]


def _with_shared(by_rank: dict[tuple[str, int], dict[str, float]]) -> dict[tuple[str, int], dict[str, float]]:
    """Info series may not say which model they are of: then they are of the same rank's only model."""
    named = [key for key in by_rank if key[0]]
    for key in [key for key in by_rank if not key[0]]:
        same_rank = [other for other in named if other[1] == key[1]]
        if len(same_rank) == 1:
            by_rank[same_rank[0]] = by_rank.pop(key) | by_rank[same_rank[0]]
    return by_rank


def _values(engine: Engine, samples: list[tuple[str, Labels, float]]) -> Iterator[tuple[str, float]]:
    for field, names in engine.fields.items():
        for name in names:
            found = [value for sample in samples if (value := _value(name, sample)) is not None]
            if found:
                # Several processes may each tell a part of one rank; of ratios, the worst counts.
                yield field, max(found) if field in _RATIOS else sum(found)
                break


def _value(name: Name, sample: tuple[str, Labels, float]) -> float | None:
    called, labels, value = sample
    if called != name.name or (name.label and labels.get(name.label) != name.value):
        return None
    if name.of:
        text = labels.get(name.of, "")
        return float(text) if text.isdecimal() and len(text) < 16 else None
    return value if math.isfinite(value) and 0 <= value < 2**62 else None


def _key(engine: Engine, labels: Labels) -> tuple[str, int]:
    model = next((labels[name] for name in engine.model if name in labels), "")
    rank = next((labels[name] for name in engine.rank if name in labels), "0")
    return model[:_MAX_TEXT], int(rank) if rank.isdecimal() and len(rank) < 6 else 0


def _samples(page: str) -> Iterator[tuple[str, Labels, float]]:
    wanted = _all_names()
    kept = []
    for line in page.splitlines():
        if line.startswith(wanted) and len(line) < 8192:
            kept.append(line)
            if len(kept) >= _MAX_SERIES:
                break
    for line in kept:
        try:
            for family in text_string_to_metric_families(line + "\n"):
                for sample in family.samples:
                    yield sample.name, sample.labels, float(sample.value)
        except Exception:  # noqa: S112 - one line that cannot be read costs no other one
            continue


@cache
def _all_names() -> tuple[str, ...]:
    return tuple({name.name for engine in engines() for names in engine.fields.values() for name in names})


def _engine(engine: str, entry: dict[str, Any]) -> Engine:
    model, rank = tuple(entry.pop("model")), tuple(entry.pop("rank"))
    return Engine(engine, model, rank, {field: tuple(_names(choices)) for field, choices in entry.items()})


def _names(choices: Iterable[str]) -> Iterator[Name]:
    for choice in choices:
        found = _CHOICE.fullmatch(choice)
        assert found, choice
        yield Name(found[1], found[2] or "", found[3] or "", found[4] or "")
