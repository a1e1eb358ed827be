"""What a check says, and how it watches a probe."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from eagle_eye.probes.model import Event
from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource, Histogram, Metric, Sample, Spec

ROUND_S = 0.1
PATIENCE_S = 10.0


class Outcome(NamedTuple):
    """`result` is ok, degraded, unavailable or failed; `variant` is how the probe works on this kernel."""

    result: str
    variant: str = ""
    detail: str = ""


class Unmet(Exception):
    """An expectation that the kernel and the probe did not fulfil."""


def expect(fact: object, what: str) -> None:
    if not fact:
        raise Unmet(what)


class Watched:
    """A probe, built from its spec as the agent does, and all that it has given so far."""

    def __init__(self, spec: Spec, **options: str) -> None:
        values = {o.name: o.default if o.default is None else o.parse(o.default, o.name) for o in spec.options}
        values |= {o.name: o.parse(options[o.name], o.name) for o in spec.options if o.name in options}
        events = EventSource(spec.name, node="guest", cluster="kernels", boot_id=Paths().boot_id())
        self._probe = spec.build(Context(paths=Paths(), options=values, events=events))
        self._spec = spec
        self.events: list[Event] = []
        self.last = Sample()
        self.sample()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.close()

    def sample(self) -> Sample:
        self.last = self._probe.sample(time.monotonic_ns())
        self.events += self.last.events
        for series in self.last.series:
            expect(series.metric in self._spec.metrics, f"{series.metric.name} is not declared")
            expect(is_number(series.value), f"{series.metric.name} is {series.value}")
        return self.last

    def value(self, metric: Metric | str, **labels: str) -> float:
        """Sum over the series of a metric that bear these labels; of a histogram its count."""
        name = metric if isinstance(metric, str) else metric.name
        found = [s for s in self.last.series if s.metric.name == name]
        wanted = [s for s in found if labels.items() <= dict(zip(s.metric.labels, s.labels, strict=True)).items()]
        expect(wanted, f"no series {name} {labels or ''}")
        return sum(float(s.value.counts.sum() if isinstance(s.value, Histogram) else s.value) for s in wanted)

    def until(self, fact: Callable[[], Any], what: str) -> Any:
        """Samples until `fact` gives something true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := fact()):
            expect(time.monotonic() < deadline, f"not seen within {PATIENCE_S:.0f} s: {what}")
            time.sleep(ROUND_S)
            self.sample()
        return found

    def event(self, kind: str, **attributes: object) -> Event:
        """The event of this kind with these attributes, waited for."""
        return self.until(lambda: self.find(kind, **attributes), f"{kind} {attributes}")[0]

    def find(self, kind: str, **attributes: object) -> list[Event]:
        return [e for e in self.events if e.kind == kind and attributes.items() <= e.attributes.items()]

    def lost(self) -> dict[str, int]:
        return {reason: count for reason, count in self.last.dropped.items() if count}


def is_number(value: float | Histogram) -> bool:
    return isinstance(value, Histogram) or math.isfinite(value)


def bpf_maps() -> set[str]:
    """Names of all BPF maps that exist now."""
    listing = subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, text=True, check=True).stdout
    return {entry.get("name", "") for entry in json.loads(listing)}
