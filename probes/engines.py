"""Inference engines on this node: their scheduler's steps from a plugin's shared memory, others from what they publish.

Costs next to nothing where there is no engine: a look at new processes and at shared memory every second.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..native.errors import UsageError
from .attribution import process_alive
from .engine.finder import Finder, Found
from .engine.layout import Handshake
from .engine.loads import Loads
from .engine.metrics import METRICS, Ledger, Part, parts_of
from .engine.pages import Pages
from .engine.rank import Rank
from .engine.ranks import Ended, Ranks
from .engine.ring import Ring
from .flood import Bucket
from .model import EngineState, Event, Severity
from .options import Option
from .probe import Context, Sample, Series, Spec

_FULL_ROUND_NS = 200_000_000
_EVENTS_PER_SECOND, _EVENT_BURST = 20, 200
_OVERRUN_EVERY_NS = 10_000_000_000
_FINDER_HANGS_NS = 10_000_000_000
_LEAST_PERIOD_NS = 1_000_000_000
_MAX_URLS = 64
_REMEDY = "run it with sudo, or its container with --cap-add SYS_PTRACE"


class Engines:
    def __init__(self, context: Context) -> None:
        options = context.options
        urls = _urls(options["metrics_urls"])
        self._events = context.events
        self._bucket = Bucket(_EVENTS_PER_SECOND, _EVENT_BURST)
        self._ledger = Ledger()
        self._news_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._finder = Finder(context.paths, limit=options["max_engines"])
        self._ranks = Ranks(self._finder, self._ledger, options["floor"])
        self._loads = Loads(process_alive(context.paths), self._tell_news)
        self._period_ns = options["metrics_period"]
        self._pages = Pages(urls, self._period_ns, self._tell_news) if urls else None
        self._others: dict[str, EngineState] = {}
        self._silent: set[str] = set()
        self._missed: dict[str, tuple[int, int]] = {}
        self._missed_before = self._dropped_before = self._limited = 0
        self._full_ns = 0
        self._series: tuple[Series, ...] = ()
        self._problem = ""

    def sample(self, now_ns: int) -> Sample:
        full = now_ns - self._full_ns >= _FULL_ROUND_NS
        events = list(self._arrivals(now_ns))
        slots = self._ranks.changed()
        if full:
            slots = self._ranks.all()
        ended = self._ranks.read(slots, now_ns)
        states = [*self._ranks.news(slots, now_ns), *(one.state for one in ended if not _is_frontend(one.rank))]
        if self._others or full:
            states += self._other_news(now_ns)
        events += [event for one in ended for event in self._ending(one, now_ns)]
        steps = [batch for one in ended if (batch := one.rank.take_steps())]
        if full:
            events += self._checks(now_ns)
            steps += self._ranks.steps()
            self._series = tuple(self._ledger.series(self._parts(now_ns)))
            self._problem = self._degraded(now_ns)
            self._full_ns = now_ns
        return Sample(
            series=self._series,
            events=self._bounded(events, now_ns) if events else (),
            dropped=self._dropped(),
            degraded=self._problem,
            engines=states,
            steps=steps,
        )

    def wake_fds(self) -> Sequence[int]:
        poll = self._ranks.fd
        return (self._finder.fd, self._news_fd, *(() if poll is None else (poll,)))

    def close(self) -> None:
        if self._news_fd < 0:
            return
        if self._pages:
            self._pages.close()
        self._loads.close()
        self._finder.close()
        self._ranks.close()
        os.close(self._news_fd)
        self._news_fd = -1

    def _tell_news(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            os.eventfd_write(self._news_fd, 1)

    def _arrivals(self, now_ns: int) -> Iterator[Event]:
        for found in self._finder.found():
            if not isinstance(found.file, Ring):
                self._loads.add(found)
            elif rank := self._ranks.add(found, now_ns):
                yield self._event("engine.started", now_ns, rank.handshake, **_who(found))

    def _ending(self, one: Ended, now_ns: int) -> Iterator[Event]:
        hello, state, rank = one.rank.handshake, one.state, one.rank
        self._silent.discard(rank.key)
        _, told = self._missed.pop(rank.key, (0, 0))
        self._missed_before += rank.missed
        self._dropped_before += rank.dropped
        if rank.missed > told:
            yield self._overrun(rank, rank.missed - told, now_ns)
        about: dict[str, object] = {
            "reason": one.broken or ("its process died" if one.died else "it ended"),
            "died": one.died,
            "running": state.running,
            "waiting": state.waiting,
            "steps": state.step,
        }
        severity: Severity = "error" if one.died else "info"
        yield self._event("engine.gone", now_ns, hello, severity, **about, **_who(rank.found))

    def _checks(self, now_ns: int) -> Iterator[Event]:
        for rank in self._ranks:
            silent = rank.is_silent(now_ns)
            if silent != (rank.key in self._silent):
                (self._silent.add if silent else self._silent.discard)(rank.key)
                yield self._silence(rank, silent, now_ns)
            at_ns, told = self._missed.get(rank.key, (0, 0))
            if rank.missed > told and now_ns - at_ns >= _OVERRUN_EVERY_NS:
                self._missed[rank.key] = (now_ns, rank.missed)
                yield self._overrun(rank, rank.missed - told, now_ns)

    def _silence(self, rank: Rank, silent: bool, now_ns: int) -> Event:
        about = {"silent_seconds": (now_ns - rank.heard_ns) / 1e9, **_who(rank.found)}
        if silent:
            return self._event("engine.silent", now_ns, rank.handshake, "warning", **about)
        return self._event("engine.heard", now_ns, rank.handshake, "info", **about)

    def _overrun(self, rank: Rank, records: int, now_ns: int) -> Event:
        return self._event("engine.ring_overrun", now_ns, rank.handshake, "warning", records=records)

    def _other_news(self, now_ns: int) -> list[EngineState]:
        """Engines without a plugin, where their state changed; those that are no more, once."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news_fd)
        for found in self._loads.lost():
            self._finder.forget(found)
        pages = self._pages.pages if self._pages else ()
        states = [*self._loads.states(now_ns), *(one for page in pages for one in page.states(now_ns, self._period_ns))]
        known = {state.instance: state for state in states}
        news = [state for name, state in known.items() if _differs(state, self._others.get(name))]
        news += [
            _gone(state, now_ns) for name, state in self._others.items() if name not in known and state.kind != "gone"
        ]
        self._others = known
        return news

    def _parts(self, now_ns: int) -> Iterator[Part]:
        yield from self._ranks.parts(now_ns)
        for state in self._others.values():
            yield from parts_of(state, now_ns)

    def _event(self, kind: str, now_ns: int, hello: Handshake, severity: Severity = "info", /, **more: object) -> Event:
        about: dict[str, object] = {
            "engine": hello.engine, "version": hello.version, "model": hello.model, "instance": hello.instance,
            "group": hello.group, "dp_rank": hello.dp_rank, "role": hello.role, "plugin": hello.plugin,
            "lacks": list(hello.lacks), "simulated": hello.simulated,
        }  # fmt: skip
        entity = f"engine:{hello.instance}"
        attributes: Any = _without_nothing(about | more)
        return self._events.make(kind, now_ns, entity=entity, severity=severity, **attributes)

    def _bounded(self, events: list[Event], now_ns: int) -> list[Event]:
        self._bucket.refill(now_ns)
        granted = self._bucket.take(len(events))
        self._limited += len(events) - granted
        return events[:granted]

    def _dropped(self) -> dict[str, int]:
        missed = self._missed_before + sum(rank.missed for rank in self._ranks)
        by_plugin = self._dropped_before + sum(rank.dropped for rank in self._ranks)
        return {"overrun": missed, "plugin": by_plugin, "rate_limited": self._limited}

    def _degraded(self, now_ns: int) -> str:
        """The first of what is not well, and how many more there are."""
        problems = [*self._ranks.refused(), *self._finder.refused]
        problems += [
            f"{page.url}: {page.problem}" for page in (self._pages.pages if self._pages else ()) if page.problem
        ]
        blind = [rank for rank in self._ranks if not rank.ring.can_ask]
        problems += [
            f"{rank.ring.name} may only be read: its engine does not know that it is watched" for rank in blind
        ]
        if self._finder.over_limit:
            problems.append(f"{self._finder.over_limit} engines are not followed; see engines.max_engines")
        if self._finder.denied:
            problems.append(f"containers of {self._finder.denied} processes may not be looked into: {_REMEDY}")
        if self._finder.busy_ns(now_ns) > _FINDER_HANGS_NS:
            problems.append("the search for engines hangs in the file system of a container")
        if not problems:
            return ""
        return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _urls(text: str | None) -> list[str]:
    urls = [url.strip() for url in (text or "").split(",") if url.strip()]
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"probes.engines.metrics_urls: {url!r} is no http:// or https:// address")
    if len(urls) > _MAX_URLS:
        raise UsageError(f"probes.engines.metrics_urls: {len(urls)} addresses, and {_MAX_URLS} are allowed")
    return urls


def _is_frontend(rank: Rank) -> bool:
    return rank.handshake.is_frontend


def _who(found: Found) -> dict[str, object]:
    owner = found.owner
    pod, container = owner.pod or owner.pod_uid, owner.container or owner.container_id
    uid = found.file.identity.owner_uid if isinstance(found.file, Ring) else None
    return {"pid": found.pid or None, "pod": pod, "namespace": owner.namespace, "container": container, "uid": uid}


def _without_nothing(attributes: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in attributes.items() if value not in (None, "", [])}


def _differs(state: EngineState, before: EngineState | None) -> bool:
    return before is None or state.kind != before.kind or state.at_ns > before.at_ns + 1_000_000


def _gone(state: EngineState, now_ns: int) -> EngineState:
    return EngineState(
        instance=state.instance, engine=state.engine, at_ns=now_ns, kind="gone", source=state.source,
        model=state.model, dp_rank=state.dp_rank, role=state.role, pid=state.pid, pod=state.pod,
        container=state.container,
    )  # fmt: skip


SPEC = Spec(
    name="engines",
    help="Inference engines: load, KV cache, scheduler steps and latencies, from a plugin or from what they publish.",
    build=Engines,
    metrics=METRICS,
    optional=("host_pids",),
    options=(
        Option(
            "floor",
            "duration",
            "10ms",
            "least time between two reports of one engine, unless it is urgent",
            minimum="1ms",
            maximum="1s",
        ),
        Option("max_engines", "integer", 128, "most rings and load files to follow", minimum=1, maximum=256),
        Option("metrics_urls", "text", None, "pages of metrics of engines without a plugin, joined by commas"),
        Option(
            "metrics_period",
            "duration",
            "1s",
            "time between two readings of each of these pages",
            minimum="1s",
            maximum="10m",
        ),
    ),
    wake_gap_ns=0,
    cost="1.5 ms per second without engines; 0.3 ms per report of one, and a look at its ring when a step is due",
)
