"""Say which encoder for these cells: the study of several encoders in one store, paired on the same cells and prompts.

Every encoder has embeddings and runs under a key of its own, beside those of the recipe. What is there already is used
again, so an interrupted comparison goes on with what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import EmbedConfig, bytes_each, embed
from hela_store.embedding.record import read_record
from hela_store.errors import RecipeError
from hela_store.evaluation.compare import compare
from hela_store.metrics.intervals import Interval
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.sam.checkpoints import weights_file
from hela_store.sam.choice import encoder_at
from hela_store.sam.registry import in_domain
from hela_store.store.store import Store

from .rows import StudyRow
from .study import StudyConfig, StudyResult, study


@dataclass(frozen=True, kw_only=True)
class StudiedEncoder:
    """One encoder of the comparison, and what its embeddings cost.

    Attributes
    ----------
    label : str
        Its name, or that of its file; with the key where two are called the same.
    key, architecture, sha256 : str
        Encoder key, which SAM it is, and the sum of its weights.
    seconds_per_view : float or None
        Of the last embed that encoded any; None where it is not known.
    device : str
        Where that was; seconds of different devices do not compare.
    bytes_per_view : int
        Mean size of an embedding on disk.
    in_domain : str
        Says that it was trained on this data set; empty where that is not known.
    """

    label: str
    key: str
    architecture: str
    sha256: str
    seconds_per_view: float | None
    device: str
    bytes_per_view: int
    in_domain: str


@dataclass(frozen=True, kw_only=True)
class EncoderRow:
    """One line of the paired table: one encoder and method under one prompt.

    Attributes
    ----------
    encoder, prompt, method : str
        Label of the encoder; prompt kind; such as ``"zero-shot"`` or ``"tuned for box"``.
    runs : tuple of str
        Evaluations, one for each training seed.
    cells : int
        Distinct cells that were scored.
    iou, dice : float
        Means over cells and runs; empty predictions count as 0.
    over_first : Interval or None
        Mean IoU less that of the first encoder on the same cells and prompts; None for the first encoder.
    """

    encoder: str
    prompt: str
    method: str
    runs: tuple[str, ...]
    cells: int
    iou: float
    dice: float
    over_first: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the word."""
        over = None if self.over_first is None else asdict(self.over_first) | {"word": self.over_first.word}
        return asdict(self) | {"over_first": over}


@dataclass(frozen=True, kw_only=True)
class EncoderStudy:
    """The comparison of encoders.

    Attributes
    ----------
    encoders : list of StudiedEncoder
        In the order they were given.
    rows : list of EncoderRow
        By prompt and method, then by encoder.
    studies : dict of str to StudyResult
        The whole study of each encoder, by label.
    notes : list of str
        What a reader has to know.
    """

    encoders: list[StudiedEncoder]
    rows: list[EncoderRow]
    studies: dict[str, StudyResult]
    notes: list[str]

    @property
    def errors(self) -> list[str]:
        """Reasons why fine-tunings are missing."""
        return [f"{label}: {error}" for label, result in self.studies.items() for error in result.errors]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store study --encoder ... --json`` prints."""
        return {
            "encoders": [asdict(encoder) for encoder in self.encoders],
            "rows": [row.to_json() for row in self.rows],
            "studies": {label: result.to_json() for label, result in self.studies.items()},
            "notes": self.notes,
            "errors": self.errors,
        }


def study_encoders(
    store: Store,
    encoders: Sequence[str],
    config: StudyConfig | None = None,
    *,
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> EncoderStudy:
    """Embed with each encoder what is missing, study each, and compare the others with the first.

    Parameters
    ----------
    store : with the frames of the recipe; only views of the blocks that a study reads are embedded
    encoders : names of :data:`~hela_store.sam.registry.ENCODERS`, or files of weights
    config : as of :func:`~hela_store.studies.study.study`; the same for all encoders
    cache_dir : where weights are fetched to
    progress : shown for each part

    Raises
    ------
    CheckpointError, RecipeError
        An encoder that is unknown, cannot be loaded or is given twice; nothing was embedded.
    SplitError, StoreError, RunError
        As of the embedding, the study and the comparison.
    """
    config = config or StudyConfig()
    chosen = [
        encoder_at(place, precision=store.recipe.encoder.precision, cache_dir=cache_dir, progress=progress)
        for place in encoders
    ]
    stores = _labelled(store, chosen)
    wanted = EmbedConfig(
        splits=tuple(dict.fromkeys(("train", "val", config.split))), device=config.tuning.device, cache_dir=cache_dir
    )
    for own in stores.values():
        if read_record(own) is None:  # hours of embedding should not end at a download that fails
            weights_file(own.recipe.encoder, store.path, cache_dir, progress)
    for own in stores.values():
        embed(own, wanted, progress)
    studies = {label: study(own, config, cache_dir=cache_dir, progress=progress) for label, own in stores.items()}
    about = [_about(label, own) for label, own in stores.items()]
    notes: list[str] = []
    rows = _rows(store, studies, notes)
    return EncoderStudy(encoders=about, rows=rows, studies=studies, notes=[*_notes(about, studies), *notes])


def _labelled(store: Store, chosen: Sequence[EncoderRecipe]) -> dict[str, Store]:
    """Return the store with each encoder, by its label."""
    stores = [Store(store.path, replace(store.recipe, encoder=encoder), store.labels_version) for encoder in chosen]
    names = [e.name or (Path(e.checkpoint).name if e.checkpoint else e.architecture) for e in chosen]
    often, keys = Counter(names), Counter(own.key for own in stores)
    if twice := [name for name, own in zip(names, stores, strict=True) if keys[own.key] > 1]:
        raise RecipeError(f"the same weights are given twice: {' and '.join(twice)}; give each --encoder once")
    labels = [name if often[name] == 1 else f"{name} ({own.key})" for name, own in zip(names, stores, strict=True)]
    return dict(zip(labels, stores, strict=True))


def _about(label: str, store: Store) -> StudiedEncoder:
    record, encoder = read_record(store), store.recipe.encoder
    return StudiedEncoder(
        label=label,
        key=store.key,
        architecture=encoder.architecture,
        sha256=encoder.sha256,
        seconds_per_view=record.seconds_per_view if record else None,
        device=record.device if record else "",
        bytes_per_view=bytes_each(store),
        in_domain=in_domain(store.recipe),
    )


def _rows(store: Store, studies: dict[str, StudyResult], notes: list[str]) -> list[EncoderRow]:
    """Return the lines of all methods that read embeddings, those of one method beside each other."""
    found = {
        label: {(row.prompt, row.method): row for row in result.rows if row.method.startswith(("zero-shot", "tuned"))}
        for label, result in studies.items()
    }
    questions = dict.fromkeys(question for rows in found.values() for question in rows)
    first, lines = next(iter(found)), []
    for question in questions:
        for label, rows in found.items():
            if question in rows:
                base = None if label == first else found[first].get(question)
                over = _over(store, base, rows[question], notes) if base else None
                lines.append(_line(label, rows[question], over))
    return lines


def _over(store: Store, base: StudyRow, row: StudyRow, notes: list[str]) -> Interval | None:
    if len(base.runs) != len(row.runs):
        notes.append(
            f"{row.prompt}, {row.method}: {len(base.runs)} runs against {len(row.runs)}, so they are not paired"
        )
        return None
    found = compare(store, [list(base.runs), list(row.runs)])
    return next(line.per_cell for line in found.rows if line.prompt == row.prompt and line.subset == "all")


def _line(label: str, row: StudyRow, over: Interval | None) -> EncoderRow:
    return EncoderRow(
        encoder=label,
        prompt=row.prompt,
        method=row.method,
        runs=row.runs,
        cells=row.cells,
        iou=row.iou,
        dice=row.dice,
        over_first=over,
    )


def _notes(encoders: Sequence[StudiedEncoder], studies: dict[str, StudyResult]) -> list[str]:
    notes = [encoder.in_domain for encoder in encoders if encoder.in_domain]
    if len({encoder.device for encoder in encoders}) > 1:
        where = ", ".join(f"{encoder.label} on {encoder.device or 'an unknown device'}" for encoder in encoders)
        notes.append(f"seconds a view do not compare: {where}")
    shared = [note for result in studies.values() for note in result.notes]
    return list(dict.fromkeys([*notes, *shared]))
