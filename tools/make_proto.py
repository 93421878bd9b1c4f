"""Write proto/vicinal/v1/vicinal.proto anew from the definitions in src/vicinal/wire: python tools/make_proto.py."""

from __future__ import annotations

from pathlib import Path

from vicinal.wire.prototext import proto_text

TARGET = Path(__file__).resolve().parents[1] / "proto" / "vicinal" / "v1" / "vicinal.proto"

if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(proto_text())
