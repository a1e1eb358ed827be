"""Tokens per second that an engine has shown, learned from its steps; None until they are known."""

from __future__ import annotations

from ...probes.model import EngineState

# The first steps of an engine compile, capture graphs and touch memory for the first time.
WARM_UP_STEPS = 5
STEPS_TO_KNOW = 5
# Weight of the past per step: half of what is known comes from the last 34 steps of the kind.
MEMORY = 0.98
# A step so much slower than known is a stall, not the engine's speed; it counts as this much slower.
WORST = 4.0
MAX_TOKENS = 10**9
MAX_STEP_NS = 10**12


class Rate:
    """Sum of tokens over sum of seconds, both fading: large steps count for more, as they do for a queue."""

    __slots__ = ("_seconds", "_steps", "_tokens")

    def __init__(self) -> None:
        self._steps = 0
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def per_second(self) -> float | None:
        if self._steps < WARM_UP_STEPS + STEPS_TO_KNOW or not self._seconds:
            return None
        return self._tokens / self._seconds

    def learn(self, tokens: int, seconds: float) -> None:
        self._steps += 1
        if self._steps <= WARM_UP_STEPS:
            return
        known = self.per_second
        if known:
            seconds = min(seconds, WORST * max(tokens / known, self._mean_seconds()))
        self._tokens = self._tokens * MEMORY + tokens
        self._seconds = self._seconds * MEMORY + seconds

    def _mean_seconds(self) -> float:
        learned = self._steps - 1 - WARM_UP_STEPS
        return self._seconds * (1 - MEMORY) / (1 - MEMORY**learned) if learned > 0 else self._seconds


class Rates:
    """Of one engine: prefill from steps that prefill, decode from steps that only decode."""

    __slots__ = ("_step", "decode", "prefill")

    def __init__(self) -> None:
        self.prefill = Rate()
        self.decode = Rate()
        self._step = 0

    def learn(self, state: EngineState) -> None:
        """Takes each numbered step once."""
        duration_ns = state.step_duration_ns
        if state.kind != "step" or state.step == self._step or not duration_ns or not 0 < duration_ns < MAX_STEP_NS:
            return
        self._step = state.step
        prefill, decode = state.prefill_tokens or 0, state.decode_tokens or 0
        if 0 < prefill < MAX_TOKENS:
            self.prefill.learn(prefill, duration_ns / 1e9)
        elif prefill == 0 and 0 < decode < MAX_TOKENS:
            self.decode.learn(decode, duration_ns / 1e9)
