"""A store whose arrays lie in a bucket is published in a bucket, and pulled from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hela_store.errors import BucketError
from hela_store.exchange.publish import publish
from hela_store.exchange.pull import pull
from hela_store.store.store import Store


@pytest.mark.ci
def test_published_from_a_bucket_into_a_bucket_and_pulled(remote: Store, embedded: Path, tmp_path: Path, line) -> None:
    with pytest.raises(BucketError, match="no such bucket"):
        publish(remote, "s3://nowhere/cells")
    report = publish(remote, "s3://cells/published/fluo/")
    assert publish(remote, "s3://cells/published/fluo").written == 0
    line.open = False
    with pytest.raises(BucketError):
        pull("s3://cells/published/fluo", tmp_path / "mine")
    line.open = True
    assert pull("s3://cells/published/fluo", tmp_path / "mine", expected=report.sha256).files == report.files
    mine, there = Store.open(tmp_path / "mine"), Store.open(embedded)
    assert mine.recipe.arrays.data == "" and mine.committed() == there.committed()
    for row in mine.committed().values():
        assert mine.embedding_at(row).tobytes() == there.embedding_at(row).tobytes()
