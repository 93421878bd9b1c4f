"""A server that speaks as much RESP as the shared cache needs, well or badly, in a thread of its own."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any


class FakeRedis:
    """Values in a dict.

    Attributes
    ----------
    values : what was put.
    commands : names of the commands that came.
    reply : makes the bytes of the reply out of the right one; None never replies. Tests put what they want.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.commands: list[bytes] = []
        self.replies: dict[str, Callable[[bytes], bytes | None]] = {
            "GET": _right,
            "SET": _right,
            "PING": _right,
        }
        self.hung = threading.Event()
        fake = self
        self._connections: set[socket.socket] = set()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                fake._connections.add(self.connection)
                try:
                    while (line := self.rfile.readline()).startswith(b"*"):
                        parts = []
                        for _ in range(int(line[1:])):
                            length = int(self.rfile.readline()[1:])
                            parts.append(self.rfile.read(length + 2)[:-2])
                        fake.commands.append(parts[0])
                        made = fake.replies.get(parts[0].decode(), _right)(fake._reply(parts))
                        if made is None:
                            fake.hung.wait(30)
                            return
                        self.wfile.write(made)
                        if made.endswith(CUT):
                            return
                except OSError:  # the other side went away
                    return
                finally:
                    fake._connections.discard(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._handler, self._server_class = Handler, Server
        self._server: Any = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """For `cache_url`."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the port that it had before."""
        self._server = self._server_class(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away; the values stay."""
        self.hung.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it was closed meanwhile
                continue

    def _reply(self, parts: list[bytes]) -> bytes:
        name = parts[0]
        if name == b"GET":
            value = self.values.get(parts[1])
            return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)
        if name == b"SET":
            assert parts[3] == b"PX" and int(parts[4]) > 0, "every value has an end"
            self.values[parts[1]] = parts[2]
            return b"+OK\r\n"
        return b"+PONG\r\n" if name == b"PING" else b"+OK\r\n"


CUT = b"\0cut"
"""A reply that ends so ends the connection."""


def _right(reply: bytes) -> bytes | None:
    return reply
