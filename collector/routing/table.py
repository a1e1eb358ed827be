"""What a router knows of all engines, and which of them it should send the next request to."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median

import msgspec
from msgspec import Struct

from ...probes.model import SCHEMA_VERSION
from .clocks import Clocks
from .engine import Engine, Load, Received

MAX_MESSAGE_BYTES = 16 * 1024
MAX_ENGINES = 10_000
# Of the newest messages, as they came.
MAX_BYTES = 32 * 2**20
MAX_NAME_CHARACTERS = 600
MOST_NS = 2**62
SWEEP_NS = 1_000_000_000
GONE_KEPT_NS = 60_000_000_000
SILENT_KEPT_NS = 900_000_000_000
# Comparing all of a large fleet costs more than the best of it is worth, and sends every router to the same one.
CANDIDATES = 64
TIE_S = 0.005
TOKENS_PER_SECOND = 4000.0
RATE_KEPT_NS = 1_000_000_000
DEGRADED_FACTOR, DEGRADED_S = 2.0, 0.05
STALE_FACTOR = 1.5

_TIER: dict[Load, int] = {"idle": 0, "busy": 0, "unknown": 1, "saturated": 2}

log = logging.getLogger("eagle_eye.routing")


class Choice(Struct, frozen=True):
    """`seconds` to the first token, predicted; None where the engine's load is not known."""

    engine: Engine
    load: Load
    seconds: float | None


class _Version(Struct):
    schema: int = 0


class RoutingTable:
    """The newest message of every engine, of `max_bytes` together. Not thread-safe: one event loop or one thread.

    Counters: `taken`, `ignored` (repeats, and what came after a newer one), `refused` by reason.
    """

    def __init__(
        self,
        *,
        max_engines: int = MAX_ENGINES,
        max_bytes: int = MAX_BYTES,
        now_ns: Callable[[], int] = time.monotonic_ns,
        random_source: random.Random | None = None,
    ) -> None:
        self.taken = 0
        self.ignored = 0
        self.refused: Counter[str] = Counter()
        self._max_engines = max_engines
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._now_ns = now_ns
        self._random = random_source or random.Random()
        self._engines: dict[tuple[str, str], Engine] = {}
        self._clocks = Clocks()
        self._json = msgspec.json.Decoder(Received)
        self._msgpack = msgspec.msgpack.Decoder(Received)
        self._swept_ns = 0
        self._rate = TOKENS_PER_SECOND
        self._rate_ns = -RATE_KEPT_NS

    def __len__(self) -> int:
        return len(self._engines)

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    def find(self, instance: str, node: str = "") -> Engine | None:
        """The engine of that instance, on that node where instances of several nodes are called the same."""
        if node:
            return self._engines.get((node, instance))
        return next((engine for engine in self._engines.values() if engine.instance == instance), None)

    def take(self, payload: bytes, kept_ns: int | None = None) -> Engine | None:
        """A message of the feed; the engine that it is news of, None where it is no news.

        `kept_ns` says how long a last value lay in its bucket, None that the message came as it was sent.
        Whatever the bytes are, nothing is raised.
        """
        message = self._decode(payload)
        if message is None:
            return None
        now_ns = self._now_ns()
        key = (message.node, message.instance)
        engine = self._engines.get(key)
        if engine is not None and not engine.is_older_than(message, now_ns, live=kept_ns is None):
            self.ignored += 1
            return None
        more_bytes = len(payload) - (engine.size_bytes if engine is not None else 0)
        if not self._has_room(now_ns, engine is None, more_bytes):
            self.refused["table_full"] += 1
            return None
        left_ns = now_ns - self._underway_ns(message, now_ns, kept_ns)
        if engine is None:
            engine = self._engines[key] = Engine(message, left_ns)
        else:
            engine.take(message, left_ns)
        engine.size_bytes = len(payload)
        self._size_bytes += more_bytes
        self.taken += 1
        return engine

    def _underway_ns(self, message: Received, now_ns: int, kept_ns: int | None) -> int:
        if kept_ns is not None:
            return max(0, kept_ns)
        return self._clocks.delay_ns(message.node, message.boot_id, message.at_ns + message.age_ns, now_ns)

    def _decode(self, payload: bytes) -> Received | None:
        if len(payload) > MAX_MESSAGE_BYTES:
            self.refused["too_large"] += 1
            return None
        decoder = self._json if payload[:1] == b"{" else self._msgpack
        try:
            message = decoder.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._refuse_unread(payload)
            return None
        if message.schema != SCHEMA_VERSION:
            self._refuse_schema(message.schema)
        elif _is_sane(message):
            return message
        else:
            self.refused["malformed"] += 1
        return None

    def _refuse_unread(self, payload: bytes) -> None:
        module = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
        try:
            version = module.decode(payload, type=_Version).schema
        except (msgspec.DecodeError, ValueError, RecursionError):
            version = 0
        if version > SCHEMA_VERSION:
            self._refuse_schema(version)
        else:
            self.refused["malformed"] += 1

    def _refuse_schema(self, version: int) -> None:
        if not self.refused["schema"]:
            log.warning("messages of schema %d are not understood, only %d: update Eagle Eye", version, SCHEMA_VERSION)
        self.refused["schema"] += 1

    # Bounds

    def _has_room(self, now_ns: int, is_new: bool, more_bytes: int) -> bool:
        if is_new and (self._is_full(more_bytes) or now_ns - self._swept_ns > GONE_KEPT_NS):
            self._sweep(now_ns, self._is_full(more_bytes))
        return self._size_bytes + more_bytes <= self._max_bytes and (not is_new or not self._is_full(more_bytes))

    def _is_full(self, more_bytes: int) -> bool:
        return len(self._engines) >= self._max_engines or self._size_bytes + more_bytes > self._max_bytes

    def _sweep(self, now_ns: int, full: bool) -> None:
        """Forgets who is gone, and who was silent for long; when full, everyone who is gone or unknown."""
        if now_ns - self._swept_ns < SWEEP_NS:
            return
        self._swept_ns = now_ns
        for key, engine in list(self._engines.items()):
            freshness = engine.freshness(now_ns)
            kept_ns = 0 if full else GONE_KEPT_NS if freshness == "gone" else SILENT_KEPT_NS
            if freshness in ("gone", "unknown") and engine.silence_ns(now_ns) >= kept_ns:
                self._size_bytes -= engine.size_bytes
                del self._engines[key]

    # Choosing

    def pick(self, n: int = 1, *, tokens: int = 0, model: str = "", role: str = "both") -> list[Choice]:
        """The `n` best engines for a prompt of so many tokens, the best first; fewer where there are fewer.

        Ranked by predicted time to the first token. Engines whose load is unknown come after all that are known
        to have room, and saturated ones last. Engines to avoid are left out unless there are no others; those
        that drain or are gone always. `model` "" takes any; `role` prefill or decode takes those that do both, too.
        """
        now_ns = self._now_ns()
        engines = list(self._engines.values())
        if len(engines) > CANDIDATES:
            ranked = self._ranked(self._random.sample(engines, max(CANDIDATES, n)), tokens, model, role, now_ns)
            if len(ranked) >= n:
                return ranked[:n]
        return self._ranked(engines, tokens, model, role, now_ns)[:n]

    def _ranked(self, engines: list[Engine], tokens: int, model: str, role: str, now_ns: int) -> list[Choice]:
        able = [engine for engine in engines if engine.digest.serves]
        if model or role != "both":
            able = [engine for engine in able if _is_wanted(engine, model, role)]
        fit = [engine for engine in able if engine.message.health != "avoid"] or able
        ranked = []
        for engine in fit:
            load = engine.load(now_ns)
            seconds = None if load == "unknown" else self._seconds(engine, tokens, now_ns)
            rank = (_TIER[load], int((seconds or 0.0) / TIE_S), engine.outstanding, self._random.random())
            ranked.append((rank, engine, load, seconds))
        ranked.sort(key=_first)
        return [Choice(engine, load, seconds) for _, engine, load, seconds in ranked]

    def _seconds(self, engine: Engine, tokens: int, now_ns: int) -> float:
        seconds = engine.seconds_to_first_token(tokens, now_ns, self._usual_rate(now_ns))
        if engine.age_ns(now_ns) > engine.max_silence_ns:
            seconds *= STALE_FACTOR
        if engine.message.health == "degraded":
            seconds = seconds * DEGRADED_FACTOR + DEGRADED_S
        return seconds

    def _usual_rate(self, now_ns: int) -> float:
        """Of the engines whose rate is known, for those where it is not yet."""
        if now_ns - self._rate_ns > RATE_KEPT_NS:
            self._rate_ns = now_ns
            known = [rate for engine in self._engines.values() if (rate := engine.digest.rate)]
            self._rate = median(known) if known else TOKENS_PER_SECOND
        return self._rate

    # What the router itself sent

    def sent(self, engine: Engine, tokens: int = 0) -> None:
        """A request leaves for `engine`: counted on top of its queue until its own messages can count it."""
        engine.sent(max(0, tokens), self._now_ns())

    def done(self, engine: Engine) -> None:
        """That request has ended."""
        engine.done()


def _is_wanted(engine: Engine, model: str, role: str) -> bool:
    message = engine.message
    return (not model or message.model == model) and (role == "both" or message.role in (role, "both"))


def _first(ranked: tuple[tuple[int, int, int, float], Engine, Load, float | None]) -> tuple[int, int, int, float]:
    return ranked[0]


def _is_sane(message: Received) -> bool:
    return (
        0 < len(message.instance) + len(message.node) <= MAX_NAME_CHARACTERS
        and 0 <= message.seq < MOST_NS
        and 0 <= message.at_ns < MOST_NS
        and 0 <= message.age_ns < MOST_NS
        and abs(message.max_silence_ns) < MOST_NS
    )
