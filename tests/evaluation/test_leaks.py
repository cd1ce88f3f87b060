import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hela_store.errors import RunError, SplitError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.leaks import block_ranges
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune, finished
from stores import reseal, reseal_tables

TINY = FinetuneConfig.of(steps=1, cells=2, validation_cells=2, workers=0, window=8)
TEST = EvaluateConfig(prompts=("box-exact",), prompt_seeds=1, window=8)


def with_test_block(store: Store, text: str, train: str = "0-3") -> Store:
    path = store.path / "store.toml"
    lines = path.read_text().splitlines()
    new = {"train": train, "test": text}
    changed = [next((f'{k} = "{v}"' for k, v in new.items() if line.startswith(f"{k} = ")), line) for line in lines]
    path.write_text("\n".join(changed) + "\n")
    return Store.open(store.path)


@pytest.mark.ci
def test_a_run_is_not_tested_on_what_it_or_its_parent_trained_on(store: Store) -> None:
    first = finetune(store, TINY)
    assert load_run(store.path, first.run).config["frames"] == {"train": {"01": "0-3"}, "val": {"01": "5"}}
    child = finetune(store, TINY.with_choices(init=first.run))
    assert evaluate(store, child.run, TEST).checkpoint == child.run
    moved = with_test_block(store, "3,7", "0-1")
    assert block_ranges(moved, ["test"]) == {"test": {"01": "3,7"}}
    assert finished(moved, TINY) is None, "another split is another run"
    for run in (first, child):
        with pytest.raises(RunError, match=r"trained on 1 of the 2 frames to score, such as 01/t003"):
            evaluate(moved, run, TEST)
    assert evaluate(moved, None, TEST).checkpoint == "zero-shot"
    chosen = replace(TEST, split="val")
    assert evaluate(moved, first.run, chosen).checkpoint == first.run, "val is what a run is chosen on"
    again = finetune(moved, TINY)
    assert evaluate(moved, again, TEST).checkpoint == again.run


def test_what_trained_does_not_validate(store: Store) -> None:
    first = finetune(store, TINY)
    path = store.path / "store.toml"
    path.write_text(path.read_text().replace('train = "0-3"', 'train = "0-1"').replace('val = "5-5"', 'val = "3-5"'))
    moved = Store.open(store.path)
    assert block_ranges(moved, ["val"]) == {"val": {"01": "3-5"}}
    with pytest.raises(RunError, match=r"trained on 1 of the 3 frames to score, such as 01/t003"):
        evaluate(moved, first.run, replace(TEST, split="val"))
    with pytest.raises(RunError, match=r"trained on 1 of the 3 frames to score, such as 01/t003"):
        finetune(moved, TINY.with_choices(init=first.run))
    assert evaluate(moved, first.run, replace(TEST, split="all")).checkpoint == first.run


def test_the_same_image_does_not_train_and_test(store: Store) -> None:
    (path,) = (store.path / "ingest").glob("frames-*.parquet")
    rows = pq.read_table(path).to_pylist()
    rows[7]["sha256"] = rows[2]["sha256"]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    reseal_tables(store.path)
    with pytest.raises(SplitError, match=r"01/t007 \(test\) is the same image as 01/t002 \(train\)"):
        finetune(Store.open(store.path), TINY)


def test_stills_that_trained_are_known_by_name(store: Store) -> None:
    """Their numbers are running ones, which another ingest of more files would give to other frames."""
    first = finetune(store, TINY)
    frames = store.path / "ingest/frames-0001.parquet"
    rows = pq.read_table(frames)
    path = store.path / "store.toml"
    path.write_text(path.read_text().replace('reader = "ctc"', 'reader = "folder"').replace('"ST"', '"masks"'))
    stills = Store.open(store.path)
    assert block_ranges(stills) == {"train": {"01": ["t000", "t001", "t002", "t003"]}, "val": {"01": ["t005"]}}
    config = store.path / "runs" / first.run / "config.json"
    about = json.loads(config.read_text())
    about["config"]["frames"] = block_ranges(stills)
    config.write_text(json.dumps(about))
    reseal(config.parent)
    turned = rows.set_column(rows.column_names.index("time"), "time", pa.array(range(7, -1, -1)))
    pq.write_table(turned, frames)
    reseal_tables(store.path)
    moved = Store.open(store.path)
    assert block_ranges(moved, ["test"]) == {"test": {"01": ["t000"]}}
    with pytest.raises(RunError, match=r"trained on 1 of the 1 frames to score, such as 01/t000"):
        evaluate(moved, first.run, TEST)
