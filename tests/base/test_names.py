"""Names from data as paths: whatever they are, they stay below the folder that was meant, or are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hela_store.base.files import write_atomic
from hela_store.base.locks import embed_lock
from hela_store.base.names import check_name, inside, refuse_links
from hela_store.base.text import visible
from hela_store.errors import DatasetError, StoreError

HOSTILE = [
    *("", " ", ".", "..", "../..", "../../escaped", "a/../../b", "/etc", "/etc/passwd", "a/b", "a\\b", "..\\..", "\\\\host\\c"),
    *("C:", "c:\\x", "C:x", "a\0b", "a\nb", "a\rb", "a\tb", "\x1b[31mred", "a\x9b31m", "\x7f", "\u202egnp", ".hidden", "x" * 300),
    *("\u2025", "\u2024\u2024", "\uff0e\uff0e", "\u2025\uff0f\u2025", "a\uff0fb", "a\uff3cb", "\ud800", "a\udcffb", "é" * 150),
]  # fmt: skip
FINE = [
    "01",
    "t012",
    "images",
    "my data",
    "01@64x96-uint16",
    "vit_b-cut3-0123456789ab",
    "Zelle ä",
    "細胞",
    "a.b",
    "~",
    "-x",
    "CON",
]
any_text = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    for refuse in (lambda: check_name(name, "the sequence"), lambda: inside(tmp_path, name, what="the sequence")):
        with pytest.raises(StoreError) as caught:
            refuse()
        text = str(caught.value)
        assert text.startswith("the sequence ") and "rename it" in text and "\n" not in text
        assert visible(text) == text and len(text) < 400
        text.encode()


@pytest.mark.parametrize("name", [None, 3, b"x", ["a"]])
def test_what_is_no_text_is_no_name(name: object) -> None:
    with pytest.raises(DatasetError, match="it is no text"):
        check_name(name, "the sequence", DatasetError)


@pytest.mark.parametrize("name", FINE)
def test_ordinary_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "x", what="the sequence", suffix=".tif") == tmp_path / name / "x.tif"


@given(any_text | st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "\0", "C:", "\u2025", "~"])).map("".join))
def test_a_name_that_is_taken_is_one_file_in_the_folder(name: str) -> None:
    folder = Path("/some/where")
    try:
        path = inside(folder, name, what="the frame", suffix=".ome.zarr")
    except StoreError as error:
        str(error).encode()
        return
    assert path.parent == folder and path.name == f"{name}.ome.zarr" and visible(name) == name
    assert len(f".{path.name}.partial".encode()) <= 255


@given(any_text)
def test_visible_text_has_no_control_character_and_can_be_encoded(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert visible(shown) == shown
    assert visible("ä 細胞\n\t\\x") == "ä 細胞\n\t\\x" and visible("\x1b[1m\u202e") == "\\x1b[1m\\u202e"


def test_links_are_named_and_not_followed(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    (folder / "a/b").mkdir(parents=True)
    refuse_links(folder, 3)
    refuse_links(tmp_path / "none", 3)
    (folder / "a/b/c").symlink_to(elsewhere)
    refuse_links(folder, 2)
    for refuse in (
        lambda: refuse_links(folder, 3),
        lambda: inside(folder / "a", "b", "c", "file", what="it"),
        lambda: write_atomic(folder / "a/b/c", b"x"),
    ):
        with pytest.raises(StoreError, match="a/b/c is a symbolic link"):
            refuse()
    dangling = folder / "dangling"
    dangling.symlink_to(tmp_path / "made")
    with pytest.raises(StoreError, match="symbolic link"):
        write_atomic(dangling, b"x")
    assert not list(elsewhere.iterdir()) and not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [".embed.lock", ".embed.holder.json"])
def test_a_lock_is_not_taken_through_a_link(tmp_path: Path, name: str) -> None:
    store, precious = tmp_path / "store", tmp_path / "precious"
    store.mkdir()
    precious.write_text("precious")
    (store / name).symlink_to(precious)
    with pytest.raises(StoreError, match="symbolic link"), embed_lock(store):
        pass
    assert precious.read_text() == "precious"
