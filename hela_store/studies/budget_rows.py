"""The lines and curves of a study of budgets, read from its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from hela_store.catalog import index as catalog
from hela_store.errors import RunError
from hela_store.evaluation.tracks import CellTracks, cell_tracks
from hela_store.metrics.intervals import Interval, crossed_interval, numbered
from hela_store.prompts.kinds import NO_PROMPT
from hela_store.runs.finished import readable_runs
from hela_store.runs.folder import RunInfo
from hela_store.store.store import Store

from .curves import MORE, Curve, Scores, fit, summed

KIND = "budget"
"""Kind of the runs of a study of budgets."""
ZERO = "zero-shot"
_ROWS = """
SELECT q.run, q.iou, q.cell, q.frame, greatest(p.free_iou, coalesce(p.free_ellipse_iou, 0)) AS free, p.free_iou AS naive
FROM predictions q JOIN prompts p ON p.run = q.run AND p.prompt_id = q.prompt_id
WHERE list_contains($runs, q.run) AND q.prompt = $prompt ORDER BY q.run, q.prompt_seed, q.cell
"""

Floats = npt.NDArray[np.float64]
Way = tuple[str, int, str]
"""Method, number of variants, and all other settings as JSON: how the points of a curve learned."""


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """One line: the decoders that learned from so many cells, one for each seed.

    Attributes
    ----------
    prompt, method, variants, pick : the strategy
    settings : those in which it differs from others of this method in the table; empty where there are none
    budget : labelled cells, those that chose the step among them
    frames : frames that a person opens for these, mean over seeds
    iou, iou_runs : mean IoU on the sampled test cells, and that of each seed
    over_zero : Interval or None
        Change over zero-shot on the same prompts, over tracks, frames and seeds; None of a method without prompts.
    share : of the gain of all cells; None where that is not known or not above 0
    runs : of kind ``"budget"``, one for each seed
    """

    prompt: str
    method: str
    variants: int
    pick: str
    budget: int
    frames: float
    iou: float
    iou_runs: tuple[float, ...]
    over_zero: Interval | None
    share: float | None
    runs: tuple[str, ...]
    settings: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the word."""
        over = None if self.over_zero is None else asdict(self.over_zero) | {"word": self.over_zero.word}
        return asdict(self) | {"over_zero": over}


@dataclass(frozen=True, kw_only=True)
class BudgetCurve:
    """The curve of a strategy over budgets.

    Attributes
    ----------
    prompt, method, variants, pick : the strategy
    curve : Curve
    settings : as of :class:`BudgetRow`
    """

    prompt: str
    method: str
    variants: int
    pick: str
    curve: Curve
    settings: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the form, its numbers, and what the sentences say."""
        curve, about = self.curve, asdict(self)
        del about["curve"]
        more = None if curve.reached is None else asdict(curve.more(curve.reached))
        found = {"form": curve.form, "numbers": curve.numbers[0].tolist(), "largest": curve.largest}
        return about | found | {"gain": asdict(curve.gain(curve.largest)), "reached": curve.reached, "more": more}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Hold what a prompt is worth without fine-tuning: zero-shot, and the answer that never looks at the image."""

    prompt: str
    zero_shot: float
    naive: float | None
    cells: int


@dataclass(frozen=True, kw_only=True)
class BudgetTable:
    """All lines and curves.

    Attributes
    ----------
    rows : list of BudgetRow
        By prompt, method, variants and pick, the smallest budget first.
    curves : list of BudgetCurve
        Of the strategies with enough budgets.
    rules : dict of str to Rule
        By prompt.
    units : how the tracks of the test cells were found
    """

    rows: list[BudgetRow]
    curves: list[BudgetCurve]
    rules: dict[str, Rule]
    units: str


def budget_table(store: Store, runs: Sequence[RunInfo]) -> BudgetTable:
    """Put runs of kind ``"budget"`` together: one of zero-shot, and the decoders that were scored on the same cells.

    Raises
    ------
    RunError
        There is no zero-shot run, or a run scored other cells than it.
    """
    zeros = [run for run in runs if run.config["method"] == ZERO]
    if not zeros:
        raise RunError("no run of kind budget scored zero-shot; `hela-store study --budget 5,20,100,all` makes them")
    zero, tuned = zeros[-1], [run for run in runs if run.config["method"] != ZERO]
    rows: list[BudgetRow] = []
    curves: list[BudgetCurve] = []
    rules: dict[str, Rule] = {}
    tracks: CellTracks | None = None
    settings = _differences(tuned)
    for prompt in [*zero.prompts, NO_PROMPT]:
        mine = [run for run in tuned if prompt in run.prompts]
        if prompt == NO_PROMPT and not mine:
            continue
        scores = _scores(store, [*([] if prompt == NO_PROMPT else [zero.id]), *(run.id for run in mine)], prompt)
        first = _nothing(scores[mine[0].id]) if prompt == NO_PROMPT else scores[zero.id]
        tracks = tracks or cell_tracks(store, sorted(set(first["frame"])))
        if prompt != NO_PROMPT:
            rules[prompt] = _rule(prompt, first)
        part = _Part(prompt=prompt, first=first, tracks=tracks, settings=settings)
        found = {run.id: part.paired(run.id, scores[run.id]) for run in mine}
        rows += _rows(part, mine, found)
        curves += _curves(part, mine, found)
    return BudgetTable(rows=rows, curves=curves, rules=rules, units=str(tracks))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The zero-shot scores of one prompt kind, which all others are paired with."""

    prompt: str
    first: dict[str, Any]
    tracks: CellTracks
    settings: dict[Way, str]

    def paired(self, run: str, scores: dict[str, Any]) -> Floats:
        if scores["cell"] != self.first["cell"]:
            raise RunError(f"run {run} scored other cells than zero-shot; run the study again with one --test-cells")
        ious: Floats = scores["iou"]
        return ious

    def interval(self, ious: Sequence[Floats]) -> Interval | None:
        if self.prompt == NO_PROMPT:
            return None
        cells, n = self.first["cell"], len(self.first["cell"])
        units = self.tracks.units(cells * len(ious), np.repeat(np.arange(len(ious)), n))
        return crossed_interval(np.concatenate([row - self.first["iou"] for row in ious]), units).within(-1, 1)


def _way(run: RunInfo) -> Way:
    about = run.config
    return about["method"], about["variants"], json.dumps(about["settings"], sort_keys=True)


def _differences(runs: Sequence[RunInfo]) -> dict[Way, str]:
    """Return the settings in which each way to learn differs from the others of its method, in words."""
    ways = {_way(run): run.config["settings"] for run in runs}
    found = {}
    for way, settings in ways.items():
        others = [other for one, other in ways.items() if one[0] == way[0]]
        apart = [name for name, value in settings.items() if any(other.get(name) != value for other in others)]
        found[way] = ", ".join(f"{name} {_said(settings[name])}" for name in apart)
    return found


def _said(value: object) -> str:
    return "by default" if value is None else str(value)


def _strategies(runs: Sequence[RunInfo]) -> dict[tuple[Way, str], list[RunInfo]]:
    """Return runs by strategy; those that learned from all cells belong to every pick of their way to learn."""
    found: dict[tuple[Way, str], list[RunInfo]] = {}
    for run in runs:
        found.setdefault((_way(run), run.config["pick"]), []).append(run)
    picks = {key: part for key, part in found.items() if key[1] != "all"}
    return {key: part + found.get((key[0], "all"), []) for key, part in picks.items()} or found


def _rows(part: _Part, runs: Sequence[RunInfo], found: dict[str, Floats]) -> list[BudgetRow]:
    groups: dict[tuple[Any, ...], list[RunInfo]] = {}
    for run in runs:
        about = run.config
        groups.setdefault((_way(run), about["pick"] == "all", about["pick"], about["budget"]), []).append(run)
    base, rows = float(part.first["iou"].mean()), []
    whole = {key[0]: np.mean([found[run.id].mean() for run in mine]) - base for key, mine in groups.items() if key[1]}
    for key in sorted(groups):
        mine = sorted(groups[key], key=lambda run: run.config["seed"])
        means, gain = [float(found[run.id].mean()) for run in mine], whole.get(key[0])
        iou = float(np.mean(means))
        rows.append(
            BudgetRow(
                prompt=part.prompt,
                method=key[0][0],
                variants=key[0][1],
                settings=part.settings[key[0]],
                pick=key[2],
                budget=key[3],
                frames=float(np.mean([run.config["frames_opened"] for run in mine])),
                iou=iou,
                iou_runs=tuple(means),
                over_zero=part.interval([found[run.id] for run in mine]),
                share=(iou - base) / float(gain) if gain is not None and gain > 0 else None,
                runs=tuple(run.id for run in mine),
            )
        )
    return rows


def _curves(part: _Part, runs: Sequence[RunInfo], found: dict[str, Floats]) -> list[BudgetCurve]:
    track = numbered([part.tracks.of[cell] for cell in part.first["cell"]])
    curves = []
    for (way, pick), mine in _strategies(runs).items():
        scores = Scores(
            budget=np.array([run.config["budget"] for run in mine]),
            seed=np.array([run.config["seed"] for run in mine]),
            sums=summed([found[run.id] for run in mine], track),
            counts=np.bincount(track).astype(float),
            zero=summed([part.first["iou"]], track)[0],
        )
        if (curve := fit(scores)) is not None:
            about: dict[str, Any] = {"prompt": part.prompt, "method": way[0], "variants": way[1], "pick": pick}
            curves.append(BudgetCurve(**about, curve=curve, settings=part.settings[way]))
    return curves


def _scores(store: Store, runs: Sequence[str], prompt: str) -> dict[str, dict[str, Any]]:
    """Return the columns of each run's rows, in one order for all runs."""
    every = catalog.query(store.path, _ROWS, {"runs": list(runs), "prompt": prompt})
    found = {}
    for run in runs:
        table = every.filter(pc.equal(every["run"], run))
        numbers = {name: table[name].to_numpy().astype(float) for name in ("iou", "free")}
        found[run] = numbers | {name: table[name].to_pylist() for name in ("cell", "frame", "naive")}
    return found


def _nothing(scores: dict[str, Any]) -> dict[str, Any]:
    """Return what methods without prompts are paired with: the same cells, none of them found."""
    return scores | {"iou": np.zeros(len(scores["cell"]))}


def _rule(prompt: str, first: dict[str, Any]) -> Rule:
    naive = None if first["naive"][0] is None else float(first["free"].mean())
    cells = len(set(first["cell"]))
    return Rule(prompt=prompt, zero_shot=float(first["iou"].mean()), naive=naive, cells=cells)


def method_name(one: BudgetRow | BudgetCurve) -> str:
    """Return what is trained, with how many variants, and the settings in which others of the table differ."""
    variants = f"{one.variants} variants" if one.variants else ""
    return ", ".join(filter(None, [one.method, variants, one.settings]))


def strategy_name(one: BudgetRow | BudgetCurve) -> str:
    """Return how a strategy is called: what is trained, and on which cells."""
    return f"{method_name(one)}, {one.pick}"


def sentence(curve: BudgetCurve) -> str:
    """Say in a sentence how many cells are enough, and what more of them add."""
    fitted, who = curve.curve, f"{curve.prompt}, {strategy_name(curve)}"
    gain = fitted.gain(fitted.largest)
    if fitted.reached is None:
        found = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) with {fitted.largest:,} cells"
        return f"{who}: no clear gain, {found}."
    more = fitted.more(fitted.reached)
    half = (more.high - more.low) / 2
    fewest = ", the fewest that were tried," if fitted.reached == fitted.smallest else ""
    given = f"IoU {gain.mean:.3f}" if curve.prompt == NO_PROMPT else f"{gain.mean:+.3f} over zero-shot"
    return (
        f"{who}: {fitted.reached:,} cells{fewest} reach 95 % of what {fitted.largest:,} give ({given}); "
        f"{MORE} more: {more.mean:+.3f} ± {half:.3f}."
    )


def budget_runs(store: Store) -> list[RunInfo]:
    """Return the runs of the latest studies of budgets: those scored on the cells of the last zero-shot run.

    Runs that do not say with which settings they were made are left out: an earlier version made them.
    """
    runs = [run for run in readable_runs(store.path, KIND) if run.config["base"] == store.key]
    runs = [run for run in runs if run.config["method"] == ZERO or "settings" in run.config]
    zeros = [run for run in runs if run.config["method"] == ZERO]
    if not zeros:
        return []
    last = max(zeros, key=lambda run: (run.created, run.id))
    same = ("cells", "seeds", "data", "split")
    alike = [run for run in runs if all(run.config[name] == last.config[name] for name in same)]
    alike = [run for run in alike if run.labels_version == last.labels_version]
    newest: dict[str, RunInfo] = {}
    for run in sorted(alike, key=lambda run: (run.created, run.id)):
        names = ("tuned_for", "method", "variants", "settings", "pick", "budget", "seed")
        newest[json.dumps([run.config.get(name) for name in names], sort_keys=True)] = run
    return [run for run in newest.values() if run.config["method"] != ZERO or run.id == last.id]
