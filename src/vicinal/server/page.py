"""The web page at `/ui`: files of the folder `web`, read once when the server starts.

They are the same for everybody and hold no data; what they show comes over the API, with the key that the user gives.
The content-security-policy lets them load from this server only, run no inline script, and make no HTML of text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vicinal.model.errors import NotFoundError

FOLDER = Path(__file__).with_name("web")
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]

Answer = tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]
"""(status, content type, body, further headers)."""


@dataclass(frozen=True, slots=True)
class _File:
    kind: bytes
    body: bytes
    tag: bytes


class Page:
    """The page's files."""

    def __init__(self) -> None:
        self._files: dict[bytes, _File] = {}
        for path in sorted(FOLDER.iterdir()):
            body = path.read_bytes()
            tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:20].encode()
            self._files[path.name.encode()] = _File(TYPES[path.suffix], body, tag)

    @property
    def names(self) -> list[str]:
        """Names of the files."""
        return [name.decode() for name in self._files]

    def answer(self, path: bytes, known: bytes | None) -> Answer | None:
        """What a GET of the path answers; None where it is no path of the page.

        known : the header If-None-Match. Raises NotFoundError for a path below /ui that is no file.
        """
        if path in (b"/", b"/ui"):
            # Relative, so that it holds behind a proxy that adds a prefix.
            return 307, b"text/plain; charset=utf-8", b"", [(b"location", b"ui/")]
        if not path.startswith(b"/ui/"):
            return None
        name = path[len(b"/ui/") :] or b"index.html"
        file = self._files.get(name)
        if file is None:
            raise NotFoundError(f"the page has no {name.decode('ascii', 'replace')[:100]!r}")
        headers = [(b"etag", file.tag), *HEADERS]
        if known == file.tag:
            return 304, file.kind, b"", headers
        return 200, file.kind, file.body, headers
