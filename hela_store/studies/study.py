"""A whole table of one store: zero-shot and tuned, every prompt kind, several training seeds, baselines beside them.

Nothing here scores or tunes by itself: the pieces are ``evaluate``, ``sweep``, the baselines and ``compare``. What is
there with the same configuration is used again, so an interrupted study goes on, and the test block is scored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.progress import Progress, silent
from hela_store.baselines.classical import classical
from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.baselines.image_free import image_free
from hela_store.baselines.unet import choose_rate, score_unet, train_unet, trained
from hela_store.catalog import index as catalog
from hela_store.errors import PromptError, RecipeError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.frames import labelled_frames, median_training_radius
from hela_store.evaluation.leaks import block_ranges
from hela_store.evaluation.other_labels import Labels, TruthScore, truth_answers, truth_change
from hela_store.evaluation.tracks import store_protocol, unseen_cells
from hela_store.metrics.intervals import Interval
from hela_store.prompts.kinds import IMAGE_FREE_PROMPTS, MIXED_PROMPTS, NO_PROMPT
from hela_store.recipe.recipe import TRUTH_NAMES
from hela_store.runs.finished import find_finished
from hela_store.runs.folder import RunInfo, list_runs, load_run
from hela_store.sam.informed import informed_by
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.sam.registry import in_domain
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig

from .reference import REFERENCE
from .rows import StudyRow, study_row
from .sweep import sweep

ALL = ("box", "point", "mask")
"""What ``--prompt all`` stands for: a decoder for each."""
Line = tuple[str, str, Sequence[str], str | None]
"""Method, prompt, runs (one for each seed), and the zero-shot evaluation to compare with."""
SCORED_ON = {"box": ("box", "box-exact")}
"""Kinds that a decoder tuned for another is scored on, too (rule "prompts")."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Describe what goes into the table.

    Attributes
    ----------
    prompts : kinds, each with decoders of its own; ``("all",)`` for box, point and mask
    seeds : training seeds, 0 to ``seeds - 1``
    split : ``"test"`` or ``"val"``
    prompt_seeds : draws a cell and kind
    classical : run the classical baseline where there is none yet
    unet : train a U-Net for each training seed that has none yet
    blind : fine-tune an image-blind decoder for each prompt and seed: the floor that looking has to beat
    truth : other labels of the data set that all is scored against, too, on the same nuclei; None for none
    tuning : what all fine-tunings share; its prompt and seed are not used
    """

    prompts: tuple[str, ...] = ALL
    seeds: int = 3
    split: str = "test"
    prompt_seeds: int = 3
    classical: bool = False
    unet: bool = False
    blind: bool = False
    truth: Labels | None = None
    tuning: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        prompts = tuple(dict.fromkeys(k for kind in self.prompts for k in (ALL if kind == "all" else (kind,))))
        if not prompts or not set(prompts) <= set(MIXED_PROMPTS):
            found = ", ".join(self.prompts) or "none"
            raise PromptError(f"prompts of the study: {found}; expected all, or some of {', '.join(MIXED_PROMPTS)}")
        object.__setattr__(self, "prompts", prompts)
        if self.split not in ("test", "val"):
            raise RecipeError(f"split is {self.split!r}, expected 'test' or 'val'")
        for name in ("seeds", "prompt_seeds"):
            if not 1 <= getattr(self, name) <= 100:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected 1 to 100")

    @property
    def scored(self) -> tuple[str, ...]:
        """Every kind that is scored."""
        return tuple(dict.fromkeys(kind for name in self.prompts for kind in SCORED_ON.get(name, (name,))))


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The table and what its claims have to name (rule "claims").

    Attributes
    ----------
    facts : encoder, data, blocks, truth, tile, seeds, settings and date, by name
    rows : by prompt kind: image-free, zero-shot, tuned; then what needs no prompt
    test_scorings : how often this store's test block has been scored so far, by checkpoint
    budget_points : points of studies of budgets that scored it, too
    notes : what a reader has to know
    errors : why fine-tunings are missing
    against : every run against the other labels, where these were asked for
    gains_against : by prompt and method, IoU with the other labels less that of zero-shot, on the same nuclei and
        prompts, over all training seeds
    """

    facts: dict[str, str]
    rows: list[StudyRow]
    test_scorings: dict[str, int]
    budget_points: int
    notes: list[str]
    errors: list[str]
    against: list[TruthScore]
    gains_against: dict[tuple[str, str], Interval]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store study --json`` prints."""
        reference = {kind: {"iou": iou, "dice": dice} for kind, (iou, dice) in REFERENCE.items()}
        more: dict[str, Any] = {"rows": [row.to_json() for row in self.rows]}
        more |= {"against": [row.to_json() for row in self.against], "reference (other data, other split)": reference}
        gains = [(*which, gain) for which, gain in self.gains_against.items()]
        more["gains_against"] = [
            {"prompt": prompt, "method": method, **asdict(gain), "word": gain.word} for prompt, method, gain in gains
        ]
        return asdict(self) | more


def study(
    store: Store, config: StudyConfig | None = None, *, cache_dir: Path | None = None, progress: Progress = silent
) -> StudyResult:
    """Tune, score and compare all that the table needs and is not there yet.

    Parameters
    ----------
    store : with the views of its train, val and scored blocks embedded
    config : box, point and mask with three training seeds by default
    cache_dir : where a fetched official checkpoint lies; only an encoder that adapts is loaded
    progress : shown for each part

    Raises
    ------
    SplitError, StoreError
        A block is empty, or not embedded.
    """
    config = config or StudyConfig()
    frames = labelled_frames(store, config.split)
    zero = _evaluated(store, config, None, config.scored, progress)
    runs, errors = _scored(store, config, config.tuning, cache_dir, progress)
    blind: dict[str, list[str]] = {}
    failed: list[str] = []
    if config.blind:
        blind, failed = _scored(store, config, config.tuning.with_choices(blind=True), cache_dir, progress)
    free = _image_free(store, config, progress)
    lines: list[Line] = []
    for kind in config.prompts:
        for scored in SCORED_ON.get(kind, (kind,)):
            lines += [("image-free", scored, [free], zero)] if scored in IMAGE_FREE_PROMPTS and free else []
            lines += [("image-blind, tuned", scored, blind[kind], zero)] if blind.get(kind) else []
            lines += [("zero-shot", scored, [zero], None)]
            lines += [(f"tuned for {kind}", scored, runs[kind], zero)] if runs[kind] else []
    if (found := _classical(store, config, progress)) is not None:
        lines.append(("classical (small baseline)", NO_PROMPT, [found], None))
    if networks := _unet(store, config, progress):
        lines.append(("U-Net (small baseline)", NO_PROMPT, networks, None))
    unseen = unseen_cells(store, frames)
    shown = progress(lines, total=len(lines), what="table")
    against, gains = _against(store, config, lines, progress)
    return StudyResult(
        facts=_facts(store, config, frames),
        rows=[study_row(store, method, prompt, of, base, unseen=unseen) for method, prompt, of, base in shown],
        **_test_scorings(store),
        notes=_notes(store, config, runs, {"classical": int(found is not None), "unet": len(networks)}),
        errors=errors + failed,
        against=against,
        gains_against=gains,
    )


def _against(
    store: Store, config: StudyConfig, lines: Sequence[Line], progress: Progress
) -> tuple[list[TruthScore], dict[tuple[str, str], Interval]]:
    """Score all runs against the other labels; of each method also the change to zero-shot, over its seeds."""
    if config.truth is None:
        return [], {}
    everyone = list(dict.fromkeys(run for _, _, of, _ in lines for run in of))
    found = truth_answers(store, everyone, config.truth, progress=progress)
    ious = {(score.run, score.prompt): answers for score, answers in found}
    gains = {}
    for method, prompt, runs, zero in lines:
        if zero is not None and (zero, prompt) in ious:
            change = truth_change(store, ious[zero, prompt], [ious[run, prompt] for run in runs])
            if change is not None:
                gains[prompt, method] = change
    return [score for score, _ in found], gains


def _scored(
    store: Store, config: StudyConfig, tuning: FinetuneConfig, cache_dir: Path | None, progress: Progress
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the evaluations of fine-tuning runs by prompt kind, one for each seed, and why others are missing."""
    choices: dict[str, Sequence[Any]] = {"prompt": list(config.prompts), "seed": list(range(config.seeds))}
    rows = sweep(store, tuning, choices, cache_dir=cache_dir, progress=progress)
    found = {kind: [row.run for row in rows if row.run and row.choices["prompt"] == kind] for kind in config.prompts}
    scored = {
        kind: [_evaluated(store, config, run, SCORED_ON.get(kind, (kind,)), progress) for run in ids]
        for kind, ids in found.items()
    }
    errors = [f"{row.choices['prompt']}, seed {row.choices['seed']}: {row.error}" for row in rows if row.error]
    return scored, errors


def _evaluated(
    store: Store, config: StudyConfig, checkpoint: str | None, prompts: tuple[str, ...], progress: Progress
) -> str:
    window = config.tuning.prompts.window or DEFAULT_WINDOW[store.recipe.encoder.architecture]
    if checkpoint is not None:
        window = int(load_run(store.path, checkpoint).config["window"])
    wanted = EvaluateConfig(
        split=config.split,
        prompts=prompts,
        prompt_seeds=config.prompt_seeds,
        window=window,
        device=config.tuning.device,
    )
    same = {"encoder": store.key, "checkpoint": checkpoint, "split": config.split, "window": window}
    same |= {"prompt_seeds": config.prompt_seeds, "prompt_table": "", "prompt_masks": ""}
    found = _finished(store, "evaluate", same, prompts)
    return found.id if found else evaluate(store, checkpoint, wanted, fresh=True, progress=progress).run


def _image_free(store: Store, config: StudyConfig, progress: Progress) -> str | None:
    prompts = tuple(kind for kind in config.scored if kind in IMAGE_FREE_PROMPTS)
    if not prompts:
        return None
    same = {"checkpoint": "image-free", "split": config.split, "prompt_seeds": config.prompt_seeds}
    found = _finished(store, "baseline", same | {"radius": median_training_radius(store)}, prompts)
    if found:
        return found.id
    how: dict[str, Any] = {"split": config.split, "prompt_seeds": config.prompt_seeds, "progress": progress}
    return image_free(store, prompts=prompts, **how).run


def _classical(store: Store, config: StudyConfig, progress: Progress) -> str | None:
    found = _finished(store, "baseline", {"checkpoint": "classical", "split": config.split}, (NO_PROMPT,))
    # its parameters may have been searched on what another split calls train
    if found and set(_searched_on(found)).isdisjoint(labelled_frames(store, config.split)):
        return found.id
    return classical(store, ClassicalConfig(split=config.split), progress=progress).run if config.classical else None


def _unet(store: Store, config: StudyConfig, progress: Progress) -> list[str]:
    """Return a scored U-Net for each training seed: the best on validation of those of these blocks."""
    blocks, found = block_ranges(store), []
    trainings = [r for r in list_runs(store.path, "unet") if r.config["frames"] == blocks]
    for seed in range(config.seeds):
        there = [run for run in trainings if run.config["seed"] == seed]
        if not there and config.unet:
            chosen, _ = choose_rate(store, UnetConfig(device=config.tuning.device), progress=progress)
            one = replace(chosen, seed=seed)
            there = [trained(store, one) or train_unet(store, one, progress=progress)]
        if not there:
            continue
        info = max(there, key=lambda run: run.result().get("val_seg") or 0.0)
        done = _finished(store, "baseline", {"checkpoint": info.id, "split": config.split}, (NO_PROMPT,))
        how: dict[str, Any] = {"split": config.split, "device": config.tuning.device, "progress": progress}
        found.append(done.id if done else score_unet(store, info, **how).run)
    return found


def _searched_on(run: RunInfo) -> Iterable[str]:
    about = run.config["search"]
    return [*about["train_frames"], *about["val_frames"]]


def _finished(store: Store, kind: str, same: dict[str, Any], prompts: Sequence[str]) -> RunInfo | None:
    """Return the latest run with these settings that scored these prompts on the very cells of the split."""
    frames, cells = pa.array(labelled_frames(store, same["split"])), store.cells_table()
    covered = cells.filter(pc.is_in(cells["frame"], value_set=frames))["cell"].to_pylist()
    wanted = {(prompt, cell) for prompt in prompts for cell in covered}
    asked = "SELECT DISTINCT prompt, cell FROM predictions WHERE run = $run AND list_contains($prompts, prompt)"

    def alike(run: RunInfo) -> bool:
        equal = all(name in run.config and run.config[name] == value for name, value in same.items())
        if not (equal and set(prompts) <= set(run.prompts)):
            return False
        scored = catalog.query(store.path, asked, {"run": run.id, "prompts": list(prompts)}).to_pylist()
        return {(row["prompt"], row["cell"]) for row in scored} == wanted

    return find_finished(store.path, kind, alike)


def _test_scorings(store: Store) -> dict[str, Any]:
    counted = catalog.query(store.path, "FROM test_scorings").to_pylist()
    scorings = {row["checkpoint"] or "": row["scorings"] for row in counted if row["scorings"]}
    return {"test_scorings": scorings, "budget_points": sum(row["points"] for row in counted)}


def _facts(store: Store, config: StudyConfig, frames: Sequence[str]) -> dict[str, str]:
    recipe, tuning = store.recipe, config.tuning.with_choices(prompt="box", seed=0).flat()
    asked = pa.array(frames)
    origins = store.frames_table().filter(pc.is_in(store.frames_table()["frame"], value_set=asked))["label_origin"]
    cells = pc.sum(pc.is_in(store.cells_table()["frame"], value_set=asked)).as_py()
    blocks = {
        name: ", ".join(
            f"{sequence}/{frames if isinstance(frames, str) else f'{len(frames)} stills'}"
            for sequence, frames in part.items()
        )
        for name, part in block_ranges(store, ("train", "val", "test")).items()
    }
    same = set(_sequences(blocks["train"])) & set(_sequences(blocks[config.split]))
    usual, always = FinetuneConfig().flat(), {name: tuning[name] for name in ("steps", "lr")}
    changed = {k: v for k, v in tuning.items() if v != usual[k] and k not in ("workers", "device")}
    told = informed_by(recipe.encoder.architecture, recipe.dataset.path)
    weights = recipe.encoder.sha256[:12] if store.is_trained else "UNTRAINED"
    return {
        "encoder": f"{recipe.encoder.architecture}, weights {weights}, key {store.key}" + (f"; {told}" if told else ""),
        "data": f"{Path(recipe.dataset.path).name} (store {recipe.name})",
        "protocol": store_protocol(store, config.split),
        "scored": f"{config.split}: {len(frames)} frames, {cells} cells" + (_same(store, frames) if same else ""),
        "blocks": "; ".join(f"{name} {text or 'none'}" for name, text in blocks.items()),
        "truth": ", ".join(TRUTH_NAMES.get(origin, origin) for origin in sorted(set(origins.to_pylist()))),
        "tile": f"{recipe.views.tile} px" if recipe.views.tile else "whole frames",
        "seeds": f"{config.seeds} of training, {config.prompt_seeds} of prompts",
        "tuning": ", ".join(f"{k} {v}" for k, v in (always | changed).items()),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def _same(store: Store, frames: Sequence[str]) -> str:
    unseen = unseen_cells(store, frames) or []
    return f"; the same nuclei, later: {len(unseen)} of these cells are in no training frame"


def _sequences(text: str) -> list[str]:
    return [part.rpartition("/")[0] for part in text.split(", ") if "/" in part]


def _notes(store: Store, config: StudyConfig, runs: dict[str, list[str]], there: dict[str, int]) -> list[str]:
    notes = []
    if config.seeds < 3 or any(len(ids) < 3 for ids in runs.values()):
        notes.append("fewer than 3 training seeds: there are numbers and no verdict; give --seeds 3")
    if seen := in_domain(store.recipe):
        notes.append(seen)
    if not store.is_trained:
        notes.append("the encoder is UNTRAINED: scores show that everything works, not what SAM can do")
    if store.recipe.encoder.architecture in ("nano", "nano2"):
        notes.append("what nano shows is a hypothesis for ViT-B")
    if not there["classical"]:
        notes.append("no classical baseline yet; --classical runs one")
    if there["unet"] < config.seeds:
        notes.append(f"U-Nets of {there['unet']} of {config.seeds} training seeds; --unet trains the others")
    return notes
