"""What the agent hands everything to that must be there after a crash, or that people ask about later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ...probes.model import Event, Health, Snapshot
from ...probes.probe import EventSource, Sample
from ..exporter import Source
from ..recorder.previous import Previous
from ..recorder.recorder import Recorder, pstore_folders
from ..recorder.source import recorder_source
from ..settings import Settings
from .freezer import Bounds, Freezer
from .source import forensics_source
from .triggers import Policy

# Of a stop's deadline: what remains is for the recorder.
FREEZER_SHARE = 0.6
MAX_PIDS = 24


class BlackBox:
    """Recorder and forensics, wired to one agent; belongs to its event loop. What is switched off does nothing.

    `take` gets the events that they make themselves, on the loop.
    """

    def __init__(self, settings: Settings, boot_id: str, take: Callable[[Sequence[Event]], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._boot_id = boot_id
        self._device_pids: list[int] = []
        self._recorder = self._make_recorder() if settings.recorder.enabled else None
        self._freezer = self._make_freezer() if self._recorder and settings.forensics.enabled else None

    def _source(self, name: str) -> EventSource:
        return EventSource(name, node=self._settings.node, cluster=self._settings.cluster, boot_id=self._boot_id)

    def _make_recorder(self) -> Recorder:
        settings, own = self._settings, self._settings.recorder
        assert settings.state_dir is not None
        return Recorder(
            settings.state_dir / "recorder",
            self._source("recorder"),
            limit_bytes=own.limit_bytes,
            keep_ns=own.keep_ns,
            encoding=settings.payload,
            pstore=pstore_folders(settings.paths, own.pstore_archive),
            on_event=self._tell,
            on_previous=self._look_back,
        )

    def _make_freezer(self) -> Freezer:
        settings, own = self._settings, self._settings.forensics
        assert settings.state_dir is not None
        common: dict[str, Any] = {
            "recorder": str(settings.state_dir / "recorder"),
            "proc": str(settings.paths.proc),
            "sys": str(settings.paths.sys),
            "config": tuple(
                {"key": value.setting.key, "value": value.show(), "source": value.source} for value in settings.values
            ),
        }
        families = tuple(name.strip() for name in (own.families or "").split(",") if name.strip())
        return Freezer(
            settings.state_dir / "forensics",
            self._source("forensics"),
            policy=Policy(own.severity, families, own.cool_down_ns, own.per_hour),
            bounds=Bounds(own.before_ns, own.after_ns, own.bundles, own.limit_bytes),
            common=common,
            on_event=self._tell,
        )

    def sources(self) -> list[Source]:
        """Series for the page."""
        own = [recorder_source(self._recorder)] if self._recorder else []
        return [*own, forensics_source(self._freezer)] if self._freezer else own

    def health(self) -> list[Health]:
        """In the words of a probe's health."""
        return [self._recorder.health() if self._recorder else Health(probe="recorder", state="off")]

    def start(self) -> None:
        """Returns at once."""
        if self._recorder:
            self._recorder.start()
        if self._freezer:
            self._freezer.start()

    async def stop(self, deadline_s: float) -> None:
        """Writes what waits; gives up on a disk that does not answer in time."""
        end_s = time.monotonic() + deadline_s
        if self._freezer:
            await self._loop.run_in_executor(None, self._freezer.stop, deadline_s * FREEZER_SHARE)
        if self._recorder:
            await self._recorder.stop(max(0.1, end_s - time.monotonic()))

    def snapshot(self, snapshot: Snapshot, payload: bytes | None) -> None:
        """`payload` is the snapshot as it went to NATS, None where it could not be encoded."""
        if self._recorder:
            self._recorder.snapshot(payload, snapshot.at_ns)
        if self._freezer:
            pids = [pid for one in snapshot.engines for pid in (one.pid, *one.worker_pids) if pid]
            pids += self._device_pids
            self._freezer.observe(pids[:MAX_PIDS], any(device.simulated for device in snapshot.devices))

    def event(self, event: Event, payload: bytes | None) -> None:
        """`payload` is the event as it went to NATS, None where it could not be encoded."""
        if self._recorder:
            self._recorder.event(payload, event.at_ns)
        if self._freezer:
            self._freezer.event(event)

    def sample(self, sample: Sample) -> None:
        """States of engines, what their schedulers did, and who has devices open."""
        if self._recorder:
            self._recorder.engines(sample.engines, sample.steps)
        if sample.device_pids:
            self._device_pids = [pid for pids in sample.device_pids.values() for pid in pids]

    # In the recorder's or the freezer's thread.

    def _tell(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is gone: nobody is left to hear it
            self._loop.call_soon_threadsafe(self._take, [event])

    def _look_back(self, previous: Previous) -> None:
        over = previous.boot_id not in ("", self._boot_id)
        if self._freezer and over and previous.end == "unclean" and previous.last_ns:
            self._freezer.look_back(previous)
