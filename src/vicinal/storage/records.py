"""How one log record looks in the store: checksum, sequence number, payload.

    bytes 0..4    CRC-32C of the payload followed by the eight sequence bytes, little endian
    bytes 4..12   sequence number, big endian (as in the key)
    bytes 12..    payload, the engine's business

The number inside proves that the value belongs to its key; RocksDB's own block checksums stay on
besides.
"""

from __future__ import annotations

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


def decode_record(key: bytes, value: bytes, *, expected: int, where: str) -> bytes:
    """Return the payload of record `expected`; CorruptionError names the first fault."""
    if len(key) != 8:
        raise CorruptionError(f"{where}: a log key has {len(key)} bytes, expected 8; {_REMEDY}")
    seq = int.from_bytes(key, "big")
    if seq != expected:
        raise CorruptionError(
            f"{where}: log record {expected} is missing, the next one is {seq}; {_REMEDY}"
        )
    if len(value) < RECORD_HEADER_BYTES:
        raise CorruptionError(
            f"{where}: log record {seq} has {len(value)} bytes, "
            f"fewer than its header of {RECORD_HEADER_BYTES}; {_REMEDY}"
        )
    payload = value[RECORD_HEADER_BYTES:]
    checksum = crc32c(value[4:RECORD_HEADER_BYTES], crc32c(payload))
    if value[4:RECORD_HEADER_BYTES] != key or checksum != int.from_bytes(value[:4], "little"):
        raise CorruptionError(f"{where}: log record {seq} fails its checksum; {_REMEDY}")
    return payload


_REMEDY = "restore the collection from a snapshot or a replica"
