"""Several encoders in one store: embedded, scored and compared on the same cells."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hela_store_cli.main import main
from safetensors.torch import save_file

from hela_store.errors import CheckpointError, RecipeError, RunError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.runs.folder import list_runs, load_run, run_ids
from hela_store.sam.choice import encoder_at
from hela_store.sam.nano import build_nano
from hela_store.store.store import Store
from hela_store.studies.encoders import study_encoders
from hela_store.studies.study import StudyConfig
from hela_store.studies.text import ENCODER, ENCODERS, encoder_blocks, encoder_markdown, encoder_table
from hela_store.training.config import FinetuneConfig

TUNING = FinetuneConfig.of(steps=2, cells=2, validation_cells=2, workers=0, window=8)
CONFIG = StudyConfig(prompts=("point",), seeds=1, prompt_seeds=1, tuning=TUNING)


@pytest.fixture
def random(tmp_path: Path) -> Path:
    """Return the file of a nano with random weights."""
    torch.manual_seed(1)
    path = tmp_path / "random.safetensors"
    save_file({name: value.contiguous() for name, value in build_nano().state_dict().items()}, path)
    return path


@pytest.mark.slow
def test_two_encoders_are_paired_on_the_same_cells_once(store: Store, random: Path) -> None:
    found = study_encoders(store, ["nano", str(random)], CONFIG)
    assert [(row.prompt, row.method, row.encoder, len(row.runs)) for row in found.rows] == [
        ("point", "zero-shot", "nano", 1),
        ("point", "zero-shot", "random.safetensors", 1),
        ("point", "tuned for point", "nano", 1),
        ("point", "tuned for point", "random.safetensors", 1),
    ]
    for first, other in zip(found.rows[::2], found.rows[1::2], strict=True):
        assert first.over_first is None and first.cells == other.cells > 0
        assert other.over_first is not None
        assert other.over_first.mean == pytest.approx(other.iou - first.iou)
        keys = [{load_run(store.path, run).encoder for run in row.runs} for row in (first, other)]
        assert keys == [{found.encoders[0].key}, {found.encoders[1].key}]
    assert found.encoders[0].key == store.key != found.encoders[1].key
    assert all(e.seconds_per_view and e.bytes_per_view > 1000 and e.device == "cpu" for e in found.encoders)
    # the image-free baseline needs no encoder and is run once
    assert len(list_runs(store.path, "baseline")) == 1
    # only the blocks that are read were embedded: 4 train, 1 val and 1 test frames of 8
    variant = Store(store.path, replace(store.recipe, encoder=encoder_at(str(random))))
    assert len(variant.ledger().table()) == 6

    runs = run_ids(store.path)
    again = study_encoders(store, ["nano", str(random)], CONFIG)
    assert run_ids(store.path) == runs and repr(again.rows) == repr(found.rows)
    assert all(len(line) == len(ENCODERS) for line in encoder_table(found))
    blocks = encoder_blocks(found)
    assert [heading.split(" (")[0] for heading, _ in blocks] == ["point, zero-shot", "point, tuned for point"]
    assert all(len(line) == len(ENCODER) for _, lines in blocks for line in lines)
    text = encoder_markdown(found)
    assert text.startswith("## Encoders\n") and "## Study: random.safetensors\n" in text

    # of other cells or prompts they are not compared
    zero = found.rows[0].runs[0]
    named = ", ".join(encoder.key for encoder in found.encoders)
    assert f"encoders, in the order given: {named}" in compare(store, [zero, found.rows[1].runs[0]]).notes
    val = evaluate(variant, None, EvaluateConfig(prompts=("point",), prompt_seeds=1, split="val", window=8)).run
    with pytest.raises(RunError, match=r"were not given the same cells or prompt seeds: \d+ only the first, \d+ only"):
        compare(store, [zero, val])
    more = evaluate(variant, None, EvaluateConfig(prompts=("point",), prompt_seeds=2, split="test", window=8)).run
    with pytest.raises(RunError, match="0 only the first"):
        compare(store, [zero, more])


def test_prompts_that_lie_elsewhere_are_not_compared(store: Store, random: Path, tmp_path: Path) -> None:
    from hela_store.embedding.embed import EmbedConfig, embed

    other = Store(store.path, replace(store.recipe, encoder=encoder_at(str(random))))
    embed(other, EmbedConfig(splits=("test",)))
    cells = store.cells_table().to_pylist()
    for name, shift in (("one", 0), ("two", 3)):
        lines = [f"{c['frame']},{c['x0'] + shift},{c['y0']},{c['x1'] + shift},{c['y1']}" for c in cells]
        (tmp_path / f"{name}.csv").write_text("\n".join(["frame,x0,y0,x1,y1", *lines]))
    first, second = (
        evaluate(own, None, EvaluateConfig(prompt_table=tmp_path / f"{name}.csv", window=8, prompt_seeds=1)).run
        for own, name in ((store, "one"), (other, "two"))
    )
    with pytest.raises(RunError, match=r"were not given the same prompts"):
        compare(store, [first, second])


def test_what_cannot_be_compared_is_refused_before_anything_is_embedded(store: Store, random: Path) -> None:
    for given, error, text in (
        (["nano", "nano"], RecipeError, "the same weights are given twice: nano and nano"),
        (["nano", "vit_b_ml"], CheckpointError, "did you mean 'vit_b_lm'"),
        ([str(random), str(random.with_name("gone.pt"))], CheckpointError, r"no file .*gone\.pt"),
    ):
        with pytest.raises(error, match=text):
            study_encoders(store, given, CONFIG)
    # a plain vit_b is known without its file: what cannot be fetched is found out before nano embeds for hours
    sealed = random.parent / "a file"
    sealed.write_bytes(b"")
    with pytest.raises(OSError, match="a file"):
        study_encoders(store, [str(random), "vit_b"], CONFIG, cache_dir=sealed)
    assert run_ids(store.path) == [] and [p.name for p in (store.path / "ledger").iterdir()] == [store.key]


@pytest.mark.slow
def test_the_command(store: Store, random: Path, tmp_path: Path) -> None:
    given = "study --prompt box --seeds 2 --prompt-seeds 1 --steps 1 --cells 2 --validation-cells 2 --workers 0".split()
    given += ["--encoder", "nano", "--encoder", str(random), "-s", str(store.path)]
    out = tmp_path / "encoders.md"
    done = CliRunner().invoke(main, [*given, "--out", str(out)])
    assert done.exit_code == 0 and "over the first" in done.output and "random.safetensors" in done.output, done.output
    assert out.read_text().startswith("## Encoders")
    found = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    assert [encoder["label"] for encoder in found["encoders"]] == ["nano", "random.safetensors"]
    assert found["rows"][1]["over_first"]["mean"] < 0 and found["errors"] == []
    tuned = found["rows"][3]
    assert (tuned["method"], len(tuned["runs"]), tuned["over_first"]["seeds"]) == ("tuned for box", 2, 2)
