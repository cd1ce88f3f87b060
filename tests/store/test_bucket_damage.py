"""Objects that are lost, exchanged or changed in a bucket, and wrong copies of them: one line, or the right result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from buckets import URL

from hela_store.detection.config import DetectorConfig
from hela_store.detection.train import train_detector
from hela_store.errors import BucketError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("client")
TINY = FinetuneConfig.of(steps=2, cells=2, validation_cells=2, workers=0, window=8)
QUICK = EvaluateConfig(split="test", prompts=("box",), prompt_seeds=1, window=8)
READERS: dict[str, Callable[[Store], object]] = {
    "evaluate": lambda store: evaluate(store, None, QUICK),
    "finetune": lambda store: finetune(store, TINY),
    "finetune with a loader process": lambda store: finetune(store, TINY.with_choices(workers=1)),
    "detect": lambda store: train_detector(store, DetectorConfig(steps=4, batch=1, workers=0, device="cpu")),
    "xarray": lambda store: store.xarray().embedding.compute(),
}


def name_of(store: Store, row: int, part: str) -> str:
    if part == "embedding":
        return f"fluo/{store.arrays.chunk_name(store.key, row)}"
    group = next(iter(store.frame_records().values())).group
    return f"fluo/frames/{group}/{part}/c.{row}.0.0"


def damage(client: Any, store: Store, kind: str, part: str = "embedding") -> None:
    """Delete, exchange or change the objects of all views or frames."""
    names = [name_of(store, row, part) for row in range(8)]
    data = [client.get_object(Bucket="cells", Key=name)["Body"].read() for name in names]
    for row, name in enumerate(names):
        if kind == "deleted":
            client.delete_object(Bucket="cells", Key=name)
        elif kind == "swapped":
            client.put_object(Bucket="cells", Key=name, Body=data[row - 1])
        else:
            place = len(data[row]) // 2
            flipped = bytes([data[row][place] ^ 1])
            client.put_object(Bucket="cells", Key=name, Body=data[row][:place] + flipped + data[row][place + 1 :])


@pytest.mark.ci
@pytest.mark.parametrize(
    "kind", ["swapped", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("deleted", "flipped"))]
)
def test_a_damaged_object_is_one_line_for_whoever_reads_it(remote: Store, client, kind: str):
    damage(client, remote, kind)
    for name, read in READERS.items():
        with pytest.raises(StoreError) as caught:
            read(Store.open(remote.path))
        text = str(caught.value)
        view = text.removeprefix("the embedding of view ")[:24]
        assert view in remote.committed(), (name, text)
        where = remote.arrays.chunk_name(remote.key, remote.committed()[view])
        assert f"{URL}/{where} is " in text and "`hela-store verify --repair`" in text, (name, text)
        assert "\n" not in text and "Traceback" not in text
    assert not list((remote.path / "runs").glob("2*"))


@pytest.mark.parametrize(
    "kind", ["swapped", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("deleted", "flipped"))]
)
def test_damaged_labels_are_one_line_too(remote: Store, client, kind: str):
    damage(client, remote, kind, "label")
    for read in (READERS["evaluate"], READERS["finetune with a loader process"]):
        with pytest.raises(
            StoreError, match=rf"the label of frame 01/t00\d: {URL}/\S+/label/c\.\d\.0\.0 is .*--repair`"
        ):
            read(Store.open(remote.path))


def cached(store: Store) -> Store:
    recipe = store.path / "store.toml"
    recipe.write_text(recipe.read_text().replace("cache_mib = 0", "cache_mib = 64"))
    opened = Store.open(store.path)
    assert opened.recipe.arrays.cache_mib == 64
    return opened


# in short: test_damage_is_found_and_repaired of test_bucket.py
@pytest.mark.ci
@pytest.mark.parametrize("part", [pytest.param("embedding", marks=pytest.mark.slow), "label"])
def test_repair_mends_the_copies_as_well(remote: Store, client, part: str):
    store = cached(remote)
    right = scores(store)
    damage(client, remote, "swapped", part)
    shutil.rmtree(store.path / "cache")
    for row in range(8):
        store.arrays.storage.read(name_of(store, row, part).removeprefix("fluo/"))  # as a reader of an older version
    assert len(list((store.path / "cache").iterdir())) == 8
    assert verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu")).whole
    assert not any(copy_of(store, row, part) for row in range(8))
    assert scores(Store.open(store.path)) == right


@pytest.mark.ci
def test_a_wrong_copy_is_dropped_and_the_object_read_once_more(remote: Store, client):
    store = cached(remote)
    right, whole = scores(store), store.embedding_at(0)
    before = {name: client.get_object(Bucket="cells", Key=name)["Body"].read() for name in names(store)}
    damage(client, store, "swapped")
    damage(client, store, "swapped", "label")
    shutil.rmtree(store.path / "cache")
    for name in before:
        store.arrays.storage.read(name.removeprefix("fluo/"))
    for name, body in before.items():  # mended from another machine, whose copies are its own
        client.put_object(Bucket="cells", Key=name, Body=body)
    assert scores(Store.open(store.path)) == right
    fresh = Store.open(store.path)
    assert (fresh.embedding_at(0) == whole).all()
    assert fresh.arrays.storage.read(name_of(fresh, 0, "embedding").removeprefix("fluo/")) == copy_of(
        store, 0, "embedding"
    )
    # and of an object that is wrong itself no copy stays
    damage(client, store, "flipped")
    shutil.rmtree(store.path / "cache")
    with pytest.raises(StoreError, match="the embedding of view"):
        Store.open(store.path).embedding_at(0)
    assert copy_of(store, 0, "embedding") is None


@pytest.mark.ci
def test_a_bucket_that_does_not_answer_is_not_damaged(remote: Store, line, monkeypatch: pytest.MonkeyPatch):
    line.open = False
    for repair in (False, True):
        with pytest.raises(BucketError, match="does not answer"):
            verify(Store.open(remote.path), VerifyConfig(repair=repair, device="cpu"))
    line.open = True
    assert verify(Store.open(remote.path)).whole


def names(store: Store) -> list[str]:
    return [name_of(store, row, part) for part in ("embedding", "label") for row in range(8)]


def copy_of(store: Store, row: int, part: str) -> bytes | None:
    from hela_store.store.read_cache import ReadCache

    return ReadCache(Path(store.path / "cache"), 1 << 30).get(name_of(store, row, part).removeprefix("fluo/"))


def scores(store: Store) -> list[dict[str, Any]]:
    """Return the rows of an evaluation of which nothing is kept: a second one would be taken from the first."""
    run = load_run(store.path, evaluate(store, None, QUICK).run, "evaluate")
    rows = run.rows("predictions")
    shutil.rmtree(store.path / "runs")
    (store.path / "catalog.duckdb").unlink()
    return [{name: value for name, value in row.items() if name not in ("run", "seconds")} for row in rows]
