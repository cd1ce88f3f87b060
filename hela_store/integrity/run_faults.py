"""What can be wrong with the files of published runs; nothing but the command that made a run makes them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hela_store.base.parquet import read_parquet
from hela_store.errors import HelaError
from hela_store.runs.folder import run_ids
from hela_store.runs.info import RunInfo, read_info
from hela_store.sam.adapters import ADAPTER_FILE

from .store_faults import Fault

WAY_OUT = "restore it, or move the run's folder out of runs/ and make the run again"
SCORED = ("prompts.parquet", "predictions.parquet")
NEEDED = {
    **dict.fromkeys(("evaluate", "robustness", "control", "baseline"), SCORED),
    "detect": ("detections.parquet",),
    **dict.fromkeys(("detector", "unet"), ("weights.safetensors",)),
    "calibration": ("calibration.json",),
}
"""Files that a run of a kind cannot do without; of a fine-tuning it depends on what it adapts."""
TUNED = {None: ("weights.safetensors",), "decoder": (ADAPTER_FILE,)}
BOTH = ("weights.safetensors", ADAPTER_FILE)


def run_faults(store_path: Path) -> Iterator[Fault]:
    """Yield the files of published runs that are lost, cut or damaged.

    Tables have checksums. Of weights only the form is checked: their bytes are compared with nothing.
    """
    for name in run_ids(store_path):
        folder = store_path / "runs" / name
        for path, note in _wrong(folder):
            yield Fault(kind="damaged", path=str(path.relative_to(store_path)), note=note)


def _wrong(folder: Path) -> Iterator[tuple[Path, str]]:
    try:
        info = read_info(folder, folder.name)
    except HelaError as error:
        yield folder / "config.json", str(error)
        return
    for path in _missing(info):
        yield path, f"it is missing; {WAY_OUT}"
    if info.kind == "finetune" and not info.result():
        yield folder / "log.jsonl", f"it holds no result; {WAY_OUT}"
    for path in sorted(folder.glob("*.parquet")):
        try:
            read_parquet(path, way_out=WAY_OUT)
        except HelaError as error:
            yield path, str(error)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            yield path, f"it is damaged: {error}; {WAY_OUT}"


def _missing(info: RunInfo) -> Iterator[Path]:
    needed = TUNED.get(info.config.get("adapt"), BOTH) if info.kind == "finetune" else NEEDED.get(info.kind, ())
    for name in needed:
        if not (info.path / name).exists():
            yield info.path / name
