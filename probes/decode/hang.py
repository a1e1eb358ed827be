"""What hangs: tasks, processors, RCU grace periods, workqueues."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from . import scan
from .family import Decoded, Family
from .shape import by_shapes, first_of, triggers_of

_NAME = "sched.hang"
_STALL_ENDS = ("stall on CPU", "stalls on CPUs/tasks:", "expedited stalls on CPUs/tasks:", "stalls on CPUs/tasks {")
_by_shape = by_shapes(_NAME)


def _with_task(text: str) -> Decoded | None:
    """By shape, with `task` and `owner` (`cuda-EvtHandlr:2255424`; a name may hold colons) as process and pid."""
    # A panic is its own fault, whatever made it.
    found = None if text.startswith("Kernel panic") else _by_shape(text)
    if found is None:
        return None
    fields = dict(found.fields)
    for name, process, pid in (("task", "process", "pid"), ("owner", "owner_process", "owner_pid")):
        fields.update(_task(str(fields.pop(name, "")), process, pid))
    waits = "owner_pid" in fields or "lock" in fields
    return structs.replace(found, fields=fields, incomplete=found.code == "hung_task" or waits)


def _task(written: str, process: str, pid: str) -> dict[str, Any]:
    name, colon, number = written.rpartition(":")
    return scan.known(**{process: (name if colon else written)[:32], pid: scan.integer(number) if colon else None})


def _stall(text: str) -> Decoded | None:
    """`rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:`; up to 4.x without `rcu: `."""
    said = scan.after(text, "INFO: ")
    flavour = scan.word(said)
    if not text.removeprefix("rcu: ").startswith("INFO: rcu") or not any(end in said for end in _STALL_ENDS):
        return None
    fields = scan.known(
        flavour=flavour,
        self_detected="self-detected" in said,
        cpu=scan.integer_after(said, "stall on CPU "),
        jiffies=_jiffies(said),
    )
    return Decoded(_NAME, "rcu_stall", "", fields, incomplete=True)


def _jiffies(text: str) -> int | None:
    return scan.integer_after(text, "(t=") if "(t=" in text else scan.integer_after(text, ", t=")


def _stall_detail(text: str) -> Decoded | None:
    """`rcu: \\t3-....: (5250 ticks this GP) …` names the CPU, `(detected by 2, t=5252 jiffies, …)` the time."""
    said = text.removeprefix("rcu: ").strip()
    cpu, ticks = scan.integer(said.partition("-")[0]), " ticks this GP)" in said or " GPs behind)" in said
    jiffies = _jiffies(said) if said.startswith(("(t=", "(detected by ")) else None
    if not (ticks and cpu is not None) and jiffies is None:
        return None
    fields = scan.known(cpus=[cpu] if ticks and cpu is not None else None, jiffies=jiffies)
    return Decoded(_NAME, "", "", fields, incomplete=True)


def _starved(text: str) -> Decoded | None:
    """`rcu: rcu_sched kthread starved for 5251 jiffies! …`: RCU's own thread does not run, which is why."""
    head, mark, rest = text.removeprefix("rcu: ").partition(" kthread starved for ")
    jiffies = scan.integer(rest)
    if not mark or jiffies is None or not head.startswith("rcu"):
        return None
    return Decoded(_NAME, "", "", {"flavour": head[:32], "starved_jiffies": jiffies}, incomplete=True)


parse = first_of(_stall, _stall_detail, _starved, _with_task)


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    if not (earlier.incomplete and later.incomplete) or later.code or not earlier.code:
        return None
    return (_join_hung if earlier.code == "hung_task" else _join_stall)(earlier, later)


def _join_hung(earlier: Decoded, later: Decoded) -> Decoded | None:
    """The lock that a hung task waits for, and who holds it."""
    if earlier.fields.get("pid") != later.fields.get("pid"):
        return None
    return structs.replace(earlier, fields={**earlier.fields, **later.fields}, incomplete=False)


def _join_stall(earlier: Decoded, later: Decoded) -> Decoded | None:
    old, new = earlier.fields, later.fields
    if earlier.code != "rcu_stall" or "pid" in new or ("jiffies" in old and "jiffies" in new):
        return None
    fields = {**new, **old}
    if "cpus" in old or "cpus" in new:
        fields["cpus"] = [*old.get("cpus", []), *new.get("cpus", [])]
    return structs.replace(earlier, fields=fields)


FAMILY = Family(
    _NAME,
    ("INFO: rcu", " ticks this GP)", " GPs behind)", " jiffies g=", " jiffies, g=", "kthread starved for",
     *triggers_of(_NAME)),
    parse,
    join,
)  # fmt: skip
