from __future__ import annotations

import pytest

from hela_store.bench.teach import bench_teach


@pytest.mark.slow  # two servers and a fine-tuning, each a process of its own
@pytest.mark.parametrize("encoder", ["nano", "vit_b"])
def test_all_that_the_page_waits_for_is_timed(encoder: str) -> None:
    found = bench_teach(encoder=encoder, hovers=10, cells=20, events=4, device="cpu")
    assert 0 < found.hover_p50_ms <= found.hover_p95_ms and 0 < found.crowded_p50_ms <= found.crowded_p95_ms
    assert found.beside_hovers in (0, 10) and (found.beside_p50_ms is None) == (found.beside_hovers == 0)
    assert 0 < found.hover_most_bytes < 20_000 and found.first_hover_ms > 0
    assert found.next_ms > 0 and 0 < found.saved_p50_ms <= found.saved_p95_ms
    assert found.crowded_open_ms > 0 and 0 < found.memory_before_mib <= found.memory_after_mib + 1
