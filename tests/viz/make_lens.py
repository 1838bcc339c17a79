"""Write ``tests/data/lens.json``: what the lens answers, of made-up weights in each float format.

    python -m tests.viz.make_lens

``core/attention.js`` and ``core/numbers.js`` are held to the same, from the bytes of the file.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec

from minivllm.core.scheduler_output import TensorArray
from minivllm.trace import lens
from minivllm.trace.artifacts import Artifact, encode
from minivllm.trace.events import ArrayInfo, ExecTensors

FILE = Path(__file__).parents[1] / "data" / "lens.json"
LAYERS, HEADS, KV_HEADS = 2, 3, 1
SIZES = {"r1": (1, 1, "F32"), "r2": (3, 60, "F16"), "r3": (7, 19, "BF16")}
"""Request → queries, keys, and how its weights are kept."""
ASKED: list[dict[str, Any]] = [
    {"what": "row"},
    {"what": "row", "query": 0, "layer": 1},
    {"what": "row", "query": 0, "layer": 1, "head": 2},
    {"what": "heads", "block": 4},
    {"what": "heads", "query": 0, "block": 16},
    {"what": "matrix", "layer": 0, "head": 0, "block": 4},
    {"what": "matrix", "block": 4, "most": 20},
]


def made() -> tuple[bytes, ExecTensors]:
    draw = random.Random(7)
    arrays = []
    for req, (queries, keys, dtype) in SIZES.items():
        numbers = []
        for row in range(LAYERS * HEADS * queries):
            seen = keys - queries + row % queries + 1
            shares = [draw.random() ** 4 for _ in range(seen)]
            numbers += [share / sum(shares) for share in shares] + [0.0] * (keys - seen)
        shape = [LAYERS, HEADS, queries, keys]
        arrays.append(TensorArray(f"attention.{req}", dtype, shape, packed(numbers, dtype)))
    k = [LAYERS, 2, KV_HEADS, 1]  # two tokens ran
    arrays.append(TensorArray("k", "F32", k, packed([0.0, -1.5, 3.0, 0.25], "F32")))
    arrays.append(TensorArray("slot_mapping", "I64", [3], struct.pack("<3q", 16, -1, 2**40)))
    raw = encode(arrays, {})
    told = ExecTensors(
        file="step-000003.safetensors",
        bytes=len(raw),
        crc32=zlib.crc32(raw),
        requests=list(SIZES),
        arrays=[ArrayInfo(name=a.name, dtype=a.dtype, shape=a.shape) for a in arrays],
    )
    return raw, told


def packed(numbers: list[float], dtype: str) -> bytes:
    if dtype != "BF16":
        return struct.pack(f"<{len(numbers)}{'f' if dtype == 'F32' else 'e'}", *numbers)
    return b"".join(struct.pack("<f", number)[2:] for number in numbers)


def answers() -> dict[str, Any]:
    raw, told = made()
    artifact = Artifact(raw, told, "made")
    asked = [{"req": req, **one} for req in SIZES for one in ASKED]
    said = []
    for one in asked:
        wishes = {**one, "block_size": one.get("block", 16)}
        req, what = wishes.pop("req"), wishes.pop("what")
        wishes.pop("block", None)
        said.append({"asked": one, "answer": lens.answer(artifact, req, what, **wishes)})
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            {
                "raw": base64.b64encode(raw).decode(),
                "told": msgspec.to_builtins(told),
                "answers": said,
            }
        )
    )


if __name__ == "__main__":
    FILE.write_text(json.dumps(answers(), separators=(",", ":")) + "\n")
