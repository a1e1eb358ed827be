"""The live view: one screen of 80 columns and 24 lines, cropped gracefully on anything smaller."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.text import Text

from ...probes.model import Event, Health
from .accelerators import accelerators
from .engines import engines
from .figures import LEVELS, Figures
from .lines import timestamp
from .open_incidents import open_incidents, worst_severity
from .sentences import sentence
from .state import State
from .words import UNKNOWN, clean, count, percent, rate, seconds, size, span

EVENT_LINES = 5
BARS = "▁▂▃▄▅▆▇█"
QUIETEST_SECONDS, LOUDEST_SECONDS = 1e-5, 1e-1

_STATE_STYLES = {
    "ok": "green",
    "off": "dim",
    "starting": "cyan",
    "degraded": "yellow",
    "unavailable": "yellow",
    "failing": "red",
    "hung": "bold red",
}
_SEVERITIES = ("info", "warning", "error", "fatal")
_SEVERITY_STYLES = {"info": "", "warning": "yellow", "error": "red", "fatal": "bold red"}


def screen(state: State, width: int, height: int) -> Group:
    """`state` as at most `height` lines of at most `width` columns."""
    devices = accelerators(state.snapshot)
    node = [*_node(state.figures, state.waits), *([_row("devices", devices)] if devices else [])]
    node += [*_engines(state), *_incidents(state)]
    top = [*_header(state), _rule(width), *node, _rule(width)]
    probes = _probes(state.snapshot.health, height - len(top) - EVENT_LINES)
    room = height - len(top) - len(probes) - 1
    events = [_rule(width), *_events(state.events, room)] if room > 0 else []
    return Group(*(_cropped(line, width) for line in [*top, *probes, *events][:height]))


def _header(state: State) -> list[Text]:
    snapshot = state.snapshot
    title = Text.assemble(("Eagle Eye ", "bold"), (clean(snapshot.node), "bold cyan"))
    if state.cost is not None:
        title.append(f"  costs {percent(state.cost.cpu_ratio)}, {size(state.cost.resident_bytes)}")
    title.append(f"  every {seconds(snapshot.interval_ns / 1e9)}  up {span(snapshot.at_ns / 1e9)}")
    title.append(f"  kernel {clean(state.kernel)}", "dim")
    addresses = "  ".join(f"{name} {clean(address)}" for name, address in state.addresses.items())
    return [title, Text(addresses, "dim")]


def _node(figures: Figures, waits: Sequence[float | None]) -> list[Text]:
    return [
        _run_queue(figures, waits),
        _row("switches", f"{rate(figures.context_switches_rate)}, long waits {rate(figures.long_waits_rate)}"),
        _row("waiting", _pressure(figures)),
        _row("memory", _memory(figures)),
        _tasks(figures),
        _row("throttled", _throttled(figures), "yellow" if figures.throttled else ""),
        _kernel_log(figures),
    ]


def _engines(state: State) -> list[Text]:
    told = enumerate(engines(state.snapshot))
    return [_row("" if index else "engines", line, "yellow" if wrong else "") for index, (line, wrong) in told]


def _incidents(state: State) -> list[Text]:
    told = open_incidents(state.snapshot)
    return [_row("incidents", told, _SEVERITY_STYLES[worst_severity(state.snapshot)])] if told else []


def _row(name: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{name:<11}", "bold"), (value, style))


def _run_queue(figures: Figures, waits: Sequence[float | None]) -> Text:
    values = f"p50 {seconds(figures.run_queue_p50_seconds):<8} p99 {seconds(figures.run_queue_p99_seconds):<8}  "
    row = _row("run queue", values)
    row.append(sparkline(waits), "cyan")
    return row


def sparkline(values: Sequence[float | None]) -> str:
    """One bar per value on a logarithmic scale from 10 us to 100 ms; a blank where nothing is known."""
    return "".join(" " if value is None else BARS[_height(value)] for value in values)


def _height(value: float) -> int:
    bounded = min(max(value, QUIETEST_SECONDS), LOUDEST_SECONDS)
    part = math.log(bounded / QUIETEST_SECONDS) / math.log(LOUDEST_SECONDS / QUIETEST_SECONDS)
    return min(int(part * len(BARS)), len(BARS) - 1)


def _pressure(figures: Figures) -> str:
    shares = [f"{name} {_share(one.some_ratio)}/{_share(one.full_ratio)} %" for name, one in figures.pressure.items()]
    return "  ".join(shares) + "  (some/all tasks)"


def _share(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio * 100:.1f}"


def _memory(figures: Figures) -> str:
    available = f"{size(figures.memory_available_bytes)} of {size(figures.memory_size_bytes)} available"
    return f"{available}, OOM kills {count(figures.oom_kills)}   load {_number(figures.load)}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _tasks(figures: Figures) -> Text:
    row = _row("tasks", f"{count(figures.uninterruptible)} uninterruptible, ")
    row.append(f"{count(figures.stuck)} stuck", "bold red" if figures.stuck else "")
    return row


def _throttled(figures: Figures) -> str:
    if not figures.throttled:
        return UNKNOWN if figures.throttled is None else "none"
    return "  ".join(f"{clean(_short(name))} {percent(ratio)}" for name, ratio in figures.throttled[:3])


def _short(cgroup: str) -> str:
    """The end of a path tells one cgroup from the next; of a container id, its first dozen digits do."""
    last = cgroup.rstrip("/").rpartition("/")[2] or cgroup
    return last if len(last) <= 24 else f"{last[:23]}…"


def _kernel_log(figures: Figures) -> Text:
    row = _row("kernel log", "")
    if not figures.kernel_log_rates:
        return row.append(UNKNOWN)
    errors, warnings, others = (
        _sum(figures.kernel_log_rates, levels) for levels in (LEVELS[:4], LEVELS[4:5], LEVELS[5:])
    )
    row.append(f"errors {rate(errors)}", "red" if errors else "")
    row.append(f"  warnings {rate(warnings)}", "yellow" if warnings else "")
    row.append(f"  others {rate(others)}")
    return row.append(f"  lost {count(figures.kernel_log_lost)}", "red" if figures.kernel_log_lost else "")


def _sum(rates: Mapping[str, float], levels: Sequence[str]) -> float:
    return sum(rates.get(level, 0) for level in levels)


def _probes(health: Sequence[Health], room: int) -> list[Text]:
    """A head and a row per probe; those that are not well come first when there is no room for all."""
    head = Text(f"{'probe':<11} {'state':<12}{'ms':>7}{'events':>9}{'dropped':>9}  ", "bold")
    listed = [one for one in health if one.state != "off"]
    if len(listed) < room:
        return [head, *map(_probe, listed)]
    listed.sort(key=lambda one: one.state == "ok")
    fitting = max(room - 2, 1)
    hidden = Counter(one.state for one in listed[fitting:])
    more = Text("and " + ", ".join(f"{count} {state}" for state, count in hidden.items()), "dim")
    return [head, *map(_probe, listed[:fitting]), more]


def _probe(one: Health) -> Text:
    row = Text(f"{clean(one.probe):<11} ")
    row.append(f"{one.state:<12}", _STATE_STYLES[one.state])
    dropped = sum(one.dropped.values())
    row.append(f"{one.duration_ns / 1e6:>7.2f}{count(one.events):>9}")
    row.append(f"{count(dropped):>9}  ", "red" if dropped else "")
    return row.append(clean(one.reason), "dim")


def _events(events: Sequence[Event], room: int) -> list[Text]:
    if not events:
        return [Text("no events yet; Ctrl-C ends", "dim")]
    return [_event(event) for event in chosen(events, room)]


def chosen(events: Sequence[Event], room: int) -> list[Event]:
    """At most `room` events, newest first, such that a kind that comes often does not push out one that comes once.

    The newest of every kind are taken first, severe ones before others; then the second newest, and so on.
    """
    seen: Counter[str] = Counter()
    ranked = []
    for event in sorted(events, key=lambda event: -event.at_ns):
        ranked.append((seen[event.kind], -_SEVERITIES.index(event.severity), -event.at_ns, event))
        seen[event.kind] += 1
    best = sorted(ranked, key=lambda rank: rank[:3])[: max(room, 0)]
    return [event for *_, event in sorted(best, key=lambda rank: rank[2])]


def _event(event: Event) -> Text:
    time = timestamp(event.at_ns + event.wall_offset_ns)[11:19]
    row = Text(f"{time} ", "dim")
    return row.append(f"{clean(event.kind)} ", "bold").append(sentence(event), _SEVERITY_STYLES[event.severity])


def _rule(width: int) -> Text:
    return Text("─" * width, "dim")


def _cropped(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line
