"""Suspicious labels of an audit in the page: offered by rank, accepted or kept as label events, not offered again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from teach_server import serving

from hela_store.audit.audit import audit
from hela_store.audit.config import AuditConfig
from hela_store.errors import ConflictError, LabelError, QueryError
from hela_store.labels.versions import label_at
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.lesson import Lesson


@pytest.fixture(scope="module")
def audited(crowded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with an audit. Not to be changed."""
    path = tmp_path_factory.mktemp("audited") / "store"
    shutil.copytree(crowded, path)
    audit(Store.open(path), AuditConfig(folds=2, steps=2, cells=2, faults=1.0, device="cpu"))
    return path


@pytest.fixture
def lesson(audited: Path, tmp_path: Path) -> Iterator[Lesson]:
    """Return a lesson on a private copy of it."""
    shutil.copytree(audited, tmp_path / "store")
    lesson = Lesson(Store.open(tmp_path / "store"), TeachConfig(who="ann", device="cpu", every=1000))
    yield lesson
    lesson.close()


def decide(lesson: Lesson, found: dict[str, Any], accept: bool, version: int | None = None) -> dict[str, Any]:
    version = lesson.session.log.version if version is None else version
    return lesson.decide({name: found[name] for name in ("run", "suspect")} | {"accept": accept, "version": version})


def with_a_mask(lesson: Lesson) -> dict[str, Any]:
    """Return the first suspect that has a label and another mask."""
    found = lesson.suspect({"after": 0})
    while found["cell"] is None or found["counts"] is None:
        found = lesson.suspect({"after": found["rank"]})
    return found


def test_a_decision_is_an_event_and_is_not_asked_for_again(lesson: Lesson) -> None:
    store = lesson.store
    first = with_a_mask(lesson)
    before = label_at(store, first["frame"])
    kept = decide(lesson, first, accept=False)
    np.testing.assert_array_equal(label_at(store, first["frame"]), before)
    assert kept["cells"][0]["label"] == first["cell"] and kept["cells"][0]["taught"]
    (event,) = lesson.session.log.events_of(1)
    assert event.who == "ann" and event.reason.startswith(f"suspect {first['rank']} of {first['run']} kept: ")

    second = with_a_mask(lesson)
    assert second["rank"] > first["rank"]
    decide(lesson, second, accept=True)
    (event,) = lesson.session.log.events_of(2)
    assert event.reason.startswith(f"suspect {second['rank']} of {second['run']} accepted: ")
    assert lesson.store.sql("SELECT count(*) FROM label_events WHERE reason LIKE 'suspect %'").fetchall() == [(2,)]

    third = with_a_mask(lesson)
    assert third["rank"] > second["rank"]
    # what is taken back is asked for again
    lesson.again("undo")
    assert with_a_mask(lesson)["suspect"] == second["suspect"]
    lesson.again("undo")
    assert with_a_mask(lesson)["suspect"] == first["suspect"]


def test_an_edit_by_hand_is_a_decision_and_the_end_is_told(lesson: Lesson) -> None:
    first = with_a_mask(lesson)
    edit = {"page": "a", "frame": first["frame"], "version": 0, "kind": "erase", "cells": [first["cell"]]}
    lesson.edit(edit)
    assert with_a_mask(lesson)["suspect"] != first["suspect"]
    with pytest.raises(ConflictError, match="was changed in another page since"):
        decide(lesson, first, accept=True, version=0)
    with pytest.raises(LabelError, match="is settled"):
        decide(lesson, first, accept=True)
    assert lesson.suspect({"after": 1_000_000}) == {
        "frame": "",
        "told": "No more suspects to decide on; J begins again with the first one.",
    }


def test_questions_that_do_not_fit_are_refused(lesson: Lesson) -> None:
    first = lesson.suspect({"after": 0})
    for asked, why in (({}, "whole number"), ({"after": "1"}, "whole number")):
        with pytest.raises(QueryError, match=why):
            lesson.suspect(asked)
    for wrong, why in (
        ({"run": "20200101-000000-audit-0000"}, "a newer audit"),
        ({"suspect": "nothing"}, "has no suspect 'nothing'"),
        ({"suspect": 7}, "needs run and suspect"),
    ):
        with pytest.raises(QueryError, match=why):
            decide(lesson, first | wrong, accept=True)
    assert lesson.session.log.version == 0


def test_without_an_audit_the_page_says_how_to_make_one(store: Store) -> None:
    lesson = Lesson(store, TeachConfig(device="cpu"))
    with pytest.raises(LabelError, match="No audit ranked the labels yet; hela-store audit does"):
        lesson.suspect({"after": 0})
    lesson.close()


def test_keys_decide_on_suspects_in_a_browser(audited: Path, chromium: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys
    from teach_person import Person

    path = tmp_path / "store"
    shutil.copytree(audited, path)
    with serving("-s", path) as (address, _):
        person = Person(chromium, address)

        def press(key: str) -> str:
            """Press a key and return what the page then says of the suspect that it shows."""
            before = person.text("cell")
            person.keys(key)
            person.until(lambda: person.text("cell").startswith("Suspect") and person.text("cell") != before)
            return person.text("cell")

        assert press("j").startswith("Suspect 1, chance of a fault ")
        shown = press("j")
        assert shown.startswith("Suspect 2, ")
        assert press("k").startswith("Suspect 3, ")
        assert "K keeps the label" not in shown or Store.open(path).labels_version == 1
        while "Enter takes the yellow mask" not in person.text("cell"):
            press("j")
        base = Store.open(path).labels_version
        press(Keys.ENTER)
        assert Store.open(path).labels_version == base + 1
        reasons = Store.open(path).sql("SELECT reason FROM label_events ORDER BY version DESC LIMIT 1").fetchall()
        assert " accepted: " in reasons[0][0]
        assert chromium.get_log("browser") == []
