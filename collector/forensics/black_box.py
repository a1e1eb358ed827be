"""What the agent hands everything to that must be there after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from ...probes.model import EngineState, Event, Health, Snapshot
from ...probes.probe import EventSource
from ..exporter import Source
from ..recorder.previous import Previous
from ..recorder.recorder import Recorder, pstore_folders
from ..recorder.source import recorder_source
from ..settings import Settings


class BlackBox:
    """The recorder, wired to one agent; belongs to its event loop. Switched off, it does nothing.

    `take` gets the events that it makes itself, on the loop.
    """

    def __init__(self, settings: Settings, boot_id: str, take: Callable[[Sequence[Event]], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._recorder = self._make_recorder(settings, boot_id) if settings.recorder.enabled else None

    def _make_recorder(self, settings: Settings, boot_id: str) -> Recorder:
        assert settings.state_dir is not None
        own = settings.recorder
        return Recorder(
            settings.state_dir / "recorder",
            EventSource("recorder", node=settings.node, cluster=settings.cluster, boot_id=boot_id),
            limit_bytes=own.limit_bytes,
            keep_ns=own.keep_ns,
            encoding=settings.payload,
            pstore=pstore_folders(settings.paths, own.pstore_archive),
            on_event=self._tell,
            on_previous=self._look_back,
        )

    def sources(self) -> list[Source]:
        """Series for the page."""
        return [recorder_source(self._recorder)] if self._recorder else []

    def health(self) -> list[Health]:
        """In the words of a probe's health."""
        return [self._recorder.health() if self._recorder else Health(probe="recorder", state="off")]

    def start(self) -> None:
        """Returns at once."""
        if self._recorder:
            self._recorder.start()

    async def stop(self, deadline_s: float) -> None:
        """Writes what waits; gives up on a disk that does not answer in time."""
        if self._recorder:
            await self._recorder.stop(deadline_s)

    def snapshot(self, snapshot: Snapshot, payload: bytes | None) -> None:
        """`payload` is the snapshot as it went to NATS, None where it could not be encoded."""
        if self._recorder:
            self._recorder.snapshot(payload, snapshot.at_ns)

    def event(self, event: Event, payload: bytes | None) -> None:
        """`payload` is the event as it went to NATS, None where it could not be encoded."""
        if self._recorder:
            self._recorder.event(payload, event.at_ns)

    def engines(self, states: Sequence[EngineState]) -> None:
        """Steps and states of engines."""
        if self._recorder and states:
            self._recorder.engines(states)

    # In the recorder's thread.

    def _tell(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is gone: nobody is left to hear it
            self._loop.call_soon_threadsafe(self._take, [event])

    def _look_back(self, previous: Previous) -> None:
        pass
