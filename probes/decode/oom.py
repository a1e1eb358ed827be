"""Out of memory: who asked, under which limit, and who was killed; of kernels 2.6 to 6.x."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from . import scan
from .family import Decoded, Family

_NAME = "mm.oom"
_KILOBYTES = (
    ("total-vm:", "total_vm_bytes"), ("vsz:", "total_vm_bytes"), ("anon-rss:", "anon_rss_bytes"),
    ("file-rss:", "file_rss_bytes"), ("shmem-rss:", "shmem_rss_bytes"), ("pgtables:", "page_tables_bytes"),
)  # fmt: skip
_CODES = {"memcg": "oom_kill_memcg", "node": "oom_kill", "cpuset": "oom_kill_constrained",
          "memory_policy": "oom_kill_constrained"}  # fmt: skip
_SCOPES = {"CONSTRAINT_NONE": "node", "CONSTRAINT_MEMCG": "memcg", "CONSTRAINT_CPUSET": "cpuset",
           "CONSTRAINT_MEMORY_POLICY": "memory_policy"}  # fmt: skip


def _invoked(text: str) -> Decoded | None:
    """`python3 invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=985`."""
    process, mark, rest = text.partition(" invoked oom-killer: ")
    if not mark:
        return None
    fields = scan.known(
        invoked_by=process[:32],
        gfp_mask=scan.hexadecimal(scan.after(rest, "gfp_mask=")),
        order=scan.integer_after(rest, "order="),
        invoked_by_score_adjustment=scan.integer_after(rest, "oom_score_adj="),
    )
    return Decoded(_NAME, "", "", fields, incomplete=True)


def _constraint(text: str) -> Decoded | None:
    """`oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),…,task_memcg=/kubepods/…,task=python3,pid=1,uid=0`."""
    mark, _, rest = text.partition("constraint=")
    scope = _SCOPES.get(rest.partition(",")[0])
    if mark != "oom-kill:" or scope is None:
        return None
    tail = rest.rpartition(",task=")[2]
    fields = scan.known(
        scope=scope,
        memcg=scan.between(rest, "oom_memcg=", ",task_memcg="),
        task_memcg=scan.between(rest, "task_memcg=", ",task="),
        process=tail.rpartition(",pid=")[0][:32],
        pid=scan.integer(tail.rpartition(",pid=")[2]),
        uid=scan.integer(tail.rpartition(",uid=")[2]),
    )
    return Decoded(_NAME, _CODES[scope], "", fields, incomplete=True)


def _kill(text: str) -> Decoded | None:
    """`Out of memory: Killed process 1012 (java) total-vm:1kB, …`, and `Kill process 1012 (java) score 367`."""
    head, mark, rest = text.partition("Kill")
    killed = rest.startswith("ed process ")
    pid = scan.integer(rest.removeprefix("ed process " if killed else " process "))
    if not mark or pid is None or not (killed or rest.startswith(" process ")):
        return None
    if head and not head.lower().endswith(("out of memory: ", "out of memory (oom_kill_allocating_task): ")):
        return None
    scope = ("memcg" if head.startswith("Memory cgroup") else "node") if head else ""
    fields = {**scan.known(scope=scope, **_victim(rest, pid)), **_memory(rest)}
    if not head and not ("anon_rss_bytes" in fields or rest.endswith(")")):
        return None
    return Decoded(_NAME, _CODES[scope or "node"], "", fields, incomplete=not killed)


def _victim(rest: str, pid: int) -> dict[str, object]:
    """pid and name: `6033 (java)`, and `1234, UID 500, (java)` of some 2.6 kernels."""
    before = rest
    for mark in (" score ", " total-vm:", " vsz:", ", UID "):
        before = before.partition(mark)[0] if "(" in before.partition(mark)[0] else before
    score, uid = scan.integer_after(rest, ") score "), scan.integer_after(rest, "UID:")
    return {
        "pid": pid,
        "process": before.partition("(")[2].rpartition(")")[0][:32],
        "score": score,
        "uid": scan.integer_after(rest, "UID ") if uid is None else uid,
        "score_adjustment": scan.integer_after(rest, "oom_score_adj:"),
    }


def _memory(rest: str) -> dict[str, object]:
    values = {name: scan.integer_after(rest, mark) for mark, name in _KILOBYTES if mark in rest}
    return {name: value * 1024 for name, value in values.items() if value is not None}


def _reaped(text: str) -> Decoded | None:
    """`oom_reaper: reaped process 1234 (python3), now anon-rss:0kB, …`: the memory is free again."""
    reaped, failed = scan.after(text, "reaped process "), scan.after(text, "unable to reap pid:")
    pid = scan.integer(reaped or failed)
    if not text.startswith("oom_reaper: ") or pid is None:
        return None
    return Decoded(_NAME, "", "", {"pid": pid, "process": scan.between(text, "(", ")")[:32], "reaped": bool(reaped)})


def _usage(text: str) -> Decoded | None:
    """`memory: usage 8388608kB, limit 8388608kB, failcnt 123` of a cgroup."""
    usage, limit = scan.integer_after(text, "memory: usage "), scan.integer_after(text, "kB, limit ")
    if not text.startswith("memory: usage ") or usage is None or limit is None:
        return None
    fields = {"memcg_usage_bytes": usage * 1024, "memcg_limit_bytes": limit * 1024}
    return Decoded(_NAME, "", "", fields, incomplete=True)


def _limit(text: str) -> Decoded | None:
    """`Task in /a/b killed as a result of limit of /a`, before 4.19."""
    task, mark, owner = text.removeprefix("Task in ").partition(" killed as a result of limit of ")
    if not mark or not text.startswith("Task in "):
        return None
    fields = {"task_memcg": task[:300], "memcg": owner[:300], "scope": "memcg"}
    return Decoded(_NAME, "oom_kill_memcg", "", fields, incomplete=True)


def _nobody(text: str) -> Decoded | None:
    if text.startswith("Out of memory and no killable processes") or text.startswith("System is deadlocked on memory"):
        return Decoded(_NAME, "oom_no_victim")
    return None


_READERS = (
    ("invoked oom-killer", _invoked), ("oom-kill:", _constraint), ("Kill", _kill), ("oom_reaper: ", _reaped),
    ("memory: usage ", _usage), ("killed as a result of limit", _limit), ("emory", _nobody),
)  # fmt: skip


def parse(text: str) -> Decoded | None:
    for mark, read in _READERS:
        if mark in text:
            found = read(text)
            if found is not None:
                return found
    return None


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    """One kill out of its records: asked, limit, victim. The kernel kills one at a time."""
    old, new = earlier.fields, later.fields
    if not earlier.incomplete or "invoked_by" in new or "reaped" in new:
        return None
    if old.get("pid", new.get("pid")) != new.get("pid", old.get("pid")):
        return None
    scope = old.get("scope") if old.get("scope") not in (None, "node") else new.get("scope", old.get("scope"))
    fields: dict[str, Any] = {**old, **new, **scan.known(scope=scope)}
    code = _CODES.get(str(scope), "") or later.code or earlier.code
    return structs.replace(later, code=code, fields=fields)


FAMILY = Family(
    _NAME,
    ("invoked oom-killer: ", "oom-kill:constraint=", "Kill process ", "Killed process ", "oom_reaper: ",
     "memory: usage ", " killed as a result of limit of ", "no killable processes", "System is deadlocked on memory"),
    parse,
    join,
)  # fmt: skip
