"""Audit the labels of a store: train on all blocks of frames but one, judge the labels of that one, and rank them all.

A run is interrupted without loss: the rows of a judged block are kept, and the same command resumes with the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch

from hela_store.base.files import digest, write_atomic
from hela_store.base.parquet import read_parquet
from hela_store.base.progress import Progress, silent
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import RecipeError
from hela_store.evaluation.reads import data_read
from hela_store.evaluation.reuse import claim_scoring
from hela_store.evaluation.tracks import cell_tracks
from hela_store.runs.folder import RunFolder, new_run, take_up
from hela_store.runs.info import to_json
from hela_store.runs.leftovers import STATE
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .blocks import JudgedBlock, audited_frames, judged_blocks
from .config import FLAGGED, AuditConfig
from .decoders import block_decoder, block_detector
from .evidence import Row, Shared, evidence, usual_area
from .neighbours import neighbours_in_time
from .result import KIND, AuditResult
from .rows import SUSPECT_SCHEMA, judge, recalls, suspect_rows


def audit(
    store: Store, config: AuditConfig | None = None, *, fresh: bool = False, progress: Progress = silent
) -> AuditResult:
    """Rank the labels of a store by how suspicious they are, and keep the ranking as a run of kind ``"audit"``.

    What this very version found before, on the same frames, is returned as it is; an interrupted audit resumes.

    Parameters
    ----------
    store : with labelled and embedded frames; those that are not embedded are left out
    config : how; the defaults where None
    fresh : make another run in any case

    Raises
    ------
    SplitError
        There are no labels, or all are of one frame.
    StoreError
        No labelled frame is embedded.
    RecipeError
        The encoder was adapted on the labels, or is cut, so that the store holds tokens, which no decoder reads.
    RunError
        A loss became infinite or NaN.
    """
    config = config or AuditConfig()
    if store.recipe.encoder.adapter:
        raise RecipeError(
            f"the encoder of {store.path} was adapted on these labels, so it cannot judge them; remove encoder.adapter"
        )
    if store.recipe.encoder.cut:
        raise RecipeError(
            f"the recipe of {store.path} has encoder.cut = {store.recipe.encoder.cut}; an audit reads embeddings, so "
            "remove it"
        )
    frames = audited_frames(store)
    blocks = judged_blocks(store, frames, config.folds)
    about = {name: value for name, value in asdict(config).items() if name != "device"}
    about |= {"encoder": store.key, "checkpoint": None, "split": None, "frames": digest("frames", *frames)[:16]}
    about |= data_read(store, ("all",))
    with claim_scoring(store, KIND, about, fresh=fresh, progress=progress) as done:
        if done is not None:
            return AuditResult.of(done)
        plain: dict[str, Any] = json.loads(to_json(about))
        folder = None if fresh else take_up(store.path, KIND, STATE, lambda other: other == plain)
        folder = folder or new_run(store.path, KIND, about)
        with folder.tidied(resumable=True):
            _judge_blocks(_shared(store, config, frames), blocks, folder, progress)
            return _publish(store, frames, blocks, folder)


def _shared(store: Store, config: AuditConfig, frames: Sequence[str]) -> Shared:
    asked = set(frames)
    cells = [cell for cell in CellRecord.of(store.cells_table()) if cell.frame in asked]
    return Shared(
        store=store,
        config=config,
        near=dict(neighbours_in_time(store, list(frames))),
        tracked=cell_tracks(store, frames).method == "labels",
        area=usual_area(cells),
    )


def _judge_blocks(shared: Shared, blocks: Sequence[JudgedBlock], folder: RunFolder, progress: Progress) -> None:
    """Write the rows of every block that has none yet."""
    for block in blocks:
        if (folder.path / f"block-{block.number}.parquet").exists():
            continue
        what = f"block {block.number + 1} of {len(blocks)}"
        weights = folder.path / f"decoder-{block.number}.safetensors"
        decoder = block_decoder(block.store, shared.config, weights, what=f"fine-tune, {what}", progress=progress)
        _save_state(folder, block.number)
        head = block_detector(block.store, shared.config, what=f"train a detector, {what}", progress=progress)
        found = progress(
            evidence(shared, block.frames, decoder.eval(), head), total=len(block.frames), what=f"judge, {what}"
        )
        rows = [row for part in found for row in part]
        folder.write_table(f"block-{block.number}", pa.table({"row": [to_json(row) for row in rows]}))
        weights.unlink()
        _save_state(folder, block.number + 1)


def _save_state(folder: RunFolder, blocks: int) -> None:
    write_atomic(folder.path / STATE, safetensors_bytes({"blocks": torch.tensor(blocks)}, {}))


def _read_rows(folder: RunFolder, blocks: Sequence[JudgedBlock]) -> Iterator[list[Row]]:
    for block in blocks:
        table = read_parquet(folder.path / f"block-{block.number}.parquet", way_out="audit again with --fresh")
        rows = (json.loads(text) for text in table["row"].to_pylist())
        # JSON has no NaN: what cannot be measured is null there
        yield [
            {name: float("nan") if value is None and name in _NUMBERS else value for name, value in row.items()}
            for row in rows
        ]


_NUMBERS = frozenset(SUSPECT_SCHEMA.names) - {"cell", "rle"}


def _publish(store: Store, frames: Sequence[str], blocks: Sequence[JudgedBlock], folder: RunFolder) -> AuditResult:
    judged = judge(list(_read_rows(folder, blocks)))
    splits, records = store.blocks(), store.frame_records()
    rows = suspect_rows(judged, splits, {name: records[name].shape for name in frames})
    folder.write_table("suspects", pa.Table.from_pylist(rows, SUSPECT_SCHEMA))
    test = sum(row["split"] == "test" and row["cell"] is not None for row in rows)
    told = ("rank", "frame", "cell", "x0", "y0", "x1", "y1", "score", "kind", "reason")
    result = AuditResult(
        run=folder.id,
        frames=len(frames),
        labels=sum(row["cell"] is not None for row in rows),
        places=sum(row["cell"] is None for row in rows),
        blocks=len(blocks),
        likely=sum(row["score"] >= 0.5 for row in rows),
        recall=tuple(recalls(judged)),
        flagged=FLAGGED,
        test=test,
        top=tuple({name: row[name] for name in told} for row in rows[:10]),
        notes=tuple(_notes(store, frames, test)),
    )
    for path in [folder.path / STATE, *(folder.path / f"block-{block.number}.parquet" for block in blocks)]:
        path.unlink()
    logged = {name: value for name, value in result.to_json().items() if name != "reused"}
    folder.log(result=logged)
    folder.publish()
    return result


def _notes(store: Store, frames: Sequence[str], test: int) -> Iterator[str]:
    labelled = sum(record.has_label for record in store.frame_records().values())
    if labelled > len(frames):
        yield f"{labelled - len(frames)} labelled frames are not embedded and were left out"
    if test:
        yield (
            f"{test} labels of the test split were judged, each by a decoder that never saw its block; no decoder that "
            "did is kept"
        )
    if any(store.frame_records()[name].partial for name in frames):
        yield "some labels are partial, so cells without a label are no faults there"
