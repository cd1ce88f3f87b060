"""A decoder that was trained elsewhere as a run of the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.embedding.record import decoder_file
from hela_store.errors import CheckpointError, RunError
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.evaluation.leaks import block_ranges
from hela_store.evaluation.reads import data_read
from hela_store.recipe.splits import format_ranges
from hela_store.runs.finished import claim_run, readable_runs
from hela_store.runs.folder import new_run
from hela_store.runs.info import to_json
from hela_store.sam.checkpoints import load_sam_encoder, read_state
from hela_store.sam.decoder import SamDecoder, build_decoder, load_decoder
from hela_store.sam.layouts.read import PREFIXES
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store

KIND = "finetune"
"""The kind of its runs: whatever takes a fine-tuning takes them."""
SET_HERE = ("own", "encoder", "checkpoint", "split", "frames", "data", "adapt", "cut", "init", "prompts", "seeds")
"""Settings that a configuration of the caller's cannot have, because they are known here or mean something else."""
DECODER = ("prompt_encoder.", "mask_decoder.")
ENCODER = "image_encoder."
WAY_OUT = "give prompt encoder and mask decoder of the encoder that the store was embedded with"
Weights = nn.Module | Mapping[str, Tensor] | Path | str


def add_run(
    store: Store,
    decoder: Weights,
    *,
    name: str,
    config: Mapping[str, Any] | None = None,
    parent: str | None = None,
    train: Sequence[str] | None = None,
) -> str:
    """Publish a decoder from any training loop as a run; return its id, which every command takes.

    The run is of kind ``finetune``. It is never the store's default run, because nothing here judged it on validation.

    Parameters
    ----------
    store : Store
        With the embeddings that the decoder reads.
    decoder : module, state dict or path
        A :class:`~hela_store.sam.decoder.SamDecoder`, segment-anything's ``Sam`` or ``MaskDecoder``, the state dict of
        one, or a file with one. A mask decoder alone gets the prompt encoder that the encoder came with. An image
        encoder in it has to be the one whose embeddings the store has.
    name : str
        Part of the id.
    config : mapping
        Own settings, kept in ``config.json`` and found in SQL as ``config->'config'->>'lr'``. ``window`` is the number
        of embedding positions along each side that a prompt reads, from 1 to 64 (default: as the architecture is tuned
        here); ``prompt`` is the kind of prompt it was tuned for.
    parent : str
        The fine-tuning run that the training began with.
    train : sequence of str
        Ids of the frames that it learned from; default: the train and validation blocks of the recipe. ``evaluate``
        refuses to score them as test frames.

    Raises
    ------
    CheckpointError
        The weights do not fit the store's encoder, are not finite, or come with another image encoder.
    RunError
        A setting or name cannot be kept, or ``parent`` or a frame of ``train`` is unknown.
    """
    window, settings = _settings(store, config or {})
    label = _label(name)
    architecture = store.recipe.encoder.architecture
    state = _state(store, decoder)
    data = safetensors_bytes(state, {"architecture": architecture})
    begin = resolve_checkpoint(store, parent)
    about = settings | {"own": True, "window": window, "encoder": store.key, "checkpoint": begin.id, "split": "train"}
    about |= {"adapt": None, "init": begin.id, "prompt": settings.get("prompt", "")}
    about |= {"frames": _frames(store, train), **data_read(store, ("train", "val"))}
    with claim_run(store.path, KIND, {"own": label, "encoder": store.key}):
        same = (run for run in readable_runs(store.path, KIND) if run.label == label and run.config.get("own"))
        for run in same:
            if run.config == _plain(about) and run.weights.read_bytes() == data:
                return run.id
        folder = new_run(store.path, KIND, about, parent=begin.id, label=label)
        with folder.tidied():
            write_atomic(folder.path / "weights.safetensors", data)
            folder.publish()
    return folder.id


def _plain(value: Mapping[str, Any]) -> Any:
    return json.loads(to_json(value))


def _label(name: object) -> str:
    if not isinstance(name, str) or not any(letter.isascii() and letter.isalnum() for letter in name):
        raise RunError(f"name is {name!r}; expected text with a letter or digit, which becomes part of the run's id")
    if len(name) > 100:
        raise RunError(f"name has {len(name)} characters, at most 100 become part of the run's id")
    return name


def _settings(store: Store, config: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    taken = [name for name in SET_HERE if name in config]
    if taken:
        raise RunError(f"config has {taken[0]!r}, which add_run sets itself; give it another name")
    window = config.get("window", DEFAULT_WINDOW[store.recipe.encoder.architecture])
    if type(window) is not int or not 1 <= window <= 64:
        raise RunError(f"config has window {window!r}, expected 1 to 64 embedding positions")
    if not isinstance(config.get("prompt", ""), str):
        raise RunError(f"config has prompt {config['prompt']!r}, expected the name of a kind, such as 'box'")
    if "seed" in config and type(config["seed"]) is not int:
        raise RunError(f"config has seed {config['seed']!r}, expected an integer")
    return window, _plain(config)


def _frames(store: Store, train: Sequence[str] | None) -> Any:
    if train is None:
        return block_ranges(store)
    known = store.frame_records()
    if isinstance(train, str) or (strange := [frame for frame in train if frame not in known]):
        found = train if isinstance(train, str) else strange[0]
        raise RunError(f"train holds {found!r}; expected ids of ingested frames, such as {next(iter(known))!r}")
    return {"train": _ranges(store, train), "val": {}}


def _ranges(store: Store, frames: Iterable[str]) -> dict[str, Any]:
    by_sequence: dict[str, list[Any]] = {}
    for frame in dict.fromkeys(frames):
        record = store.frame_records()[frame]
        by_sequence.setdefault(record.sequence, []).append(record)
    if store.recipe.dataset.stills:
        return {sequence: sorted(record.name for record in part) for sequence, part in by_sequence.items()}
    return {sequence: format_ranges(record.time for record in part) for sequence, part in by_sequence.items()}


def _state(store: Store, decoder: Weights) -> dict[str, Tensor]:
    """Return the weights of prompt encoder and mask decoder by our names, float32, checked against the encoder's."""
    architecture = store.recipe.encoder.architecture
    if store.recipe.encoder.cut is not None:
        raise RunError("the store was opened with the tokens after a cut; open it with the encoder's whole embeddings")
    given = _named(decoder)
    expected = build_decoder(architecture).state_dict()
    if encoder := {name: value for name, value in given.items() if name.startswith(ENCODER)}:
        _check_encoder(store, encoder)
        given = {name: value for name, value in given.items() if name not in encoder}
    bare = {name.removeprefix(DECODER[1]) for name in expected if name.startswith(DECODER[1])}
    if bare & set(given):
        given = {f"{DECODER[1]}{name}": value for name, value in given.items()}
    if given and not any(name.startswith(DECODER[0]) for name in given):
        came = load_decoder(decoder_file(store)).state_dict()
        given |= {name: value for name, value in came.items() if name.startswith(DECODER[0])}
    _check_fit(given, expected, architecture)
    return {name: given[name].detach().cpu().float().contiguous() for name in expected}


def _check_encoder(store: Store, given: Mapping[str, Tensor]) -> None:
    """Refuse an image encoder that is not the one of the stored embeddings, or cannot be compared with it."""
    way_out = "give its prompt_encoder and mask_decoder alone"
    encoder = replace(store.recipe.encoder, source="")
    try:
        known = load_sam_encoder(encoder, base=store.path).encoder.state_dict()
    except CheckpointError as error:
        raise CheckpointError(
            f"the image encoder of the weights cannot be compared with that of the store: {error}; or {way_out}"
        ) from None
    there = {name.removeprefix(ENCODER): value.detach().cpu().float() for name, value in given.items()}
    if set(there) != set(known) or not all(torch.equal(there[name], value) for name, value in known.items()):
        raise CheckpointError(
            f"the image encoder of the weights is not the one whose embeddings the store has ({store.key}), and a "
            f"decoder is scored on these; {way_out} if it was trained on them"
        )


def _named(decoder: object) -> dict[str, Tensor]:
    if isinstance(decoder, SamDecoder):
        return dict(decoder.state_dict())
    if isinstance(decoder, str | Path):
        return read_state(Path(decoder))
    if isinstance(decoder, nn.Module):
        decoder = decoder.state_dict()
    if not isinstance(decoder, Mapping):
        raise CheckpointError(f"decoder is a {type(decoder).__name__}; expected a module, a state dict or a file")
    odd = next((name for name, value in decoder.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise CheckpointError(f"{odd!r} of the weights is a {type(decoder[odd]).__name__}, expected tensors by name")
    return {_without_prefix(str(name)): value for name, value in decoder.items()}


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _check_fit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: str) -> None:
    for what, names in (("lack", set(expected) - set(given)), ("have, beyond those,", set(given) - set(expected))):
        if names:
            few = ", ".join(sorted(names)[:3])
            raise CheckpointError(
                f"the weights do not fit {architecture}: they {what} {len(names)} tensors ({few}); {WAY_OUT}"
            )
    for name, value in given.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"the weights do not fit {architecture}: {name} has shape {tuple(value.shape)}, expected "
                f"{tuple(expected[name].shape)}; {WAY_OUT}"
            )
        if not value.is_floating_point() or not torch.isfinite(value.float()).all():
            raise CheckpointError(f"{name} of the weights holds values that are no finite floating-point numbers")
