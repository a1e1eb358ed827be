"""Follows SGLang's load snapshots, which wake nobody: a thread looks at them, and only where there are some."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ..model import EngineState
from .finder import Found, Key, discard
from .layout import RefusedError
from .sglang import Load, LoadFile, state_of

PERIOD_S = 0.05


class Loads:
    """`on_news` is called, in the thread, when a load changed. `alive` says whether a pid of the node runs."""

    def __init__(self, alive: Callable[[int], bool], on_news: Callable[[], None]) -> None:
        self._alive = alive
        self._on_news = on_news
        self._lock = threading.Lock()
        self._files: dict[Key, Found] = {}
        self._loads: dict[Key, list[Load]] = {}
        self._lost: list[Found] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, found: Found) -> None:
        with self._lock:
            self._files[found.key] = found
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="engine-loads", daemon=True)
            self._thread.start()

    def states(self, now_ns: int) -> list[EngineState]:
        with self._lock:
            return [
                self._state(self._files[key], load, now_ns)
                for key, loads in self._loads.items()
                if key in self._files
                for load in loads
            ]

    def lost(self) -> list[Found]:
        """Files that ended or became something else since this was last asked, closed."""
        with self._lock:
            lost, self._lost = self._lost, []
        return lost

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)
        with self._lock:
            for found in self._files.values():
                discard(found)
            self._files.clear()

    def _state(self, found: Found, load: Load, now_ns: int) -> EngineState:
        assert isinstance(found.file, LoadFile)
        alive = self._alive(found.pid) if found.pid else None
        return state_of(load, found.file.instance, now_ns, pid=found.pid, alive=alive, owner=found.owner)

    def _work(self) -> None:
        while not self._stop.wait(PERIOD_S):
            with self._lock:
                changed = [key for key, found in list(self._files.items()) if self._look_at(key, found)]
            if changed:
                self._on_news()

    def _look_at(self, key: Key, found: Found) -> bool:
        assert isinstance(found.file, LoadFile)
        try:
            loads = found.file.loads()
        except (RefusedError, OSError):
            return self._lose(key, found)
        if os.fstat(found.file.fd).st_nlink == 0 or (found.pid and not self._alive(found.pid)):
            return self._lose(key, found)
        if loads is None or loads == self._loads.get(key):
            return False
        self._loads[key] = loads
        return True

    def _lose(self, key: Key, found: Found) -> bool:
        discard(found)
        del self._files[key]
        self._loads.pop(key, None)
        self._lost.append(found)
        return True
