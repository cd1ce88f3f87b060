"""Show the contents of a store: `hela-store info`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from hela_store.base.sizes import folder_bytes, mebibytes
from hela_store.catalog import index as catalog
from hela_store.embedding.batches import done_of, unique_views
from hela_store.embedding.measure import CellScale, cell_scale
from hela_store.errors import StoreError
from hela_store.evaluation.leaks import find_copies
from hela_store.recipe.splits import BLOCKS, frame_counts
from hela_store.runs.default import default_run
from hela_store.runs.folder import RunInfo, list_runs, partial_runs
from hela_store.sam.registry import in_domain
from hela_store.store.sizes import array_bytes
from hela_store.store.store import Store

ARRAYS = "arrays.zarr"
BYTES_OF = ("ingest", "labels", "plan", "ledger", "staged", "encoders", "runs", "catalog.duckdb")
"""Parts of a store with few files, however many views there are."""
FORMS = ("box", "point", "mask")
"""Kinds of prompt that are made from detections."""
DECODES = ("evaluate", "control", "robustness", "mend", "calibration", "budget")
"""Kinds of runs that use a decoder; without a checkpoint it is the one that the encoder came with."""
SCORES = """
    SELECT run, prompt, count(*) AS n, avg(iou) AS mean_iou, avg(dice) AS mean_dice, avg(is_empty::INT) AS empty
    FROM cell_metrics GROUP BY run, prompt ORDER BY run, prompt
"""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One score of a run.

    Attributes
    ----------
    run, kind, split, prompt : str
    checkpoint : str or None
        Run whose weights were scored, ``"zero-shot"``, or the method of a baseline; None where no decoder was used.
    n : int or None
        Predictions scored.
    mean_iou, mean_dice, empty : float or None
        Of a fine-tuning on its validation cells; None for a run without scores.
    labels_version : int
        Version of the labels that it was trained or scored on; 0 is as ingested.
    """

    run: str
    kind: str
    checkpoint: str | None
    split: str
    prompt: str
    n: int | None = None
    mean_iou: float | None = None
    mean_dice: float | None = None
    empty: float | None = None
    labels_version: int = 0


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Contents of a store.

    Attributes
    ----------
    store, name : str
    frames, labelled, blank, cells : int
        Ingested; all 0 before the first embed.
    views_planned : int or None
        None where the recipe changed since, or nothing was planned yet.
    views_done : int
        Of the planned views, under the recipe's encoder key.
    split : dict of str to int
        Frames in ``train``, ``val``, ``test`` and ``gap``.
    bytes : dict of str to int
        On disk, by part. That of ``arrays.zarr``, also where the arrays lie in a bucket, is estimated from a sample of
        their chunks.
    encoder : dict
        ``key``, ``architecture``, ``sha256``, ``precision``, ``trained``.
    keys : dict of str to int
        Committed views of every encoder key there is.
    scale : CellScale or None
        How large cells are for SAM, and the grid round trip.
    runs : tuple of RunLine
    default_run : str or None
        The latest fine-tuning that learned something and is not worse than zero-shot on validation: what `evaluate`
        scores unless told.
    default_runs : dict of str to str or None
        The default run by kind of prompt: what `segment --form` and `evaluate --prompt detected` use unless told.
    unfinished : tuple of str
        Runs that were started and not published; some may be running now.
    copies : str
        How many stills are copies of another, and how many of one in another block; empty for a time-lapse.
    points : int
        Runs of studies of budgets, which ``runs`` leaves out.
    labels_version : int
        The latest version of the labels; 0 is as ingested.
    """

    store: str
    name: str
    frames: int
    labelled: int
    blank: int
    cells: int
    views_planned: int | None
    views_done: int
    split: dict[str, int]
    bytes: dict[str, int]
    encoder: dict[str, Any]
    keys: dict[str, int]
    scale: CellScale | None
    runs: tuple[RunLine, ...]
    default_run: str | None
    default_runs: dict[str, str | None]
    unfinished: tuple[str, ...]
    copies: str = ""
    points: int = 0
    labels_version: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """Return it, but for the runs, as lines of (what, value)."""
        planned = "none planned for the current recipe; run `hela-store embed`"
        if self.views_planned is not None:
            planned = f"{self.views_done} of {self.views_planned} done"
        split = frame_counts(self.split) if self.split else "after the first embed"
        sizes = ", ".join(f"{part} {mebibytes(size)}" for part, size in self.bytes.items() if size)
        untrained = "" if self.encoder["trained"] else " (untrained: random weights)"
        name = self.encoder["name"] or self.encoder["architecture"]
        rows = [
            ("store", self.store),
            ("frames", f"{self.frames} ingested, {self.labelled} with labels, {self.blank} blank"),
            ("cells", str(self.cells)),
            *([("labels", self._labels())] if self.labels_version else []),
            ("split", split),
            *([("copies", self.copies)] if self.copies else []),
            ("views", planned),
            ("encoder", f"{name}{untrained}, {self.encoder['precision']}, key {self.encoder['key']}"),
            ("on disk", f"about {mebibytes(sum(self.bytes.values()))}: {sizes}"),
        ]
        if self.encoder["in_domain"]:
            rows.append(("warning", self.encoder["in_domain"]))
        rows += [("other key", f"{key}: {n} views") for key, n in self.keys.items() if key != self.encoder["key"]]
        if self.scale is not None:
            rows += _scale_facts(self.scale)
        rows.append(("default run", self._latest()))
        if self.default_run:
            rows += [(f"- for {kind}", self._default(kind)) for kind in self.default_runs]
        if self.points:
            rows.append(
                ("budgets", f"{self.points} runs of `hela-store study --budget`; `hela-store report` draws them")
            )
        if self.unfinished:
            rows.append(("unfinished", ", ".join(self.unfinished)))
            hint = "run the same command again to resume; if none is running, runs/.ID.partial may be deleted"
            rows.append(("", hint))
        return rows

    def _latest(self) -> str:
        """Return the default run, and by what rule it is the default."""
        told = "the latest fine-tuning that helped; it need not be the best"
        return f"{self.default_run} ({told})" if self.default_run else "none: the zero-shot decoder"

    def _default(self, kind: str) -> str:
        """Return the default run for a kind of prompt, and for which other kind it was fine-tuned."""
        run = self.default_runs[kind]
        kinds = sorted({line.prompt for line in self.runs if line.run == run and line.prompt})
        other = "" if kind in kinds or not kinds else f", fine-tuned for {', '.join(kinds)}"
        return f"{run}{other}" if run else "none: the zero-shot decoder"

    def _labels(self) -> str:
        old = {line.run for line in self.runs if line.labels_version < self.labels_version}
        told = f"; {len(old)} runs are of earlier versions" if old else ""
        return f"version {self.labels_version}, see `hela-store labels log`{told}"


def info(store: Store) -> StoreInfo:
    """Count what is in a store; reads tables and at most a dozen label images, and lists no chunks.

    Raises
    ------
    StoreError, RunError
        A file or a run is damaged.
    """
    recipe = store.recipe
    frames, labelled, blank, cells, planned, done = 0, 0, 0, 0, None, 0
    ingested = any((store.path / "ingest").glob("frames-*.parquet"))
    if ingested:
        table = store.frames_table()
        frames, cells = len(table), store.cell_count()
        labelled, blank = (pc.sum(table[name]).as_py() or 0 for name in ("has_label", "is_blank"))
        if store.plan_path().exists():
            views = unique_views(store.views_table())
            planned, done = len(views), int(done_of(store, views).sum())
    default, *by_form = (default_run(store.path, store.key, kind) for kind in (None, *FORMS))
    return StoreInfo(
        store=str(store.path),
        name=recipe.name,
        frames=frames,
        labelled=labelled,
        blank=blank,
        cells=cells,
        views_planned=planned,
        views_done=done,
        split=_split(store) if ingested else {},
        bytes={ARRAYS: array_bytes(store)} | {part: folder_bytes(store.path / part) for part in BYTES_OF},
        encoder={
            "key": store.key,
            "architecture": recipe.encoder.architecture,
            "sha256": recipe.encoder.sha256,
            "precision": recipe.encoder.precision,
            "trained": store.is_trained,
            "name": recipe.encoder.name,
            "in_domain": in_domain(recipe),
        },
        keys={key: store.ledger(key).count() for key in store.arrays.embedding_keys()},
        scale=cell_scale(store) if ingested else None,
        runs=tuple(_runs(store)),
        default_run=default.id if default else None,
        default_runs={kind: run.id if run else None for kind, run in zip(FORMS, by_form, strict=True)},
        unfinished=tuple(partial_runs(store.path)),
        copies=_copies(store) if ingested else "",
        points=sum(run.is_point for run in list_runs(store.path)),
        labels_version=store.labels_version,
    )


def _scale_facts(scale: CellScale) -> list[tuple[str, str]]:
    whole = f"{scale.positions_whole:.1f} whole"
    trip = f"IoU {scale.round_trip_whole:.3f} whole"
    if scale.tile:
        whole += f", {scale.positions_tiled:.1f} in tiles of {scale.tile} px"
        trip += f", {scale.round_trip_tiled:.3f} in tiles"
    return [
        ("cell size", f"median diameter {scale.diameter:.1f} px; embedding positions: {whole}"),
        ("mask grid", f"{trip}: what {scale.cells} label masks keep of themselves on SAM's grid of 256 x 256 pixels"),
    ]


def _copies(store: Store) -> str:
    """Return what is known of copies; nothing where frames split by their numbers resemble each other, as in a film."""
    found = find_copies(store)
    if found is None or (store.recipe.split.train and not found.across):
        return ""
    return str(found)


def _split(store: Store) -> dict[str, int]:
    counts = Counter(store.blocks().values())
    return {name: counts[name] for name in (*BLOCKS, "gap")}


def _runs(store: Store) -> list[RunLine]:
    found = [run for run in list_runs(store.path) if not run.is_point]
    if not found:
        return []
    scores: dict[str, list[dict[str, Any]]] = {}
    for row in catalog.query(store.path, SCORES).to_pylist():
        scores.setdefault(row.pop("run"), []).append(row)
    lines = []
    for run in found:
        head: dict[str, Any] = {
            "run": run.id,
            "kind": run.kind,
            "checkpoint": run.checkpoint or ("zero-shot" if run.kind in DECODES else None),
            "split": run.split or "",
        }
        head["labels_version"] = run.labels_version
        rows = scores.get(run.id) or _tuned(run)
        lines += [RunLine(**head | row) for row in rows]
    return lines


def _tuned(run: RunInfo) -> list[dict[str, Any]]:
    """Return the score a fine-tuning ended with, from its log."""
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in run.prompts] or [{"prompt": ""}]
    if run.kind != "finetune" or run.config.get("own"):  # nothing here judged a decoder that was trained elsewhere
        return rows
    for line in run.log():
        if "result" in line:
            tuned = {name: line["result"]["tuned"].get(name) for name in ("n", "mean_iou", "mean_dice", "empty")}
            return [{**rows[0], **tuned, "checkpoint": run.id, "split": line["result"].get("split", "val")}]
    raise StoreError(f"run {run.id} is damaged: its log holds no result; move {run.path} out of runs/")
