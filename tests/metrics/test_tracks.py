"""Cells over time: by label where labels are tracks, else by overlap."""

from __future__ import annotations

import numpy as np

from hela_store.metrics.tracks import link, traced


def image(*cells: tuple[int, int]) -> np.ndarray:
    """Cells of 4 px, (label, first column)."""
    label = np.zeros((2, 40), np.int32)
    for value, column in cells:
        label[:, column : column + 4] = value
    return label


def test_labels_that_stay_are_tracks() -> None:
    found = link([("a/0", "a", image((1, 0), (2, 10))), ("a/1", "a", image((1, 1), (2, 11), (3, 30)))])
    assert found.method == "labels"
    assert found.of["a/0", 1] == found.of["a/1", 1] and len(set(found.of.values())) == 3
    gone = link([("a/0", "a", image((1, 0))), ("a/1", "a", image((1, 1))), ("a/2", "a", image((2, 9)))])
    assert len(set(gone.of.values())) == 2
    other = link([("a/0", "a", image((1, 0))), ("a/1", "a", image((1, 0))), ("b/0", "b", image((1, 0)))])
    assert other.of["a/0", 1] == other.of["a/1", 1] != other.of["b/0", 1], "another sequence has other cells"


def test_labels_that_are_numbered_anew_are_linked_by_overlap() -> None:
    frames = [("a/0", "a", image((1, 0), (2, 10))), ("a/1", "a", image((1, 11), (2, 1))), ("a/2", "a", image((1, 2)))]
    found = link(frames)
    assert found.method == "linked by overlap"
    assert found.of["a/0", 1] == found.of["a/1", 2] == found.of["a/2", 1]
    assert found.of["a/0", 2] == found.of["a/1", 1] != found.of["a/0", 1]
    apart = link([("a/0", "a", image((1, 0))), ("a/1", "a", image((1, 20)))])
    assert apart.method == "linked by overlap" and len(set(apart.of.values())) == 2, "an equal number is no proof"


def test_daughters_trace_back_to_their_mother_and_newcomers_to_nobody() -> None:
    frames = [("a/0", image((1, 0), (2, 10))), ("a/1", image((3, 0), (4, 2), (2, 11))), ("a/2", image((5, 1), (6, 30)))]
    held = traced(frames)
    assert held == {("a/0", 1), ("a/0", 2), ("a/1", 3), ("a/1", 4), ("a/1", 2), ("a/2", 5)}
    assert traced([]) == set()
    assert traced([frames[0], ("a/1", image((1, 0))[:, :20])]) == {("a/0", 1), ("a/0", 2)}, (
        "another size shares nothing"
    )
