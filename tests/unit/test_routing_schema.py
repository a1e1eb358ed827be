"""The routing message may grow and never change: routers of yesterday read agents of today, and the other way round."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from jsonschema import Draft202012Validator

from eagle_eye.collector.commands.schema import schema_of
from eagle_eye.collector.routing import RoutingTable
from eagle_eye.probes.model import RoutingMessage

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures/golden/routing_message.schema.json"


class FirstMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=False):
    """As a router of the first release has it: strict about types, careless about what it does not know."""

    schema: int
    instance: str
    node: str
    seq: int
    at_ns: int
    age_ns: int
    max_silence_ns: int
    kind: Literal["step", "tick", "idle", "draining", "gone", "unknown"]
    running: int | None
    waiting: int | None
    input_queue: int | None
    kv_usage_ratio: float | None
    prefill_tokens_per_second: float | None
    health: Literal["ok", "degraded", "avoid", "unknown"]
    in_flight_age_ns: int | None


def message(**fields):
    least = {
        "instance": "e", "engine": "vllm", "at_ns": 5, "kind": "tick", "source": "plugin", "node": "n", "cluster": "c",
        "boot_id": "b", "seq": 1, "at_wall_ns": 6, "max_silence_ns": 10**9,
    }  # fmt: skip
    return RoutingMessage(**(least | fields))


def definition():
    schema = schema_of("RoutingMessage")
    return json.loads(json.dumps(schema["$defs"]["RoutingMessage"]))


def test_the_message_only_grows(request):
    now = definition()
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")
    then = json.loads(GOLDEN.read_text())

    for name, kind in then["properties"].items():
        assert now["properties"].get(name) == kind, f"{name}: what it is can be changed in a new schema only"
    assert set(now["required"]) <= set(then["required"]), "an older sender does not say what is new"
    assert set(now["properties"]) == set(then["properties"]), "a new field: renew the golden file with --update-golden"


def test_a_router_of_the_first_release_reads_the_messages_of_now():
    sent = message(running=3, waiting=2, kv_usage_ratio=0.5, in_flight_age_ns=7, health="degraded")
    for module in (msgspec.json, msgspec.msgpack):
        read = module.decode(module.encode(sent), type=FirstMessage)
        assert (read.running, read.health, read.kv_usage_ratio, read.kind) == (3, "degraded", 0.5, "tick")


def test_the_router_of_now_reads_the_messages_of_the_first_release():
    first = FirstMessage(
        schema=1, instance="e", node="n", seq=1, at_ns=1, age_ns=0, max_silence_ns=10**9, kind="step", running=2,
        waiting=0, input_queue=0, kv_usage_ratio=None, prefill_tokens_per_second=None, health="ok",
        in_flight_age_ns=None,
    )  # fmt: skip
    least = {"engine": "x", "source": "shm", "cluster": "c", "boot_id": "b", "at_wall_ns": 0}
    table = RoutingTable()
    engine = table.take(msgspec.json.encode(msgspec.to_builtins(first) | least))

    assert engine.message.running == 2
    assert engine.message.device_pressure_ratio is None


@pytest.mark.parametrize("fields", [{}, {"running": 0, "kv_usage_ratio": 1.0, "finished_total": {"stop": 3}}])
def test_what_is_sent_is_what_the_schema_says(fields):
    schema = schema_of("RoutingMessage")
    payload = json.loads(msgspec.json.encode(message(**fields)))

    Draft202012Validator(schema).validate(payload)
    assert set(payload) == set(definition()["properties"]), "every field is there, null where it is unknown"


def test_a_router_needs_nothing_of_the_agent():
    heavy = ("numpy", "prometheus_client", "structlog", "cffi", "nats", "aiohttp", "yaml", "eagle_eye.collector.agent")
    code = (
        "import sys; from eagle_eye.collector.routing import RoutingTable; RoutingTable().pick();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
