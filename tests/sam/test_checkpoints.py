import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import UNTRAINED, EncoderRecipe
from hela_store.sam import nano
from hela_store.sam.checkpoints import (
    architecture_of,
    checkpoint_path,
    checkpoint_sha256,
    load_sam_encoder,
    read_state,
)
from hela_store.sam.registry import ENCODERS


@pytest.fixture(scope="module")
def state():
    return {name: value.clone() for name, value in nano.load_nano().state_dict().items()}


def saved(folder, state, name="some.pth"):
    path = folder / name
    torch.save(state, path)
    return path


def load(path, architecture="nano", sha256=""):
    return load_sam_encoder(EncoderRecipe(architecture=architecture, checkpoint=str(path), sha256=sha256))


def equal(module, state, prefix):
    return all(torch.equal(value, state[prefix + name]) for name, value in module.state_dict().items())


def test_the_shipped_nano(state):
    loaded = load_sam_encoder(EncoderRecipe())
    assert loaded.architecture == "nano"
    assert loaded.sha256 == checkpoint_sha256(EncoderRecipe())
    assert loaded.sha256 == (nano.NANO_SHA256 if nano.is_trained() else UNTRAINED)
    assert equal(loaded.encoder, state, "image_encoder.")
    assert equal(loaded.decoder, state, "")
    assert not any(p.requires_grad for p in loaded.encoder.parameters())
    assert not loaded.encoder.training


@pytest.mark.parametrize("wrap", [None, "model", "model_state"])
def test_a_pth_file(tmp_path, state, wrap):
    plain = {f"module.{name}": value for name, value in state.items()} if wrap == "model" else state
    path = saved(tmp_path, {wrap: plain} if wrap else plain)
    loaded = load(path)
    assert equal(loaded.encoder, state, "image_encoder.")
    assert equal(loaded.decoder, state, "")
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == checkpoint_sha256(
        EncoderRecipe(checkpoint="some.pth"), tmp_path
    )  # fmt: skip


def test_a_safetensors_file_of_half_precision(tmp_path, state):
    half = {name: value.half().contiguous() for name, value in state.items()}
    save_file(half, tmp_path / "some.safetensors")
    loaded = load(tmp_path / "some.safetensors")
    assert {p.dtype for p in loaded.encoder.parameters()} == {torch.float32}
    assert torch.equal(loaded.encoder.neck[0].weight, half["image_encoder.neck.0.weight"].float())


def test_bytes_other_than_the_recipe_pins_are_refused(tmp_path, state):
    path = saved(tmp_path, state)
    with pytest.raises(CheckpointError, match="the store was made with 000000000000"):
        load(path, sha256="0" * 64)


@pytest.mark.parametrize("width", [768, 1024, 1280])
def test_another_architecture_is_named(tmp_path, state, width):
    names = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    fake = {"image_encoder.patch_embed.proj.weight": torch.zeros(width, 3, 16, 16)}
    assert architecture_of(fake) == names[width]
    with pytest.raises(
        CheckpointError, match=f"is a {names[width]}, the recipe says nano; use --encoder {names[width]}"
    ):
        load(saved(tmp_path, fake))
    with pytest.raises(CheckpointError, match="is a nano, the recipe says vit_b"):
        load(saved(tmp_path, state), "vit_b")


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path, state):
    few = {name: value for name, value in state.items() if "blocks.2" not in name}
    with pytest.raises(CheckpointError, match=r"lacks \d+ of \d+ tensors of nano: image_encoder.blocks.2.norm1.weight"):
        load(saved(tmp_path, few))
    more = {**state, "image_encoder.blocks.0.adapter.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"1 tensors nano does not know: image_encoder.blocks.0.adapter.weight"):
        load(saved(tmp_path, more))
    odd = {**state, "image_encoder.neck.0.weight": torch.zeros(8, 192, 1, 1)}
    with pytest.raises(CheckpointError, match=r"neck.0.weight has shape \(8, 192, 1, 1\), nano has \(256, 192, 1, 1\)"):
        load(saved(tmp_path, odd))
    with pytest.raises(CheckpointError, match=r"lacks .* of vit_b"):
        load(saved(tmp_path, {"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)}), "vit_b")


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": Payload()}, path)
    with pytest.raises(CheckpointError, match="only tensors are read, and nothing in it was run"):
        load(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="only tensors are read, and nothing in it was run"):
        load(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_cut_or_no_checkpoint(tmp_path, state, suffix):
    path = tmp_path / f"some{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"not a checkpoint at all" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged or not a checkpoint|not a SAM checkpoint"):
            load(path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load(tmp_path / "missing.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, state, value):
    name = "mask_decoder.iou_token.weight"
    wrong = state[name].double()
    wrong[0, 3] = value
    words = rf"1 of the {wrong.numel()} values of {name} are NaN or infinite in float32 \(1 of {len(state)} tensors"
    with pytest.raises(CheckpointError, match=words):
        load(saved(tmp_path, {**state, name: wrong}))


def test_tensors_that_are_no_plain_numbers_are_named(tmp_path, state):
    name = "image_encoder.neck.0.weight"
    for wrong in (state[name].to_sparse(), state[name].to("meta"), state[name].to(torch.complex64), state[name].int()):
        with pytest.raises(CheckpointError, match=f"{name} is of .*expected plain floating-point numbers"):
            load(saved(tmp_path, {**state, name: wrong}))
    with pytest.raises(CheckpointError, match="no known patch embedding"):
        load(saved(tmp_path, {"image_encoder.patch_embed.proj.weight": torch.tensor(1.0)}))


def test_only_what_lacks_bytes_is_to_be_fetched_again(tmp_path, state):
    """No file that is no checkpoint ends in another error, and none that is whole is told to be fetched again."""
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "safe.safetensors")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    wholes = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    torn = {name: data[: len(data) // 2] for name, data in wholes.items() if name != "other.npz"}
    torn |= {"empty.pth": b"", "empty.safetensors": b""}
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 375042383\n"
    foreign = {
        "text": b"hello\n", "page": b"<!DOCTYPE html><html>", "json": b'{"a": 1}', "picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "archive": wholes["other.npz"], "number": pickle.dumps(3), "table": pickle.dumps({"a": 1}), "zeros": bytes(999),
        "ones": b"\xff" * 999, "stop": b"\x80\x02.", "huge": b"\x80\x05\x95" + b"\xff" * 7 + b"\x7f", "tiff": b"II*\0" + bytes(99),
    }  # fmt: skip
    foreign = {f"{name}{suffix}": data for name, data in foreign.items() for suffix in (".pth", ".safetensors")}
    for name, data in (torn | foreign | {"pointer.pth": pointer, "pointer.safetensors": pointer}).items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as refused:
            load(path)
        lacking = name in torn or name.startswith("zeros")  # a file of zeros was made, and then never written
        assert ("fetch it again" in str(refused.value)) == lacking, refused.value
        assert ("git lfs pull" in str(refused.value)) == name.startswith("pointer")
    few = {name: value for name, value in state.items() if not name.startswith("mask_decoder")}
    with pytest.raises(CheckpointError, match="expected all of a SAM: encoder, prompt encoder and mask decoder"):
        load(saved(tmp_path, few))


def test_other_things_saved_by_torch(tmp_path):
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        load(saved(tmp_path, torch.zeros(3)))
    with pytest.raises(CheckpointError, match=r"known architecture \(1 tensors"):
        load(saved(tmp_path, {"conv.weight": torch.zeros(3), "epoch": 3}))
    assert read_state(saved(tmp_path, {"sam.a": torch.zeros(1)})).keys() == {"a"}


def test_where_an_encoder_lies(tmp_path):
    assert checkpoint_path(EncoderRecipe(), tmp_path) is None
    with pytest.raises(CheckpointError, match="fetch the official one"):
        checkpoint_path(EncoderRecipe(architecture="vit_b"), tmp_path, tmp_path)
    (tmp_path / ENCODERS["vit_b"].file).write_bytes(b"x")
    assert checkpoint_path(EncoderRecipe(architecture="vit_b"), tmp_path, tmp_path) == tmp_path / ENCODERS["vit_b"].file
    assert checkpoint_sha256(EncoderRecipe(architecture="vit_h")) == ENCODERS["vit_h"].sha256
    with pytest.raises(CheckpointError, match="or a folder to fetch it into"):
        load_sam_encoder(EncoderRecipe(architecture="vit_b"))


@pytest.mark.slow
def test_a_full_size_vit_b(tmp_path):
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]()
    path = saved(tmp_path, sam.state_dict())
    loaded = load(path, "vit_b")
    assert equal(loaded.encoder, sam.state_dict(), "image_encoder.")
    with pytest.raises(CheckpointError, match="is a vit_b, the recipe says vit_h"):
        load(path, "vit_h")
