"""``mend``: label images of any tool in, better ones with the same numbers out, and a run that says what changed.

The run is made first and holds every mask; the folder of label images follows from it. So the same command completes
what was interrupted between the two.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tifffile

from hela_store.base.files import digest, sha256_file, write_atomic
from hela_store.base.names import inside
from hela_store.base.progress import Progress, silent
from hela_store.base.scratch import scratch_folder
from hela_store.datasets.tool_masks import ToolMasks, check_tool_masks, find_tool_masks
from hela_store.embedding.reader import embed_command
from hela_store.errors import PromptError, RunError, StoreError
from hela_store.evaluation.checkpoint import Checkpoint, resolve_checkpoint
from hela_store.evaluation.frames import Tile, frame_tiles
from hela_store.evaluation.leaks import check_untouched, used_frames
from hela_store.evaluation.reads import data_read
from hela_store.evaluation.reuse import claim_scoring
from hela_store.evaluation.sequences import labels_of
from hela_store.exchange.target import Targets
from hela_store.prompts.error_model import ErrorModel
from hela_store.prompts.table import match_masks
from hela_store.runs.folder import RunInfo, load_run, new_run
from hela_store.sam.devices import pick_device
from hela_store.store.records import CellRecord, by_frame
from hela_store.store.store import Store
from hela_store.training.errors_like import fitted_errors

from .answers import ask, pieces_of
from .config import MendConfig
from .decide import decide
from .gate import Gate, fit_gate
from .report import MendReport, mend_report
from .rows import CHANGES_SCHEMA, add_truth, change_rows, file_of, render
from .validate import Mender, judge

KIND = "mend"
TABLE = "changes"
HIGHEST = 2_000_000_000
"""Largest number of a mask where splits add numbers above it: label images are computed as int32."""


def mend(store: Store, masks: Path | str, config: MendConfig, *, progress: Progress = silent) -> MendReport:
    """Mend label images of a tool and write them, with the same names and numbers, into a new folder.

    Parameters
    ----------
    store : Store
        With the frames of the masks, embedded.
    masks : Path or str
        Folder of label images, see :func:`hela_store.datasets.tool_masks.find_tool_masks`; or the id of a run of the
        store, such as a baseline, whose masks are numbered from 1 in every frame.
    config : MendConfig
    progress : Progress
        Shown frame by frame.

    Returns
    -------
    MendReport

    Raises
    ------
    AlreadyComplete
        The very same label images are there already.
    DatasetError, PromptError
        There is neither such a folder nor such a run; it holds no label images of the store's frames, or wrong ones.
    SplitError, RunError
        Nothing to calibrate the gate on; a decoder that does not fit; another folder is in the place of the output.
    StoreError
        A frame is not embedded; no space, no permission.
    """
    checkpoint = resolve_checkpoint(store, config.checkpoint)
    store = checkpoint.store
    shapes = {name: record.shape for name, record in store.frame_records().items()}
    with ExitStack() as stack:
        tool = find_tool_masks(_folder(store, masks, stack), shapes)
        highest = check_tool_masks(tool, shapes)
        if config.split_merge and highest > HIGHEST:
            raise PromptError(
                f"the masks have numbers up to {highest}, so splits may run out of new ones; renumber them below "
                f"{HIGHEST}"
            )
        tiles = _tiles(store, tool)
        about = _about(checkpoint, config, tool)
        with claim_scoring(store, KIND, about, progress=progress) as done:
            reused = done is not None
            if done is None:
                if config.out.exists():
                    raise RunError(f"{config.out} is there already; nothing is overwritten, choose another --out")
                job = _Job(checkpoint=checkpoint, config=config, tool=tool, tiles=tiles, highest=highest)
                done = _make(job, about, progress)
    rows = done.rows(TABLE)
    targets = Targets()
    with targets.folder(config.out) as folder:
        _write(folder, done, rows, shapes)
    targets.finish()
    return mend_report(store, done, config.out, rows, reused=reused)


def _folder(store: Store, masks: Path | str, stack: ExitStack) -> Path:
    """Return the folder of masks; those of a run are written into one that is removed at the end."""
    path = Path(masks)
    if path.exists() or len(path.parts) != 1:
        return path
    try:
        run = load_run(store.path, str(masks))
    except RunError as error:
        raise PromptError(f"there is no folder of masks at {masks}, nor a run of this name: {error}") from None
    folder = stack.enter_context(scratch_folder()) / run.id
    for record, label in labels_of(store, run):
        _write_label(inside(folder, *f"{record.frame}.tif".split("/"), what="the label image"), label)
    return folder


def _tiles(store: Store, tool: ToolMasks) -> dict[str, list[Tile]]:
    found = frame_tiles(store, list(tool.files))
    if missing := [frame for frame in tool.files if frame not in found]:
        raise StoreError(
            f"{len(missing)} frames of the masks, such as {missing[0]}, are not embedded yet; run "
            f"`{embed_command(store)}`"
        )
    return found


def _about(checkpoint: Checkpoint, config: MendConfig, tool: ToolMasks) -> dict[str, Any]:
    store = checkpoint.store
    blocks, records = store.blocks(), store.frame_records()
    scored = {blocks[frame] for frame in tool.files if records[frame].has_label}
    # a folder with labelled test frames is a scoring of test, whatever else is in it
    split = scored.pop() if len(scored) == 1 else "all" if "test" in scored else None
    names = [part for frame in sorted(tool.files) for part in (frame, file_of(tool.folder, tool.files[frame]))]
    sums = [sha256_file(tool.files[frame]) for frame in sorted(tool.files)]
    about = {name: value for name, value in asdict(config).items() if name not in ("out", "device")}
    about |= {"encoder": checkpoint.key, "checkpoint": checkpoint.id, "window": checkpoint.window, "split": split}
    about |= {"prompts": [config.prompt], "seeds": [0], "origin": tool.folder.resolve().name}
    return about | {"masks": digest(*names, *sums)} | data_read(store, ("train", "val"))


def _scored_in(store: Store, tool: ToolMasks, block: str) -> list[str]:
    """Return the labelled frames of a block that the tool has masks of."""
    blocks, records = store.blocks(), store.frame_records()
    return [frame for frame in tool.files if blocks[frame] == block and records[frame].has_label]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Describe what is mended, and with what."""

    checkpoint: Checkpoint
    config: MendConfig
    tool: ToolMasks
    tiles: Mapping[str, Sequence[Tile]]
    highest: int


def _make(job: _Job, about: Mapping[str, Any], progress: Progress) -> RunInfo:
    """Mend all frames and publish the run."""
    store, config = job.checkpoint.store, job.config
    decoder = job.checkpoint.load_decoder(pick_device(config.device))
    mender = Mender(checkpoint=job.checkpoint, decoder=decoder, form=config.prompt)
    model, words = fitted_errors(store, job.tool)
    check_untouched(store, job.checkpoint.run, _scored_in(store, job.tool, "test"))
    gate = fit_gate(judge(mender, model, job.tool, progress))
    fitted = _fitted(job, model)
    folder = new_run(store.path, KIND, about, parent=job.checkpoint.id, label=config.prompt)
    with folder.tidied():
        rows: list[dict[str, Any]] = []
        free = job.highest + 1
        cells = by_frame(CellRecord, store.cells_table(), job.tool.files)
        for frame in progress(list(job.tool.files), total=len(job.tool.files), what="mend"):
            found = _mend_frame(job, mender, gate, frame, cells[frame], free)
            free = max([free, *(row["new_label"] + 1 for row in found if row["label"] is None)])
            rows += [row | {"fitted": fitted[frame]} for row in found]
        folder.write_table(TABLE, pa.Table.from_pylist(rows, CHANGES_SCHEMA))
        gate.save(folder.path)
        tool = job.tool
        files = {file_of(tool.folder, path): frame for frame, path in tool.files.items()}
        about_tool = {"files": files, "unused": [path.name for path in tool.unused]}
        folder.log(result={"gate": asdict(gate), "errors": words, "error_model": asdict(model)} | about_tool)
        folder.publish()
    return folder.info


def _fitted(job: _Job, model: ErrorModel) -> dict[str, str]:
    """Return what was fitted on the labels of each frame, in words: decoder, gate, errors; empty for nothing."""
    store, frames = job.checkpoint.store, list(job.tool.files)
    blocks, records = store.blocks(), store.frame_records()
    learned = {frame for *_, used in used_frames(store, job.checkpoint.run, frames) for frame in used}
    found = {}
    for frame in frames:
        block = blocks[frame] if records[frame].has_label else ""
        on = {"decoder": frame in learned, "gate": block == "val", "errors": block == "train" and model.pairs > 0}
        found[frame] = ", ".join(name for name, used in on.items() if used)
    return found


def _mend_frame(
    job: _Job, mender: Mender, gate: Gate, name: str, labelled: Sequence[CellRecord], free: int
) -> list[dict[str, Any]]:
    store = mender.store
    record, tiles = store.frame_records()[name], job.tiles[name]
    label = job.tool.read(name)
    pieces = pieces_of(label)
    frame = mender.frame(name, record.shape, tiles)
    window = mender.checkpoint.window
    answers = ask(mender.decoder, frame, list(pieces.values()), form=mender.form, window=window)
    _, changes = decide(
        dict(zip(pieces, answers, strict=True)),
        dict(zip(pieces, gate.probabilities(answers), strict=True)),
        threshold=gate.threshold,
        sure_from=gate.sure_from,
        split_merge=job.config.split_merge,
        shape=record.shape,
        free=free,
    )
    about = {"frame": name, "split": store.blocks()[name], "file": file_of(job.tool.folder, job.tool.files[name])}
    rows = change_rows(about, changes, tiles, record.shape)
    if record.has_label:
        truth = store.pixels.label(name)
        cells = {cell.label: cell for cell in labelled}
        pairs = match_masks(label, truth)
        stands = {mine: cells[value] for value, mine in pairs.items() if value in cells}
        add_truth(rows, changes, stands, truth)
    return rows


def _write(
    folder: Path, run: RunInfo, rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, int]]
) -> None:
    """Write the label image of every file that was given, also of one without a cell."""
    of_frame: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_frame.setdefault(row["frame"], []).append(row)
    for name, frame in run.result()["files"].items():
        if frame not in shapes:
            raise RunError(f"run {run.id} is damaged: it has masks of frame {frame}, which is not in the store")
        path = inside(folder, *name.split("/"), what="the label image")
        label = render(of_frame.get(frame, []), shapes[frame])
        _write_label(path, label)


def _write_label(path: Path, label: npt.NDArray[np.integer]) -> None:
    data = io.BytesIO()
    kind = np.uint16 if label.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    tifffile.imwrite(data, label.astype(kind), compression="zlib")
    write_atomic(path, data.getvalue())
