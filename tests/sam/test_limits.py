"""Small files that stand for more than a machine holds or computes are refused at once, and run nothing."""

import struct
import zipfile
from copy import copy
from pathlib import Path

import pytest
import torch

from hela_store.errors import CheckpointError
from hela_store.sam.layouts.table import read_sam

pytestmark = pytest.mark.timeout(60)
START = b"\x80\x02"
PATCH = "image_encoder.patch_embed.proj.weight"
QKV = "image_encoder.blocks.0.attn.qkv"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little")


def tensor(key: str, shape: tuple[int, ...], strides: tuple[int, ...], count: int) -> bytes:
    """Return the opcodes of a tensor: where it lies in a storage of so many numbers."""
    place = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    sizes, steps = (b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + number(0)
        + sizes
        + steps
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def table(**tensors: bytes) -> bytes:
    return b"}" + b"".join(text(name.replace("_", ".")) + value + b"s" for name, value in tensors.items()) + b"."


def write(path: Path, pickled: bytes, data: bytes = bytes(4), compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", START + pickled)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")
        archive.writestr("a/data/0", data, compression)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_sam(path)
    assert "\n" not in str(error.value)
    return str(error.value)


HASHED = {
    "tuples of one twice": b"}" + b")" + b"2\x86" * 60 + b"Ns.",
    "tuples of a memo": b"})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns.",
    "frozen sets": b"}" + b"(t" + b"2\x86" * 60 + b"(l\x930Ns.",
    "a deep tuple": b"}" + b")" + b"\x85" * 500_000 + b"Ns.",
    "a far place of a memo": b"}r\xff\xff\xff\x0f.",
    "a long array": b"}" + text("a") + b"\x96" + struct.pack("<Q", 1 << 35) + b"s.",
}
"""A dictionary with a key that takes for ever to hash or overflows the stack, or a length that nothing backs."""


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("name", HASHED)
def test_a_pickle_that_would_exhaust_the_machine(tmp_path, name, objects):
    witness = tmp_path / "witness"
    run = b"cos\nsystem\n" + text(f"touch {witness}") + b"\x85R0" if objects else b""
    assert "not a SAM checkpoint" in refused(write(tmp_path / "best.pt", run + HASHED[name])) or name == "a long array"
    (tmp_path / "old.pt").write_bytes(START + run + HASHED[name])
    refused(tmp_path / "old.pt")
    assert not witness.exists()


def test_parts_that_are_compressed_or_overlap(tmp_path):
    small = table(x=tensor("0", (1 << 20,), (1,), 1 << 20))
    packed = write(tmp_path / "packed.pt", small, bytes(1 << 22), zipfile.ZIP_DEFLATED)
    assert "has compressed parts" in refused(packed)
    path = write(tmp_path / "twice.pt", small, bytes(1 << 22))
    assert read_sam(path).state["x"].shape == (1 << 20,)
    with zipfile.ZipFile(path, "a") as archive:
        again = copy(archive.getinfo("a/data/0"))
        again.filename = again.orig_filename = "a/data/1"
        archive.filelist.append(again)
        archive.NameToInfo[again.filename] = again
        archive.writestr("a/more", b"")
    assert "parts that come to more than its" in refused(path)


@pytest.mark.parametrize("objects", [b"", b"cos\nsystem\n0"])
def test_one_value_that_stands_for_many(tmp_path, objects):
    large = tensor("0", (1 << 30, 1 << 30), (0, 0), 1)
    path = write(tmp_path / "large.pt", objects + table(x=large, sam_x=large))
    assert "x of shape (1073741824, 1073741824) is larger than the file" in refused(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"x": torch.zeros(3).to_sparse()}, "x is of float32, sparse_coo, cpu; expected plain"),
        ({"x": torch.zeros(3, device="meta")}, "x is of float32, strided, meta; expected plain"),
        ({f"{QKV}.qkv_proj.weight": torch.zeros(())}, r"qkv_proj.weight has shape \(\), expected three"),
        ({f"{QKV}.qkv_proj.weight": torch.zeros(2, 4)}, r"qkv_proj.weight has shape \(2, 4\), expected three"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, tensors, words):
    more = {PATCH: torch.zeros(768, 3, 16, 16), f"{QKV}.w_a_linear_q.weight": torch.zeros(4, 4)}
    torch.save({"model": more | tensors}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words):
        read_sam(tmp_path / "odd.pt")
