"""Controls decode with embeddings in which the cells are elsewhere, for frames of any size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.embedding.embed import embed
from hela_store.errors import RecipeError, SplitError
from hela_store.evaluation.config import FOREIGN, EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.foreign import filled, foreign_cells, mean_vector, turned
from hela_store.runs.folder import list_runs
from hela_store.show.report.choice import choose
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig
from stores import reseal

TURNED = EvaluateConfig(prompts=("box", "point"), prompt_seeds=1, foreign="turned")


def test_an_embedding_is_turned_within_what_the_view_fills() -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    embedding = torch.stack([rows, columns])
    whole = turned(embedding, (0, 0, 512, 512))
    assert torch.equal(whole, torch.rot90(embedding, 2, (1, 2)))
    flat = turned(embedding, (0, 0, 256, 192))  # 48 of 64 rows; the rest is padding
    assert torch.equal(flat[:, :48], torch.rot90(embedding[:, :48], 2, (1, 2)))
    assert torch.equal(flat[:, 48:], embedding[:, 48:])


def test_a_mean_has_no_cell_anywhere(store: Store) -> None:
    frames = [f"01/t00{i}" for i in range(4)]
    rows = [tile.row for part in foreign_cells(store, frames, None) for tile in part.tiles]
    vector = mean_vector(store, frames)
    expected = np.mean([store.embedding_at(row).astype(np.float64).mean((1, 2)) for row in rows], 0)
    assert vector.numpy() == pytest.approx(expected, abs=1e-4)
    put = filled(vector)(torch.zeros(256, 64, 64), (0, 0, 256, 192))
    assert torch.equal(put[:, 0, 0], vector) and torch.equal(put[:, 3, 60], vector)


@pytest.mark.parametrize("foreign", [name for name in FOREIGN if name != "sequence"])
def test_a_control_scores_lower_than_the_image(store: Store, foreign: str) -> None:
    config = EvaluateConfig(split="train", prompts=("point",), prompt_seeds=1)
    own = evaluate(store, None, config).prompts["point"].mean_iou
    control = evaluate(store, None, EvaluateConfig(**vars(config) | {"foreign": foreign}))
    assert control.prompts["point"].mean_iou < own - 0.1
    assert list_runs(store.path, "control")[-1].config["foreign"] == foreign


def test_every_control_is_a_run_of_its_own_and_named_in_reports(store: Store) -> None:
    one = evaluate(store, None, TURNED)
    other = evaluate(store, None, EvaluateConfig(**vars(TURNED) | {"foreign": "mean"}))
    assert one.run != other.run and evaluate(store, None, TURNED).run == one.run
    names = {line.name for line in choose(store, ()).lines}
    assert {name.partition(", ")[2] for name in names} == {"embedding turned", "mean embedding"}


def test_controls_of_earlier_versions_are_named_as_what_they_were(store: Store) -> None:
    run = evaluate(store, None, TURNED).run
    path = store.path / "runs" / run
    config = json.loads((path / "config.json").read_text())
    config["config"]["foreign"] = True
    (path / "config.json").write_text(json.dumps(config))
    reseal(path)
    (store.path / "catalog.duckdb").unlink(missing_ok=True)
    assert choose(Store.open(store.path), ()).lines[0].name.endswith("another frame's embedding")


@pytest.mark.ci
def test_stills_of_many_sizes_have_every_control_but_another_sequence(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, (rows, columns) in enumerate([(96, 128), (128, 96), (100, 140)]):
        label = np.zeros((rows, columns), np.uint16)
        label[20:40, 20 + 9 * i : 45 + 9 * i], label[60:80, 50:70] = 1, 2
        image = 200.0 * (label > 0) + rng.normal(40, 5, label.shape)
        tifffile.imwrite(tmp_path / "data" / "images" / f"s{i}.tif", image.clip(0, 255).astype(np.uint8))
        tifffile.imwrite(tmp_path / "data" / "masks" / f"s{i}.tif", label)
    new(tmp_path / "stills", NewConfig.of(dataset=str(tmp_path / "data"), labels="masks", tile="none"))
    store = Store.open(tmp_path / "stills")
    embed(store)
    for foreign in ("turned", "mean", "frame"):
        config = EvaluateConfig(split="all", prompts=("box",), prompt_seeds=1, foreign=foreign)
        assert evaluate(store, None, config).prompts["box"].n == 6
    with pytest.raises(SplitError, match="--foreign turned"):
        evaluate(store, None, EvaluateConfig(split="all", prompts=("box",), foreign="sequence"))


def test_the_flag_alone_turns(store: Store) -> None:
    asked = ["evaluate", "-s", str(store.path), "--zero-shot", "--prompt", "box", "--prompt-seeds", "1"]
    for given in ([], ["mean"]):
        done = CliRunner().invoke(main, [*asked, "--foreign", *given, "--split", "val"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert list_runs(store.path, "control")[-1].config["foreign"] == (given[0] if given else "turned")
    with pytest.raises(RecipeError, match="turned, mean, frame, sequence"):
        EvaluateConfig(foreign="elsewhere")
