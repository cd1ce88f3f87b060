"""Options and settings that commands share: which store, how results are printed, where checkpoints are kept."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hela_store.errors import StoreError
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.segmentation.config import FORMS, DetectedConfig
from hela_store.training.config import FinetuneConfig

from .help import RUN
from .output import FULL, STORE_GIVEN, note

if TYPE_CHECKING:
    from hela_store import Store

FRAMES = "hela_store.frames"
"""Where a command's context keeps the folder of frames that was given in place of a store."""
F = TypeVar("F", bound=Callable[..., Any])
STORES = "stores"
LABELS_VERSION = "hela_store.labels_version"
"""Where a command's context keeps which version of the labels was asked for."""
LATEST = "latest"
NEAREST = "the store in this folder or a folder above it, else the only one in ./stores"
GENERIC = "hela_store.generic"
"""Where a command's context keeps whether ``--generic`` was given."""


def find_store(where: str | None, folder: Path) -> Path:
    """Return the folder of the store that is meant.

    Parameters
    ----------
    where : str or None
        A path, or a name under ``stores``; None looks for the nearest ``store.toml`` upward, then for the only store
        under ``stores``.
    folder : Path
        Where the command runs.

    Raises
    ------
    StoreError
        There is no such store, or several and none is named.
    """
    have = {path.parent.name: path.parent for path in sorted((folder / STORES).glob(f"*/{RECIPE_FILE}"))}
    listed = f"; there are: {', '.join(have)}" if have else "; make one with `hela-store new`"
    if where is not None:
        path = folder / Path(where).expanduser()
        path = path.parent if path.name == RECIPE_FILE else path
        if (path / RECIPE_FILE).is_file():
            return path
        if where in have:
            return have[where]
        raise StoreError(f"no store {where!r}, neither a folder with {RECIPE_FILE} nor a name under ./{STORES}{listed}")
    for parent in (folder, *folder.parents):
        if (parent / RECIPE_FILE).is_file():
            return parent
    if len(have) == 1:
        return next(iter(have.values()))
    found = "several stores" if have else "no store"
    raise StoreError(f"{found} under {folder / STORES}{listed}" + ("; choose one with --store NAME" if have else ""))


def new_folder(name: str, folder: Path) -> Path:
    """Return where a new store goes: a name under ``stores``, a path where it has a slash."""
    path = Path(name).expanduser()
    return folder / path if "/" in name or path.is_absolute() else folder / STORES / name


def cache_dir() -> Path:
    """Return where official checkpoints are kept."""
    import pooch

    return Path(pooch.os_cache("hela-store"))


def note_scorings(store: Store, scored_again: Sequence[str] = (), show: Callable[[str], None] | None = None) -> None:
    """Write scorings of test into the user's file; say what is missing there, and give ``show`` the count."""
    from hela_store.evaluation.scorings import count_scorings

    found = count_scorings(store, cache_dir() / "test_scorings.jsonl", scored_again)
    for line in found.notes():
        note(f"note: {line}")
    if show is not None:
        show(str(found))


def typed(words: str) -> str:
    """Return a command as the user would type it next, with the store that was given."""
    context = click.get_current_context(silent=True)
    store = None if context is None else context.meta.get(STORE_GIVEN)
    return f"hela-store {words}" + (f" -s {shlex.quote(store)}" if store else "")


def full_option(command: F) -> F:
    """Give a command ``--full``, which prints every column of its tables."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[FULL] = value

    text = "Print every column, even if lines become longer than 80 characters."
    return click.option("--full", is_flag=True, expose_value=False, callback=remember, help=text)(command)


class LabelsVersion(click.ParamType[int | str]):
    """A version of the labels: a number from 0, or ``latest``."""

    name = "labels version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or ``"latest"``."""
        if value == LATEST or isinstance(value, int):
            return cast(int | str, value)
        if not (value.isascii() and value.isdecimal()):
            self.fail(f"{value!r} is no version of the labels; expected a number from 0, or latest", param, ctx)
        return int(value)


def version_number(value: int | str) -> int | None:
    """Return a version of the labels as the library takes it: None is the latest."""
    return value if isinstance(value, int) else None


def labels_version_option(command: F) -> F:
    """Give a command ``--labels-version``: which version of the labels its store reads."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: int | str | None) -> None:
        ctx.meta[LABELS_VERSION] = None if value is None else version_number(value)

    text = "Read this version of the labels; 0: as first read by `embed`. `labels log` lists all. [default: latest]"
    return click.option(
        "--labels-version",
        type=LabelsVersion(),
        metavar="N|latest",
        is_eager=True,
        expose_value=False,
        callback=remember,
        help=text,
    )(command)


def _open(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Store:
    import hela_store as hs

    if value is not None:
        ctx.meta[STORE_GIVEN] = value

    store = hs.Store.open(find_store(value, Path.cwd()))
    version = ctx.meta.get(LABELS_VERSION)
    if version is not None:
        store = store.at_labels(version)
    if LABELS_VERSION in ctx.meta and store.labels_version:
        note(f"note: version {store.labels_version} of the labels")
    return store


def _keep_generic(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[GENERIC] = value


def _open_unless_generic(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Store | None:
    if ctx.meta[GENERIC]:
        if value is not None:
            raise click.UsageError("--generic works without a store; leave out --store (and HELA_STORE), or --generic")
        return None
    folder = Path.cwd()
    nearest = any((parent / RECIPE_FILE).is_file() for parent in (folder, *folder.parents))
    if value is None and not nearest and not any((folder / STORES).glob(f"*/{RECIPE_FILE}")):
        raise StoreError(
            f"no store under {folder / STORES}; name one with --store, or add --generic to segment with the encoder, "
            "detector and decoder that ship with hela-store"
        )
    return _open(ctx, parameter, value)


def _store_option(callback: Callable[..., Any], default: str) -> Callable[[F], F]:
    return click.option(
        "--store",
        "-s",
        "store",
        envvar="HELA_STORE",
        show_envvar=True,
        metavar="NAME|PATH",
        callback=callback,
        help=f"Use this store: its folder, or its name under ./stores. [default: {default}]",
    )


def store_option(command: F) -> F:
    """Give a command ``--store``; it gets the opened store."""
    return _store_option(_open, NEAREST)(command)


def store_or_frames(command: F) -> F:
    """Give a command an argument FRAMES and ``--store``; it gets the opened store, or None where frames are given."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        ctx.meta[FRAMES] = value
        return value

    def open_unless_frames(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Store | None:
        if ctx.meta[FRAMES] is None:
            return _open(ctx, parameter, value)
        if value is not None:
            raise click.UsageError("FRAMES make a store of their own; leave out FRAMES, or --store (and HELA_STORE)")
        return None

    path = click.Path(path_type=Path, exists=True)
    argument = click.argument("frames", required=False, type=path, is_eager=True, callback=keep, metavar="[FRAMES]")
    return argument(_store_option(open_unless_frames, NEAREST)(command))


def store_or_generic_option(command: F) -> F:
    """Give a command ``--store`` and ``--generic``; it gets the opened store, or None with ``--generic``."""
    help_text = "Work without a store, labels or training: with the encoder, detector and decoder that are shipped."
    eager: dict[str, Any] = {"is_eager": True, "expose_value": False, "callback": _keep_generic}
    generic = click.option("--generic", is_flag=True, help=help_text, **eager)
    return _store_option(_open_unless_generic, NEAREST)(generic(command))


def default_checkpoint(store: Store, prompt: str | None = None) -> str | None:
    """Return the id of the store's default run for a prompt, None for the zero-shot decoder, and say which it is."""
    from hela_store.runs.default import default_run

    run = default_run(store.path, store.key, prompt)
    found = "using the zero-shot decoder: there is no default run yet"
    which = f"the default run for {prompt}" if prompt else "the default run"
    note(found if run is None else f"using {which}, {run.id}, fine-tuned for {', '.join(run.prompts)}")
    return None if run is None else run.id


def variant_options(cut_help: str) -> Callable[[F], F]:
    """Give a command ``--cut`` and ``--adapter``: which embeddings it is about."""

    def add(command: F) -> F:
        cut = click.option("--cut", type=click.IntRange(1), metavar="K", help=cut_help)
        text = f"Use the encoder that this fine-tuning adapted. RUN is {RUN}."
        return cut(click.option("--adapter", metavar="RUN", help=text)(command))

    return add


def decoder_options(default_for: str) -> Callable[[F], F]:
    """Return ``--run`` and ``--zero-shot``: which decoder answers; by default the default run for that option."""
    run = click.option(
        "--run",
        "checkpoint",
        metavar="RUN",
        help=f"Use the decoder of this fine-tuning. RUN is {RUN}. [default: the default run for {default_for}]",
    )
    zero_shot = click.option("--zero-shot", is_flag=True, help="Use the decoder that the encoder came with.")
    return lambda command: run(zero_shot(command))


def detected_options(command: F) -> F:
    """Give a command :func:`decoder_options`, ``--detector`` and ``--form``: how cells are found and drawn."""
    detector = click.option(
        "--detector",
        default=DetectedConfig.detector,
        show_default=True,
        metavar="RUN",
        help=f"Use this trained detector. RUN is {RUN}.",
    )
    form = click.option(
        "--form",
        type=click.Choice(FORMS),
        default=DetectedConfig.form,
        show_default=True,
        help="Prompt the decoder with this for each cell that was found.",
    )
    return decoder_options("--form")(detector(form(command)))


TRAINING: dict[str, tuple[str, click.IntRange]] = {
    "steps": ("Train every run for N optimiser steps.", click.IntRange(1)),
    "patience": ("Stop after N validations without improvement; 0: never.", click.IntRange(0)),
    "evaluate_every": ("Validate every N steps; 0: once per epoch.", click.IntRange(0)),
    "validation_cells": ("Validate on at most N cells.", click.IntRange(1)),
    "workers": (
        "Prepare batches in N processes. [default: 0 on a CPU, up to 4 with CUDA, 1 on an Apple GPU or with a bucket]",
        click.IntRange(0),
    ),
}
"""Settings that commands with fine-tunings share: help text and type."""


def training_options(*names: str) -> Callable[[F], F]:
    """Return options of :data:`TRAINING`, in this order."""

    def give(command: F) -> F:
        for name in reversed(names):
            help_text, kind = TRAINING[name]
            command = finetune_option(name, help_text, type=kind, metavar="N")(command)
        return command

    return give


def finetune_option(name: str, help_text: str, **how: Any) -> Callable[[F], F]:
    """Return an option for one setting of a fine-tuning, as :func:`setting_option`."""
    return setting_option(FinetuneConfig().flat(), name, help_text, **how)


def setting_option(settings: Mapping[str, Any], name: str, help_text: str, **how: Any) -> Callable[[F], F]:
    """Return an option for one setting of a configuration; it gives None where it is not set, so the default holds.

    Parameters
    ----------
    settings : all settings by flat name, with their defaults
    name : of the setting, such as ``"evaluate_every"`` for ``--evaluate-every``
    help_text : ends with what the default means, where that is no value
    how : as of ``click.option``
    """
    default = settings[name]
    if default is not None and not isinstance(default, bool):
        help_text += f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    return click.option(f"--{name.replace('_', '-')}", name, default=None, help=help_text, **how)


def json_option(command: F) -> F:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def device_option(command: F) -> F:
    """Give a command ``--device``."""
    help_text = "Compute on auto, cpu, cuda or mps; auto takes a GPU if there is one."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=help_text)(command)
