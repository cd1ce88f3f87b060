"""Draw the curve of a study of budgets: IoU against labelled cells, every seed as a dot.

hela-store study -s fluo --budget 5,10,20,50,100,200,500,all --seeds 3 --json > fluo.json
python tests/benchmarks/budget_picture.py fluo.json --out tests/benchmarks/budgets.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from hela_store.studies.budget_config import ALL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    ticks: set[int] = set()
    for path in given.studies:
        study = json.loads(path.read_text())
        for pick in dict.fromkeys(row["pick"] for row in study["rows"] if row["pick"] != ALL):
            rows = [row for row in study["rows"] if row["pick"] in (pick, ALL)]
            (line,) = axis.plot([row["budget"] for row in rows], [row["iou"] for row in rows], label=f"{pick}, mean")
            ticks |= {row["budget"] for row in rows}
            for row in rows:
                axis.plot([row["budget"]] * len(row["iou_runs"]), row["iou_runs"], ".", color=line.get_color(), ms=5)
        for rule in study["rules"].values():
            axis.axhline(rule["zero_shot"], color="0.5", ls="--", lw=1, label="zero-shot")
            axis.axhline(rule["naive"], color="0.5", ls=":", lw=1, label="ellipse in the box, without the image")
    axis.set(xscale="log", xlabel="labelled cells", ylabel="IoU with boxes")
    axis.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    figure.savefig(given.out, dpi=80, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
