"""Runs inside the guest: every object, every probe, then without BTF and without capabilities.

Writes one JSON line per outcome.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import checks
import lacking
import whole_agent
import workloads
from outcome import Outcome, Unmet

from eagle_eye.native.errors import EagleEyeError, UnavailableError
from eagle_eye.probes import registry

CHECK_SECONDS = 120
# A guest has no accelerator.
PROBES = tuple(spec for spec in registry.PROBES if spec.name not in ("devices", "aer"))


def main() -> None:
    workloads.enable_controllers()
    say("features", "", Outcome("ok", detail=checks.features()))
    for name, case in lacking.CASES.items():
        try_lacking(name, case)
    for spec in PROBES:
        report(spec.name, "", lambda s=spec: checks.PROBES.get(s.name, checks.any_probe)(s))
    report("whole agent", "", whole_agent.check)
    print(json.dumps({"done": True}))


def try_lacking(name: str, case: lacking.Case) -> None:
    try:
        for spec, outcome in zip(PROBES, lacking.try_all(case, PROBES), strict=True):
            say(spec.name, name, outcome)
    except Unmet as error:
        say("all probes", name, Outcome("failed", detail=str(error)))


def report(probe: str, case: str, check: Callable[[], Outcome]) -> None:
    began = time.monotonic()
    signal.alarm(CHECK_SECONDS)
    try:
        outcome = check()
    except UnavailableError as error:
        outcome = Outcome("unavailable", detail=f"{error.message}; {error.remedy}")
    except (EagleEyeError, Unmet) as error:
        outcome = Outcome("failed", detail=str(error))
    except Exception:
        outcome = Outcome("failed", detail=traceback.format_exc(limit=-3))
    finally:
        signal.alarm(0)
    say(probe, case, outcome, round(time.monotonic() - began, 1))


def say(probe: str, case: str, outcome: Outcome, seconds: float = 0) -> None:
    row = {"probe": probe, "case": case, **outcome._asdict(), "seconds": seconds}
    print(json.dumps(row), flush=True)


def too_long(*_: object) -> None:
    raise Unmet(f"did not end within {CHECK_SECONDS} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, too_long)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    sys.path.insert(0, str(Path(__file__).parent))
    main()
