import numpy as np
import pytest

from hela_store.errors import StoreError
from hela_store.store.ledger import Entry, Ledger, view_digest


def entry(view, row=0, sha256="0"):
    return Entry(view=view, row=row, sha256=sha256)


def test_entries_come_back_and_later_words_win(tmp_path):
    ledger = Ledger(tmp_path / "ledger" / "key")
    assert ledger.entries() == {}
    ledger.commit([entry("a"), entry("b", 1)])
    ledger.commit([])
    ledger.commit([entry("a", sha256="1")])
    assert ledger.entries() == {"a": entry("a", sha256="1"), "b": entry("b", 1)}
    assert Ledger(ledger.path).entries() == ledger.entries()
    assert sorted(p.name for p in ledger.path.iterdir()) == ["00000000.jsonl", "00000001.jsonl"]


def test_one_view_is_looked_up(tmp_path):
    ledger, reader = Ledger(tmp_path / "ledger" / "key"), Ledger(tmp_path / "ledger" / "key")
    assert reader.row("a") is None
    ledger.commit([entry("a", 3), entry("b", 1)])
    assert (reader.row("a"), reader.row("b"), reader.row("c")) == (3, 1, None)
    ledger.commit([entry("c", 2), entry("a", 4)])
    assert (reader.row("c"), reader.row("a")) == (2, 4)


def test_what_is_no_segment_gives_no_number(tmp_path):
    ledger = Ledger(tmp_path / "ledger" / "key")
    ledger.commit([entry("a")])
    for name in (".00000007.jsonl.x1y2", "notes.txt"):
        (ledger.path / name).write_text("{}")
    ledger.commit([entry("b", 1)])
    assert (ledger.path / "00000001.jsonl").exists() and ledger.rows() == {"a": 0, "b": 1}


def test_a_segment_lost_in_the_middle_does_not_bring_its_number_back(tmp_path):
    ledger = Ledger(tmp_path / "ledger" / "key")
    for i in range(3):
        ledger.commit([entry(str(i), i)])
    lost = ledger.path / "00000001.jsonl"
    lost.unlink()
    ledger.commit([entry("3", 3)])
    assert (ledger.path / "00000003.jsonl").exists()
    with pytest.raises(StoreError, match=r"00000001.jsonl is lost, later ones are there; `hela-store verify --repair`"):
        ledger.entries()
    assert ledger.damaged() == [lost]
    ledger.clear(lost)
    assert list(ledger.entries()) == ["0", "2", "3"] and not ledger.damaged()


@pytest.mark.parametrize("text", ['{"view": "a", "row"', '{"view": "a"}\n', "\xff", '["a"]\n'])
def test_a_damaged_segment_is_named(tmp_path, text):
    ledger = Ledger(tmp_path / "ledger" / "key")
    ledger.commit([entry("a")])
    (ledger.path / "00000001.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"00000001.jsonl is damaged"):
        ledger.entries()


def test_the_digest_sees_values_and_view_but_not_byte_order(tmp_path):
    values = np.arange(6, dtype="<f2").reshape(2, 3)
    digest = view_digest("a", values)
    assert view_digest("a", values.astype(">f2")) == digest
    assert view_digest("a", np.asfortranarray(values)) == digest
    assert view_digest("b", values) != digest
    flipped = values.copy()
    flipped[1, 2] = -5
    assert view_digest("a", flipped) != digest


def test_many_segments_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr("hela_store.store.ledger.MERGED", 4)
    ledger, reader = Ledger(tmp_path / "ledger" / "key"), Ledger(tmp_path / "ledger" / "key")
    for i in range(10):
        ledger.commit([entry(str(i % 7), i)])
        assert reader.rows() == {str(n % 7): n for n in range(i + 1)}
    assert sorted(p.name for p in ledger.path.iterdir()) == [f"0000000{i}.jsonl" for i in (3, 4, 5, 6, 7, 8, 9)]
    # killed after the merged segment was written and before the older ones were removed
    (ledger.path / "00000001.jsonl").write_bytes((ledger.path / "00000003.jsonl").read_bytes().splitlines(True)[1])
    assert Ledger(ledger.path).rows() == reader.rows()


def test_numbers_are_counted_as_numbers_whatever_their_files_are_called(tmp_path):
    ledger = Ledger(tmp_path / "ledger" / "key")
    for i in range(11):
        ledger.commit([entry(str(i), i)])
    (ledger.path / "00000009.jsonl").rename(ledger.path / "9.jsonl")
    for stray in (".00000011.jsonl.tmp", "00000012.jsonl.bak", "notes.jsonl"):
        (ledger.path / stray).write_text("")
    ledger.commit([entry("11", 11)])
    assert (ledger.path / "00000011.jsonl").exists()
    assert ledger.rows() == {str(i): i for i in range(12)}


def test_two_that_take_turns_give_no_number_twice(tmp_path):
    one, other = Ledger(tmp_path / "ledger" / "key"), Ledger(tmp_path / "ledger" / "key")
    for i in range(0, 40, 4):
        one.commit([entry(str(i), i)])
        one.commit([entry(str(i + 1), i + 1)])
        other.commit([entry(str(i + 2), i + 2)])
        other.commit([entry(str(i + 3), i + 3)])
    assert one.rows() == other.rows() == {str(i): i for i in range(40)}
    assert len(list(one.path.iterdir())) == 40


def test_who_commits_again_and_again_lists_the_folder_once(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger" / "key")
    ledger.commit([entry("a")])
    monkeypatch.setattr("os.listdir", lambda *_: pytest.fail("the folder is listed"))
    for i in range(1, 5):
        ledger.commit([entry(str(i), i)])
    assert ledger.count() == 5
