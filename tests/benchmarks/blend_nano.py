"""Blend weights of nano's second edition with the first edition that their training began from.

    python tests/benchmarks/blend_nano.py --weights DIR/nano.safetensors --share 0.7 --out nano2.safetensors

Every weight that both have lies on the line between them (Wortsman et al., "Robust fine-tuning of zero-shot models",
2022). The blocks that the second edition adds count as silent in the first, so their last projections are scaled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.sam.nano import NANO_FILE

LAST = tuple(f"image_encoder.blocks.{name}." for name in ("4.out", "5.lin2", "6.lin2"))
"""Projections through which the added blocks speak: zero where training begins."""


def blend(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return ``(1 - share) * first + share * second``, float16."""
    out = {}
    for name, value in second.items():
        if name in first:
            mixed = (1 - share) * first[name].float() + share * value.float()
        else:
            mixed = (share if name.startswith(LAST) else 1.0) * value.float()
        out[name] = mixed.half().contiguous()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the given weights, 0 to 1")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    blended = blend(load_file(NANO_FILE), load_file(given.weights), given.share)
    write_atomic(given.out, safetensors_bytes(blended, {"share": str(given.share)}))


if __name__ == "__main__":
    main()
