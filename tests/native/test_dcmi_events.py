"""Fault events of Ascend NPUs: pushed by the library or asked for, through the queue without locks.

Each test subscribes in a process of its own, because DCMI allows that once in a process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eagle_eye.native.simulator.block import LIBRARIES
from eagle_eye.native.simulator.simulation import VARIABLE, Simulation

NATIVE = Path(__file__).parent.parent.parent / "native"
CARDS, FLAT = 1, 2
LISTENER = """
import json, select, sys, time
from eagle_eye.native.dcmi import Dcmi
path, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
dcmi = Dcmi(path)
dcmi.init()
how = dcmi.subscribe()
assert dcmi.subscribe() == how
print(how, flush=True)
sys.stdin.readline()
found, until = [], time.monotonic() + seconds
while len(found) < wanted and time.monotonic() < until:
    select.select([dcmi.wake_fd], [], [], max(0, until - time.monotonic()))
    found += dcmi.drain()
quiet = not select.select([dcmi.wake_fd], [], [], 0)[0]
print(json.dumps({"lost": dcmi.lost, "quiet": quiet, "events": [
    {name: getattr(event, name) for name in event.__slots__ if name != "info"} for event in found]}))
dcmi.close()
dcmi.close()
"""


@pytest.fixture
def machine():
    with Simulation("ascend910bx8") as simulation:
        yield simulation


class Listener:
    """A process that has subscribed; `hear` is what came after it was told to look."""

    def __init__(self, machine, wanted, *, path=LIBRARIES / "libdcmi.so", seconds=10.0):
        self._process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, path, str(wanted), str(seconds)],
            env={**os.environ, VARIABLE: str(machine.path)}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.how = self._process.stdout.readline().strip()

    def hear(self):
        heard, _ = self._process.communicate("\n", timeout=60)
        return json.loads(heard)


@pytest.mark.parametrize("interface", [CARDS, FLAT])
def test_occurrence_recovery_and_one_off(machine, interface):
    machine.set(0, dcmi_interfaces=interface)
    listener = Listener(machine, 3)
    before_ns, before_ms = time.monotonic_ns(), time.time() * 1000
    for device, event in ((3, "0x81078603"), (3, "0x81078603:recover"), (5, "0x80E18400:once")):
        machine.set(device, event=event)
    heard = listener.hear()
    assert listener.how == "pushed"
    assert heard["lost"] == 0
    assert heard["quiet"]
    assert [(event["event_id"], event["logic_id"], event["assertion"]) for event in heard["events"]] == [
        (0x81078603, 3, 1), (0x81078603, 3, 0), (0x80E18400, 5, 2),
    ]  # fmt: skip
    assert [event["serial"] for event in heard["events"]] == [1, 2, 3]
    for event in heard["events"]:
        assert before_ns < event["at_ns"] < time.monotonic_ns()
        assert abs(event["raised_ms"] - before_ms) < 60_000


def test_history_is_not_brought(machine):
    machine.set(0, event="0x80E01801")
    listener = Listener(machine, 1, seconds=0.5)
    assert listener.hear()["events"] == []


def hide(folder, *names):
    """A simulated library without the push."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library, hidden = folder / "libdcmi.so", folder / "symbols.map"
    hidden.write_text(f"{{ local: {'; '.join(names)}; }};")
    shared = [NATIVE / "simulator" / f"{name}.c" for name in ("common", "faults", "laws")]
    flags = ["-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,--version-script={hidden}"]
    sources = [*NATIVE.glob("simulator/dcmi*.c"), *shared]
    subprocess.run(["cc", *flags, *sources, "-o", library, "-lm", "-lpthread"], check=True)
    return library


@pytest.mark.parametrize("interface", [CARDS, FLAT])
def test_asked_for_where_the_library_cannot_push(machine, tmp_path, interface):
    machine.set("all", dcmi_interfaces=interface)
    for device in range(1, 8):
        machine.set(device, present=0)
    listener = Listener(machine, 2, path=hide(tmp_path, "*subscribe_fault_event"))
    machine.set(0, event="0x80E01801")
    machine.set(0, event="0x80E01801:recover")
    heard = listener.hear()
    assert listener.how == "asked"
    assert [event["assertion"] for event in heard["events"]] == [1, 0]


def test_a_full_queue_loses_the_newest_and_counts_them(tmp_path):
    source, library = tmp_path / "storm.c", tmp_path / "libdcmi.so"
    source.write_text(STORM)
    subprocess.run(["cc", f"-I{NATIVE}", "-shared", "-fPIC", source, "-o", library, "-lpthread"], check=True)
    said = subprocess.run(
        [sys.executable, "-c", LISTENER, library, "512", "5"], input="\n", capture_output=True, text=True, check=True
    )
    how, heard = said.stdout.splitlines()
    heard = json.loads(heard)
    assert how == "pushed"
    assert len(heard["events"]) == 512
    assert heard["lost"] == 4 * 1000 - 512
    for thread in range(4):
        serials = [event["serial"] for event in heard["events"] if event["logic_id"] == thread]
        assert serials == list(range(len(serials)))
    assert all(event["name"] == "x" * 256 for event in heard["events"])


# Four threads call back at once, a thousand times each, before the subscription returns; the text has no end.
STORM = """
#include <pthread.h>
#include <string.h>
#include "dcmi_abi.h"
static void (*handler)(struct dcmi_event *);
static void *storm(void *number)
{
	struct dcmi_event event = {.device = (uint16_t)(long)number};

	memset(event.name, 'x', sizeof(event.name));
	for (event.serial = 0; event.serial < 1000; event.serial++)
		handler(&event);
	event.type = 7; /* of no known kind: ignored */
	handler(&event);
	handler(0);
	return 0;
}
int dcmi_init(void) { return 0; }
int dcmi_get_card_list(int *count, int *list, int room) { (void)room; *count = 1; list[0] = 0; return 0; }
int dcmi_get_device_num_in_card(int card, int *count) { (void)card; *count = 1; return 0; }
int dcmi_subscribe_fault_event(int card, int chip, struct dcmi_event_filter filter, void (*to)(struct dcmi_event *))
{
	pthread_t thread[4];

	if (card != -1 || chip != -1 || filter.flags)
		return -8001;
	handler = to;
	for (long n = 0; n < 4; n++)
		pthread_create(&thread[n], 0, storm, (void *)n);
	for (int n = 0; n < 4; n++)
		pthread_join(thread[n], 0);
	return 0;
}
"""
