"""The folder in which the commands of the pages run: the frames that they name, small, and the store fluo."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tifffile
from detectors import QUICK

from hela_store.datasets.synthetic import write_sequence
from hela_store.detection.detect import detect
from hela_store.detection.train import train_detector
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

SHAPE, FRAMES = (192, 256), 13


def images_and_masks(source: Path, folder: Path) -> None:
    """Copy frames of a sequence as a folder with ``images/`` and ``masks/``."""
    for name, pattern in (("images", "01/*.tif"), ("masks", "01_ST/SEG/*.tif")):
        (folder / name).mkdir(parents=True)
        for number, file in enumerate(sorted(source.glob(pattern))):
            shutil.copy(file, folder / name / f"t{number:03d}.tif")


def make_data(folder: Path) -> None:
    """Make the folders of frames that pages name."""
    fluo = folder / "path/to/Fluo-N2DL-HeLa"
    write_sequence(fluo, frames=FRAMES, shape=SHAPE, cells=16)
    shutil.copytree(fluo / "01_ST", fluo / "01_GT")
    shutil.copytree(fluo, folder / "path/to/DIC-C2DH-HeLa")
    shutil.copytree(fluo, folder / "Fluo-N2DL-HeLa")
    shutil.copytree(fluo / "01", folder / "path/to/data/01")
    images_and_masks(fluo, folder / "my_frames")
    images_and_masks(fluo, folder / "path/to/stills")
    for name in ("new_frames", "cellpose_masks"):
        (folder / name).mkdir()
    for file in sorted((fluo / "01").iterdir())[:2]:
        shutil.copy(file, folder / "new_frames")
    (folder / "path/to/frames").mkdir()
    for number, file in enumerate(sorted((folder / "new_frames").iterdir())):
        shutil.copy(file, folder / f"path/to/frames/image{number}.tif")
    for number, file in enumerate(sorted((fluo / "01_ST/SEG").iterdir())):
        tifffile.imwrite(folder / f"cellpose_masks/t{number:03d}.tif", np.roll(tifffile.imread(file), 1, axis=1))
    shutil.copytree(folder / "my_frames", folder / "frames")
    shutil.copytree(folder / "my_frames", folder / "dsb2018")
    tifffile.imwrite(
        folder / "movie.tif", np.stack([tifffile.imread(file) for file in sorted((folder / "new_frames").iterdir())])
    )
    (folder / "boxes.csv").write_text("frame,x0,y0,x1,y1,score\n01/t012,10,10,30,30,0.9\n")


def make_store(data: Path, path: Path) -> None:
    """Make the store fluo, on which most pages go on: scored, fine-tuned for boxes and with a detector."""
    parts = {"train_frames": "0-5", "val_frames": "7-8", "test_frames": "10-12"}
    new(path, NewConfig.of(dataset=str(data / "path/to/Fluo-N2DL-HeLa"), labels="ST", tile="none", **parts))
    store = Store.open(path)
    embed(store, EmbedConfig())
    evaluate(store, None, EvaluateConfig(prompts=("box",), prompt_seeds=1))
    tuned = finetune(store, FinetuneConfig.of(prompt="box", steps=2, cells=2, workers=0, evaluate_every=1))
    evaluate(store, tuned.run, EvaluateConfig(prompts=("box",), prompt_seeds=1))
    train_detector(store, QUICK)
    detect(store, split="val", device="cpu")
