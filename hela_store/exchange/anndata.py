"""Export cells as AnnData: a vector of each cell, what is known of it, and what a run scored."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hela_store.base.extras import needs
from hela_store.base.progress import Progress, silent
from hela_store.catalog.index import query
from hela_store.errors import RunError
from hela_store.evaluation.sequences import RunLabels, run_labels
from hela_store.runs.folder import package_version
from hela_store.store.store import Store
from hela_store.vectors.make import METHOD, CellVectors, cell_vectors

from .target import Targets

if TYPE_CHECKING:
    import pandas as pd

ENDING = ".h5ad"
METRICS = "predicted_iou iou dice is_empty boundary_iou hd95 nsd1 nsd2 spill failure cut".split()
_SCORED = f"""
    SELECT cell, {", ".join(METRICS)} FROM cell_metrics WHERE run = $run
    AND ($prompt IS NULL OR (prompt = $prompt AND prompt_seed = $seed))
"""
_OWN = """
    SELECT cell, any_value(COLUMNS(* EXCLUDE (run, cell, prompt, prompt_seed))) FROM my_metrics WHERE run = $run
    AND (prompt IS NULL OR $prompt IS NULL OR prompt = $prompt)
    AND (prompt_seed IS NULL OR $seed IS NULL OR prompt_seed = $seed) GROUP BY cell
"""


@dataclass(frozen=True, kw_only=True)
class AnndataExport:
    """Result of an export to AnnData.

    Attributes
    ----------
    path : Path
        The file.
    cells : int
        Number of cells, the rows of ``X``.
    columns : tuple of str
        Columns of ``obs``.
    run : str or None
        Run whose scores are among them.
    encoder : str
        Encoder key of the vectors.
    """

    path: Path
    cells: int
    columns: tuple[str, ...]
    run: str | None
    encoder: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"path": str(self.path), "columns": list(self.columns)}


def export_anndata(
    store: Store,
    out: Path,
    run: str | None = None,
    *,
    prompt: str | None = None,
    prompt_seed: int | None = None,
    progress: Progress = silent,
) -> AnndataExport:
    """Write the labelled cells of a store as one ``.h5ad`` file, which anndata and scanpy open.

    ``X`` has the vector of each cell, ``obs`` its properties, its block of the split and the scores of a run, ``obsm``
    its centroid as ``spatial`` (x, y, px), and ``uns["hela_store"]`` says what all of it was made from.

    Parameters
    ----------
    store : Store
        With the views of all labelled frames embedded.
    out : Path
        The file, which ends in ``.h5ad``.
    run : str, optional
        A run that scored cells. Cells that it did not score have no value in its columns.
    prompt, prompt_seed : str and int, optional
        Which of its prompts, as in :func:`hela_store.evaluation.sequences.run_labels`.
    progress : callable
        Shown while vectors are made.

    Raises
    ------
    AlreadyComplete
        The same file is there already.
    RunError
        The ending is another, another file is there, or the run scored no cells or has several kinds of prompt.
    StoreError
        A view is not embedded yet; no space, no permission.
    ExtraError
        The extra ``anndata`` is not installed.
    """
    with needs("anndata"):
        import anndata
    if out.suffix != ENDING:
        raise RunError(f"{out} ends in {out.suffix or 'nothing'}, expected {ENDING}; choose another --out")
    labels = None if run is None else run_labels(store, run, prompt, prompt_seed)
    if labels is not None and not labels.info.has("predictions.parquet"):
        raise RunError(f"run {labels.info.id} is of kind {labels.info.kind} and scored no cells; choose an evaluation")
    found = cell_vectors(store, progress=progress)
    obs = _obs(store, found, labels)
    made = anndata.AnnData(
        X=found.vectors, obs=obs, obsm={"spatial": obs[["cx", "cy"]].to_numpy(float)}, uns=_uns(store, found, labels)
    )
    made.var_names = [f"embedding_{number:03d}" for number in range(found.vectors.shape[1])]
    targets = Targets()
    targets.file(out.absolute(), _bytes(made))
    targets.finish()
    return AnndataExport(
        path=out.absolute(),
        cells=made.n_obs,
        columns=tuple(obs.columns),
        run=None if labels is None else labels.info.id,
        encoder=found.encoder,
    )


def _obs(store: Store, found: CellVectors, labels: RunLabels | None) -> pd.DataFrame:
    """Return a row for each cell, in the order of the vectors."""
    table, blocks = store.cells_table(), store.blocks()
    split = pa.array([blocks[frame] for frame in table["frame"].to_pylist()], pa.string())
    frame = _plain(table.append_column("split", split))
    if labels is not None:
        asked = {"run": labels.info.id, "prompt": labels.prompt, "seed": labels.prompt_seed}
        frame = frame.join(_plain(query(store.path, _SCORED, asked)))
        own = query(store.path, "SELECT count(*) AS n FROM own_values WHERE run = ?", [labels.info.id])
        if own["n"][0].as_py():
            frame = frame.join(_plain(query(store.path, _OWN, asked)))
    return frame.loc[found.cells]


def _plain(table: pa.Table) -> pd.DataFrame:
    """Return a table by cell, in types that an ``.h5ad`` file can hold where values are missing."""
    import pandas as pd

    nullable = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype()}
    frame = table.to_pandas(types_mapper=nullable.get).set_index("cell")
    for name in frame.columns:
        if pa.types.is_string(table.schema.field(name).type):
            frame[name] = frame[name].astype("category")
    return frame


def _uns(store: Store, found: CellVectors, labels: RunLabels | None) -> dict[str, Any]:
    about = {
        "store": store.recipe.name,
        "version": package_version(),
        "encoder": found.encoder,
        "method": METHOD,
        "vectors": np.array(found.runs, dtype=object),
    }
    if labels is not None:
        about |= {"run": labels.info.id, "checkpoint": labels.info.checkpoint or "zero-shot"}
        about |= {} if labels.prompt is None else {"prompt": labels.prompt, "prompt_seed": int(labels.prompt_seed or 0)}
    return {"hela_store": about}


def _bytes(made: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"cells{ENDING}"
        made.write_h5ad(path, compression="gzip")
        return path.read_bytes()
