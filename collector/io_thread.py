"""One daemon thread for calls that a sick disk can hold for ever."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class IoThread:
    """Runs calls one after another, off the event loop.

    The interpreter's own executors are joined at exit, and a disk that hangs would hang the exit too;
    this thread is left behind instead.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """A future of `function(*arguments)`. A call that has begun goes on when the future is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, future, function, arguments))
        return future

    def close(self) -> None:
        """End the thread after the calls that wait; returns at once."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, function, arguments = job
            try:
                result = function(*arguments)
            except Exception as error:
                _tell(loop, _fail, future, error)
            else:
                _tell(loop, _succeed, future, result)
                del result
            del job, future, arguments


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *arguments: Any) -> None:
    # A loop that is closed by now has nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(how, *arguments)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
