"""Execute the notebooks, and write them with their outputs: ``python tests/helpers/notebooks.py``."""

from __future__ import annotations

import base64
import io
import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
COLOURS = 96
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RUN = re.compile(r"\b20\d{6}-\d{6}-([a-z-]+)-[0-9a-f]{4}\b")


def execute(folder: Path) -> list[Any]:
    """Return the notebooks with the outputs that they have now; they run in ``folder``, in one process.

    Each begins without the names of the one before. Starting the process takes longer than most notebooks.
    """
    books = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    cells = [cell for book in books for cell in book["cells"] if cell["cell_type"] == "code"]
    firsts = {id(next(cell for cell in book["cells"] if cell["cell_type"] == "code")) for book in books}
    whole = nbformat.v4.new_notebook()
    for cell in cells:
        source = f"%reset -f\n{cell['source']}" if id(cell) in firsts else cell["source"]
        whole["cells"].append(nbformat.v4.new_code_cell(source))
    NotebookClient(whole, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    for cell, run in zip(cells, whole["cells"], strict=True):
        cell["outputs"], cell["execution_count"] = run["outputs"], run["execution_count"]
    return books


def kinds(book: Any) -> list[list[str]]:
    """Return what each cell of code shows: names of streams, and types of displayed data.

    In how many pieces a stream arrives is a matter of time, so pieces that follow each other count as one.
    """
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    shown = [
        ["+".join(sorted(output["data"])) if "data" in output else output["name"] for output in cell["outputs"]]
        for cell in cells
    ]
    streams = ("stdout", "stderr")
    return [
        [name for name, before in zip(one, ["", *one], strict=False) if name != before or name not in streams]
        for one in shown
    ]


def strip(book: Any, folder: Path) -> None:
    """Take paths, times, run ids and random ids out of the outputs, and make pictures small."""
    names = (f"id-{number}" for number in itertools.count())
    known: dict[str, str] = {}

    def plain(text: str) -> str:
        text = text.replace(f"{folder}/", "").replace(str(folder), ".")
        text = RUN.sub(r"RUN-\1", text)
        return UUID.sub(lambda found: known.setdefault(found[0], next(names)), text)

    for cell in book["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = plain(output["text"])
            for kind, value in output.get("data", {}).items():
                output["data"][kind] = _smaller(value) if kind == "image/png" else plain(value)


def _smaller(picture: str) -> str:
    found = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    out = io.BytesIO()
    found.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def main() -> None:
    """Execute all notebooks, one after the other in one folder, and write them where they are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, book in zip(NOTEBOOKS, execute(folder), strict=True):
            strip(book, folder)
            nbformat.write(book, path)


if __name__ == "__main__":
    main()
