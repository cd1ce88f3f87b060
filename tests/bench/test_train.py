from pathlib import Path

from hela_store.bench.train import TrainBenchConfig, bench_train
from hela_store.store.store import Store


def test_every_pair_is_timed_and_the_full_window_gives_sams_masks(embedded: Path) -> None:
    config = TrainBenchConfig(steps=2, cells=2, rounds=1, encoder="nano", encoder_steps=1, predictions=3, workers=0)
    found = bench_train(Store.open(embedded), config)
    assert len(found.pairs) == 4 and all(pair.ours > 0 and pair.peer > 0 and pair.ratio > 0 for pair in found.pairs)
    full, default = found.pairs[2:]
    assert full.mask_iou is not None and full.mask_iou >= 0.999
    assert default.iou is not None and default.peer_iou == full.peer_iou
    assert found.to_json()["config"]["steps"] == 2
