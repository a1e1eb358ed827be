"""One engine as a router sees it: the newest message, how old it is, and what the router itself has sent since."""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from ...probes.model import RoutingMessage

Freshness = Literal["fresh", "stale", "unknown", "gone"]
Load = Literal["idle", "busy", "saturated", "unknown"]

# Promises outside of these are not believed.
LEAST_SILENCE_NS = 100_000_000
MOST_SILENCE_NS = 60_000_000_000
# A request that left this long before a state was read can still be on its way into the engine's queue.
SETTLE_NS = 20_000_000
MAX_SENT = 4096
MOST_COUNT = 10**12
KV_FULL_RATIO = 0.98
PROMPT_TOKENS = 512.0
PROMPT_MEMORY = 0.9

_SPOKEN = ("step", "tick", "idle", "draining")
_SERVES_NOT = ("draining", "gone")


class Received(RoutingMessage, frozen=True, kw_only=True, gc=False):
    """A routing message as a reader takes it: a word that a newer sender uses is no reason to refuse the rest.

    It holds no cycles, so that the garbage collector need not look through thousands of them.
    """

    kind: str  # type: ignore[assignment]
    source: str  # type: ignore[assignment]
    health: str = "unknown"  # type: ignore[assignment]


class Digest(Struct, frozen=True):
    """What a message means for a choice, worked out once. `rate` is in tokens a second, None where none is learned."""

    speaks: bool
    serves: bool
    load: Load
    queued_tokens: float
    rate: float | None
    flight_ns: int | None
    usual_ns: int
    max_silence_ns: int


class Engine:
    """`message` is the newest, of `size_bytes`; `missed` counts messages that were sent and never came.

    Times given to its methods are CLOCK_MONOTONIC of this machine, in nanoseconds; no clocks of two are compared.
    """

    __slots__ = (
        "_digest", "_left_ns", "_own", "_own_tokens", "instance", "message", "missed", "node", "outstanding",
        "prompt_tokens", "size_bytes",
    )  # fmt: skip

    def __init__(self, message: Received, left_ns: int) -> None:
        self.node = message.node
        self.instance = message.instance
        self.message = message
        self.missed = 0
        self.outstanding = 0
        self.size_bytes = 0
        self.prompt_tokens = PROMPT_TOKENS
        self._digest: Digest | None = None
        self._left_ns = left_ns
        self._own: deque[tuple[int, int]] = deque()
        self._own_tokens = 0

    def take(self, message: Received, left_ns: int) -> None:
        """A newer message; `left_ns` is when it left its sender, on this machine's clock."""
        if message.agent == self.message.agent:
            self.missed += max(0, message.seq - self.message.seq - 1)
        self.message = message
        self._digest = None
        self._left_ns = left_ns
        if (tokens := count(message.prefill_tokens)) and (requests := count(message.prefill_requests)):
            self.prompt_tokens += (1 - PROMPT_MEMORY) * (tokens / requests - self.prompt_tokens)

    def is_older_than(self, message: Received, now_ns: int, *, live: bool) -> bool:
        """Whether `message` is newer than what is here: not a repeat, nor one that came late.

        All agents of one boot read one clock. A live message is also believed when this engine had fallen silent.
        """
        mine = self.message
        is_silent = live and self.silence_ns(now_ns) > self.max_silence_ns
        if message.boot_id != mine.boot_id:
            return live or self.silence_ns(now_ns) > self.max_silence_ns
        if message.agent == mine.agent and message.seq == mine.seq:
            return False
        return is_silent or (message.at_ns + message.age_ns, message.seq) > (mine.at_ns + mine.age_ns, mine.seq)

    @property
    def digest(self) -> Digest:
        if self._digest is None:
            self._digest = _digest(self.message, self.prompt_tokens)
        return self._digest

    @property
    def max_silence_ns(self) -> int:
        return self.digest.max_silence_ns

    def silence_ns(self, now_ns: int) -> int:
        """Since the newest message left its sender."""
        return max(0, now_ns - self._left_ns)

    def age_ns(self, now_ns: int) -> int:
        """Since the engine was as the newest message says."""
        return self.silence_ns(now_ns) + self.message.age_ns

    def freshness(self, now_ns: int) -> Freshness:
        """`unknown`: the promise to speak was broken, or the sender itself does not know. `stale`: it speaks, but of
        a state that is older than that promise."""
        if self.message.kind == "gone":
            return "gone"
        digest, silence_ns = self.digest, self.silence_ns(now_ns)
        if not digest.speaks or silence_ns > digest.max_silence_ns:
            return "unknown"
        return "stale" if silence_ns + self.message.age_ns > digest.max_silence_ns else "fresh"

    def load(self, now_ns: int) -> Load:
        """Unknown, idle and saturated are three different things."""
        digest = self.digest
        return "unknown" if now_ns - self._left_ns > digest.max_silence_ns else digest.load

    @property
    def queue(self) -> int | None:
        """Requests that wait, in the scheduler and before it; None when neither is known."""
        return _queue(self.message)

    def seconds_to_first_token(self, tokens: int, now_ns: int, tokens_per_second: float) -> float:
        """Predicted, for a prompt of so many tokens that is sent now. The rate is used where none is learned yet."""
        digest = self.digest
        seconds = (digest.queued_tokens + self.own_tokens + tokens) / (digest.rate or tokens_per_second)
        return seconds if digest.flight_ns is None else seconds + self._step_remainder_s(digest, now_ns)

    def _step_remainder_s(self, digest: Digest, now_ns: int) -> float:
        """Of the step that goes on. One that outlasts the last one is expected to take as long again."""
        flight_ns = (digest.flight_ns or 0) + self.age_ns(now_ns)
        return (digest.usual_ns - flight_ns if flight_ns < digest.usual_ns else flight_ns) / 1e9

    # What the router itself sent

    def sent(self, tokens: int, now_ns: int) -> None:
        """A request of so many prompt tokens leaves for this engine."""
        self.outstanding += 1
        self._own_tokens += tokens
        if len(self._own) >= MAX_SENT:
            _, last = self._own.pop()
            tokens += last
        self._own.append((now_ns, tokens))

    def done(self) -> None:
        """A request has ended, well or badly."""
        self.outstanding = max(0, self.outstanding - 1)

    @property
    def own_tokens(self) -> int:
        """Sent since the state that the newest message tells of, which cannot count them yet."""
        counted_ns = self._left_ns - self.message.age_ns - SETTLE_NS
        while self._own and self._own[0][0] < counted_ns:
            self._own_tokens -= self._own.popleft()[1]
        return self._own_tokens


def count(value: int | None) -> int | None:
    """A number of things, or None for what cannot be one."""
    return value if value is not None and 0 <= value <= MOST_COUNT else None


def _queue(message: Received) -> int | None:
    waiting, before = count(message.waiting), count(message.input_queue)
    return None if waiting is None and before is None else (waiting or 0) + (before or 0)


def _digest(message: Received, prompt_tokens: float) -> Digest:
    tokens, rate = count(message.waiting_prefill_tokens), message.prefill_tokens_per_second
    # Prompts of unknown length count as the engine's usual ones.
    queued = (count(message.waiting) or 0) * prompt_tokens if tokens is None else tokens
    return Digest(
        speaks=message.kind in _SPOKEN,
        serves=message.kind not in _SERVES_NOT,
        load=_load(message) if message.kind in _SPOKEN else "unknown",
        queued_tokens=queued + (count(message.input_queue) or 0) * prompt_tokens,
        rate=rate if rate is not None and 0 < rate < MOST_COUNT else None,
        flight_ns=count(message.in_flight_age_ns),
        usual_ns=count(message.step_duration_ns) or 0,
        max_silence_ns=min(max(message.max_silence_ns, LEAST_SILENCE_NS), MOST_SILENCE_NS),
    )


def _load(message: Received) -> Load:
    running, waiting, most = count(message.running), _queue(message), count(message.max_running)
    if running is None and waiting is None:
        return "idle" if message.kind == "idle" else "unknown"
    if (most is not None and (running or 0) >= most and waiting) or (message.kv_usage_ratio or 0) >= KV_FULL_RATIO:
        return "saturated"
    return "busy" if running or waiting else "idle"
