"""Makes ``v1/``, the store that every future version must read: ``python make_v1.py OUT``. It was run once.

Whole, but small: of the embeddings four channels are those of nano and the others constant, and the decoder's weights are
constant, so that its masks mean nothing. The two files of weights are gzipped, 10 MB of constants to 10 kB; the frames'
own files and the catalog, which nothing needs, are left out.
"""

import gzip
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import hela_store as hs
from hela_store.baselines.classical import classical
from hela_store.baselines.image_free import image_free
from hela_store.sam.nano import load_nano

CHANNELS = 4


def small_checkpoint(path: Path) -> None:
    state = load_nano().state_dict()
    for name in ("image_encoder.neck.3.weight", "image_encoder.neck.3.bias"):
        state[name][CHANNELS:] = 0
    for name, value in state.items():
        if name.startswith(("prompt_encoder.", "mask_decoder.")):
            value.fill_(0.125 if value.dim() == 1 else 0)
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir()
    small_checkpoint(out / "small.safetensors")
    drawn = hs.SyntheticConfig(frames=3, shape=(96, 128), cells=24)
    blocks = {"train_frames": "0-0", "val_frames": "1-1", "test_frames": "2-2"}
    made = {"dataset": "synthetic", "checkpoint": str(out / "small.safetensors"), "tile": "96", "variants": 1}
    hs.new(out, hs.NewConfig.of(**made, **blocks, synthetic=drawn))
    store = hs.Store.open(out)
    hs.embed(store, hs.EmbedConfig())
    image_free(store)
    classical(store)
    tuned = hs.finetune(store, hs.FinetuneConfig.of(prompt="box", steps=1, cells=2, workers=0, variants=1))
    hs.evaluate(store, None, hs.EvaluateConfig(prompts=("box", "point", "mask")))
    hs.evaluate(store, tuned.run, hs.EvaluateConfig(prompts=("box",)))
    for path in [*out.glob("encoders/*/*.safetensors"), *out.glob("runs/*/*.safetensors")]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    shutil.rmtree(out / "data")
    for path in [*out.glob("catalog.*"), *out.glob(".embed*"), out / "small.safetensors"]:
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
