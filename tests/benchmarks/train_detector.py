"""Train the detector that ships with nano: one grid head for nuclei and whole cells of every open source.

    python tests/benchmarks/train_detector.py --data ../shared/data --out /tmp/detector

Lays the training and validation parts of the folders that nano learns from out as one data set, embeds it (both are kept,
so that a second call only does what is missing), trains with ``detect train``, chooses the threshold on the validation
parts, and writes ``nano-detector.safetensors``. Test parts are not read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
from hela_store_cli.output import bars
from skimage.io import imread

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.detection.config import DetectorConfig
from hela_store.detection.head import load_head
from hela_store.detection.train import train_detector
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.pretrain.sources import Part, read_sources
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

LESS = {"dsb2018_brightfield_cytology": 0, "pfc_neurons_brightfield": 0, "qcanet_embryo_slices": 0}
"""Sources that would teach what a cell is not: nuclei inside unlabelled cells, one cell among many, blurred glow."""
PARTS: tuple[Part, ...] = ("train", "val")


def lay_out(data: Path, out: Path) -> dict[str, str]:
    """Write images and labels as one sequence for each image size; return the frame numbers of each part."""
    folders = [data / "dsb2018", *(path for path in sorted((data / "open").iterdir()) if path.is_dir())]
    number, ranges = 0, dict[str, str]()
    sizes: list[tuple[int, ...]] = []
    read = {folder: read_sources(folder) for folder in folders if LESS.get(folder.name, 1)}
    for part in PARTS:
        first = number
        for folder, sources in read.items():
            for source in sources[part]:
                image = imread(next((folder / "images").glob(f"{source.name}.*")))
                sizes += [] if image.shape in sizes else [image.shape]
                sequence = f"{sizes.index(image.shape) + 1:02d}"
                for name, values in (
                    (f"{sequence}/t{number:04d}.tif", image),
                    (f"{sequence}_ST/SEG/man_seg{number:04d}.tif", source.label.astype(np.uint16)),
                ):
                    path = out / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(path, values, compression="deflate")
                number += 1
        ranges[part] = f"{first}-{number - 1}"
    return ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=DetectorConfig.lr)
    parser.add_argument("--start", default="random", help="or generic: go on with the weights that ship now")
    parser.add_argument("--width", type=int, default=128, help="channels of the head")
    parser.add_argument("--variants", type=int, default=1, help="augmented views of each view")
    parser.add_argument("--weights", type=Path, help="weights of nano's second edition, instead of the first's")
    given = parser.parse_args()
    path, dataset = given.out / "store", given.out / "images"
    if not (path / "store.toml").exists():
        ranges = lay_out(given.data, dataset)
        last = ranges["val"].partition("-")[2]
        chosen = {"encoder": "nano@2", "checkpoint": str(given.weights)} if given.weights else {}
        frames = {"train_frames": ranges["train"], "val_frames": ranges["val"], "test_frames": last}
        frames["val_frames"] = f"{ranges['val'].partition('-')[0]}-{int(last) - 1}"
        how = {"tile": "512", "overlap": 128, "variants": given.variants}
        new(path, NewConfig.of(dataset=str(dataset), labels="ST", **how, **frames, **chosen))
    store = Store.open(path)
    embed(store, EmbedConfig(splits=PARTS), progress=bars)
    result = train_detector(
        store,
        DetectorConfig(
            steps=given.steps,
            lr=given.lr,
            start=given.start,
            width=given.width,
            patience=0,
            evaluate_every=max(1, given.steps // 10),
        ),
        progress=bars,
    )
    print(result.to_json())
    run = load_run(store.path, result.run)
    head = load_head(run.weights, store.key)
    state = {name: value.half().contiguous() for name, value in head.state_dict().items()}
    about = {"detector": "grid", "encoder": store.recipe.encoder.sha256}
    write_atomic(given.out / "nano-detector.safetensors", safetensors_bytes(state, about))


if __name__ == "__main__":
    main()
