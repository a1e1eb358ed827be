"""The JetStream streams: created when absent, left alone when they exist."""

from __future__ import annotations

from typing import Any

import msgspec
import nats.errors
from msgspec import Struct
from nats.aio.client import Client

from .subjects import ALL_EVENTS, ALL_FINDINGS, ALL_STALLS

API_TIMEOUT_S = 2.0
NOT_FOUND = 404
# Codes of nats-server's errors.json.
STREAM_NAME_IN_USE = 10058
SUBJECTS_OVERLAP = 10065

_DAY_NS = 86_400 * 10**9
_HOUR_NS = 3_600 * 10**9


class ApiError(Struct, frozen=True):
    """`err_code` is JetStream's own and finer than the HTTP-like `code`."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class ApiAnswer(Struct, frozen=True):
    """Any answer of the JetStream API, and a publish acknowledgement."""

    error: ApiError | None = None
    stream: str = ""
    seq: int = 0
    duplicate: bool = False


answer_decoder = msgspec.json.Decoder(ApiAnswer)


def stream_configs(max_bytes: int) -> tuple[dict[str, Any], ...]:
    """Both streams, oldest messages first out; findings take a quarter of `max_bytes`.

    `duplicate_window` is how long after the first arrival a repeated message is recognised. The agent repeats only
    what it has no acknowledgement for, so an event is stored twice only if its acknowledgement was lost and the
    agent was away for longer than this; readers that must not count such an event twice compare `id`.
    """
    return (
        _config("EAGLE_EYE_EVENTS", [ALL_EVENTS, ALL_STALLS], max_bytes, 7 * _DAY_NS),
        _config("EAGLE_EYE_FINDINGS", [ALL_FINDINGS], max_bytes // 4, 30 * _DAY_NS),
    )


def _config(name: str, subjects: list[str], max_bytes: int, max_age_ns: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": subjects,
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_bytes": max_bytes,
        "max_age": max_age_ns,
        "duplicate_window": _HOUR_NS,
    }


async def ensure_streams(client: Client, max_bytes: int) -> str:
    """Create what is missing; why events may have nowhere to go, "" when all is well."""
    for config in stream_configs(max_bytes):
        try:
            reason = await _ensure(client, config)
        except nats.errors.NoRespondersError:
            return "JetStream is off on this server, so events cannot be stored"
        except nats.errors.TimeoutError:
            return f"JetStream did not answer in {API_TIMEOUT_S:g} s"
        except nats.errors.Error as error:
            return f"JetStream could not be asked: {error}"
        if reason:
            return reason
    return ""


async def _ensure(client: Client, config: dict[str, Any]) -> str:
    name = config["name"]
    answer = await _ask(client, f"$JS.API.STREAM.INFO.{name}", b"")
    if answer.error is not None and answer.error.code == NOT_FOUND:
        answer = await _ask(client, f"$JS.API.STREAM.CREATE.{name}", msgspec.json.encode(config))
    if answer.error is None or answer.error.err_code in (STREAM_NAME_IN_USE, SUBJECTS_OVERLAP):
        return ""
    return f"stream {name} is not available: {answer.error.description or answer.error.code}"


async def _ask(client: Client, subject: str, request: bytes) -> ApiAnswer:
    message = await client.request(subject, request, timeout=API_TIMEOUT_S)
    try:
        return answer_decoder.decode(message.data)
    except msgspec.DecodeError as error:
        raise nats.errors.Error(f"an answer that is not JetStream's: {error}") from error
