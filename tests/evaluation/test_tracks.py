"""Units of a store's cells, and which of its test cells no training frame holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.frames import labelled_frames
from hela_store.evaluation.subsets import UNSEEN
from hela_store.evaluation.tracks import cell_tracks, store_protocol, unseen_cells
from hela_store.sam.informed import informed_by
from hela_store.store.store import Store


def test_a_drawn_sequence_has_labels_that_are_tracks(store: Store) -> None:
    frames = labelled_frames(store, "all")
    found = cell_tracks(store, frames)
    cells = store.cells_table()
    assert str(found) == "intervals count a cell in several frames once (by its label)" and found.of.keys() == set(
        cells["cell"].to_pylist()
    )
    assert len(set(found.of.values())) == len(set(cells["label"].to_pylist()))
    units = found.units(list(found.of), np.arange(len(found.of)))
    assert (
        units.frame is not None
        and len(set(units.frame.tolist())) == len(frames)
        and units.seed[-1] == len(found.of) - 1
    )


def as_folder(store: Store, *, blocks: bool) -> Store:
    """Return the store as if its frames had been ``images/`` and ``masks/``, with the blocks that `new` named or without."""
    path = store.path / "store.toml"
    text = path.read_text().replace('reader = "ctc"', 'reader = "folder"').replace('"ST"', '"masks"')
    for name in () if blocks else ("train", "val", "test"):
        text = text.replace(f'\n{name} = "{getattr(store.recipe.split, name)}"', f'\n{name} = ""')
    path.write_text(text)
    return Store.open(store.path)


def test_a_time_lapse_in_a_folder_has_the_tracks_of_one_in_a_sequence(store: Store) -> None:
    frames = labelled_frames(store, "all")
    before, unseen = cell_tracks(store, frames), unseen_cells(store, labelled_frames(store, "test"))
    folder = as_folder(store, blocks=True)
    assert folder.recipe.dataset.stills
    found = cell_tracks(folder, frames)
    assert (found.method, found.of) == (before.method, before.of) == ("labels", before.of)
    units = found.units(list(found.of))
    assert units.frame is not None and len(set(units.frame.tolist())) == len(frames)
    assert unseen_cells(folder, labelled_frames(folder, "test")) == unseen is not None


def test_stills_are_units_of_their_own(store: Store) -> None:
    frames = labelled_frames(store, "all")
    store = as_folder(store, blocks=False)
    found = cell_tracks(store, frames)
    units = found.units(list(found.of))
    assert str(found) == "intervals count each image once" and units.frame is None
    assert len(set(found.of.values())) == len(frames) == len(set(units.block.tolist()))
    assert unseen_cells(store, frames) is None


def test_evaluate_says_that_it_tests_on_the_same_nuclei(store: Store) -> None:
    frames = labelled_frames(store, "test")
    unseen = unseen_cells(store, frames)
    trained = {
        row["label"] for row in store.cells_table().to_pylist() if row["frame"] in labelled_frames(store, "train")
    }
    tested = [row for row in store.cells_table().to_pylist() if row["frame"] in frames]
    assert unseen is not None and set(unseen) <= {row["cell"] for row in tested if row["label"] not in trained}
    found = evaluate(store, None, EvaluateConfig(prompts=("box",), prompt_seeds=1, window=8))
    assert found.same_nuclei == (
        f"the same nuclei, later: {len(unseen)} of {len(tested)} test cells are in no training frame"
    )
    assert (UNSEEN in found.subsets["box"]) == bool(unseen)
    done = CliRunner().invoke(main, ["evaluate", "-s", str(store.path), "--prompt", "box", "--json"])
    assert json.loads(done.stdout)["same_nuclei"] == found.same_nuclei


def test_cells_of_no_training_frame_have_a_row(store: Store) -> None:
    from hela_store.evaluation.subsets import subset_scores

    run = evaluate(store, None, EvaluateConfig(prompts=("box",), prompt_seeds=1, window=8)).run
    cells = store.sql(f"select cell, iou from cell_metrics where run = '{run}' order by cell limit 2").fetchall()
    found = subset_scores(store, run, [cell for cell, _ in cells])["box"][UNSEEN]
    assert found.n == 2 and found.mean_iou == pytest.approx(np.mean([iou for _, iou in cells]))


def test_a_store_says_what_its_test_block_means(store: Store) -> None:
    assert store_protocol(store) == "the same nuclei, later"
    said = store_protocol(as_folder(store, blocks=True))
    assert said == "split by frame number; in a time-lapse the scored frames show the same nuclei, later", (
        "new splits so too"
    )
    assert store_protocol(as_folder(store, blocks=False)) == "stills, split one by one; some may show the same slide"


def test_zero_shot_says_what_was_chosen_beside_a_data_set() -> None:
    assert "drawn scenes was informed by sequence 01" in informed_by("nano", "/x/Fluo-N2DL-HeLa")
    assert "after results on sequence 01" in informed_by("nano", "DIC-C2DH-HeLa/")
    assert informed_by("nano", "data") == informed_by("vit_b", "/x/Fluo-N2DL-HeLa") == ""
