"""Basic authentication against bcrypt hashes, off the event loop and bounded in what it may cost."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Literal

Verdict = Literal["allowed", "denied", "busy"]

REMEMBERED_LOGINS = 100
KNOWN_PEERS = 256
CHECKS_PER_SECOND = 5.0
CHECKS_AT_ONCE = 20
PEER_CHECKS_PER_SECOND = 1.0
PEER_CHECKS_AT_ONCE = 5
# bcrypt reads no more; https://www.openwall.com/crypt/ and htpasswd cut there too.
BCRYPT_PASSWORD_BYTES = 72


class TokenBucket:
    """Allows `per_second` on average and `burst` at once; time is CLOCK_MONOTONIC."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = float(burst)
        self._at_ns = time.monotonic_ns()

    def take(self) -> bool:
        now_ns = time.monotonic_ns()
        self._tokens = min(self._burst, self._tokens + (now_ns - self._at_ns) / 1e9 * self._per_second)
        self._at_ns = now_ns
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class BasicAuth:
    """Checks `Authorization` headers. Logins that were right are remembered, as keyed digests only.

    Hashing is what an attacker could make us pay for: it happens in `thread`, which should be one, a few times a second
    at most, and one peer cannot use up what the others need. Remembered logins never wait for it.
    A user that does not exist costs the same as one that does.
    """

    def __init__(self, users: Mapping[str, str], thread: Executor) -> None:
        self._users = dict(users)
        self._costliest = max(users.values(), key=lambda hashed: hashed[4:6], default="")
        self._secret = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._attempts = TokenBucket(CHECKS_PER_SECOND, CHECKS_AT_ONCE)
        self._peers: OrderedDict[str, TokenBucket] = OrderedDict()
        self._thread = thread

    async def check(self, header: str | None, peer: str) -> Verdict:
        """Whether the header lets `peer`, an address, in.

        `busy` when too many logins wait to be hashed; the client may try again a second later.
        """
        if not self._users:
            return "allowed"
        login = _decode(header)
        if login is None:
            return "denied"
        user, password = login
        digest = self._digest(user, password)
        if digest in self._right:
            self._right.move_to_end(digest)
            return "allowed"
        if not self._peer(peer).take() or not self._attempts.take():
            return "busy"
        hashed = self._users.get(user)
        loop = asyncio.get_running_loop()
        matches = await loop.run_in_executor(self._thread, _matches, password, hashed or self._costliest)
        if not matches or hashed is None:
            return "denied"
        self._remember(digest)
        return "allowed"

    def _peer(self, peer: str) -> TokenBucket:
        bucket = self._peers.pop(peer, None) or TokenBucket(PEER_CHECKS_PER_SECOND, PEER_CHECKS_AT_ONCE)
        self._peers[peer] = bucket
        while len(self._peers) > KNOWN_PEERS:
            self._peers.popitem(last=False)
        return bucket

    def _digest(self, user: str, password: bytes) -> bytes:
        return hashlib.blake2b(user.encode() + b":" + password, key=self._secret).digest()

    def _remember(self, digest: bytes) -> None:
        self._right[digest] = None
        while len(self._right) > REMEMBERED_LOGINS:
            self._right.popitem(last=False)


def _decode(header: str | None) -> tuple[str, bytes] | None:
    """User and password of a Basic header (RFC 7617); None for anything else."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password[:BCRYPT_PASSWORD_BYTES], hashed.encode())
    except ValueError:
        return False
