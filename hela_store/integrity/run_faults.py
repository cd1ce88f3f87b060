"""Say what can be wrong with the files of published runs; nothing but the command that made a run makes them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hela_store.base.parquet import read_parquet
from hela_store.errors import HelaError, RunError
from hela_store.runs.folder import run_ids
from hela_store.runs.info import CONFIG, LOG, MANIFEST, WAY_OUT, RunInfo, read_info
from hela_store.sam.adapters import ADAPTER_FILE

from .store_faults import Fault

SCORED = ("prompts.parquet", "predictions.parquet")
NEEDED = {
    **dict.fromkeys(("evaluate", "robustness", "control", "baseline", "budget"), SCORED),
    "detect": ("detections.parquet",),
    "audit": ("suspects.parquet",),
    **dict.fromkeys(("detector", "unet"), ("weights.safetensors",)),
    "calibration": ("calibration.json",),
    "mend": ("changes.parquet", "gate.json", LOG),
}
"""Files that a run of a kind cannot do without; of a fine-tuning it depends on what it adapts."""
TUNED = {None: ("weights.safetensors",), "decoder": (ADAPTER_FILE,)}
BOTH = ("weights.safetensors", ADAPTER_FILE)


def run_faults(store_path: Path) -> Iterator[Fault]:
    """Yield the files of published runs that are lost, changed, or not of the run.

    Every file is compared with the run's manifest. A run that was published before there were manifests is checked for
    what it needs: its tables have checksums, and of its weights only the form is checked.
    """
    for name in run_ids(store_path):
        folder = store_path / "runs" / name
        for path, note in _wrong(folder):
            yield Fault(kind="damaged", path=str(path.relative_to(store_path)), note=note)


def _wrong(folder: Path) -> Iterator[tuple[Path, str]]:
    try:
        info = read_info(folder, folder.name)
    except HelaError as error:
        yield folder / CONFIG, str(error)
        return
    if info.files is not None:
        yield from _changed(info, info.files)
        return
    for path in _missing(info):
        yield path, f"it is missing; {WAY_OUT}"
    if info.kind == "finetune" and not info.result():
        yield folder / LOG, f"it holds no result; {WAY_OUT}"
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


def _changed(info: RunInfo, files: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    there = {path.relative_to(info.path).as_posix() for path in info.path.rglob("*") if path.is_file()}
    for name in sorted(there.union(files) - {MANIFEST}):
        try:
            info.file(name)
        except RunError as error:
            yield info.path / name, str(error)


def _missing(info: RunInfo) -> Iterator[Path]:
    needed = TUNED.get(info.config.get("adapt"), BOTH) if info.kind == "finetune" else NEEDED.get(info.kind, ())
    for name in needed:
        if not (info.path / name).exists():
            yield info.path / name
