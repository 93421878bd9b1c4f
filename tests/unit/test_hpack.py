"""Header blocks: the examples of RFC 7541, and blocks that nobody should send."""

from __future__ import annotations

import pytest

from vicinal.server.hpack import TABLE_BYTES_MAX, HeaderDecoder, HeaderError, field_bytes

FIRST = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
THIRD = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]


@pytest.mark.parametrize(
    "blocks",
    [
        (  # C.3, literal
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (  # C.4, in the Huffman code
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
)
def test_the_examples_of_the_rfc_are_decoded(blocks: tuple[str, ...]) -> None:
    decoder = HeaderDecoder(10_000)
    found = [decoder.decode(bytes.fromhex(block)) for block in blocks]
    assert found == [FIRST, [*FIRST, ("cache-control", "no-cache")], THIRD]


def test_every_byte_comes_through_the_huffman_code() -> None:
    # All bytes from 0x20 on that have a short code, as a widespread encoder writes them.
    text = "0123456789abcdefghijklmnopqrstuvwxyz-_/:. %ABC"
    bits = "".join(_code(ord(c)) for c in text)
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    block = b"\0\x01a" + bytes((0x80 | len(packed),)) + packed
    assert HeaderDecoder(10_000).decode(block) == [("a", text)]


def _code(byte: int) -> str:
    """Its code, counted up within its length as appendix B does."""
    from vicinal.server.hpack import _CODE_BITS

    bits = [int(word) for word in _CODE_BITS.split()]
    code, length = 0, 0
    for symbol in sorted(range(257), key=lambda s: (bits[s], s)):
        code <<= bits[symbol] - length
        length = bits[symbol]
        if symbol == byte:
            return f"{code:0{length}b}"
        code += 1
    raise AssertionError(byte)


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 255, 5_000])
def test_what_is_encoded_is_decoded(length: int) -> None:
    block = field_bytes(b"name", b"v" * length) + field_bytes(b"x" * 200, b"")
    assert HeaderDecoder(10_000).decode(block) == [("name", "v" * length), ("x" * 200, "")]


def test_a_table_forgets_the_oldest() -> None:
    decoder = HeaderDecoder(10_000)
    for n in range(200):  # each counts 32 + 4 + 4
        decoder.decode(b"\x40\x04k%03d\x04v%03d" % (n, n))
    kept = TABLE_BYTES_MAX // 40
    assert decoder.decode(bytes((0x80 | 62,))) == [("k199", "v199")]
    assert decoder.decode(bytes((0x80 | 61 + 60,))) == [("k140", "v140")]
    with pytest.raises(HeaderError):
        decoder.decode(b"\xff" + bytes((61 + kept + 1 - 127,)))
    decoder.decode(b"\x20")  # a table of no bytes
    with pytest.raises(HeaderError):
        decoder.decode(bytes((0x80 | 62,)))


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # header 0
        b"\xbe",  # nothing is in the table
        b"\x40",  # ends after its first byte
        b"\x40\x05ab",
        b"\x40\x01a\x05ab",
        b"\x00\x01a\xff\xff\xff\xff\xff\xff\x7f",  # a length that has no end
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x82\x20",  # its size after a field
        b"\x00\x01a\x81\x00",  # five zeros and three more, which are no end of a code
        b"\x00\x01a\x84\xff\xff\xff\xff",  # the end itself
        b"\x00\x01a\x82\x1f\xff",  # more than seven bits of padding
    ],
)
def test_a_block_that_means_nothing_is_an_error(block: bytes) -> None:
    with pytest.raises(HeaderError):
        HeaderDecoder(10_000).decode(block)


def test_a_few_bytes_do_not_stand_for_many() -> None:
    decoder = HeaderDecoder(10_000)
    decoder.decode(b"\x40\x01a\x7f\xb9\x16" + b"v" * 3_000)
    with pytest.raises(HeaderError, match="10000"):
        decoder.decode(b"\xbe" * 20)
