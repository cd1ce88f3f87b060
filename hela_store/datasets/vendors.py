"""Image files of other kinds: what they are called, and what to do with them instead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hela_store.errors import DatasetError

VENDORS = {
    ".nd2": "Nikon",
    ".czi": "Zeiss",
    ".lif": "Leica",
    ".xlef": "Leica",
    ".lof": "Leica",
    ".oib": "Olympus",
    ".oif": "Olympus",
    ".oir": "Olympus",
    ".vsi": "Olympus",
    ".ims": "Imaris",
    ".stk": "MetaMorph",
    ".nd": "MetaMorph",
    ".dv": "DeltaVision",
    ".sld": "SlideBook",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
}
SAVE_AS = (
    "save as OME-TIFF (Fiji: Plugins > Bio-Formats > Bio-Formats Importer, then File > Save As > OME-TIFF; or "
    "`bfconvert FILE FILE.ome.tif`)"
)


def vendor_files(paths: Iterable[Path]) -> list[Path]:
    """Return those of the files that hold images in a format that is not read."""
    return [path for path in paths if path.suffix.lower() in VENDORS and not path.is_dir()]


def refuse_vendor(path: Path) -> None:
    """Raise DatasetError for a file of a kind that is known and not read."""
    kind = VENDORS.get(path.suffix.lower())
    if kind is not None:
        raise DatasetError(f"{path}: {kind} files ({path.suffix}) are not read; {SAVE_AS} and give that")
