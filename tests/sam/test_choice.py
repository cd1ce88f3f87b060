"""An encoder by name, as a file, and as both; and the warning where it has seen the data set."""

import http.server
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import narrow_vit_b
import pytest
import torch
import xxhash
from click.testing import CliRunner
from hela_store_cli.main import main
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from hela_store.errors import CheckpointError, RecipeError
from hela_store.recipe.recipe import DatasetRecipe, EncoderRecipe, Recipe
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.choice import choose_encoder, encoder_at
from hela_store.sam.layouts.hugging_face import to_hugging_face
from hela_store.sam.nano import NANO2_SHA256, NANO_SHA256, build_nano
from hela_store.sam.registry import ENCODERS, in_domain
from hela_store.store.store import Store


def seeded(path: Path, seed: int = 1) -> Path:
    """Write a nano with random weights."""
    torch.manual_seed(seed)
    save_file({name: value.contiguous() for name, value in build_nano().state_dict().items()}, path)
    return path


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Let a server have the weights of an encoder ``nano_lm``; return its file there and the cache of this machine."""
    (tmp_path / "server").mkdir()
    path = seeded(tmp_path / "server/nano_lm.safetensors")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{running.server_port}/{path.name}"
        digest = f"xxh128:{xxhash.xxh128_hexdigest(path.read_bytes())}"
        known = replace(ENCODERS["vit_b_lm"], name="nano_lm", architecture="nano", file=path.name, url=url, hash=digest)
        monkeypatch.setitem(ENCODERS, "nano_lm", known)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield path, tmp_path / "cache/hela-store"
        running.shutdown()
        thread.join()


def test_plain_names_need_no_file():
    assert choose_encoder("nano") == choose_encoder("nano@1") == EncoderRecipe(sha256=NANO_SHA256)
    assert choose_encoder("nano@2") == EncoderRecipe(architecture="nano2", sha256=NANO2_SHA256)
    assert choose_encoder("vit_b").name == "" and choose_encoder("vit_b").sha256 == ENCODERS["vit_b"].sha256


def test_a_name_is_fetched_once_and_pinned(other):
    path, cache = other
    found = choose_encoder("nano_lm", cache_dir=cache)
    assert (found.architecture, found.name, found.checkpoint) == ("nano", "nano_lm", "")
    path.unlink()
    assert choose_encoder("nano_lm", cache_dir=cache) == found
    loaded = load_sam_encoder(found, cache_dir=cache)
    assert loaded.sha256 == found.sha256 != NANO_SHA256
    with pytest.raises(CheckpointError, match="a folder to fetch it into"):
        load_sam_encoder(found)


def test_a_file_is_recognised_and_a_wrong_one_refused(other, tmp_path):
    path, cache = other
    by_name = choose_encoder("nano_lm", cache_dir=cache)
    found = replace(by_name, checkpoint=str(path))
    assert choose_encoder("nano@1", str(path)) == choose_encoder("nano_lm", str(path)) == found
    assert encoder_at(str(path)) == found and encoder_at("nano_lm", cache_dir=cache) == by_name
    own = seeded(tmp_path / "own.safetensors", 2)
    assert choose_encoder("nano@1", str(own)).name == ""
    with pytest.raises(
        CheckpointError, match=r"is not nano_lm: it has xxh128:.*give --encoder nano@1 for other weights"
    ):
        choose_encoder("nano_lm", str(own))


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no encoder is called 'vit_b_ml'; did you mean 'vit_b_lm'"):
        choose_encoder("vit_b_ml")
    with pytest.raises(CheckpointError, match=r"no encoder is called 'zzz'; `hela-store encoders` lists them"):
        encoder_at("zzz")
    with pytest.raises(CheckpointError, match=r"no file .*gone\.pt; give the path of a SAM checkpoint"):
        encoder_at(str(tmp_path / "gone.pt"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt is not a SAM checkpoint"):
        encoder_at(str(tmp_path / "other.pt"))


def test_a_store_of_a_named_encoder(other, tmp_path, monkeypatch):
    _, cache = other
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(main, "new one --dataset synthetic --encoder nano_lm --json".split())
    assert made.exit_code == 0, made.output
    encoder = Store.open(tmp_path / "stores/one").recipe.encoder
    assert (encoder.name, encoder.checkpoint) == ("nano_lm", "") and (cache / "nano_lm.safetensors").is_file()
    told = CliRunner().invoke(main, "new two --dataset synthetic --encoder nano_ml".split())
    assert told.exit_code == 1 and "did you mean 'nano_lm'?" in told.output
    assert not (tmp_path / "stores/two").exists()


def recipe(path: str, **encoder: str) -> Recipe:
    return Recipe(name="x", dataset=DatasetRecipe(path=path), encoder=EncoderRecipe(**encoder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "name", "seen"),
    [
        ("/data/DIC-C2DH-HeLa", "vit_b_lm", "DIC-C2DH-HeLa"),
        ("../data/DIC-C2DH-HeLa/01", "vit_b_lm", "DIC-C2DH-HeLa"),
        ("/data/dsb2018/train/images", "vit_b_lm", "DSB 2018"),
        ("/data/BBBC038", "vit_l_lm", "DSB 2018"),
        ("/data/Fluo-N2DL-HeLa", "vit_b_lm", ""),
        ("/data/Fluo-N2DL-HeLa", "", ""),
        ("/data/DIC-C2DH-HeLa", "", ""),
        ("/data/DIC-C2DH-HeLa", "vit_b_em_organelles", ""),
    ],
)
def test_a_data_set_that_the_encoder_has_seen_is_named(path, name, seen):
    architecture = ENCODERS[name].architecture if name else "vit_b"
    text = in_domain(recipe(path, architecture=architecture, name=name))
    assert text == "" if not seen else f"the encoder {name} was trained on {seen}: its scores here" in text
    if seen:
        named = next(part for part in reversed(Path(path).parts) if part not in ("01", "train", "images"))
        assert text.endswith(f"(recognised by the folder name {named!r} alone)")


def test_nano_has_seen_dsb_2018_and_other_weights_in_its_place_have_not():
    assert "nano@1 was trained on DSB 2018" in in_domain(recipe("/data/dsb2018"))
    assert "nano@2 was trained on Usiigaci" in in_domain(recipe("/data/usiigaci_phase", architecture="nano2"))
    assert in_domain(recipe("/data/usiigaci_phase")) == ""
    assert in_domain(recipe("/data/dsb2018", checkpoint="own.safetensors")) == ""
    with pytest.raises(CheckpointError, match=r"encoder\.name is vit_b_lm, a vit_b, and encoder\.architecture is nano"):
        in_domain(recipe("/data", name="vit_b_lm"))
    with pytest.raises(RecipeError, match=r"encoder\.architecture"):
        recipe("/data", architecture="vit_x")


def test_a_folder_of_hugging_face_is_an_encoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sam_model_registry, "vit_b", narrow_vit_b.build)
    torch.manual_seed(0)
    tensors = to_hugging_face(narrow_vit_b.build().state_dict())
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    found = encoder_at(str(folder))
    assert (found.architecture, found.checkpoint) == ("vit_b", str(folder))
    assert found == choose_encoder("vit_b", str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is a folder without model.safetensors"):
        encoder_at(str(folder))
