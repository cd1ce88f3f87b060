"""A ViT-B of one block that micro-sam could have run, and ``import_micro_sam`` in a process that is killed where it is told to.

``python narrow_vit_b.py STORE EMBEDDINGS.zarr POINTS`` counts the calls that change files under a copy of the store, then, for
that many points spread over the last of them, after ingest, copies the store again, forks, and is killed by SIGKILL there;
prints the copies.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

SIZE = (64, 64)


def build(checkpoint: str | None = None) -> Sam:
    """Return it with random weights; its width is that by which a ViT-B is known."""
    encoder = ImageEncoderViT(
        depth=1,
        embed_dim=768,
        num_heads=12,
        mlp_ratio=0.25,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(),
    )
    prompts = PromptEncoder(embed_dim=256, image_embedding_size=SIZE, input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256)
    return Sam(encoder, prompts, decoder).eval()


def killed(store: Path, embeddings: Path, at: float) -> tuple[int, int]:
    """Import in a fork that is killed at a point; return its wait status, and how many points it passed."""
    from crashes import Failing

    from hela_store.exchange.micro_sam_import import import_micro_sam
    from hela_store.store.store import Store

    count = store.with_suffix(".points")
    pid = os.fork()
    if pid == 0:
        failing = Failing(store, "kill", at)
        code = 1
        try:
            import_micro_sam(Store.open(store), embeddings, "01", device="cpu")
            code = 0
        finally:
            failing.on = False
            count.write_text(str(failing.count))
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return status, int(count.read_text()) if count.exists() else 0


def main(arguments: list[Any]) -> None:
    base, embeddings, points = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    torch.set_num_threads(1)
    sam_model_registry["vit_b"] = build
    status, count = killed(Path(shutil.copytree(base, base.with_name("counted"))), embeddings, float("inf"))
    assert status == 0
    for at in np.linspace(0.8, 0.95, points) * count:
        copy = Path(shutil.copytree(base, base.with_name(f"killed{at:.0f}")))
        status, _ = killed(copy, embeddings, at)
        print(copy, status, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
