from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hela_store.base.sizes import folder_bytes, mebibytes
from hela_store.workflows.doctor import doctor

module = importlib.import_module("hela_store.workflows.doctor")


def test_a_healthy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_FREE", module.PROBE_BYTES)  # of this machine, only that much is asked
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/sam_vit_b_01ec64.pth").write_bytes(b"123")
    found = doctor(tmp_path / "not/yet/there", tmp_path / "cache")
    assert found.problems == ()
    assert all(found.versions.values()) and {"torch", "zarr", "duckdb"} <= found.versions.keys()
    assert found.disk["folder"] == str(tmp_path) and found.disk["write_mb_s"] > 0 and found.disk["read_mb_s"] > 0
    assert found.cache["checkpoints"] == ["sam_vit_b_01ec64.pth"] and found.cache["bytes"] == 3
    assert "test" in found.extras
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
    assert json.loads(json.dumps(found.to_json()))["machine"]["usable_cores"] >= 1
    assert "problem" not in dict(found.facts())


def test_problems_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_requirements", lambda: (["numpy", "no-such-package"], {"gpu": ["no-such-either"]}))
    monkeypatch.setattr(module, "LEAST_FREE", 1 << 60)
    found = doctor(tmp_path, tmp_path / "cache")
    assert found.versions["no-such-package"] == "" and found.extras == {"gpu": ["no-such-either"]}
    assert any("no-such-package is missing" in text for text in found.problems)
    assert any("make room" in text for text in found.problems)
    facts = found.facts()
    assert ("extra gpu", "missing, optional: no-such-either") in facts and facts[-1][0] == "problem"
    assert "cannot be written" in dict(facts)["disk"]


def test_sizes(tmp_path: Path) -> None:
    assert [mebibytes(size) for size in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"12345")
    assert folder_bytes(tmp_path) == folder_bytes(tmp_path / "a/b/c") == 5
    assert folder_bytes(tmp_path / "nowhere") == 0


def test_it_proposes_bfloat16_for_gpus_that_multiply_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {0: ("old", 7), 1: ("new", 9)}
    found = {
        index: SimpleNamespace(name=name, major=major, total_memory=1 << 34) for index, (name, major) in cards.items()
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)
    devices = doctor(tmp_path, tmp_path).devices
    assert "--precision" not in devices["cuda:0"] and "`new --precision bfloat16`" in devices["cuda:1"]
