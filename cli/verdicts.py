"""Plain verdicts: what a result means, in sentences, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted, percent
from hela_store.evaluation.config import PARTS
from hela_store.prompts.kinds import kinds_trained

from .options import typed
from .output import say

if TYPE_CHECKING:
    from hela_store import AuditResult, EmbedReport, EvaluateResult, FinetuneResult, MendReport, Store
    from hela_store.detection.evaluate import DetectionReport
    from hela_store.evaluation.compare import Difference
    from hela_store.evaluation.other_labels import TruthScore
    from hela_store.evaluation.slices import Slices
    from hela_store.segmentation.calibration import Calibration
    from hela_store.segmentation.scores import DetectedResult
    from hela_store.workflows.new import NewReport

ZERO_SHOT = """
    SELECT run FROM cell_metrics WHERE kind = 'evaluate' AND checkpoint = 'zero-shot' AND split = '{split}'
    AND prompt = '{prompt}' AND labels_version = (SELECT labels_version FROM runs WHERE id = '{run}')
    ORDER BY run DESC LIMIT 1
"""
MERGED = """
    SELECT prompt, count(DISTINCT cell), min(cell) FROM cell_metrics WHERE run = '{run}' AND failure = 'merged'
    GROUP BY prompt ORDER BY prompt
"""
SUBSETS = {"bright-small": "bright and small cells (often dividing)", "touching": "touching cells", "dim": "dim cells"}


def subset_name(name: str) -> str:
    """Return how a subset of cells is called in a sentence."""
    return SUBSETS.get(name, name)


def interval(mean: float, low: float, high: float, before: float | None = None) -> str:
    """Return a change with its interval, such as ``+0.032, 95 % 0.028 to 0.036``.

    With ``before``, the score that changed, an interval that reaches beyond 0 and 1 is not printed but described.
    """
    if math.isnan(low) or math.isnan(high):
        return f"{mean:+.3f}, without an interval"
    if before is not None and not 0 <= before + low <= before + high <= 1:
        return f"{mean:+.3f}; the 95 % interval reaches beyond possible scores"
    return f"{mean:+.3f}, 95 % {low:+.3f} to {high:+.3f}"


def helped(word: str, mean: float) -> str:
    """Return a verb for a verdict's word, such as *better*."""
    verbs = {"better": "helped", "worse": "made masks worse", "equivalent": "kept the mean within 0.005"}
    return verbs.get(word, "raised the mean" if mean > 0 else "lowered the mean" if mean < 0 else "changed nothing")


def next_step(words: str) -> None:
    """Print the command to type next."""
    click.echo(f"Next: {typed(words)}")


def new_store(encoder: str, checkpoint: str) -> None:
    """Print how a store is made with a checkpoint file."""
    click.echo(f"Next: hela-store new NAME --dataset DIR --encoder {encoder} --checkpoint {shlex.quote(checkpoint)}")


def evaluation(store: Store, result: EvaluateResult) -> None:
    """Print what an evaluation means: the change over zero-shot where that was scored, and which cells are hard."""
    from hela_store.evaluation.reads import labels_apart

    if apart := labels_apart(store, result.run):
        say(f"{apart}.")
    if result.checkpoint != "zero-shot":
        for line in _changes(store, result):
            say(line)
        if result.split == "val" and _chose_on_validation(store, result.checkpoint):
            say("Validation cells also chose the training step, so these scores may be slightly too high.")
    means = {
        (kind, name): score.mean_iou for kind, part in result.subsets.items() for name, score in part.items() if score.n
    }
    if means:
        kind, name = min(means, key=lambda key: means[key])
        say(f"Hardest: {subset_name(name)} with {kind}, IoU {means[kind, name]:.3f}.")
    if any((score.failures or {}).get("merged") for score in result.prompts.values()):
        merged(store, result.run)
    for kind, score in result.prompts.items():
        if score.made_worse is not None:
            say(f"With {kind}, {percent(score.made_worse)} of the masks became worse than the prompt.")
        if score.mean_iou < (score.image_free_iou or 0.0):
            say(f"With {kind}, the naive guess without the image is better: {score.image_free_iou:.3f}.")
    next_step(_after(store, result) if result.checkpoint == "zero-shot" else _to_masks(store))


def merged(store: Store, run: str) -> None:
    """Name a cell of every prompt whose mask also covers a neighbour, and the query that lists all of them."""
    from hela_store.errors import HelaError

    try:
        rows = store.sql(MERGED.format(run=run)).fetchall()
    except HelaError:  # a catalog that cannot be read now is said elsewhere
        return
    for kind, cells, first in rows:
        say(f"Merged with a neighbour, {kind}: {counted(cells, 'cell')}, such as {first}.")
    if rows:
        query = f"SELECT DISTINCT cell FROM cell_metrics WHERE run = '{run}' AND failure = 'merged'"
        command = typed(f'sql "{query}"')
        say(f"To list them: {command}")


def baseline(store: Store, split: str) -> None:
    """Print what follows a baseline: a score of the decoder on the same frames, or a table of both."""
    from hela_store.runs.finished import readable_runs

    scored = any(run.config.get("split") == split for run in readable_runs(store.path, "evaluate"))
    next_step("report" if scored else f"evaluate --split {split}")


def _to_masks(store: Store) -> str:
    """Return what follows a score on the way to masks of new frames: a detector, or a report if there is one."""
    from hela_store.runs.folder import has_run

    return "report" if has_run(store.path, "detector") else "detect train"


def _chose_on_validation(store: Store, checkpoint: str) -> bool:
    """Whether validation chose the step of a fine-tuning; not for a decoder from elsewhere or a budget of cells."""
    from hela_store.runs.folder import load_run

    config = load_run(store.path, checkpoint).config
    return not config.get("own") and "val" in config.get("frames", {})


def _after(store: Store, result: EvaluateResult) -> str:
    """Return what follows a zero-shot score: fine-tuning, or the same score of the default run where there is one."""
    from hela_store.errors import HelaError
    from hela_store.runs.default import default_run

    try:
        tuned = default_run(store.path, store.key)
    except HelaError:  # a damaged run says so where it is needed
        tuned = None
    if tuned is None:
        return "finetune"
    return f"evaluate --prompt {' '.join(result.prompts)} --split {result.split}"


def _changes(store: Store, result: EvaluateResult) -> Iterator[str]:
    from hela_store.errors import HelaError
    from hela_store.evaluation.compare import compare

    missing = []
    for kind in result.prompts:
        try:
            found = store.sql(ZERO_SHOT.format(split=result.split, prompt=kind, run=result.run)).fetchall()
            rows = compare(store, (found[0][0], result.run)).rows if found else ()
        except HelaError as error:
            yield f"The change over zero-shot cannot be said: {error}"
            return
        whole = [row for row in rows if row.prompt == kind and not row.is_exploratory]
        if whole:
            yield _change(whole[0])
        else:
            missing.append(kind)
    if missing:
        kinds = " ".join(f"--prompt {kind}" for kind in missing)
        command = typed(f"evaluate --zero-shot --split {result.split} {kinds}")
        yield f"To see what fine-tuning changed, score the decoder before it: {command}"


def _change(row: Difference) -> str:
    ends = interval(row.mean, row.per_cell.low, row.per_cell.high, None if row.word else row.mean_a)
    few = "The scored frames are too few to say whether this is real."
    few = few if math.isnan(row.per_cell.low) else "Too few frames or seeds for a verdict."
    unsure = "" if row.word else f" {few}"
    verb = helped(row.word, row.mean)
    return f"Fine-tuning {verb} with {row.prompt}: IoU {row.mean_a:.3f} -> {row.mean_b:.3f} ({ends}).{unsure}"


ONE_TRAINING = "A verdict is about this training; with another training seed it may differ."


def _no_verdict(result: FinetuneResult) -> str:
    if result.budget:
        return "That is a mean and no verdict: the same cells chose the training step and judged it."
    return f"With {counted(result.frames, 'validation frame')} that is a mean, and no verdict."


def fine_tuning(result: FinetuneResult) -> None:
    """Print whether a fine-tuning helped on validation, and what to do next."""
    zero, tuned = result.zero_shot.mean_iou, result.tuned.mean_iou
    ends = interval(result.mean_change, result.low, result.high, None if result.verdict else zero)
    if result.best_step == 0:
        say("Fine-tuning changed nothing; try a higher --lr or more --steps.")
    elif math.isnan(result.low) or result.frames == 1:
        judged = "one validation frame" if result.frames == 1 else f"{result.frames} validation frames"
        say(f"{result.mean_change:+.3f} IoU, judged on {judged}; that is too few to say whether this is real.")
    else:
        verb = helped(result.verdict, result.mean_change)
        say(f"Fine-tuning {verb} on validation: IoU {zero:.3f} -> {tuned:.3f} ({ends}).")
        say(ONE_TRAINING if result.verdict else _no_verdict(result))
    if tuned < (result.tuned.image_free_iou or 0.0):
        free = f"{result.tuned.image_free_iou:.3f}"
        say(
            f"It does not beat the naive guess without the image ({free}). Try more --steps, a higher --lr, "
            "augmented variants (new --variants 8), or an encoder that knows such cells (new --encoder vit_b)."
        )
    if result.adapts_encoder:
        next_step(f"embed --adapter {result.run}")
    elif not result.accepted:
        next_step(f"finetune --prompt {result.prompt} --lr 1e-3")
    else:
        next_step(f"evaluate --run {result.run} --prompt {scored(result.prompt)} --split val")


def scored(prompt: str) -> str:
    """Return the prompt to score a fine-tuning with; a decoder for several kinds is scored with boxes first."""
    return kinds_trained(prompt)[0]


LOW_F1 = 0.5
"""F1 below which a detector misses so much, or invents so much, that its masks are of little use."""


def detector(f1: float) -> None:
    """Print what to try where a trained detector finds few cells or many things that are none."""
    if f1 < LOW_F1:
        say(
            f"Advice: with F1 {f1:.3f} it misses many cells or takes other things for cells. "
            "Before you use it, try --start generic, more --steps, or more labelled frames."
        )


def calibration(run: str, found: Calibration) -> None:
    """Print what a calibration was fitted on, and which cells will be flagged."""
    from hela_store.segmentation.calibration import FAILURE

    wrong = f"{found.failures} of {counted(found.cells, 'cell')} that the detector found have a wrong mask"
    say(f"run {run}")
    say(f"On the validation frames {wrong} (IoU below {FAILURE:g}).")
    say(f"`segment` will flag cells whose mask is right with a probability below {found.review_below:.4f}.")
    next_step("segment FRAMES")


def detection(store: Store, report: DetectionReport) -> None:
    """Print what a detector finds, and what to do next."""
    from hela_store.detection.detect import threshold_of
    from hela_store.runs.folder import load_run

    at = next(iter(report.boxes.values()))
    say(
        f"Of {report.cells} cells {percent(at['recall'])} are found; "
        f"{percent(at['precision'])} of the detections are cells."
    )
    detector = load_run(store.path, report.run).config["checkpoint"]
    if report.split == "val" and detector and threshold_of(load_run(store.path, detector)) == report.threshold:
        say("The threshold was chosen on these frames, so this may be slightly too high.")
    found = {name: part["recall"] for name, part in report.recall_by.items() if part["n"]}
    if found:
        hard = min(found, key=lambda name: found[name] or 0.0)
        say(f"Hardest: {subset_name(hard)}, of which {percent(found[hard])} are found.")
    next_step(f"evaluate --prompt detected --split {report.split}")


def detected(result: DetectedResult) -> None:
    """Print how many cells have a mask without any prompt, how good these are, and what to do next."""
    say(
        f"Without a prompt {percent(result.recall)} of {counted(result.cells, 'cell')} have a mask of IoU 0.5 or more, "
        f"and {percent(result.precision)} of the masks are such cells. The mean IoU is {result.mean_iou:.3f}; a missed "
        "cell counts 0."
    )
    found = {name: part.mean_iou for name, part in result.subsets.items() if part.n}
    if found:
        hard = min(found, key=lambda name: found[name])
        say(f"Hardest: {subset_name(hard)}, IoU {found[hard]:.3f}.")
    next_step("report")


def embedding(report: EmbedReport, dry_run: bool) -> None:
    """Print whether every view is embedded, and what to do next."""
    if dry_run and report.left:
        next_step("embed")
    elif report.left:
        say(f"{counted(report.left, 'view')} left.")
        next_step("embed")
    else:
        say("Every view is embedded." if not report.adapter else "Every view is embedded with the adapted encoder.")
        next_step("evaluate --run latest --split val" if report.adapter else "finetune")


def segmentation(report: Mapping[str, Any], out: str, *, has_store: bool) -> None:
    """Print what was segmented, where it is, and what to do next."""
    what = f"{counted(report['cells'], 'cell')} in {counted(report['frames'], 'frame')}"
    folders = [path.name for path in Path(out).glob("*_RES")]
    masks = folders[0] if len(folders) == 1 else "<sequence>_RES"
    say(
        f"{what}. Label images and pictures with outlines are in {out}/{masks}, and one row per cell is in "
        f"{out}/cells.csv."
    )
    if has_store:
        next_step("report")
    else:
        click.echo("To fine-tune on your own labels: hela-store new NAME --dataset DIR")


def mending(report: MendReport, out: str) -> None:
    """Print what became of the masks, where they are, and what to do next."""
    actions, gate = report.actions, report.gate
    mended = sum(actions.get(name, 0) for name in ("mended", "split", "merged"))
    say(f"{mended} of {report.masks} masks were changed, the others are as they were. Label images are in {out}.")
    say(
        f"On {gate['judged']} validation masks the mean IoU goes from {gate['before']:.3f} to {gate['after']:.3f}, and "
        f"{percent(gate['worse'])} become worse by more than 0.02."
    )
    if report.proposals and not {"split", "merged"} & set(actions):
        counts = " and ".join(f"{n} {name}{'s' if n != 1 else ''}" for name, n in sorted(report.proposals.items()))
        say(f"Proposed are {counts}; --split-merge applies them.")
    next_step(f"report {report.run}")


def machine(problems: int) -> None:
    """Print whether this machine will do, and what to do next."""
    if problems:
        say(f"{problems} {'problem has' if problems == 1 else 'problems have'} to be solved first; see above.")
        click.echo("Next: hela-store doctor")
    else:
        say("Everything that was checked works.")
        click.echo("Next: hela-store demo")


def faster(proposed: str, chosen: str) -> Iterator[str]:
    """Yield which precision to choose for a new store, where this machine computes faster in another than float32.

    Parameters
    ----------
    proposed : for this machine
    chosen : of a store that nothing is embedded in yet
    """
    if proposed != "float32" == chosen:
        yield f"Advice: the GPU of this machine computes several times as fast in {proposed} as in float32."
        yield f'Make stores with --precision {proposed}, or set precision = "{proposed}" in store.toml before `embed`.'


def other_labels(scores: Sequence[TruthScore], truth: str) -> None:
    """Print how close runs come to other labels, beside the store's own labels."""
    for row in scores:
        ends = interval(row.over_labels.mean, row.over_labels.low, row.over_labels.high)
        say(
            f"{row.run} with {row.prompt}: IoU {row.iou:.3f} against the {truth}. The store's labels have "
            f"{row.between_iou:.3f} there; the difference is {ends}."
        )
    next_step("report " + " ".join(dict.fromkeys(row.run for row in scores)))


def slices(found: Slices) -> None:
    """Print on which parts of the cells a run is worse than its mean, and how to see them."""
    worse = found.worse()
    for row in worse:
        ends = interval(row.change.mean, row.low, row.high)
        say(f"Worse with {row.prompt}: {PARTS.get(row.part, row.part)}, {row.mean:.3f} ({ends}).")
    if not worse and not any(row.word for row in found.rows):
        say("There are too few frames to say whether a group of cells is worse than the mean.")
    elif not worse:
        say("No group of cells is shown to be worse than the mean, beyond chance and 0.005 IoU.")
    next_step(f"report {found.run}")


def audit(found: AuditResult) -> None:
    """Print how many labels are likely faulty, how well injected faults were found, and how to look at the suspects."""
    if found.recall:
        few, many = found.flagged
        at = found.recall[0].at
        say(
            f"Of {found.recall[0].n} injected faults, {percent(at[0], 0)} were among the first {percent(few, 0)} of "
            f"the labels and {percent(at[1], 0)} among the first {percent(many, 0)}, were 2 % of all labels faulty."
        )
    total = found.labels + found.places
    say(f"{found.likely} of {total} labels and places without one are more likely faulty than not.")
    next_step("explore")


LARGE = 7
"""Embedding positions that a cell may span before nano becomes worse than an ellipse: DIC cells span 14, nuclei 3."""


def advice(report: NewReport) -> Iterator[str]:
    """Yield what a new store needs to be told before an hour of work."""
    recipe, summary = report.store.recipe, report.summary
    spans = report.positions(recipe.views.tile)
    if recipe.encoder.architecture == "nano" and spans is not None and spans > LARGE:
        size = f"{summary.diameter:.0f} px, {spans:.0f} embedding positions"
        yield f"Advice: nano is poor on cells as large as these ({size})."
        yield "Add --variants 8, or use a checkpoint: --encoder vit_b --checkpoint FILE."
    if summary.labelled and report.blocks.get("val", 0) == 1:
        yield "Advice: one validation frame is too few to say whether fine-tuning helps."
        yield "Label more frames, or change train, val and test in store.toml before `hela-store embed`."
    if not summary.labelled:
        yield "Advice: no frame has labels, so nothing can be fine-tuned or scored; teach labels them after embed."
        yield "Masks need no labels: hela-store segment FRAMES --generic"
    lacking = [name for name in ("train", "val", "test") if not report.blocks.get(name, 0)]
    if summary.labelled and lacking:
        yield f"Advice: no frame is in {' or '.join(lacking)}, so not every command can work."
        yield "Change train, val and test in store.toml before `hela-store embed`."
