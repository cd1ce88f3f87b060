"""Checkpoints of other projects are read by their layout; what is no SAM is named."""

import contextlib
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict

import narrow_vit_b
import pytest
import torch
from click.testing import CliRunner
from hela_store_cli.main import main
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from hela_store.datasets.synthetic import write_sequence
from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.layouts.hugging_face import MATRIX, TIED, config_of, to_hugging_face
from hela_store.sam.layouts.read import weights_sha256
from hela_store.sam.layouts.table import read_sam


@pytest.fixture(autouse=True)
def _narrow(monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setitem(sam_model_registry, "vit_b", narrow_vit_b.build)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: torch.randn_like(value) for name, value in narrow_vit_b.build().state_dict().items()}


def load(path):
    return load_sam_encoder(EncoderRecipe(architecture="vit_b", checkpoint=str(path)))


def assert_loads(path, state):
    loaded = load(path)
    found = {f"image_encoder.{n}": v for n, v in loaded.encoder.state_dict().items()} | loaded.decoder.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    return loaded


def write_folder(folder, tensors, parts=1):
    folder.mkdir(exist_ok=True)
    names = sorted(tensors)
    if parts == 1:
        save_file({name: tensors[name].contiguous() for name in names}, folder / "model.safetensors")
        return folder
    where = {name: f"model-{number % parts + 1:05}-of-{parts:05}.safetensors" for number, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n].contiguous() for n in names if where[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


# Hugging Face


def test_a_sam_model_of_hugging_face_is_read_from_file_and_folder(tmp_path, state):
    theirs = to_hugging_face(state)
    assert not any(part in name for name in theirs for part in ("image_encoder", ".blocks.", "pe_layer", ".norm"))
    folder = write_folder(tmp_path / "whole", theirs)
    assert_loads(folder, state)
    assert assert_loads(folder / "model.safetensors", state).sha256 == load(folder).sha256
    other = {TIED if name == MATRIX else name: value for name, value in theirs.items()}
    assert_loads(write_folder(tmp_path / "other", other), state)
    assert_loads(write_folder(tmp_path / "both", theirs | {TIED: theirs[MATRIX].clone()}), state)
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    assert_loads(tmp_path / "pytorch_model.bin", state)


def test_a_model_in_several_files(tmp_path, state):
    folder = write_folder(tmp_path / "parts", to_hugging_face(state), 3)
    index = folder / "model.safetensors.index.json"
    before = assert_loads(folder, state).sha256
    assert assert_loads(index, state).sha256 == before == weights_sha256(index)
    part = folder / "model-00002-of-00003.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert weights_sha256(index) != before
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors is damaged"):
        load(folder)
    part.unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 are missing: model-00002-of-00003.safetensors, model-00003-of-00003"):
        load(folder)
    for text in ("{", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x.safetensors"}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"is not an index|outside of its folder"):
            load(folder)


def test_a_tied_matrix_with_two_values_is_refused(tmp_path, state):
    theirs = to_hugging_face(state)
    folder = write_folder(tmp_path / "tied", theirs | {TIED: theirs[MATRIX] + 1})
    with pytest.raises(CheckpointError, match=f"{MATRIX} and {TIED} are one matrix, but differ"):
        load(folder)
    torch.save(state | {"sam.mask_decoder.iou_token.weight": torch.zeros(1, 256)}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match=r"has mask_decoder.iou_token.weight twice, with different values"):
        load(tmp_path / "twice.pth")


def test_other_widths_and_configs_are_named(tmp_path, state):
    theirs = to_hugging_face(state)
    patch = "vision_encoder.patch_embed.projection.weight"
    for width, name in ((384, "SlimSAM-50"), (168, "SlimSAM-77"), (500, "a SamModel")):
        folder = write_folder(tmp_path / "slim", theirs | {patch: torch.zeros(width, 3, 16, 16)})
        with pytest.raises(CheckpointError, match=f"is {name} of width {width}, expected 768, 1024 or 1280"):
            load(folder)
    folder = write_folder(tmp_path / "config", theirs)
    config = folder / "config.json"
    config.write_text(json.dumps(config_of("vit_b")))
    assert_loads(folder, state)
    vision = config_of("vit_b")["vision_config"]
    for changed, words in (
        ({"model_type": "sam_hq"}, "is of a 'sam_hq' model"),
        ({"vision_config": vision | {"num_attention_heads": 8}}, "has num_attention_heads 8, vit_b has 12"),
        ({"vision_config": vision | {"window_size": 7}}, "has window_size 7, vit_b has 14"),
        ({"vision_config": 3}, "is not a SamModel's config|is not the config"),
    ):
        config.write_text(json.dumps(config_of("vit_b") | changed))
        with pytest.raises(CheckpointError, match=words):
            load(folder)
    with pytest.raises(CheckpointError, match=r"1 tensors a SamModel .* first vision_encoder.new"):
        load(write_folder(tmp_path / "new", theirs | {"vision_encoder.new": torch.zeros(1)}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"is a folder without model.safetensors"):
        load(tmp_path / "empty")


# micro-sam


class DataSet:
    """Stands for the data sets that torch_em pickles into its checkpoints."""

    def __init__(self):
        self.paths, self.raw = ["a", "b"], torch.zeros(2)


def trained(state, **more):
    model = OrderedDict((f"sam.{name}", value) for name, value in state.items())
    about = {"epoch": 3, "best_metric": 0.5, "model_state": model, "optimizer_state": {"state": {0: torch.ones(3)}}}
    return about | {"init": {"train_loader": DataSet(), "kind": defaultdict(list)}} | more


def test_a_trainers_file_gives_its_tensors(tmp_path, state):
    head = OrderedDict([("out_conv.weight", torch.zeros(3, 64, 1, 1))])
    torch.save(trained(state, decoder_state=head), tmp_path / "best.pt")
    found = read_sam(tmp_path / "best.pt")
    assert found.left == ("decoder_state",) and found.layout == "segment-anything"
    notes = assert_loads(tmp_path / "best.pt", state).notes
    assert notes == ("best.pt also holds decoder_state, which is left alone",)
    torch.save({"model_state": state, "decoder_state": head}, tmp_path / "export.pt")
    assert assert_loads(tmp_path / "export.pt", state).notes == (
        "export.pt also holds decoder_state, which is left alone",
    )


def test_views_parameters_and_shared_storages_are_read_as_torch_reads_them(tmp_path):
    base = torch.arange(24.0)
    tensors = {
        "a": base.view(4, 6).T, "b": base[3:9], "c": torch.nn.Parameter(base.half()), "d": torch.zeros(0, 3),
        "e": torch.tensor(3), "f": base.bfloat16(), "g": torch.tensor([True]), "h": base.view(2, 12)[:, ::3],
    }  # fmt: skip
    torch.save({"model_state": tensors, "init": DataSet()}, tmp_path / "best.pt")
    found = read_sam(tmp_path / "best.pt").state
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], v) and found[n].dtype == v.dtype for n, v in tensors.items())


def lora(state, mlp=True, parts="qkv"):
    generator, out = torch.Generator().manual_seed(1), {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            out[name.replace(".qkv.", ".qkv.qkv_proj.")] = value
        elif mlp and ".mlp.lin" in name and name.startswith("image_encoder"):
            out[name.replace(".mlp.", ".mlp.mlp_layer.")] = value
        else:
            out[name] = value
    qkv = "image_encoder.blocks.0.attn.qkv"
    for part in parts:
        out[f"{qkv}.w_a_linear_{part}.weight"] = torch.randn(4, 768, generator=generator)
        out[f"{qkv}.w_b_linear_{part}.weight"] = torch.randn(768, 4, generator=generator)
    for number, (inputs, outputs) in {1: (768, 192), 2: (192, 768)}.items() if mlp else ():
        out[f"image_encoder.blocks.0.mlp.w_a_linear_{number}.weight"] = torch.randn(4, inputs, generator=generator)
        out[f"image_encoder.blocks.0.mlp.w_b_linear_{number}.weight"] = torch.randn(outputs, 4, generator=generator)
    return out


@pytest.mark.parametrize(("mlp", "parts"), [(True, "qkv"), (False, "qv"), (False, "k"), (True, "")])
def test_low_rank_adapters_are_merged(tmp_path, state, mlp, parts):
    adapted = lora(state, mlp, parts)
    torch.save(trained(adapted), tmp_path / "best.pt")
    assert read_sam(tmp_path / "best.pt").layout == "micro-sam with LoRA"
    block, before = load(tmp_path / "best.pt").encoder.blocks[0], "image_encoder.blocks.0"
    x = torch.randn(5, 768, generator=torch.Generator().manual_seed(2))
    q, k, v = torch.nn.functional.linear(x, state[f"{before}.attn.qkv.weight"], state[f"{before}.attn.qkv.bias"]).chunk(
        3, 1
    )
    added = {
        p: x
        @ adapted[f"{before}.attn.qkv.w_a_linear_{p}.weight"].T
        @ adapted[f"{before}.attn.qkv.w_b_linear_{p}.weight"].T
        for p in parts
    }
    expected = torch.cat([part + added.get(name, 0) for name, part in zip("qkv", (q, k, v), strict=True)], 1)
    assert torch.allclose(block.attn.qkv(x), expected, rtol=1e-4, atol=1e-2)
    if mlp:
        a, b = (adapted[f"{before}.mlp.w_{p}_linear_1.weight"] for p in "ab")
        hidden = torch.nn.functional.linear(x, state[f"{before}.mlp.lin1.weight"], state[f"{before}.mlp.lin1.bias"])
        assert torch.allclose(block.mlp.lin1(x), hidden + x @ a.T @ b.T, rtol=1e-4, atol=1e-2)


def test_adapters_that_are_not_whole_are_refused(tmp_path, state):
    adapted, qkv = lora(state), "image_encoder.blocks.0.attn.qkv"
    for changed, words in (
        ({n: v for n, v in adapted.items() if n != f"{qkv}.w_b_linear_q.weight"}, "w_a_linear_q.weight alone"),
        (adapted | {f"{qkv}.w_a_linear_q.weight": torch.zeros(4, 100)}, "does not fit a weight of"),
        (
            adapted | {"image_encoder.blocks.7.attn.qkv.w_a_linear_q.weight": torch.zeros(4, 768)},
            "has no layer that it",
        ),
    ):
        torch.save(changed, tmp_path / "lora.pt")
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path / "lora.pt")


# files that want to run something


def call(function, *arguments):
    """Return an object whose unpickling calls a function."""
    return type("Call", (), {"__reduce__": lambda self: (function, arguments)})()


class State:
    """Its state is set by what it inherits."""

    def __init__(self, state):
        self.inner = state

    def __reduce__(self):
        return (State, (None,), {"inner": self.inner, "again": call(os.system, self.inner)})

    def __setstate__(self, state):
        os.system(state["inner"])


class Table(dict[str, object]):
    """A dictionary with a state of its own."""

    def __reduce__(self):
        return (
            Table,
            (),
            {"x": call(os.system, self["command"])},
            None,
            iter([("k", call(os.system, self["command"]))]),
        )


def raw(opcodes: bytes, state, path):
    """Write a file whose pickle is given as opcodes, put behind a whole model state."""
    torch.save({"model_state": state, "init": DataSet()}, path)
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    content[name] = content[name][:-1] + opcodes + b"0."  # a value, which is popped again, and the end
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in content.items():
            archive.writestr(key, data)


def attacks(command):
    yield "reduce", call(os.system, command)
    yield "exec", call(exec, f"__import__('os').system({command!r})")
    yield "nested", call(getattr(os, "system"), call(str, command))  # noqa: B009
    yield "load_from_bytes", call(torch.storage._load_from_bytes, pickle.dumps(call(os.system, command)))
    yield "setstate", State(command)
    yield "table", Table(command=command)
    yield "deep", {"a": [({"b": call(os.system, command)},)]}
    yield "eval", call(eval, f"__import__('os').system({command!r})")
    yield "map", call(list, call(map, os.system, [command]))


def opcodes(command):
    """Yield pickles that no class writes: BUILD on functions and classes, INST, OBJ, persistent ids, extensions."""
    text = command.encode()
    short = b"X" + struct.pack("<I", len(text)) + text
    yield "inst", b"(S'" + text.replace(b"'", b'"') + b"'\nios\nsystem\n"
    yield "obj", b"(cos\nsystem\n" + short + b"o"
    yield "newobj", b"cos\nsystem\n" + short + b"\x85\x81"
    yield "build on a function", b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00__code__cos\nsystem\ns\x86b"
    yield "build on a class", b"ccollections\nOrderedDict\nN}X\x0c\x00\x00\x00__setstate__cos\nsystem\ns\x86b"
    yield "build on a stub", b"cos\nsystem\nN}X\x0c\x00\x00\x00__setstate__cos\nsystem\ns\x86b"
    yield "dictionary with items", b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemscos\nsystem\nsb"
    getattr_of_os = b"cbuiltins\ngetattr\ncbuiltins\n__import__\nX\x02\x00\x00\x00os\x85RX\x06\x00\x00\x00system\x86R"
    yield "callee", getattr_of_os + short + b"\x85R"
    yield "persistent id", b"(X\x07\x00\x00\x00storagecos\nsystem\n" + short + b"tQ"
    yield "dotted", b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + short + b"\x85R"
    yield "through torch", b"ctorch\nos.system\n" + short + b"\x85R"
    yield "through a storage", b"ctorch\nFloatStorage\n" + short + b"\x85R"


def names(kind):
    return [name for name, _ in kind("true")]


@pytest.mark.parametrize("name", names(attacks))
def test_nothing_of_a_malicious_object_is_run(tmp_path, state, name):
    witness = tmp_path / "witness"
    torch.save(trained(state, evil=dict(attacks(f"touch {witness}"))[name]), tmp_path / "best.pt")
    assert_loads(tmp_path / "best.pt", state)
    assert not witness.exists()
    for change in (lambda evil: {"model_state": evil}, lambda evil: {"model_state": {"a": evil}}, lambda evil: evil):
        torch.save(change(dict(attacks(f"touch {witness}"))[name]), tmp_path / "only.pt")
        with pytest.raises(CheckpointError):
            load(tmp_path / "only.pt")
        assert not witness.exists()


def test_the_attacks_are_real(tmp_path):
    done = []
    for name, evil in attacks(f"touch {tmp_path}/witness"):
        torch.save({"evil": evil}, tmp_path / "best.pt")
        with contextlib.suppress(Exception):
            torch.load(tmp_path / "best.pt", weights_only=False)
        if (tmp_path / "witness").exists():
            (tmp_path / "witness").unlink()
            done.append(name)
    assert set(done) >= {"reduce", "exec", "setstate", "table", "deep", "eval", "map"}


@pytest.mark.parametrize("name", names(opcodes))
def test_nothing_of_a_malicious_pickle_is_run(tmp_path, state, name):
    witness, before = tmp_path / "witness", torch._utils._rebuild_tensor_v2.__code__
    raw(dict(opcodes(f"touch {witness}"))[name], state, tmp_path / "best.pt")
    with contextlib.suppress(CheckpointError):
        assert_loads(tmp_path / "best.pt", state)
    assert not witness.exists()
    assert torch._utils._rebuild_tensor_v2.__code__ is before
    assert not hasattr(OrderedDict, "__setstate__")
    torch.save(trained(state), tmp_path / "good.pt")  # and a later read sees nothing of it
    assert_loads(tmp_path / "good.pt", state)


@pytest.mark.parametrize("whole", [True, False])
def test_formats_before_torch_1_6_with_objects_are_refused(tmp_path, state, whole):
    evil = call(os.system, f"touch {tmp_path}/witness")
    path = tmp_path / "old.pt"
    torch.save(trained(state, evil=evil) if whole else evil, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        load(path)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    "place", [(0, (99,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (5, (4,), (3,)), (0, (2, 2), (1,))]
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, place):
    (offset, shape, strides), storage = place, torch.zeros(3).untyped_storage()

    class Lie:
        def __reduce__(self):
            return (
                torch._utils._rebuild_tensor_v2,
                (
                    torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
                    offset,
                    shape,
                    strides,
                    False,
                    OrderedDict(),
                ),
            )

    torch.save({"model_state": {"a": Lie()}, "init": DataSet()}, tmp_path / "lie.pt")
    with pytest.raises(CheckpointError, match=r"nothing in it was run|damaged"):
        read_sam(tmp_path / "lie.pt")


# what is not SAM

PATCH = "image_encoder.patch_embed.proj.weight"
OTHERS: dict[str, dict[str, tuple[int, ...]]] = {
    "SAM-HQ": {"mask_decoder.hf_token.weight": (1, 256), PATCH: (768, 3, 16, 16)},
    "EfficientSAM": {"prompt_encoder.bbox_top_left_embeddings.weight": (1, 256), "image_encoder.pos_embed": (1, 197, 192), PATCH: (192, 3, 16, 16)},
    "SAM 2": {"image_encoder.trunk.patch_embed.proj.weight": (112, 3, 7, 7), "sam_mask_decoder.conv_s0.weight": (32, 256, 1, 1)},
    "a SAM 2 ": {"vision_encoder.backbone.patch_embed.projection.weight": (96, 3, 7, 7), MATRIX: (2, 128)},
    "SAM 3": {"detector.backbone.x": (3,), "tracker.maskmem_tpos_enc": (7, 1, 1, 64)},
    "a SAM 3": {"tracker_model.mask_decoder.iou_token.weight": (1, 256)},
    "Cellpose-SAM": {"encoder.patch_embed.proj.weight": (1024, 3, 8, 8), "out.weight": (192, 256, 1, 1), "diam_mean": (1,)},
    "CellSAM": {"model.image_encoder.pos_embed": (1, 64, 64, 768), "cellfinder.decode_head.x": (3,)},
    "only the decoder of micro-sam": {"out_conv.weight": (3, 64, 1, 1), "decoder_head.block.1.weight": (64,)},
    "only low-rank adapters": {"image_encoder.blocks.0.attn.qkv.w_a_linear_q.weight": (4, 768)},
    "low-rank adapters": {"image_encoder.blocks.0.attn.qkv.w_b_linear_v.weight": (768, 4)},
    "only low-rank": {"base_model.model.vision_encoder.layers.0.attn.qkv.lora_A.weight": (4, 768)},
    "adapters of another kind": {"image_encoder.blocks.0.attn.qkv.FacTu.weight": (4, 768), PATCH: (768, 3, 16, 16)},
    "position embeddings are 16 x 16": {"image_encoder.pos_embed": (1, 16, 16, 768), PATCH: (768, 3, 16, 16)},
    "position embeddings are 32 x 32": {"vision_encoder.pos_embed": (1, 32, 32, 768)},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_model_is_named(tmp_path, name, suffix):
    tensors = {key: torch.zeros(shape) for key, shape in OTHERS[name].items()}
    path = tmp_path / f"some{suffix}"
    if suffix == ".pt":
        torch.save({"model": tensors}, path)
    else:
        save_file(tensors, path)
    with pytest.raises(CheckpointError, match=name) as refused:
        load(path)
    assert "\n" not in str(refused.value) and "; " in str(refused.value)


FILES = {
    "page.pth": (b"<!DOCTYPE html><html><title>Sign in</title>", "a web page"),
    "page.safetensors": (b"\n<html>", "a web page"),
    "marked.pth": (b"\xef\xbb\xbf<!DOCTYPE HTML><html>", "a web page"),
    "comment.pth": (b"<!-- sign in -->\n<html>", "a web page"),
    "model.onnx": (b"\x08\x08\x12\x07pytorch", "an ONNX graph"),
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "empty.pt": (b"", "it is empty"),
    "zeros.pt": (bytes(4096), "damaged or not a checkpoint: it begins with zeros"),
    "zeros.safetensors": (bytes(4096), "damaged or not a checkpoint: it begins with zeros"),
}


@pytest.mark.parametrize("name", FILES)
def test_damage_is_named(tmp_path, name):
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / name)


def test_a_command_says_it_in_one_line_and_leaves_nothing(tmp_path, state):
    write_sequence(tmp_path / "data", sequence="01", frames=3, shape=(96, 128), cells=3)
    folder = write_folder(tmp_path / "parts", to_hugging_face(state), 3)
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00003.safetensors").unlink()
    tied = to_hugging_face(state)
    write_folder(tmp_path / "tied", tied | {TIED: tied[MATRIX] + 1})
    (tmp_path / "page.pth").write_bytes(FILES["page.pth"][0])
    torch.save({n: torch.zeros(s) for n, s in OTHERS["SAM-HQ"].items()}, tmp_path / "hq.pth")
    for name, words in {
        "parts": "2 are missing",
        "tied": "are one matrix, but differ",
        "page.pth": "a web page",
        "hq.pth": "SAM-HQ",
    }.items():
        given = ["--dataset", str(tmp_path / "data"), "--encoder", "vit_b", "--checkpoint", str(tmp_path / name)]
        told = CliRunner().invoke(main, ["new", str(tmp_path / "made"), *given])
        assert told.exit_code == 1 and words in told.output and told.output.count("\n") == 1, told.output
        assert not (tmp_path / "made").exists()


def test_a_program_of_torchscript_is_not_run(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py", "a/version"):
            archive.writestr(name, b"3\n")
    with pytest.raises(CheckpointError, match="TorchScript program, which is not run"):
        load(tmp_path / "script.pt")


def test_half_a_trainers_file_is_damage(tmp_path, state):
    torch.save(trained(state), tmp_path / "best.pt")
    whole = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"bytes are missing .* copy or fetch it again"):
        load(tmp_path / "best.pt")
