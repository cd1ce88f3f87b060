"""What is made of labels follows their versions: vectors, publications, and what may be imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from label_events import make_event

import hela_store as hs
from hela_store.embedding.relabel import ChangedLabels
from hela_store.errors import LabelError, StoreError
from hela_store.exchange.labels import export_labels, import_labels
from hela_store.exchange.publish import publish
from hela_store.exchange.pull import pull
from hela_store.labels.log import LabelLog
from hela_store.store.store import Store


def replace_first(path: Path) -> tuple[str, np.ndarray]:
    """Take half of the first cell away as version 1; return its id and its frame's labels then."""
    store = Store.open(path)
    cell = store.cells_table()["cell"][0].as_py()
    frame, _, number = cell.rpartition("#")
    label = store.pixels.label(frame).copy()
    mask = label == int(number)
    mask &= np.cumsum(mask).reshape(mask.shape) <= mask.sum() // 2
    with LabelLog(store) as log:
        log.append([make_event("replace", frame, (int(number),), (mask,))])
    label[(label == int(number)) & ~mask] = 0
    return cell, label


def test_a_cell_with_another_mask_gets_another_vector(store: Store) -> None:
    before = hs.Store.open(store.path).cell_vectors()
    cell, _ = replace_first(store.path)
    after = hs.Store.open(store.path).cell_vectors()
    place = list(after.cells).index(cell)
    assert list(after.cells) == list(before.cells)
    assert not np.allclose(after.vectors[place], before.vectors[place], atol=1e-4)


def test_a_publication_holds_the_versions_of_the_labels(store: Store, tmp_path: Path) -> None:
    cell, label = replace_first(store.path)
    publish(Store.open(store.path), str(tmp_path / "out"))
    pull(str(tmp_path / "out"), tmp_path / "mine")
    pulled = Store.open(tmp_path / "mine")
    assert pulled.labels_version == 1
    assert np.array_equal(pulled.pixels.label(cell.rpartition("#")[0]), label)


def test_what_would_erase_or_pass_for_another_is_not_imported(plain: Store, tmp_path: Path) -> None:
    export_labels(plain, tmp_path / "out")
    with pytest.raises(LabelError, match="stands for label files of the data set"):
        import_labels(plain, tmp_path / "out", who="file")
    (tmp_path / "out/01_ST").rename(tmp_path / "out/01_GT")
    for path in (tmp_path / "out/01_GT/SEG").glob("*.tif"):
        label = tifffile.imread(path)
        tifffile.imwrite(path, np.where(label == label.max(), label, 0))
    with pytest.raises(LabelError, match="has only some cells by its folder's name"):
        import_labels(plain, tmp_path / "out")
    assert Store.open(plain.path).labels_version == 0


def test_files_are_not_taken_in_over_what_a_person_did_meanwhile(plain: Store) -> None:
    changed = ChangedLabels(plain)
    frame = next(iter(plain.frame_records()))
    changed.events.append(make_event("complete", frame))
    replace_first(plain.path)
    with pytest.raises(StoreError, match="the labels became version 1 meanwhile"):
        changed.take_in()


def test_as_ingested_stays_as_ingested(plain: Store) -> None:
    latest = plain.at_labels()
    _, _ = replace_first(plain.path)
    latest.follow_labels(1)
    assert (latest.labels_version, plain.at_labels(0).labels_version) == (1, 0)
