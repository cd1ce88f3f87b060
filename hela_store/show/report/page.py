"""The page: sections of text, tables, charts and cards in one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import altair as alt
import jinja2
import vl_convert

PALETTE = ("#3b82c4", "#e07b39", "#3a9d5d", "#b3589a", "#b8921f", "#6b6fd1", "#d0504f", "#3d9c9e")
"""Legible on white and on near-black, so that a chart is the same in light, dark and print."""
MOST_RUNS = len(PALETTE)
"""In one chart: each has a colour."""
VIEWER = "hela_store.show.viewer"
"""Where the modules lie that draw whole frames."""
HEIGHT = 220
"""Of a chart, px."""
BEFORE, AFTER = "#8a93a0", "#3b82c4"
_INK = {"labelColor": "currentColor", "titleColor": "currentColor"}
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    # the page's own ink, which turns with its theme and in print; SVG only
    "axis": {
        **_INK,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "currentColor",
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "gridOpacity": 0.12,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "labelFlush": False,
    },
    "legend": {**_INK, "titleFontWeight": "normal", "labelFontSize": 12, "labelLimit": 240},
    "header": _INK,
    "title": {"color": "currentColor", "fontWeight": "normal"},
    "range": {"category": list(PALETTE)},
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One drawing.

    Attributes
    ----------
    title : str
    spec : dict
        Vega-Lite.
    where : mapping of str to str
        Which cards a selection in it is about, besides the ranges selected: fields and their values.
    brush : bool
        Whether a selection in it filters the gallery; its selection is named ``brush``.
    wide : bool
        Whether it takes the whole width of the page.
    """

    title: str
    spec: dict[str, Any]
    where: Mapping[str, str] = field(default_factory=dict)
    brush: bool = False
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; numbers are shown as they are given, already as text."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    title: str = ""
    heads: frozenset[int] = frozenset()
    """Rows that head a group."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    id, title, text : str
    charts, tables, notes
        Shown in the order tables, charts, notes.
    pictures : (caption, data address)
    cards : what the gallery shows; None in every other section
    frames : whole frames with their cells and predictions, each with a caption and a picture
    details : (title, preformatted text), folded
    """

    id: str
    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    cards: Sequence[Mapping[str, Any]] | None = None
    frames: Sequence[Mapping[str, Any]] = ()
    details: Sequence[tuple[str, str]] = ()


def to_spec(chart: Any, description: str) -> dict[str, Any]:
    """Return a chart as Vega-Lite with this page's look; raises where Altair finds it wrong."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)
    return spec | {"config": _CONFIG, "description": description}


def values(rows: Sequence[Mapping[str, Any]]) -> alt.Data:
    """Return rows as a chart's data, floats to five digits."""
    short = [{k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return alt.Data(values=short)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def asset(name: str, package: str = __package__) -> str:
    """Return a text file that is shipped beside the modules of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; takes seconds."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def render(title: str, subtitle: str, sections: Sequence[Section], notes: Sequence[str]) -> str:
    """Return the page."""
    charts = [chart for section in sections for chart in section.charts]
    data = {
        "charts": [{"spec": chart.spec, "where": dict(chart.where), "brush": chart.brush} for chart in charts],
        "frames": [frame for section in sections for frame in section.frames],
        "cards": next((list(section.cards) for section in sections if section.cards is not None), []),
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(asset("page.html"))
    return page.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        notes=notes,
        styles=[asset("base.css"), asset("page.css")],
        scripts=[*([vega()] if charts else []), asset("card.js", "hela_store.show"), asset("page.js")],
        module=_modules(("mask.js", VIEWER), ("viewer.js", VIEWER), ("frames.js", __package__)),
        data=in_script(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))),
    )


def _modules(*files: tuple[str, str]) -> str:
    """Return modules of JavaScript, each (name, package), as one: a page of one file has nothing to import from."""
    text = "\n".join(asset(name, package) for name, package in files)
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)


def in_script(text: str) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
