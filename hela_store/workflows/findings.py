"""Say what `hela-store new` found in a data set, in words: for the terminal, and as comments of the recipe."""

from __future__ import annotations

from hela_store.base.text import own_numbers
from hela_store.datasets import DatasetSummary
from hela_store.recipe.recipe import DatasetRecipe


def findings_of(summary: DatasetSummary, dataset: DatasetRecipe) -> list[tuple[str, str]]:
    """Return what was found, as lines of (what, value); a line for every warning."""
    names = list(summary.times)
    sequences = f"sequence{'s' if len(names) > 1 else ''} {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    sizes = ", ".join(f"{rows} x {cols}" for rows, cols in summary.shapes[:4])
    sizes += f" and {len(summary.shapes) - 4} other sizes" if len(summary.shapes) > 4 else ""
    bits = f"; values above it use {summary.bits} bits" if summary.bits else ""
    pixels = f"{sizes} px (rows x columns), {'/'.join(summary.dtypes)}"
    own = own_numbers((entry.name, entry.time) for entry in summary.entries) if len(names) == 1 else ""
    rows = [("frames", f"{summary.frames} in {sequences}{own}; {pixels}")]
    rows.append(("black level", f"{dataset.offset:g} counts{bits}"))
    size = dataset.pixel_size_um
    source = summary.pixel_size_from
    rows.append(("pixel size", source or "unknown" if size is None else f"{size:g} um ({source})"))
    others = [name for name in summary.label_sets if name != dataset.labels]
    also = f" (there is also {', '.join(others)})" if others else ""
    rows.append(("labels", f"{dataset.labels}: {summary.labelled} of {summary.frames} frames have them{also}"))
    if summary.diameter is not None and summary.cells_per_frame is not None:
        least, mean, most = summary.cells_per_frame
        um = "" if size is None else f" ({summary.diameter * size:.1f} um)"
        text = f"{least} to {most} per frame, mean {mean:.0f}; median diameter {summary.diameter:.1f} px{um}"
        rows.append(("cells", f"{text}; {summary.labels_sampled} frames looked at"))
    if summary.blank:
        rows.append(
            ("warning", f"{len(summary.blank)} of {summary.images_sampled} frames looked at hold one value only")
        )
    if summary.lapses:
        text = (
            "the images seem to be a time-lapse: their names count up and neighbours look alike. So train and test are "
            "separate in time; keep them so if you set --train-frames"
        )
        rows.append(("time-lapse", text))
    return rows + [("warning", text) for text in summary.warnings]
