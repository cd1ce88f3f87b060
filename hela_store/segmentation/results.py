"""The folder that ``segment`` fills: what is in it of which frame, and made of which pixels.

A result belongs to a frame by its sequence and name and by the sha256 of its pixels, never by its place among the
others. ``.cells/`` has a table of cells for each frame, whose metadata says all this and which label image is the
frame's; a frame is done when that label image is there, which is written last.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from hela_store.base.files import digest, write_atomic
from hela_store.base.names import inside, refuse_link
from hela_store.base.parquet import read_parquet, write_parquet
from hela_store.base.text import natural, numbered
from hela_store.datasets.pixels import Plane
from hela_store.errors import StoreError

from .kept_tiles import KeptTiles

SETTINGS = "segment.json"
LAYOUT = 2
"""Of :data:`PARTS`: 1 knew frames by the names of their label images."""
PARTS = ".cells"
TILES = ".tiles"
"""Ending of the folder in :data:`PARTS` with the encoded tiles of a large frame that is not done."""
ABOUT = b"frame"
"""In the metadata of a frame's cell table: a :class:`Made` as JSON."""
CELLS_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("sequence", "frame", "file", "sha256")],
        ("label", pa.int64()),
        ("area", pa.int64()),
        *[(name, pa.int64()) for name in ("x0", "y0", "x1", "y1")],
        *[(name, pa.float64()) for name in ("cx", "cy", "mean_intensity", "score", "predicted_iou", "probability")],
        ("flagged", pa.bool_()),
        ("recovered", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class _Identity:
    """A frame by its sequence and name, which are its id, and by the sha256 of its pixels."""

    sequence: str
    name: str
    sha256: str

    @property
    def id(self) -> str:
        """``"<sequence>/<name>"``."""
        return f"{self.sequence}/{self.name}"

    @property
    def key(self) -> str:
        """Name of its files in :data:`PARTS`: a digest of its id and its pixels."""
        return digest("segmented", self.sequence, self.name, self.sha256)[:24]


@dataclass(frozen=True, kw_only=True)
class Item(_Identity):
    """A frame that is to be segmented; ``plane`` says where its pixels are."""

    plane: Plane


@dataclass(frozen=True, kw_only=True)
class Made(_Identity):
    """Result of one frame in a folder of results.

    Attributes
    ----------
    target : str
        Its label image, ``<sequence>_RES/<file>``.
    near : list of str
        Names of the frames it was segmented with, beside itself.
    """

    target: str
    near: list[str]


class Results:
    """The folder and what is known of it.

    Parameters
    ----------
    out : Path
        The folder; need not be there.

    Attributes
    ----------
    made : dict of str to Made
        By id, every frame whose cells are in the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.made = {made.id: made for made, _ in self._parts()}

    def claim(self, about: dict[str, Any]) -> None:
        """Write down which settings made the results.

        Raises
        ------
        StoreError
            The folder holds results of others, or of an earlier version.
        """
        path = self.out / SETTINGS
        if not path.exists():
            write_atomic(path, (json.dumps({"layout": LAYOUT} | about, indent=2) + "\n").encode())
            return
        before = json.loads(path.read_text())
        if before.get("layout") != LAYOUT:
            raise StoreError(f"{self.out} holds results of another version of hela-store; choose another --out")
        if changed := sorted(name for name in about if before.get(name) != about[name]):
            raise StoreError(f"{self.out} holds results of another {', '.join(changed)}; choose another --out")

    def targets(self, items: Sequence[Item]) -> dict[str, str]:
        """Return which label image each frame gets, by id; a frame that is in the folder keeps its own.

        A name that ends in a number gives ``mask<number>.tif``, as the challenge has it, where no other frame of the
        sequence has that number; any other name gives ``mask_<name>.tif``.

        Raises
        ------
        StoreError
            A frame in the folder has other pixels now, or a file of that name is there and is no frame's.
        """
        numbers = {item.id: _numbered_file(item) for item in items}
        owners = {made.target: made.id for made in self.made.values()}
        claims = Counter(numbers[item.id] for item in items if item.id not in self.made)
        targets = {}
        for item in items:
            made, target = self.made.get(item.id), numbers[item.id]
            if made is not None and made.sha256 != item.sha256:
                raise StoreError(
                    f"{item.plane.path}: frame {item.id} changed since it was segmented into {self.out}; restore it, "
                    "or choose another --out"
                )
            if made is None and (target is None or claims[target] > 1 or target in owners):
                target = f"{item.sequence}_RES/mask_{item.name}.tif"
            targets[item.id] = made.target if made is not None else str(target)
            path = self.target(targets[item.id])
            if made is None and path.exists():
                raise StoreError(
                    f"{path} is there and is not of frame {item.id}; nothing is overwritten, move it or choose another "
                    "--out"
                )
        return targets

    def target(self, name: str) -> Path:
        """Return the path of a label image, ``<sequence>_RES/<file>``; StoreError where the name leads elsewhere."""
        return inside(self.out, *name.split("/"), what="the label image")

    def part(self, item: Item) -> Path:
        """Return where the table of a frame's cells is, or will be."""
        refuse_link(self.out / PARTS)
        return inside(self.out / PARTS, item.key, suffix=".parquet", what="the frame")

    def detections(self, item: Item) -> Path:
        """Return where what was detected in a frame is kept for its neighbours."""
        refuse_link(self.out / PARTS)
        return inside(self.out / PARTS, "detections", item.key, suffix=".parquet", what="the frame")

    def write_part(self, item: Item, target: str, near: list[str], rows: list[dict[str, Any]]) -> pa.Table:
        """Write the table of a frame's cells durably and return it."""
        made = Made(sequence=item.sequence, name=item.name, sha256=item.sha256, target=target, near=near)
        about = {ABOUT: json.dumps(asdict(made))}
        table = pa.Table.from_pylist(rows, CELLS_SCHEMA).replace_schema_metadata(about)
        write_parquet(self.part(item), table)
        return table

    def tiles(self, item: Item) -> KeptTiles:
        """Return where the encoded tiles of a frame are kept until it is done."""
        return KeptTiles(self.out / PARTS / f"{item.key}{TILES}")

    def clear_tiles(self, todo: Sequence[Item]) -> None:
        """Remove what is kept of frames that are not to be segmented; their pixels changed, or they are done."""
        names = {f"{item.key}{TILES}" for item in todo}
        for folder in (self.out / PARTS).glob(f"*{TILES}"):
            if folder.name not in names:
                KeptTiles(folder).clear()

    def is_done(self, item: Item, near: list[str]) -> bool:
        """Return whether a frame was segmented with these neighbours."""
        made = self.made.get(item.id)
        return made is not None and made.near == near and self.target(made.target).is_file()

    def collect(self) -> pa.Table:
        """Join the cells of all frames in the folder, in order, into ``cells.parquet`` and ``cells.csv``."""
        parts = [(made, table) for made, table in self._parts() if self.target(made.target).is_file()]
        parts.sort(key=lambda part: (natural(part[0].sequence), natural(part[0].name)))
        tables = (table.replace_schema_metadata(None) for _, table in parts)
        table = pa.concat_tables([CELLS_SCHEMA.empty_table(), *tables])
        write_parquet(self.out / "cells.parquet", table)
        data = io.BytesIO()
        pa_csv.write_csv(table, data)
        write_atomic(self.out / "cells.csv", data.getvalue())
        return table

    def _parts(self) -> Iterator[tuple[Made, pa.Table]]:
        refuse_link(self.out / PARTS)
        for path in sorted((self.out / PARTS).glob("*.parquet")):
            refuse_link(path)
            table = read_part(path)
            yield Made(**json.loads(table.schema.metadata[ABOUT])), table


def read_part(path: Path) -> pa.Table:
    """Return a table of :data:`PARTS`; StoreError where it is damaged."""
    return read_parquet(path, way_out="delete it and give the same command again")


def _numbered_file(item: Item) -> str | None:
    number = numbered(item.name)
    return None if number is None else f"{item.sequence}_RES/mask{number[1].zfill(3)}.tif"
