"""A real S3 server of this machine, behind a line that can fail, and a store whose arrays lie in a bucket there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import SECRETS, URL
from moto.server import ThreadedMotoServer

from hela_store.bench.delay import SlowLine, slow_line
from hela_store.store import bucket
from hela_store.store.store import Store


@pytest.fixture(scope="module")
def line() -> Iterator[SlowLine]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with slow_line(server.get_host_and_port()) as line:
        yield line
    server.stop()


@pytest.fixture
def client(line: SlowLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a client of the server, which is empty but for a bucket; ours gives up after a second."""
    environment = SECRETS | {"AWS_ENDPOINT_URL": line.url, "AWS_DEFAULT_REGION": "eu-west-1", "HOME": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket, "ATTEMPTS", 3)
    monkeypatch.setattr(bucket, "GIVE_UP_SECONDS", 1.0)
    line.open, line.delay = True, 0.0
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="cells", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield client
    line.open, line.delay = True, 0.0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="cells"):
        for each in page.get("Contents", ()):
            client.delete_object(Bucket="cells", Key=each["Key"])
    client.delete_bucket(Bucket="cells")
    client.close()


@pytest.fixture
def remote(store: Store, client) -> Store:
    """Return the small embedded store, its arrays moved into the bucket."""
    arrays = store.path / "arrays.zarr"
    for file in filter(Path.is_file, arrays.rglob("*")):
        client.put_object(Bucket="cells", Key=f"fluo/{file.relative_to(arrays)}", Body=file.read_bytes())
    shutil.rmtree(arrays)
    recipe = store.path / "store.toml"
    recipe.write_text(recipe.read_text().replace('data = ""', f'data = "{URL}"'))
    return Store.open(store.path)
