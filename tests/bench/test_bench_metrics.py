"""The benchmark of the metrics, on few cells: it runs, and everybody agrees."""

from __future__ import annotations

import numpy as np

from hela_store.bench.metrics import bench_metrics, draw_frame


def test_everybody_agrees() -> None:
    found = bench_metrics(cells=20, repeats=1)
    assert [row.who for row in found.rows] == ["hela-store", "MONAI", "hela-store", "py-ctcmetrics"]
    for row in found.rows:
        if row.median is not None:
            assert row.worst_difference is None or row.worst_difference < 1e-5


def test_frames_hold_all_cells_and_answers_that_differ() -> None:
    drawn = draw_frame(0, 130)
    assert len(np.unique(drawn.truth)) == len(np.unique(drawn.answer)) == 131
    assert 0.7 < ((drawn.truth == drawn.answer) & (drawn.truth > 0)).sum() / (drawn.truth > 0).sum() < 1
