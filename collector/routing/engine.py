"""One engine as a router sees it: the newest message, how old it is, and what the router itself has sent since."""

from __future__ import annotations

from collections import deque
from typing import Literal

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


class Received(RoutingMessage, frozen=True, kw_only=True):
    """A routing message as a reader takes it: a word that a newer sender uses is no reason to refuse the rest."""

    kind: str  # type: ignore[assignment]
    source: str  # type: ignore[assignment]
    health: str = "unknown"  # type: ignore[assignment]


class Engine:
    """`message` is the newest; `missed` counts messages that were sent and never came.

    Times given to its methods are CLOCK_MONOTONIC of this machine, in nanoseconds; no clocks of two are compared.
    """

    __slots__ = (
        "_left_ns", "_own", "_own_tokens", "instance", "message", "missed", "node", "outstanding", "prompt_tokens",
    )  # fmt: skip

    def __init__(self, message: Received, left_ns: int) -> None:
        self.node = message.node
        self.instance = message.instance
        self.message = message
        self.missed = 0
        self.outstanding = 0
        self.prompt_tokens = PROMPT_TOKENS
        self._left_ns = left_ns
        self._own: deque[tuple[int, int]] = deque()
        self._own_tokens = 0

    def take(self, message: Received, left_ns: int) -> None:
        """A newer message; `left_ns` is when it left its sender, on this machine's clock."""
        if message.agent == self.message.agent:
            self.missed += max(0, message.seq - self.message.seq - 1)
        self.message = message
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
    def max_silence_ns(self) -> int:
        return min(max(self.message.max_silence_ns, LEAST_SILENCE_NS), MOST_SILENCE_NS)

    def silence_ns(self, now_ns: int) -> int:
        """Since the newest message left its sender."""
        return max(0, now_ns - self._left_ns)

    def age_ns(self, now_ns: int) -> int:
        """Since the engine was as the newest message says."""
        return self.silence_ns(now_ns) + self.message.age_ns

    def freshness(self, now_ns: int) -> Freshness:
        """`unknown`: the promise to speak was broken, or the sender itself does not know. `stale`: it speaks, but of
        a state that is older than that promise."""
        kind = self.message.kind
        if kind == "gone":
            return "gone"
        if kind not in _SPOKEN or self.silence_ns(now_ns) > self.max_silence_ns:
            return "unknown"
        return "stale" if self.age_ns(now_ns) > self.max_silence_ns else "fresh"

    def load(self, now_ns: int) -> Load:
        """Unknown, idle and saturated are three different things."""
        message = self.message
        if self.freshness(now_ns) in ("unknown", "gone"):
            return "unknown"
        running, waiting = count(message.running), self.queue
        if running is None and waiting is None:
            return "idle" if message.kind == "idle" else "unknown"
        most = count(message.max_running)
        if (most is not None and (running or 0) >= most and waiting) or (message.kv_usage_ratio or 0) >= KV_FULL_RATIO:
            return "saturated"
        return "busy" if running or waiting else "idle"

    @property
    def queue(self) -> int | None:
        """Requests that wait, in the scheduler and before it; None when neither is known."""
        known = [found for one in (self.message.waiting, self.message.input_queue) if (found := count(one)) is not None]
        return sum(known) if known else None

    def seconds_to_first_token(self, tokens: int, now_ns: int, tokens_per_second: float) -> float:
        """Predicted, for a prompt of so many tokens that is sent now. The rate is used where none is learned yet."""
        rate = self.message.prefill_tokens_per_second
        if rate is None or not 0 < rate < MOST_COUNT:
            rate = tokens_per_second
        return (self.queued_tokens + self.own_tokens + tokens) / rate + self.step_remainder_s(now_ns)

    @property
    def queued_tokens(self) -> float:
        """Of prompts that wait in the engine; prompts of unknown length count as its usual ones."""
        message = self.message
        tokens = count(message.waiting_prefill_tokens)
        queued = (count(message.waiting) or 0) * self.prompt_tokens if tokens is None else tokens
        return queued + (count(message.input_queue) or 0) * self.prompt_tokens

    def step_remainder_s(self, now_ns: int) -> float:
        """Of the step that goes on. One that outlasts the last one is expected to take as long again."""
        flight_ns = count(self.message.in_flight_age_ns)
        if flight_ns is None:
            return 0.0
        flight_ns += self.age_ns(now_ns)
        usual_ns = count(self.message.step_duration_ns) or 0
        return (usual_ns - flight_ns if flight_ns < usual_ns else flight_ns) / 1e9

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
