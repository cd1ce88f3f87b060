"""Exported embeddings in micro-sam's layout, and, marked slow, the real package on them in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from other_sams import vit_t_state
from segment_anything import sam_model_registry

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import RunError, StoreError
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.exchange.micro_sam_export import MicroSamExport, export_micro_sam
from hela_store.prompts.prompt import Prompt
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.runs.folder import new_run
from hela_store.sam.choice import choose_encoder
from hela_store.sam.decoder import build_decoder, save_decoder
from hela_store.sam.predict import predict_view
from hela_store.store.ledger import Entry, view_digest
from hela_store.store.store import Store

# what a user of micro-sam calls; the encoder is taken away, so that computing anything fails
SCRIPT = """
import json, sys, warnings
import numpy, tifffile, torch
from micro_sam.util import get_sam_model, precompute_image_embeddings, set_precomputed
model_type, checkpoint, folder, ndim = sys.argv[1:]
predictor = get_sam_model(model_type=model_type, checkpoint_path=checkpoint, device="cpu")
def fail(*_):
    raise AssertionError("micro-sam encoded")
predictor.model.image_encoder.forward = fail
image = tifffile.imread(f"{folder}/image.tif")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = precompute_image_embeddings(predictor, image, f"{folder}/embeddings.zarr", ndim=int(ndim), verbose=False)
set_precomputed(predictor, found, i=0 if ndim == "3" else None)
box = numpy.array([10.0, 10, 60, 60]) - 0.125  # SAM counts pixel edges from -0.5 of its input, here 4 times as fine
masks, scores, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
numpy.save(f"{folder}/logits.npy", masks[0])
said = [str(w.message).split(" in embeddings")[0] for w in caught if "signature" in str(w.message)]
print(json.dumps({"shape": list(found["features"].shape), "sum": float(found["features"][:].sum(dtype="float64")),
                  "mask": list(masks.shape), "input": list(found["input_size"]), "said": said}))
"""


@pytest.fixture
def vit_b(store: Store) -> Store:
    """Return the small store as if ViT-B had embedded it: the same embeddings, committed under its key."""
    recipe = replace(store.recipe, encoder=EncoderRecipe(architecture="vit_b", sha256="0" * 64))
    other = Store(store.path, recipe)
    committed = store.committed()
    store.arrays.create_embeddings(other.key, max(committed.values()) + 1, "float16", "zstd")
    for view, row in committed.items():
        array = store.arrays.write_embedding(other.key, row, store.embedding_at(row))
        other.ledger().commit([Entry(view=view, row=row, sha256=view_digest(view, array))])
    return other


def test_a_frame_and_a_sequence(vit_b: Store, tmp_path: Path) -> None:
    one = export_micro_sam(vit_b, "01/t002", tmp_path / "one")
    group, image = zarr.open_group(one.embeddings, mode="r"), tifffile.imread(one.image)
    features = zarr.open_array(one.embeddings, path="features", mode="r")
    np.testing.assert_array_equal(features[:], vit_b.embedding("01/t002")[None])
    assert features.dtype == "float32" and image.dtype == "uint16"
    assert group.attrs["data_signature"] == hashlib.sha1(image.tobytes()).hexdigest()
    assert (group.attrs["original_size"], group.attrs["input_size"]) == ([192, 256], [768, 1024])
    np.testing.assert_array_equal(image, vit_b.view("01/t002").image)
    whole = export_micro_sam(vit_b, "01", tmp_path / "whole")
    features, stack = zarr.open_array(whole.embeddings, path="features", mode="r"), tifffile.imread(whole.image)
    assert (whole.ndim, whole.frames) == (3, 8) and features.chunks == (1, 1, 256, 64, 64)
    np.testing.assert_array_equal(np.asarray(features[2, 0]), vit_b.embedding("01/t002"))
    np.testing.assert_array_equal(stack[2], image)


def test_what_micro_sam_cannot_open_is_refused(store: Store, vit_b: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="micro-sam has no nano; embed with one of vit_t, vit_b"):
        export_micro_sam(store, "01", tmp_path / "out")
    with pytest.raises(StoreError, match="no frame '02'"):
        export_micro_sam(vit_b, "02", tmp_path / "out")
    with pytest.raises(RunError, match="there already"):
        export_micro_sam(vit_b, "01", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def micro_sam(pytestconfig: pytest.Config) -> Path:
    """Return the Python of an environment that has micro-sam, made once; torch is taken from ours."""
    folder = Path(pytestconfig.cache.mkdir("micro-sam")) / "env"
    python = folder / "bin/python"
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        ours = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))}
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "ours.pth").write_text("\n".join(sorted(ours)))
        command = [str(python), "-m", "pip", "install", "--quiet", "micro-sam>=1.8,<1.9"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"micro-sam cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        (folder / "whole").touch()
    return python


def opened(micro_sam: Path, model_type: str, checkpoint: Path, found: MicroSamExport) -> dict[str, Any]:
    """Return what the real package says of an export; it leaves the logits of a box beside it."""
    command = [micro_sam, "-c", SCRIPT, model_type, checkpoint, found.embeddings.parent, found.ndim]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.slow
@pytest.mark.parametrize("what", ["01/t002", "01"])
def test_the_real_package_recognises_it_and_encodes_nothing(
    vit_b: Store, micro_sam: Path, tmp_path: Path, what: str
) -> None:
    torch.save(sam_model_registry["vit_b"]().state_dict(), tmp_path / "vit_b.pth")
    found = export_micro_sam(vit_b, what, tmp_path / "out")
    said = opened(micro_sam, "vit_b", tmp_path / "vit_b.pth", found)
    stored = zarr.open_array(found.embeddings, path="features", mode="r")
    assert said["shape"] == list(stored.shape) and said["input"] == [768, 1024] and said["mask"] == [1, 192, 256]
    assert said["sum"] == pytest.approx(float(np.asarray(stored[:]).sum(dtype=np.float64)))
    # of all that is signed only the hash of the checkpoint is not ours to know
    assert said["said"] == ["The signature for model_hash"]


@pytest.mark.slow
def test_the_real_package_answers_as_a_tuned_vit_t_does(store: Store, micro_sam: Path, tmp_path: Path) -> None:
    torch.save(vit_t_state(), tmp_path / "vit_t_lm")
    encoder = choose_encoder("vit_t", str(tmp_path / "vit_t_lm"))
    other = Store(store.path, replace(store.recipe, encoder=encoder))
    embed(other, EmbedConfig(splits=("test",)))
    torch.manual_seed(3)
    tuned = build_decoder("vit_t").eval()
    run = new_run(store.path, "finetune", {"encoder": other.key})
    save_decoder(run.path / "weights.safetensors", tuned, "vit_t")
    run.publish()
    checkpoint = export_checkpoint(other, run.id, tmp_path / "tuned.pth").path
    found = export_micro_sam(other, "01/t007", tmp_path / "out")
    said = opened(micro_sam, "vit_t", checkpoint, found)
    assert (found.model_type, said["mask"], said["said"]) == ("vit_t", [1, 192, 256], ["The signature for model_hash"])
    embedding, prompt = (
        torch.from_numpy(other.embedding("01/t007")),
        Prompt(kind="box", box=np.array([10.0, 10, 60, 60])),
    )
    ours = predict_view(tuned, embedding, (0, 0, 256, 192), [prompt], window=64, one_piece=False)[0]
    mask, logits = np.zeros((192, 256), bool), np.load(found.embeddings.with_name("logits.npy"))
    (x, y), (height, width) = ours.origin, ours.mask.shape
    mask[y : y + height, x : x + width] = ours.mask
    assert mask.any() and not mask.all()
    # equal but where a logit is nothing beside what two orders of the same sums differ by
    assert np.abs(logits[mask != (logits > 0)]).max(initial=0) < 1e-4 * np.abs(logits).max()
