"""Weights by name: fetched once and checked, from a server on this machine."""

import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import xxhash
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.errors import CheckpointError
from hela_store.sam.fetch import fetch
from hela_store.sam.registry import ENCODERS


def known(file, content=b"", url="http://127.0.0.1:9", algorithm="sha256"):
    """Return an encoder whose file is on a server."""
    digest = xxhash.xxh128_hexdigest(content) if algorithm == "xxh128" else hashlib.new(algorithm, content).hexdigest()
    return replace(ENCODERS["vit_b_lm"], file=file, url=f"{url}/{file}", hash=f"{algorithm}:{digest}")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if "cut" in self.path:  # fewer bytes than promised
            self.send_response(200)
            self.send_header("Content-Length", str(4 << 20))
            self.end_headers()
            self.wfile.write(b"x" * (5 << 19))
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


class Steps:
    """A progress bar that counts."""

    def __init__(self):
        self.asked, self.steps, self.ended = [], 0, False

    def __call__(self, iterable, *, total, what):
        self.asked.append((total, what))
        for item in iterable:
            self.steps += 1
            yield item
        self.ended = True


@pytest.mark.parametrize("algorithm", ["sha256", "xxh128", "md5"])
def test_fetching_checks_the_sum_and_leaves_nothing_wrong_behind(tmp_path, server, algorithm):
    folder, url = server
    content, cache = bytes(range(256)) * 10_000, tmp_path / "cache"
    (folder / "good.pth").write_bytes(content)
    official = known("good.pth", content, url, algorithm)
    progress = Steps()
    path = fetch(official, cache, progress=progress)
    assert path.read_bytes() == content
    assert (progress.asked, progress.steps, progress.ended) == ([(3, "fetch good.pth (MiB)")], 3, True)
    (folder / "good.pth").unlink()
    assert fetch(official, cache) == path  # from the cache

    (cache / "tmpab12").write_bytes(content[:99])  # what a killed download left
    path.write_bytes(content[:-1])  # damaged in the cache: fetched again
    (folder / "good.pth").write_bytes(content)
    assert fetch(official, cache).read_bytes() == content
    assert [path.name for path in cache.iterdir()] == ["good.pth"]


@pytest.mark.parametrize("name", ["wrong.pth", "cut.pth", "missing.pth"])
def test_what_cannot_be_right_is_refused(tmp_path, server, name):
    folder, url = server
    (folder / "wrong.pth").write_bytes(b"other weights")
    cache = tmp_path / "cache"
    with pytest.raises(CheckpointError, match=r"try again|pass it with --checkpoint"):
        fetch(known(name, url=url), cache)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_bar_ends_where_a_download_breaks_off(tmp_path, server):
    progress = Steps()
    with pytest.raises(CheckpointError, match=r"cannot fetch|cut short"):
        fetch(known("cut.pth", url=server[1]), tmp_path / "cache", progress=progress)
    assert progress.ended and 1 <= progress.steps < 4 and progress.asked[0][0] == 4


def test_errors_of_the_disk_are_no_errors_of_the_server(tmp_path, server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file") as found:
        fetch(known("any.pth", url=server[1]), tmp_path / "file" / "cache")
    assert found.value.errno is not None


def test_no_server(tmp_path):
    cache, lost = tmp_path / "cache", known("vit_b_lm.pt", b"x")
    with pytest.raises(CheckpointError, match="cannot fetch") as found:
        fetch(lost, cache)
    text = str(found.value)
    assert "\n" not in text and lost.url in text and str(cache / "vit_b_lm.pt") in text
    assert "--checkpoint FILE --encoder vit_b_lm" in text and "another hash" not in text
    cache.mkdir(exist_ok=True)
    (cache / "vit_b_lm.pt").write_bytes(b"of another download")
    with pytest.raises(CheckpointError, match=r"vit_b_lm\.pt has another hash than sha256:"):
        fetch(lost, cache)
    (cache / "vit_b_lm.pt").write_bytes(b"x")  # fetched by hand
    assert fetch(lost, cache) == cache / "vit_b_lm.pt"


def test_two_processes_fetch_once(tmp_path, server):
    folder, url = server
    (folder / "good.pth").write_bytes(b"weights")
    official, found = known("good.pth", b"weights", url), []
    threads = [threading.Thread(target=lambda: found.append(fetch(official, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "cache/good.pth"] * 4 and len(list((tmp_path / "cache").iterdir())) == 1


NOBODY = """
import os, pooch, requests, sys
from dataclasses import replace
from pathlib import Path
from hela_store.sam.fetch import fetch
from hela_store.sam.registry import ENCODERS
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)
try:
    fetch(replace(ENCODERS["vit_b_lm"], url="http://127.0.0.1:9/x"), Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("mode", [0o500, 0o555])
def test_a_cache_without_permission_is_named_with_the_way_out(tmp_path, mode):
    sealed = tmp_path / "cache"
    sealed.mkdir()
    sealed.chmod(mode)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    command = [sys.executable, "-c", NOBODY, str(sealed)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("StoreError no permission to write while "), told
    assert "download http://127.0.0.1:9/x elsewhere" in told.stdout
    assert told.stdout.count("\n") == 1 and "pass it with --checkpoint FILE --encoder vit_b_lm" in told.stdout
    assert not list(sealed.iterdir())


def test_the_table_holds_what_is_needed_of_every_encoder():
    lengths = {"sha256": 64, "xxh128": 32, "md5": 32}
    for name, entry in ENCODERS.items():
        assert name == entry.name and entry.licence and entry.trained_on and entry.megabytes
        if entry.url:
            algorithm, _, digest = entry.hash.partition(":")
            assert len(digest) == lengths[algorithm] and int(digest, 16) and entry.url.startswith("https://")
            assert entry.cite
    for attribute in ("file", "url", "hash"):
        values = [getattr(entry, attribute) for entry in ENCODERS.values() if entry.url]
        assert len(set(values)) == len(values)


def test_the_command_lists_them_with_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "hela-store").mkdir()
    (tmp_path / "hela-store/vit_b_lm.pt").write_bytes(b"x")
    told = CliRunner().invoke(main, ["encoders"])
    assert told.exit_code == 0 and "Next: hela-store new" in told.output
    listed = {line.split()[0]: line.split()[2] for line in told.output.splitlines() if line.split()[0] in ENCODERS}
    assert list(listed) == list(ENCODERS)
    assert {name for name, here in listed.items() if here == "yes"} == {"nano@1", "nano@2", "vit_b_lm"}
    lines = [line for line in told.output.splitlines() if not line.startswith("Downloaded weights")]
    assert max(map(len, lines)) <= 80
    found = json.loads(CliRunner().invoke(main, ["encoders", "medsam", "--json"]).stdout)
    assert found["cache"] == str(tmp_path / "hela-store")
    assert found["encoders"][0]["hash"].startswith("md5:") and not found["encoders"][0]["here"]
    shown = CliRunner().invoke(main, ["encoders", "vit_b_lm"]).output
    assert all(text in shown for text in ("DIC-C2DH-HeLa", "DSB 2018", "CC-BY-4.0", ENCODERS["vit_b_lm"].url))
    told = CliRunner().invoke(main, ["encoders", "vit_b_ml"])
    assert told.exit_code == 1 and "did you mean 'vit_b_lm'?" in told.output and told.output.count("\n") == 1
