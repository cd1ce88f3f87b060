"""Stores whose arrays lie in a bucket, on a real S3 server of this machine, behind a line that can fail."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import forked
import numpy as np
import obstore
import pytest
from buckets import SECRETS, URL

from hela_store.bench.delay import SlowLine
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import BucketError, RecipeError, StoreError
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.recipe.recipe import ArraysRecipe
from hela_store.runs.folder import load_run
from hela_store.store import bucket
from hela_store.store.bucket import Bucket
from hela_store.store.read_cache import ReadCache
from hela_store.store.shard import pack, unpack
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.info import info
from stores import reshard

pytestmark = pytest.mark.usefixtures("client")


def objects(store: Store) -> dict[str, bytes | None]:
    storage, folder = store.arrays.storage, f"embeddings/{store.key}/embedding"
    return {name: storage.read(f"{folder}/{name}") for name in storage.below(folder)}


def forget(store: Store, views: int) -> None:
    rows = sorted(store.committed().values())
    for segment, row in zip(sorted(store.ledger().path.iterdir())[-views:], rows[-views:], strict=True):
        segment.unlink()
        store.arrays.storage.remove(store.arrays.chunk_name(store.key, row))


def assert_no_secrets(path: Path, *texts: str) -> None:
    files = [file for file in path.rglob("*") if file.is_file()]
    assert files
    for secret in SECRETS.values():
        assert not any(secret in text for text in texts)
        assert not any(secret.encode() in file.read_bytes() for file in files)


def after(count: int, act):
    def progress(iterable, *, total, what):
        for number, item in enumerate(iterable, 1):
            yield item
            if what == "embed" and number == count:
                act()

    return progress


@pytest.mark.ci
def test_a_store_made_in_a_bucket_is_the_one_made_on_disk(embedded: Path, tmp_path: Path):
    local = Store.open(embedded)
    path = tmp_path / "made"
    path.mkdir()
    shutil.copytree(embedded / "data", path / "data")
    (path / "store.toml").write_text((embedded / "store.toml").read_text().replace('data = ""', f'data = "{URL}"'))
    store = Store.open(path)
    assert embed(store, EmbedConfig(limit=2)).left == 6
    assert sorted(store.committed()) == sorted(local.committed())[:0] or len(store.committed()) == 2
    for view, row in store.committed().items():
        assert store.arrays.embedding(store.key, row).tobytes() == local.arrays.embedding(local.key, row).tobytes()
        assert store.ledger().entries()[view] == local.ledger().entries()[view]
    assert not (path / "arrays.zarr").exists()
    assert_no_secrets(path)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("store.toml", "data"):
        (shutil.copytree if (path / name).is_dir() else shutil.copy)(path / name, other / name)
    with pytest.raises(StoreError, match="holds the arrays of another store"):
        embed(Store.open(other))


# in short: kills of integrity/test_crashes.py, and embed after a refused connection below
@pytest.mark.slow
def test_killed_and_started_again(remote: Store, line: SlowLine):
    before, entries = objects(remote), remote.ledger().entries()
    forget(remote, 5)
    line.delay = 0.02
    command = [str(Path(sys.executable).with_name("hela-store")), "embed", "-s", str(remote.path)]
    with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        while len(remote.committed()) < 5 and job.poll() is None:
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        output = job.communicate()[0]
    line.delay = 0.0
    assert job.returncode == -signal.SIGKILL, output
    assert len(remote.committed()) < 8
    report = verify(remote)
    assert report.whole, report.faults
    assert embed(remote).left == 0
    assert objects(remote) == before
    assert remote.ledger().entries() == entries
    assert_no_secrets(remote.path, output)


@pytest.mark.ci
def test_refused_connections_and_slow_answers(remote: Store, line: SlowLine, monkeypatch: pytest.MonkeyPatch):
    before = objects(remote)
    forget(remote, 4)

    def hang_up() -> None:
        line.open = False

    with pytest.raises(
        StoreError, match=r"cells/fluo does not answer .* 1 of 4 views were committed before, 3 are left"
    ):
        embed(remote, progress=after(1, hang_up))
    assert len(remote.committed()) == 5
    line.open, line.delay = True, 2.0
    monkeypatch.setattr(bucket, "ATTEMPT_SECONDS", 0.3)
    slow = Store.open(remote.path)
    with pytest.raises(StoreError, match=r"does not answer .* while reading"):
        slow.arrays.embedding(slow.key, 0)
    # asked again until the line is fast
    monkeypatch.setattr(bucket, "ATTEMPTS", 20)
    monkeypatch.setattr(bucket, "ATTEMPT_SECONDS", 1.5)
    monkeypatch.setattr(bucket, "GIVE_UP_SECONDS", 60.0)
    threading.Timer(2.0, setattr, (line, "delay", 0.0)).start()
    patient = Store.open(remote.path)
    assert np.isfinite(patient.arrays.embedding(patient.key, 0)).all()
    monkeypatch.setattr(bucket, "ATTEMPT_SECONDS", 30.0)
    assert embed(Store.open(remote.path)).left == 0
    assert objects(remote) == before


def test_a_look_lists_no_chunks(remote: Store, monkeypatch: pytest.MonkeyPatch):
    listed: list[str | None] = []

    def watch(name: str) -> None:
        plain = getattr(obstore, name)

        def listing(store: object, prefix: str | None = None) -> object:
            listed.append(prefix)
            return plain(store, prefix)

        monkeypatch.setattr(obstore, name, listing)

    watch("list")
    watch("list_with_delimiter")
    report = verify(remote, VerifyConfig(fast=True))
    assert report.whole and (report.committed, report.sampled) == (8, 8)
    found = info(Store.open(remote.path))
    assert found.bytes["arrays.zarr"] > 8_000_000 and found.keys == {remote.key: 8}
    assert set(listed) == {"embeddings"}


def test_an_embedding_in_a_shard_costs_one_request(remote: Store, line: SlowLine):
    expected = {row: remote.embedding_at(row).tobytes() for row in range(8)}
    sharded = reshard(remote, 4)
    reader = Store.open(remote.path).embeddings()
    assert reader.read(0).tobytes() == expected[0] and reader.read(5).tobytes() == expected[5]
    before = line.requests
    for row in (3, 6, 1, 4, 7, 2):  # the indexes of both shards are known
        assert reader.read(row).tobytes() == expected[row]
    assert line.requests - before == 6
    # a shard that is written again has another index
    name = sharded.arrays.chunk_name(remote.key, 0)
    chunks = unpack(sharded.arrays.storage.read(name) or b"", 4)
    sharded.arrays.storage.write(name, pack([None, *chunks[1:]]))
    assert reader.read(1).tobytes() == expected[1]
    with pytest.raises(StoreError, match=r"the embedding of view .* is not there"):
        reader.read(0)
    assert verify(Store.open(remote.path), VerifyConfig(repair=True, device="cpu")).encoded == 1
    assert reader.read(0).tobytes() == expected[0]
    assert {each for each in objects(sharded) if each != "zarr.json"} == {"c.0.0.0.0", "c.1.0.0.0"}


@pytest.mark.ci
def test_damage_is_found_and_repaired(remote: Store, client):
    before = objects(remote)
    names = [f"fluo/{remote.arrays.chunk_name(remote.key, row)}" for row in range(5)]
    data = [before[name.rpartition("/")[2]] or b"" for name in names]
    client.delete_object(Bucket="cells", Key=names[0])
    client.put_object(Bucket="cells", Key=names[1], Body=data[1][: len(data[1]) // 2])
    client.put_object(Bucket="cells", Key=names[2], Body=data[2][:5000] + bytes([data[2][5000] ^ 1]) + data[2][5001:])
    client.put_object(Bucket="cells", Key=names[3], Body=data[4])
    client.put_object(Bucket="cells", Key=names[4], Body=data[3])
    client.delete_object(Bucket="cells", Key=f"fluo/embeddings/{remote.key}/view/zarr.json")
    kinds = {fault.kind for fault in verify(remote).faults}
    assert kinds == {"missing", "truncated", "flipped", "swapped", "damaged"} or kinds == {"damaged"}
    report = verify(Store.open(remote.path), VerifyConfig(repair=True))
    assert report.whole and report.encoded == 5, report
    assert objects(remote) == before


@pytest.mark.ci
def test_finetune_reads_from_the_bucket(remote: Store, embedded: Path, tmp_path: Path):
    shutil.copytree(embedded, tmp_path / "local")
    config = FinetuneConfig.of(prompt="box", steps=2, cells=2, workers=1, evaluate_every=1)
    weights = []
    for store in (remote, Store.open(tmp_path / "local")):
        weights.append(load_run(store.path, finetune(store, config).run, "finetune").weights.read_bytes())
    assert weights[0] == weights[1]
    assert info(remote).views_done == 8
    assert remote.xarray().embedding[0].values.shape == (256, 64, 64)
    assert_no_secrets(remote.path)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request as S3 does once credentials expired."""

    code, status = "ExpiredToken", 403
    asked: ClassVar[list[str]] = []

    def refuse(self) -> None:
        self.asked.append(self.command)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><AWSAccessKeyId>{SECRETS['AWS_ACCESS_KEY_ID']}</AWSAccessKeyId></Error>"
        if self.command == "HEAD":
            body = ""
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = do_HEAD = do_POST = refuse

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.ci
@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (400, "ExpiredToken", "renew them, for example with `aws sso login`"),
        (403, "AccessDenied", "have this user given the right"),
    ],
)
def test_refused_credentials_are_not_shown(
    remote: Store, monkeypatch: pytest.MonkeyPatch, status: int, code: str, way_out: str
):
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(Refusing, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        store = Store.open(remote.path)
        with pytest.raises(StoreError, match=rf"refused \({code}: .* while reading .*; {way_out}, and run") as caught:
            store.arrays.storage.read("zarr.json")
        command = [str(Path(sys.executable).with_name("hela-store")), "--traceback", "embed", "-s", str(remote.path)]
        done = forked.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == 1
    assert re.search("refused|renew", done.stderr)
    assert_no_secrets(remote.path, str(caught.value), done.stderr, done.stdout)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", r"refused \(ExpiredToken: the credentials have expired\) .*; renew them"),
        (403, "ExpiredToken", r"refused \(ExpiredToken: the credentials have expired\) .*; renew them"),
        (403, "AccessDenied", r"refused \(AccessDenied: these credentials do not allow it\)"),
        (403, "InvalidAccessKeyId", r"refused \(InvalidAccessKeyId: the server does not know .* `aws configure`"),
        (404, "NoSuchBucket", r"refused \(NoSuchBucket: there is no such bucket\)"),
        (
            301,
            "PermanentRedirect",
            r"refused \(PermanentRedirect: the bucket is in another region\) .*AWS_DEFAULT_REGION",
        ),
        (400, "AuthorizationHeaderMalformed", r"\(AuthorizationHeaderMalformed: the bucket is in another region\)"),
    ],
)
def test_what_asking_again_cannot_mend_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
):
    monkeypatch.setattr(Refusing, "code", code)
    monkeypatch.setattr(Refusing, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        there = Bucket(URL, tmp_path / "data.json", ReadCache(tmp_path / "cache", 0))
        for act in (there.read, there.size, there.below, there.remove):
            Refusing.asked.clear()
            with pytest.raises(BucketError, match=said):
                act("zarr.json")
            # a HEAD is answered without a reason, which a GET is asked for
            assert Refusing.asked.count("GET") <= 1 and len(Refusing.asked) <= 2, Refusing.asked
        server.shutdown()


def test_a_port_or_host_where_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for url, said in (
        ("http://127.0.0.1:1", "connection refused; 4 attempts"),
        ("http://no-such-host.invalid", "there is no host of this name; 4 attempts"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        there = Bucket(URL, tmp_path / "data.json", ReadCache(tmp_path / "cache", 0))
        with pytest.raises(BucketError, match=rf"cells/fluo does not answer \({said}\) while reading"):
            there.read("zarr.json")


def test_a_bucket_or_credentials_that_are_not_there(remote: Store, monkeypatch: pytest.MonkeyPatch):
    recipe = replace(remote.recipe, arrays=ArraysRecipe(data="s3://no-such-bucket/x"))
    before = sorted(path for path in remote.path.rglob("*") if "lock" not in path.name)
    with pytest.raises(StoreError, match=r"refused \(NoSuchBucket: there is no such bucket\) .*; make it, or"):
        embed(Store(remote.path, recipe))
    assert sorted(path for path in remote.path.rglob("*") if "lock" not in path.name) == before
    for name in SECRETS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials for s3://cells/fluo"):
        Store.open(remote.path).arrays.storage.read("zarr.json")


def test_recipes(store: Store):
    for data in ("s3://key:secret@cells/x", "s3://", "http://cells/x", "s3://cells/x?y", "s3://cells/../x/"):
        with pytest.raises(RecipeError, match=r"arrays.data is"):
            ArraysRecipe(data=data)
    both = Store(store.path, replace(store.recipe, arrays=ArraysRecipe(data=URL)))
    with pytest.raises(StoreError, match="aws s3 sync"):
        both.arrays  # noqa: B018


def test_storage_names(tmp_path: Path):
    storage = Bucket(URL, tmp_path / "data.json", ReadCache(tmp_path / "cache", 0))
    storage.zarr(read_only=False)
    assert storage.read("a/b") is None and storage.size("a/b") is None
    assert storage.below("") == ["hela-store.json"]
    assert os.listdir(tmp_path) == ["data.json"]


def test_an_answer_that_is_cut_short_is_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Cutting(Refusing):
        def refuse(self) -> None:
            self.send_response(200)
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(bytes(500))
            self.close_connection = True

        do_GET = refuse

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        there = Bucket(URL, tmp_path / "data.json", ReadCache(tmp_path / "cache", 1 << 20))
        with pytest.raises(BucketError, match=r"did not answer in full \(the answer was cut short\) while reading"):
            there.read("embeddings/key/embedding/c.0.0.0.0")
        server.shutdown()
    assert not (tmp_path / "cache").exists()
