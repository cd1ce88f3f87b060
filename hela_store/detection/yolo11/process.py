"""YOLO11s by ultralytics (AGPL-3.0), in a process of its own: ``python yolo11_process.py JOB.json``.

This is the only file that uses ultralytics, and nothing imports it. It imports nothing of hela_store either: what goes
in is a job, images and label files on disk, what comes out is a box table and weights as safetensors. Each line on
stdout is a JSON object about the progress. It ends when its stdin does, so that it never outlives who started it.

Ultralytics' own checkpoints are pickles: none is written or read here.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

MODEL = "yolo11s.yaml"
Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Do the job in the file that is named, and tell of it."""
    job = json.loads(Path(sys.argv[1]).read_text())
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    # ultralytics prints wherever it likes; stdout is for what the caller reads
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(row: dict[str, Any]) -> None:
        lines.write(json.dumps(row) + "\n")

    {"train": train, "predict": predict}[job["task"]](job, tell)


def _end_with_the_caller() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a process that ends must not find taken
        pass
    os._exit(1)


def train(job: dict[str, Any], tell: Tell) -> None:
    """Train on ``data``, keep the weights of the best epoch by validation in ``best``, and all of it in ``state``."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):  # type: ignore[misc]
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            model = super().get_model(cfg, None, verbose)
            if job["weights"]:
                _begin_with(model, Path(job["weights"]))
            return model

        def resume_training(self, ckpt: Any) -> None:
            if Path(job["state"]).exists():
                _load_state(self, Path(job["state"]))

        def save_model(self) -> bool:
            if self.fitness == self.best_fitness:
                _write(Path(job["best"]), self.ema.ema.state_dict())
            _save_state(self, Path(job["state"]))
            return True

        def final_eval(self) -> None:
            """Leave out the validation of a checkpoint that was never written."""

    settings = {name: job[name] for name in ("data", "epochs", "batch", "imgsz", "seed", "device", "project")}
    fixed = {"model": MODEL, "pretrained": False, "name": "train", "exist_ok": True, "plots": False, "amp": False}
    trainer = Trainer(overrides=settings | fixed | {"flipud": 0.5, "verbose": False, "workers": 0})
    trainer.add_callback("on_fit_epoch_end", lambda t: tell(_epoch(t)))
    trainer.train()


def _epoch(trainer: Any) -> dict[str, Any]:
    losses = {name: float(value) for name, value in trainer.label_loss_items(trainer.tloss).items()}
    return {"epoch": trainer.epoch + 1, "loss": sum(losses.values()), "fitness": float(trainer.fitness)}


def _begin_with(model: Any, path: Path) -> None:
    own, given = model.state_dict(), load_file(path)
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise SystemExit(f"{path} has no tensor of YOLO11s, whose names are such as {next(iter(own))}")
    model.load_state_dict(fitting, strict=False)


def _save_state(trainer: Any, path: Path) -> None:
    optimizer = trainer.optimizer.state_dict()
    parts = {"model": trainer.model.state_dict(), "ema": trainer.ema.ema.state_dict()}
    parts |= {f"optimizer.{number}": values for number, values in optimizer["state"].items()}
    tensors = {f"{part}/{name}": v for part, values in parts.items() for name, v in values.items() if v is not None}
    about = {"epoch": trainer.epoch, "updates": trainer.ema.updates, "best_fitness": float(trainer.best_fitness)}
    about |= {"stopper": [float(trainer.stopper.best_fitness), trainer.stopper.best_epoch]}
    _write(path, tensors, {"about": json.dumps(about)})


def _load_state(trainer: Any, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        parts: dict[str, dict[str, Any]] = {}
        for name in file.keys():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = file.get_tensor(name)
    trainer.model.load_state_dict(parts.pop("model"))
    trainer.ema.ema.load_state_dict(parts.pop("ema"))
    optimizer = trainer.optimizer.state_dict()
    optimizer["state"] = {int(part.partition(".")[2]): values for part, values in parts.items()}
    trainer.optimizer.load_state_dict(optimizer)
    trainer.ema.updates, trainer.best_fitness = about["updates"], about["best_fitness"]
    trainer.stopper.best_fitness, trainer.stopper.best_epoch = about["stopper"]
    trainer.start_epoch = about["epoch"] + 1


def _write(path: Path, tensors: dict[str, Any], about: dict[str, str] | None = None) -> None:
    plain = {name: torch.as_tensor(value).detach().cpu().clone().contiguous() for name, value in tensors.items()}
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(save(plain, metadata=about))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def predict(job: dict[str, Any], tell: Tell) -> None:
    """Write the boxes of all images of a folder, px, as ``boxes``: image, x0, y0, x1, y1, score."""
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    yolo = YOLO(MODEL, task="detect")
    network = DetectionModel(MODEL, ch=3, nc=1, verbose=False)
    network.load_state_dict(load_file(job["weights"]))
    network.args, network.task = yolo.model.args, "detect"
    yolo.model = network.eval()
    how = {name: job[name] for name in ("imgsz", "conf", "max_det", "device")}
    with Path(job["boxes"]).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "x0", "y0", "x1", "y1", "score"])
        for image in sorted(Path(job["images"]).glob("*.png")):
            found = yolo.predict(source=str(image), verbose=False, save=False, **how)[0]
            rows = zip(found.boxes.xyxy.cpu().tolist(), found.boxes.conf.cpu().tolist(), strict=True)
            table.writerows([image.stem, *box, score] for box, score in rows)
            tell({"image": image.stem, "seconds": sum(found.speed.values()) / 1000})


if __name__ == "__main__":
    main()
