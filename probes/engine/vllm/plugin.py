"""What vLLM calls in each of its processes."""

from __future__ import annotations

from .switch import disabled, log


def register() -> None:
    """Entry point `vllm.general_plugins`. Never raises."""
    if disabled():
        return
    try:
        from .identity import mark_group
        from .scheduler import install

        mark_group()
        install()
    except Exception as error:
        log.warning("Eagle Eye does not watch this vLLM: %r", error)
