"""An encoder that was trained on the data set: said beside every number of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.encoders import seen_notes
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.show.report import report
from hela_store.store.store import Store
from hela_store.studies.encoders import study_encoders
from hela_store.studies.study import StudyConfig
from hela_store.training.config import FinetuneConfig

SEEN = "the encoder nano@1 was trained on DSB 2018"
CONFIG = EvaluateConfig(prompts=("box",), prompt_seeds=1, window=8)


@pytest.fixture
def seen(store: Store) -> Store:
    """Return the small store as if its frames were those of DSB 2018, which nano learned from."""
    (store.path / "data").rename(store.path / "dsb2018")
    path = store.path / RECIPE_FILE
    path.write_text(path.read_text().replace('path = "data"', 'path = "dsb2018"'))
    return Store.open(store.path)


def told(store: Store, *words: str) -> str:
    done = CliRunner().invoke(main, [*words, "-s", str(store.path)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_every_command_with_a_number_says_so(seen: Store, tmp_path: Path) -> None:
    assert SEEN in told(seen, "evaluate", "--zero-shot", "--prompt", "box", "--prompt-seeds", "1", "--window", "8")
    zero = evaluate(seen, None, CONFIG)
    assert zero.reused and zero.in_domain.startswith(SEEN)
    shown = CliRunner().invoke(main, ["evaluate", "--zero-shot", "--prompt", "box", "--json", "-s", str(seen.path)])
    assert json.loads(shown.stdout)["in_domain"].startswith(SEEN)
    assert SEEN in told(seen, "info")
    page = tmp_path / "report.html"
    assert any(SEEN in line for line in report(seen, [zero.run], out=page).notes) and SEEN in page.read_text()
    tuned = "finetune --prompt box --steps 1 --cells 2 --validation-cells 2 --workers 0 --window 8".split()
    assert SEEN in told(seen, *tuned)
    assert SEEN in told(seen, "export", "checkpoint", "latest", "--out", str(tmp_path / "out.safetensors"))


def test_other_precision_or_other_weights_are_known_by_their_record(seen: Store) -> None:
    zero = evaluate(seen, None, CONFIG).run
    rough = seen.with_encoder(precision="bfloat16")
    embed(rough, EmbedConfig(splits=("test",)))
    other = evaluate(rough, None, CONFIG).run
    found = compare(seen, [zero, other])
    assert sum(SEEN in note for note in found.notes) == 1
    assert seen_notes(seen, [rough.key]) == seen_notes(seen, [seen.key, rough.key, ""]) != []
    assert seen_notes(replace_path(seen, "elsewhere"), [rough.key]) == []


def replace_path(store: Store, path: str) -> Store:
    return Store(store.path, replace(store.recipe, dataset=replace(store.recipe.dataset, path=path)))


@pytest.mark.ci
def test_the_study_of_encoders_says_it_once(seen: Store) -> None:
    tuning = FinetuneConfig.of(steps=1, cells=2, validation_cells=2, workers=0, window=8)
    config = StudyConfig(prompts=("point",), seeds=1, prompt_seeds=1, tuning=tuning)
    found = study_encoders(seen, ["nano"], config)
    assert [row.method for row in found.rows] == ["zero-shot", "tuned for point"]
    assert sum(SEEN in note for note in found.notes) == 1 and found.encoders[0].in_domain.startswith(SEEN)
    assert any(SEEN in note for note in found.studies["nano"].notes)
