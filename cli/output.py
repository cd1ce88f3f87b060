"""Results on stdout, progress and notes on stderr."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hela_store.base.plain import plain
from hela_store.base.text import UNSEEN, visible

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.sequences import SequenceScores
    from hela_store.evaluation.subsets import SubsetScore

T = TypeVar("T")
Cell = str | int | float | bool | None
TERMINAL_ROWS = 500
STORE_GIVEN = "hela_store.store"
"""Where a click context keeps the store as the user named it."""
FULL = "hela_store.full"
"""Where a click context keeps whether tables are printed with every column."""
NOTHING = "–"
_COMMANDS = re.compile(
    r"`hela-store ((?:(?:detect|baseline|export|import|catalog|augment|labels) )?(?!new|demo|doctor|pretrain|bench|pull"
    r"|detect|baseline|export|import|catalog|augment|labels)[a-z][a-z-]*)(?![^`]*(?: -s | --store | --generic))([^`]*)`"
)
UNTRAINED = (
    "note: the encoder is UNTRAINED (nano with random weights of a fixed seed): "
    "scores show that everything works, not what SAM can do"
)


class _Terminal(io.TextIOWrapper):
    """A stream on which characters that a terminal would obey are made visible, and the one ``beneath`` it."""

    beneath: io.TextIOWrapper

    def write(self, text: str) -> int:
        """Write text, made visible."""
        wipe_starting()
        super().write(visible(text))
        return len(text)


STARTING = "starting ..."
_shown: list[io.TextIOWrapper] = []
"""The terminal on which :data:`STARTING` is shown; empty if it is not."""


def show_starting() -> None:
    """Show on a terminal that the command runs, until it prints something: PyTorch takes seconds to load."""
    if isinstance(sys.stderr, _Terminal) and sys.stderr.isatty():
        _shown.append(sys.stderr.beneath)
        print(STARTING, end="\r", file=_shown[0], flush=True)


def wipe_starting() -> None:
    """Take :data:`STARTING` off the terminal."""
    while _shown:
        print(" " * len(STARTING), end="\r", file=_shown.pop(), flush=True)


def guard_terminal() -> None:
    """Keep what names and values hold from being obeyed by the terminal, whoever prints it, and from failing.

    Results that go into a file or a pipe are left as they are; errors and notes are for people wherever they go.
    """
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _Terminal):
            stream.reconfigure(errors="backslashreplace")
            if name == "stderr" or stream.isatty():
                about = {"encoding": stream.encoding, "errors": "backslashreplace"}
                guarded = _Terminal(stream.buffer, **about, line_buffering=True, write_through=True)
                guarded.beneath = stream
                setattr(sys, name, guarded)


_underway: list[str] = []
"""Bars that are on their way, the outermost first."""


def bars(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Show a progress bar on stderr; a :class:`hela_store.base.progress.Progress`."""
    from tqdm import tqdm

    if not total:
        yield from iterable
        return
    wipe_starting()
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 10
    # a log file gets a line now and then, not ten a second; a bar moves the cursor, which sys.stderr would make visible
    shown = tqdm(
        iterable,
        total=total,
        desc=visible(what),
        file=sys.stderr.beneath if isinstance(sys.stderr, _Terminal) else sys.stderr,
        mininterval=every,
        dynamic_ncols=terminal,
        leave=None,  # a bar inside another one vanishes when it is full
        delay=every if _underway else 0,  # and is not worth showing before it has taken a while
    )
    _underway.append(what)
    try:
        yield from shown
    finally:
        _underway.remove(what)


def with_store(text: str) -> str:
    """Return a message whose commands carry the store that the user gave."""
    context = click.get_current_context(silent=True)
    store = None if context is None else context.meta.get(STORE_GIVEN)
    if not store:
        return text
    return _COMMANDS.sub(lambda found: f"`hela-store {found[1]} -s {shlex.quote(store)}{found[2]}`", text)


def note(text: str) -> None:
    """Say something beside the result."""
    click.echo(visible(with_store(text)), err=True)


def note_untrained(store: Store) -> None:
    """Say that the store's encoder has learnt nothing, where that is so."""
    if not store.is_trained:
        note(UNTRAINED)


def note_in_domain(store: Store) -> None:
    """Say that the store's encoder was trained on its data set, where that is known."""
    from hela_store.sam.registry import in_domain

    if seen := in_domain(store.recipe):
        note(f"note: {seen}")


def note_informed(store: Store) -> None:
    """Say what of the store's encoder was chosen beside its data set, which zero-shot scores gain from."""
    from hela_store.sam.informed import informed_by

    if told := informed_by(store.recipe.encoder.architecture, store.recipe.dataset.path):
        note(f"note: zero-shot: {told}")


def note_reused(run: str) -> None:
    """Say that a run was finished before it was asked for."""
    note(f"note: run {run} has done just this before, so nothing was done again; --fresh makes another run")


def note_pending(run: str, why: str) -> None:
    """Say that the catalog has to be read later for what comes from it."""
    note(f"note: run {run} is complete; indexing is pending, so scores of hard cells are left out here ({why})")


def echo_json(value: Any) -> None:
    """Print a result as JSON."""
    click.echo(_json(value, indent=2))


def echo_row(row: Mapping[str, Any], as_json: bool = False) -> None:
    """Print one line of a log at once: as JSON, or its numbers by name, those of its parts too."""
    if as_json:
        click.echo(_json(row))
        return
    parts = []
    for name, value in row.items():
        inner = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
        parts += [f"{key} {_text(v)}" for key, v in inner.items() if not isinstance(v, Mapping | list)]
    click.echo("  ".join(parts))


WIDTH = 80
"""Characters that a line for people has at most, unless one of its words is longer."""


def folded(text: str, width: int = WIDTH) -> list[str]:
    """Return a text for people in lines; a name or a path that is longer than a line stays whole."""
    return textwrap.wrap(visible(text), width, break_long_words=False, break_on_hyphens=False) or [""]


def say(text: str) -> None:
    """Print a text for people in lines of 80 characters; a command at its end stays whole, so that it can be copied."""
    words, found, command = text.partition(": hela-store ")
    split = found and len(text) > WIDTH
    click.echo("\n".join([*folded(f"{words}:"), f"hela-store {command}"] if split else folded(text)))


def echo_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print lines of (what, value), the values aligned; a long value goes on below its beginning."""
    indent = max(len(what) for what, _ in facts) + 2
    for what, value in facts:
        first, *rest = folded(with_store(value), WIDTH - indent)
        click.echo("\n".join([f"{what:<{indent}}{first}".rstrip(), *(" " * indent + line for line in rest)]))


FACTS = {
    "f1": "F1",
    "f1 70": "F1 at IoU 0.7",
    "f1_70": "F1 at IoU 0.7",
    "ap50": "AP at IoU 0.5",
    "false": "found where no cell is",
    "missed": "cells missed",
    "recall before": "recall without --recover",
    "done before": "already segmented",
    "empty": "frames without cells",
    "mean iou": "mean IoU",
    "mean dice": "mean Dice",
    "mean iou found": "mean IoU of the cells found",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "msa": "mSA",
}
"""How facts are called that have another name in JSON."""


def named_facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return values as lines of (what, value), named for people; what is None is left out."""
    names = {name: name.replace("_", " ") for name in values}
    return [(FACTS.get(names[key], names[key]), _text(value)) for key, value in values.items() if value is not None]


def echo_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: drawn on a terminal (the first 500 rows), plain and aligned elsewhere."""
    names = [visible(name) for name in columns]
    numeric = [all(isinstance(row[i], int | float | Decimal | None) for row in rows) for i in range(len(columns))]
    if not sys.stdout.isatty():
        _echo_plain(names, [[_text(value) for value in row] for row in rows], numeric)
        return
    _echo_drawn(
        [visible(name) for name in columns], [[_text(value) for value in row] for row in rows[:TERMINAL_ROWS]], numeric
    )
    if len(rows) > TERMINAL_ROWS:
        note(f"{len(rows) - TERMINAL_ROWS} more rows; --csv, --json or --parquet has them all")


def _echo_drawn(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    """Draw a table; the widest columns are folded until it fits the terminal."""
    lines = [[cell.splitlines() or [""] for cell in row] for row in (columns, *rows)]
    widths = [max(len(line) for cell in column for line in cell) or 1 for column in zip(*lines, strict=True)]
    most = shutil.get_terminal_size().columns
    while sum(widths) + 3 * len(widths) + 1 > most and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1

    def rule(left: str, middle: str, right: str, dash: str) -> None:
        click.echo(left + middle.join(dash * (width + 2) for width in widths) + right)

    rule("┏", "┳", "┓", "━")
    for number, row in enumerate(lines):
        parts = [
            [piece for line in cell for piece in textwrap.wrap(line, width) or [""]]
            for cell, width in zip(row, widths, strict=True)
        ]
        bar = "│" if number else "┃"
        for pieces in zip_longest(*parts, fillvalue=""):
            click.echo(f"{bar} {f' {bar} '.join(_aligned(pieces, widths, numeric))} {bar}")
        if not number:
            rule("┡", "╇", "┩", "━")
    rule("└", "┴", "┘", "─")


def _echo_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        click.echo("  ".join(_aligned(row, widths, numeric)).rstrip())


def _aligned(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    return [f"{v:>{w}}" if right else f"{v:<{w}}" for v, w, right in zip(cells, widths, numeric, strict=True)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return NOTHING
        return f"{value:.3f}" if 0.01 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    if isinstance(value, list | tuple | Mapping):
        return _json(value)
    return visible(str(value))


def _json(value: Any, indent: int | None = None) -> str:
    """Return JSON text; what a terminal would obey is escaped as JSON does it, so that it stays the same value."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def is_full() -> bool:
    """Return whether the user asked for every column."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(FULL))


SHORT = {
    "n": "n",
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "image_free_iou": "naive guess",
    "skill": "skill",
    "empty": "empty",
    "mean_hd95": "HD95, px",
}
"""Columns of scores that fit 80 characters, with their headings."""


LEAST = ("mean_hd95", "mean_dice", "image_free_iou")
"""Columns that are left out where a table would be wider than 80 characters, the first one first."""


def _echo_short(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    keys = [key for key in SHORT if any(row.get(key) is not None for _, row in rows)]
    dropped = iter(LEAST)
    while True:
        names = [title, *(SHORT[key] for key in keys)]
        printed = [[name, *(_short(key, row) for key in keys)] for name, row in rows]
        width = sum(max(map(len, column)) + 2 for column in zip(names, *printed, strict=True)) - 2
        if width <= WIDTH or (least := next(dropped, None)) is None:
            break
        keys = [key for key in keys if key != least]
    _echo_plain(names, printed, [False, *(True for _ in keys)])
    if any(NOTHING in row for row in printed):
        click.echo(f"{NOTHING}: there is no such value")


def _short(key: str, row: Mapping[str, Any]) -> str:
    value = row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if key == "empty":
        return f"{round(value * row['n'])} of {row['n']}"
    return str(value) if key == "n" else f"{value:.3f}"


def echo_scores(title: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Print score rows; ``title`` heads their names. With ``--full`` all columns, else those that fit 80 characters."""
    rows = list(rows)
    if not is_full():
        _echo_short(title, rows)
        return
    names = {
        "n": "n",
        "mean_iou": "mean IoU",
        "mean_dice": "mean Dice",
        "empty": "empty",
        "image_free_iou": "naive guess",
        "ellipse_iou": "mask's ellipse",
        "skill": "skill",
        "prompt_iou": "prompt's IoU",
        "made_worse": "made worse",
        "oracle_iou": "oracle IoU",
        "mean_boundary_iou": "boundary IoU",
        "mean_nsd1": "NSD 1 px",
        "mean_nsd2": "NSD 2 px",
        "mean_spill": "spill",
        "mean_hd95": "HD95, px",
        "median_hd95": "median",
        "mean_hd95_found": "without empty",
        "n_found": "n found",
        "mean_hd95_worst": "HD95, empty as the view",
        "frames_median": "frames: median IoU",
        "frames_low": "quartile",
        "frames_high": "to",
    }
    found = [(name, _flat_frames(row)) for name, row in rows]
    keys = [key for key in names if any(row.get(key) is not None for _, row in found)]
    echo_table([title, *(names[key] for key in keys)], [[name, *(row.get(key) for key in keys)] for name, row in found])


def _flat_frames(row: Mapping[str, Any]) -> dict[str, Any]:
    frames = row.get("frames") or {}
    names = {"frames_median": "median", "frames_low": "low_quartile", "frames_high": "high_quartile"}
    return dict(row) | {name: frames.get(of) for name, of in names.items()}


def echo_subsets(subsets: Mapping[str, Mapping[str, SubsetScore]]) -> None:
    """Print the means over hard cells, by prompt kind and subset."""
    rows = [
        (f"{kind}, {name.replace('bright-small', 'bright and small')}", vars(score))
        for kind, part in subsets.items()
        for name, score in part.items()
    ]
    if rows:
        echo_scores("hard cells (exploratory)", rows)


def echo_sequences(scores: SequenceScores) -> None:
    """Print SEG, DET and count errors by sequence."""
    if scores.truth:
        click.echo(f"against the {scores.truth}")
    names = ["sequence", "frames", "cells", f"SEG{scores.suffix}", f"DET{scores.suffix}", "mean |count error|"]
    rows = [[s.sequence, s.frames, s.cells, s.seg, s.det, s.mean_count_error] for s in scores.sequences]
    echo_table(names, rows)


def relative(path: Path) -> str:
    """Return a path as short as the user would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
