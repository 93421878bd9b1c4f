"""Header compression of HTTP/2 (RFC 7541): the blocks that callers send are decoded, those that they get are literals.

What a caller can make this side hold is bounded: the table by TABLE_BYTES_MAX, the fields of one block by the bound
that the decoder was made with, however few bytes stand for them.
"""

from __future__ import annotations

from functools import cache

TABLE_BYTES_MAX = 4096
"""Of the dynamic table; the size that HTTP/2 begins with."""

ENTRY_BYTES = 32
"""What a field counts beside its name and value."""

Field = tuple[str, str]

_NAMES = (
    "accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control "
    "content-disposition content-encoding content-language content-length content-location content-range content-type "
    "cookie date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since "
    "last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after "
    "server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate"
)
STATIC: tuple[Field, ...] = (
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    *((":status", code) for code in ("200", "204", "206", "304", "400", "404", "500")),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    *((name, "") for name in _NAMES.split()),
)

_CODE_BITS = (
    "13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 "
    "6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 "
    "7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 "
    "7 7 7 15 11 14 13 28 20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 "
    "21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 "
    "22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 "
    "21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 "
    "28 27 27 27 27 27 26 30"
)
"""Bits of the Huffman code of each byte, and of the end (appendix B). The code is canonical, so they say all."""

_END = 256
Machine = tuple[list[list[tuple[int, bytes] | None]], list[bool]]


class HeaderError(ValueError):
    """A block that cannot be decoded; what follows on its connection cannot either."""


class HeaderDecoder:
    """The table of one connection's callers.

    block_bytes_max : of the fields of one block, each with ENTRY_BYTES.
    """

    def __init__(self, block_bytes_max: int) -> None:
        self._block_bytes_max = block_bytes_max
        self._table: list[Field] = []  # newest first
        self._bytes, self._bytes_max = 0, TABLE_BYTES_MAX

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block, in their order. Raises HeaderError."""
        fields: list[Field] = []
        place, end, left = 0, len(block), self._block_bytes_max
        try:
            while place < end:
                first = block[place]
                if first & 0x80:
                    if first < 0xFF:  # in one byte, as nearly always
                        index, place = first & 0x7F, place + 1
                    else:
                        index, place = _number(block, place, 7)
                    field = self._at(index)
                elif first & 0x40:
                    field, place = self._literal(block, place, 6)
                    self._keep(field)
                elif first & 0x20:
                    if fields:
                        raise HeaderError("a table size comes after a field")
                    size, place = _number(block, place, 5)
                    if size > TABLE_BYTES_MAX:
                        raise HeaderError(f"the table has {size} bytes, the limit is 4096")
                    self._bytes_max = size
                    self._evict()
                    continue
                else:
                    field, place = self._literal(block, place, 4)
                fields.append(field)
                left -= len(field[0]) + len(field[1]) + ENTRY_BYTES
                if left < 0:
                    raise HeaderError(
                        f"the headers have more than {self._block_bytes_max} bytes; send fewer"
                    )
        except IndexError:
            raise HeaderError("the header block ends in its middle") from None
        return fields

    def _at(self, index: int) -> Field:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        place = index - len(STATIC) - 1
        if not 0 <= place < len(self._table):
            raise HeaderError(f"there is no header {index}")
        return self._table[place]

    def _literal(self, block: bytes, place: int, bits: int) -> tuple[Field, int]:
        index, place = _number(block, place, bits)
        if index:
            name = self._at(index)[0]
        else:
            name, place = _string(block, place)
        value, place = _string(block, place)
        return (name, value), place

    def _keep(self, field: Field) -> None:
        self._table.insert(0, field)
        self._bytes += len(field[0]) + len(field[1]) + ENTRY_BYTES
        self._evict()

    def _evict(self) -> None:
        while self._bytes > self._bytes_max:
            name, value = self._table.pop()
            self._bytes -= len(name) + len(value) + ENTRY_BYTES


def field_bytes(name: bytes, value: bytes) -> bytes:
    """A field as a literal that no table keeps."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    if number < 0x7F:
        return bytes((number,))
    parts, number = [0x7F], number - 0x7F
    while number > 0x7F:
        parts.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes((*parts, number))


def _number(block: bytes, place: int, bits: int) -> tuple[int, int]:
    """(a number whose first bits are the low ones of a byte, the place after it)."""
    most = (1 << bits) - 1
    found, place = block[place] & most, place + 1
    if found < most:
        return found, place
    for shift in (0, 7, 14, 21):
        byte, place = block[place], place + 1
        found += (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
    raise HeaderError("a number of the header block is too large")


def _string(block: bytes, place: int) -> tuple[str, int]:
    packed = block[place] & 0x80
    length, place = _number(block, place, 7)
    raw = block[place : place + length]
    if len(raw) < length:
        raise HeaderError("the header block ends in its middle")
    return (_unpacked(raw) if packed else raw).decode("latin-1"), place + length


def _unpacked(raw: bytes) -> bytes:
    """What a Huffman code stands for."""
    steps, ends = _machine()
    state, found = 0, bytearray()
    for byte in raw:
        for half in (byte >> 4, byte & 15):
            step = steps[state][half]
            if step is None:
                raise HeaderError("a Huffman code holds its end")
            state, come = step
            found += come
    if not ends[state]:
        raise HeaderError("a Huffman code ends in its middle")
    return bytes(found)


@cache
def _machine() -> Machine:
    """(for each inner node of the code's tree and each four bits: the node that they lead to and the bytes on the way;
    which nodes a code may end in: those that less than a byte of ones leads to)."""
    children, bits = [[-1, -1]], [int(word) for word in _CODE_BITS.split()]
    code, length = 0, 0
    for symbol in sorted(range(_END + 1), key=lambda s: (bits[s], s)):
        code <<= bits[symbol] - length
        length = bits[symbol]
        node = 0
        for shift in range(length - 1, 0, -1):
            side = code >> shift & 1
            if children[node][side] < 0:
                children[node][side] = len(children)
                children.append([-1, -1])
            node = children[node][side]
        children[node][code & 1] = -2 - symbol  # a leaf
        code += 1
    steps: list[list[tuple[int, bytes] | None]] = []
    for start in range(len(children)):
        row: list[tuple[int, bytes] | None] = []
        for half in range(16):
            node, come = start, b""
            for shift in (3, 2, 1, 0):
                node = children[node][half >> shift & 1]
                if node == -2 - _END:
                    break
                if node < 0:
                    node, come = 0, come + bytes((-2 - node,))
            row.append(None if node < 0 else (node, come))
        steps.append(row)
    ends, node = [False] * len(children), 0
    for _ in range(8):
        ends[node] = True
        node = children[node][1]
    return steps, ends
