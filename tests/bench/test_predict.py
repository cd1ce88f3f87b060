from __future__ import annotations

import pytest

from hela_store.bench.predict import bench_predict


@pytest.mark.slow  # a large image in a process of its own
def test_every_way_is_timed_and_the_large_image_is_weighed() -> None:
    found = bench_predict(boxes=2, rounds=1, large=600, large_boxes=2, frames=1, device="cpu")
    assert [(row.way, row.window) for row in found.rows] == [
        ("predict_boxes", 16),
        ("predict_boxes", 64),
        ("predict", 16),
    ]
    assert all(row.ours_ms > 0 and row.peer_ms > 0 and row.ratio > 0 for row in found.rows)
    parts = found.normalise + found.encode + found.detect + found.decode + found.resolve
    assert found.vectors.views == 6 and found.vectors.cells > 20 and found.vectors.of_read_rate > 0
    assert 0 < parts == found.frame_seconds and 100 < found.large_mib < 4096
