import cProfile

import pytest

from hela_store.bench import scale
from hela_store.bench.rows import QUERIES
from hela_store.bench.scale import STEPS, bench_scale, simulate


@pytest.mark.slow
def test_the_curve_of_a_small_store():
    """Every step in a process of its own."""
    found = bench_scale(views=(40,), metric_rows=2_000)
    (row,) = found.to_json()["rows"]
    assert row["views"] == 40 and all(row[step] > 0 for step in STEPS)
    assert found.metrics is not None and found.metrics.rows == 2_000
    assert set(found.metrics.queries) == set(QUERIES)
    assert set(found.metrics.insert) == {"catalog", "sqlite", "pandas"}


@pytest.mark.ci
def test_the_steps_run_on_a_simulated_store(tmp_path):
    store = simulate(tmp_path / "store", 40)
    assert len(store.views_table()) == 40 == len(store.committed())
    for step in STEPS.values():
        step(store.path)


def test_appending_makes_as_many_calls_whatever_is_there(tmp_path, monkeypatch):
    """What grows with the store is done by Arrow and NumPy, whose calls are as many for a million rows."""
    monkeypatch.setattr(scale, "APPENDED", 20)
    calls = []
    for views in (1_000, 8_000):
        path = simulate(tmp_path / str(views), views).path
        with cProfile.Profile() as profile:
            STEPS["append"](path)
        calls.append(sum(entry.callcount for entry in profile.getstats()))
    assert calls[1] < 1.5 * calls[0], calls
