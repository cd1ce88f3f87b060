"""Pictures of augmentation: variants beside the view they come from, and how strong the elastic field is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hela_store.augment import elastic
from hela_store.augment.ranges import ALPHA
from hela_store.augment.render import render
from hela_store.augment.variant import Variant, draw_variant
from hela_store.augment.warp import Warp
from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.files import explain_os_errors
from hela_store.datasets import open_dataset
from hela_store.datasets.frame import Frame
from hela_store.errors import RecipeError, StoreError
from hela_store.images import normalise
from hela_store.images.geometry import tile_rectangles
from hela_store.store.store import Store

Picture = npt.NDArray[np.uint8]

PANEL = 300
"""px of the longer side of a panel."""
GAP, LINE = 6, 18
SIGMAS = (5.0, 10.0, 15.0, 20.0)
STEPS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Alphas of the strength sheet, in units of the highest usual one."""
SHEET_VIEW = 256
INVALID = np.array([120, 0, 0])


@dataclass(frozen=True, kw_only=True)
class PreviewReport:
    """Result of a preview.

    Attributes
    ----------
    variants, strength : Path
        The two pictures.
    frame, tile : str, int
        Which view.
    drawn : list of dict
        Parameters of its variants.
    fields : list of dict
        ``sigma``, ``alpha``, ``rms`` px and smallest ``jacobian`` of each field of the second picture.
    """

    variants: Path
    strength: Path
    frame: str
    tile: int
    drawn: list[dict[str, Any]]
    fields: list[dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"variants": str(self.variants), "strength": str(self.strength)}


def preview(store: Store, out: Path, *, frame: str | None = None, tile: int = 0, variants: int = 4) -> PreviewReport:
    """Draw two pictures: ``out``, and beside it ``<out>-strength.png``.

    Parameters
    ----------
    store : Store
        Its frames are read from the data set; nothing need be embedded.
    out : Path
        A PNG file.
    frame : str
        Frame id; the middle one of the data set where None.
    tile, variants : int
        Which view, and how many variants of it; drawn from the recipe's ranges as the plan draws them.

    Raises
    ------
    StoreError, RecipeError
        No such frame or tile; not a PNG; no variant asked for.
    """
    if out.suffix.lower() != ".png":
        raise RecipeError(f"{out} is no PNG file; name one that ends in .png")
    if variants < 1:
        raise RecipeError(f"{variants} variants cannot be shown, expected 1 or more")
    seen = _read_frame(store, frame)
    views = store.recipe.views
    rects = tile_rectangles((seen.image.shape[0], seen.image.shape[1]), views.tile, views.overlap)
    if not 0 <= tile < len(rects):
        raise StoreError(f"{seen.id} has no tile {tile}; it has tiles 0 to {len(rects) - 1}")
    shape = (rects[tile][3], rects[tile][2])
    drawn = [draw_variant(store.recipe.augment, seen.id, tile, i + 1, shape) for i in range(variants)]
    warps = [Warp(variant, rects[tile], (seen.image.shape[0], seen.image.shape[1])) for variant in drawn]
    strength = out.with_name(f"{out.stem}-strength.png")
    fields, sheet = _strength(store.recipe.augment.elastic.amplitude)
    with explain_os_errors(f"writing {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        _variants(store, seen, warps).save(out)
        sheet.save(strength)
    return PreviewReport(
        variants=out,
        strength=strength,
        frame=seen.id,
        tile=tile,
        drawn=[asdict(variant) for variant in drawn],
        fields=fields,
    )


def _read_frame(store: Store, name: str | None) -> Frame:
    reader = open_dataset(store.recipe.dataset, store.path)
    names = [entry.id for entry in reader.entries]
    if name is not None and name not in names:
        raise StoreError(f"no frame {name!r} in {store.recipe.dataset.path}; it has {names[0]!r} to {names[-1]!r}")
    return reader.read(reader.entries[len(names) // 2 if name is None else names.index(name)])


def _variants(store: Store, frame: Frame, warps: Sequence[Warp]) -> Image.Image:
    how = store.recipe.normalise
    limits = normalise.limits(frame.image, how.method, how.low, how.high, store.recipe.dataset.offset)
    label = np.zeros(frame.image.shape, np.int32) if frame.label is None else frame.label
    still = Warp(Variant(), warps[0].rect, warps[0].frame_shape)
    rows = []
    before = _panels(store, frame, still, limits, (label, frame.valid))
    for number, warp in enumerate(warps, start=1):
        after = _panels(store, frame, warp, limits, (label, frame.valid))
        rows.append(([f"variant {number}: {_words(warp.variant)}"], before + after))
    names = ("original", "overlay", "mask", "augmented", "augmented overlay", "augmented mask")
    title = f"{frame.id}, view {warps[0].rect} px (x, y, width, height); dark red: not valid"
    return _compose(title, names, rows)


def _panels(
    store: Store,
    frame: Frame,
    warp: Warp,
    limits: tuple[float, float],
    truth: tuple[LabelArray, BoolArray],
) -> list[Picture]:
    counts = render(frame.image, [warp], limits, store.recipe.dataset.offset)[0]
    grey = normalise.apply(counts, *limits, store.recipe.normalise.method, warp.frame_shape)
    shown: Picture = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    label, valid = warp.truth(*truth)
    colours = _colours(label)
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    edge[1:] |= label[1:] != label[:-1]
    overlay = np.where(valid[..., None], shown, shown // 2 + (INVALID // 2)[None, None])
    overlay = np.where((edge & (label > 0))[..., None], colours, overlay)
    mask = np.where(valid[..., None] | (label > 0)[..., None], colours, INVALID[None, None])
    return [part.astype(np.uint8) for part in (shown, overlay, mask)]


def _colours(label: LabelArray) -> Picture:
    """Colour labels by their value, background black, (row, col, 3)."""
    turn = np.arange(int(label.max()) + 1) * 0.618034 % 1.0  # golden ratio: neighbours in value differ in colour
    phase = turn[:, None] * 2 * np.pi + np.array([0, 2, 4]) * np.pi / 3
    palette = (155 + 100 * np.cos(phase)).astype(np.uint8)
    palette[0] = 0
    return palette[label]


def _words(v: Variant) -> str:
    parts = [f"rotated {v.rotate:.0f} deg", f"shift {v.shift_x:+.1f}, {v.shift_y:+.1f} px"]
    parts += [f"flipped {'x' * v.flip_x}{'y' * v.flip_y}"] if v.flip_x or v.flip_y else []
    parts += [f"scale {v.scale:.2f}"] if v.scale != 1 else []
    damped = f" damped x {v.damping:.2f}" if v.damping < 1 else ""
    parts += [f"elastic {v.amplitude} {v.alpha:.2f}, sigma {v.sigma:g} px{damped}"] if v.alpha else []
    parts.append(f"smallest Jacobian {v.jacobian:.2f}")
    parts += [f"{name} {getattr(v, name):.2f}" for name in ("brightness", "contrast", "gamma") if getattr(v, name) != 1]
    parts += [f"{v.photons:g} photons per count"] if v.photons else []
    parts += [f"noise {v.gaussian:.3f}"] if v.gaussian else []
    return ", ".join([*parts, *([f"clahe {v.clahe:.3f}"] if v.clahe else [])])


def _strength(amplitude: str) -> tuple[list[dict[str, float]], Image.Image]:
    lines = np.zeros((SHEET_VIEW + 64, SHEET_VIEW + 64), np.float32)
    for start in (0, 1):
        lines[start::16] = 255
        lines[:, start::16] = 255
    rect = (32, 32, SHEET_VIEW, SHEET_VIEW)
    alphas = [ALPHA[amplitude][1] * step for step in STEPS]
    fields: list[dict[str, float]] = []
    rows = []
    for sigma in SIGMAS:
        panels, words = [], []
        for alpha in alphas:
            variant = Variant(seed=1, sigma=sigma, alpha=alpha, amplitude=amplitude)
            warp = Warp(variant, rect, (lines.shape[0], lines.shape[1]))
            least, moved = elastic.smallest_jacobian(variant.linear, warp.field), elastic.rms(warp.field)
            fields.append({"sigma": sigma, "alpha": alpha, "rms": moved, "jacobian": least})
            grey = np.repeat(np.clip(warp.image(lines), 0, 255)[..., None], 3, axis=2)
            panels.append((grey * (np.array([1, 0.35, 0.35]) if least <= 0 else 1)).astype(np.uint8))
            words.append(f"sigma {sigma:g} px: rms {moved:.2f} px, J {least:.2f}{', FOLDS' if least <= 0 else ''}")
        rows.append((words, panels))
    title = f"elastic strength, amplitude {amplitude!r}: displacement rms and smallest Jacobian, before any damping"
    return fields, _compose(title, [f"alpha {alpha:g}" for alpha in alphas], rows)


def _compose(title: str, names: Sequence[str], rows: Sequence[tuple[Sequence[str], Sequence[Picture]]]) -> Image.Image:
    """Set panels in rows, each under a line of text or each panel under its own, the columns under their names."""
    height, width = rows[0][1][0].shape[:2]
    scale = PANEL / max(height, width)
    size = (round(width * scale), round(height * scale))
    step_x, step_y = size[0] + GAP, size[1] + LINE + GAP
    sheet = Image.new("RGB", (step_x * len(names) + GAP, step_y * len(rows) + 2 * LINE + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((GAP, 2), title, fill="black", font=font)
    for column, name in enumerate(names):
        draw.text((GAP + column * step_x, LINE + 2), name, fill="black", font=font)
    for number, (words, panels) in enumerate(rows):
        top = 2 * LINE + number * step_y
        for column, text in enumerate(words):
            draw.text((GAP + column * step_x, top + 2), text, fill="black", font=font)
        for column, panel in enumerate(panels):
            sheet.paste(
                Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS), (GAP + column * step_x, top + LINE)
            )
    return sheet
