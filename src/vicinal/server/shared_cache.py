"""The second level of the result cache: answers that several servers share, in Redis or Valkey. It may be slow, wrong
or gone at any time, and no search is worse off than by the few ms that a look-up may take.

A key has everything that an answer depends on: the request, the version of this program, and the state of the
collection by a name that every process and only this content has (`Collection.mark`). So an answer is found by whoever
serves that state, after a restart too, and never at another one: what changes with a write is the key. A value says
from when until when it is right (points expire) and has a digest of itself and its key; what does not fit is a miss.

The breaker: FAULTS_MAX look-ups of the last RECENT that failed or came late end the connection; searches go by without
it until a new one stands and answers, tried in the background, less and less often.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
import time
from collections import deque
from collections.abc import Callable

from vicinal.model.version import VERSION
from vicinal.server.resp import RespAddress, RespConnection, RespError, connect
from vicinal.telemetry.log import get_logger

PREFIX = b"vicinal:1:"
RECENT, FAULTS_MAX = 20, 3
PAUSE_S, PAUSE_S_MAX = 0.25, 30.0
CONNECT_S_MAX = 2.0
BODY_BYTES_MAX = 2**20
"""A larger answer is not shared."""

_HEAD = struct.Struct("<16sQQ")  # digest, right from, right until: ms since 1970

_log = get_logger("server")


def shared_key(mark: bytes, request: bytes) -> bytes:
    """The key of a request's answer at a state of a collection."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (VERSION.encode(), mark, request):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return PREFIX + digest.hexdigest().encode()


def pack(key: bytes, body: bytes, from_ms: int, until_ms: int) -> bytes:
    """An answer as a value."""
    return _HEAD.pack(_digest(key, body, from_ms, until_ms), from_ms, until_ms) + body


def unpack(key: bytes, value: bytes, now_ms: int) -> bytes | None:
    """The answer in a value; None where it is not right now. Raises ValueError where it is no value of that key."""
    if len(value) < _HEAD.size:
        raise ValueError("too short")
    digest, from_ms, until_ms = _HEAD.unpack_from(value)
    body = value[_HEAD.size :]
    if digest != _digest(key, body, from_ms, until_ms):
        raise ValueError("its digest is another")
    return body if from_ms <= now_ms < until_ms else None


def _digest(key: bytes, body: bytes, from_ms: int, until_ms: int) -> bytes:
    digest = hashlib.blake2b(key, digest_size=16)
    digest.update(struct.pack("<QQ", from_ms, until_ms))
    digest.update(body)
    return digest.digest()


class SharedCache:
    """Look-ups and puts of one server. Belongs to its event loop's thread.

    Parameters
    ----------
    ttl_s : after which the other side forgets a value.
    wait_s : the longest that a look-up takes.
    looked, put : are told what became of each, for the metrics: `hit`, `miss`, `late`, `error`, `open` (the breaker
        is); `ok`, `error`, `open`.
    """

    def __init__(
        self,
        address: RespAddress,
        ttl_s: float,
        wait_s: float,
        looked: Callable[[str, float], None],
        put: Callable[[str], None],
    ) -> None:
        self._address, self._wait_s = address, wait_s
        self._ttl_ms = b"%d" % max(1, round(ttl_s * 1000))
        self._looked, self._put = looked, put
        self._connection: RespConnection | None = None
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._task: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the breaker is closed: look-ups are made."""
        return self._connection is not None

    def start(self) -> None:
        """Connect, in the background, and again whenever that is needed."""
        self._task = asyncio.ensure_future(self._stay_connected())

    async def stop(self) -> None:
        """Give the connection back. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def get(self, key: bytes, now_ms: Callable[[], int]) -> bytes | None:
        """The answer of a key that is right now; None where there is none, or it cannot be had in time."""
        connection = self._connection
        if connection is None:
            self._looked("open", 0.0)
            return None
        began_s = time.perf_counter()
        body: bytes | None = None
        try:
            value = await self._in_time(connection.call(b"GET", key))
            body = None if value is None else unpack(key, value, now_ms())
            outcome = "miss" if body is None else "hit"
        except TimeoutError:
            outcome = "late"
        except (RespError, ValueError):
            outcome = "error"
        self._note(connection, outcome in ("late", "error"))
        self._looked(outcome, time.perf_counter() - began_s)
        return body

    def put(self, key: bytes, value: bytes) -> None:
        """Offer a value, and wait for nothing."""
        connection = self._connection
        if connection is None:
            self._put("open")
            return
        try:
            reply = connection.call(b"SET", key, value, b"PX", self._ttl_ms)
        except RespError:
            self._put("error")
            return
        # A server that refuses to write (it is full, or a replica) may still be read.
        reply.add_done_callback(lambda done: self._put("error" if _failed(done) else "ok"))

    async def _in_time(self, reply: asyncio.Future[bytes | None]) -> bytes | None:
        """The reply; TimeoutError where it is not there within wait_s."""
        await asyncio.wait((reply,), timeout=self._wait_s)
        if not reply.done():
            # The loop may be what was late: what has arrived meanwhile is looked at first.
            await asyncio.sleep(0)
        if not reply.done():
            reply.cancel()
            raise TimeoutError
        return reply.result()

    def _note(self, connection: RespConnection, failed: bool) -> None:
        """Count an outcome; too many faults open the breaker."""
        self._recent.append(failed)
        if sum(self._recent) >= FAULTS_MAX and connection is self._connection:
            connection.close()
            self._connection = None

    async def _check_quick(self, connection: RespConnection) -> None:
        """Whether it answers as fast as a look-up must, or it would only open the breaker again."""
        try:
            await self._in_time(connection.call(b"PING"))
        except BaseException:
            connection.close()
            raise

    async def _stay_connected(self) -> None:
        pause_s, told = PAUSE_S, False
        try:
            while True:
                try:
                    async with asyncio.timeout(CONNECT_S_MAX):
                        connection = await connect(self._address)
                    await self._check_quick(connection)
                except (OSError, RespError, TimeoutError) as fault:
                    if not told:
                        told = True
                        why = str(fault) or "it takes too long"
                        _log.warning("the shared cache cannot be used now: %s", why)
                else:
                    if told:
                        told = False
                        _log.warning("the shared cache can be used again")
                    self._recent.clear()
                    self._connection = connection
                    stood_s = time.monotonic()
                    await connection.lost
                    self._connection = None
                    if time.monotonic() - stood_s > PAUSE_S_MAX:
                        pause_s = PAUSE_S
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(PAUSE_S_MAX, 2 * pause_s)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _failed(reply: asyncio.Future[bytes | None]) -> bool:
    return reply.cancelled() or reply.exception() is not None
