"""How one log record looks in the store: checksum, sequence number, payload.

    bytes 0..4    CRC-32C of the payload followed by the eight sequence bytes, little endian
    bytes 4..12   sequence number, big endian (as in the key)
    bytes 12..    payload, the engine's business

The number inside proves that the value belongs to its key; RocksDB's own block checksums stay on
besides.
"""

from __future__ import annotations

from collections.abc import Sequence

from vicinal.model.errors import CorruptionError
from vicinal.storage.checksum import crc32c

RECORD_HEADER_BYTES = 12
SEQ_MAX = 2**63 - 1


def seq_key(seq: int) -> bytes:
    """Key of a record: eight bytes, big endian, so that keys sort by number."""
    return seq.to_bytes(8, "big")


def encode_record(seq: int, payload: bytes) -> bytes:
    """Return the stored value of record `seq`."""
    number = seq_key(seq)
    checksum = crc32c(number, crc32c(payload))
    return b"".join((checksum.to_bytes(4, "little"), number, payload))


def decode_records(
    entries: Sequence[tuple[bytes, bytes]], *, first: int, where: str
) -> list[bytes]:
    """Return the payloads of records that follow each other from number `first`; CorruptionError names a fault."""
    payloads: list[bytes] = []
    keep, checksum_of = payloads.append, crc32c
    for expected, (key, value) in enumerate(entries, first):
        payload = value[RECORD_HEADER_BYTES:]
        # The key is in the value too, so that this one comparison proves the number of both.
        if (
            value[4:RECORD_HEADER_BYTES] != key
            or key != expected.to_bytes(8, "big")
            or checksum_of(key, checksum_of(payload)).to_bytes(4, "little") != value[:4]
        ):
            raise _fault(key, value, expected, where)
        keep(payload)
    return payloads


def _fault(key: bytes, value: bytes, expected: int, where: str) -> CorruptionError:
    """What is wrong with a record."""
    seq = int.from_bytes(key, "big")
    if len(key) != 8:
        fault = f"a log key has {len(key)} bytes, expected 8"
    elif seq != expected:
        fault = f"log record {expected} is missing, the next one is {seq}"
    elif len(value) < RECORD_HEADER_BYTES:
        fault = (
            f"log record {seq} has {len(value)} bytes, fewer than its header of "
            f"{RECORD_HEADER_BYTES}"
        )
    else:
        fault = f"log record {seq} fails its checksum"
    return CorruptionError(f"{where}: {fault}; {_REMEDY}")


_REMEDY = "restore the collection from a snapshot or a replica"
