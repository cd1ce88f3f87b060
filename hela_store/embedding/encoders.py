"""Load the decoder that a run fine-tuned, and the encoder to which it belongs."""

from __future__ import annotations

from collections.abc import Iterable

from hela_store.base.files import sha256_file
from hela_store.errors import RunError
from hela_store.runs.folder import RunInfo, load_run
from hela_store.sam.registry import has_seen, in_domain
from hela_store.store.store import Store

from .record import read_record


def adapts(run: RunInfo) -> str | None:
    """Say what a run adapted: ``"decoder"``, ``"encoder"``, ``"encoder-full"``; None where it tuned a decoder."""
    found: str | None = run.config.get("adapt")
    return found


def adapts_encoder(run: RunInfo) -> bool:
    """Whether a run's decoder reads embeddings of an encoder of its own."""
    return adapts(run) in ("encoder", "encoder-full")


def store_of(store: Store, run: RunInfo | None) -> Store:
    """Return the store with the embeddings that a run's decoder reads: those of the encoder it adapted, if it did.

    Raises
    ------
    RunError
        They are of another encoder than the recipe's.
    """
    if run is None or run.encoder == store.key:
        return store
    if adapts_encoder(run):
        from hela_store.sam.adapters import ADAPTER_FILE

        base = store.with_encoder(adapter="", adapter_sha256="")
        if base.with_encoder(cut=run.config["cut"]).key == run.encoder:
            return base.with_encoder(adapter=run.id, adapter_sha256=sha256_file(run.file(ADAPTER_FILE)))
    raise RunError(
        f"run {run.id} was tuned on embeddings of {run.encoder}, this recipe asks for {store.key}; give another "
        "run, or tune again on these"
    )


def seen_notes(store: Store, keys: Iterable[str]) -> list[str]:
    """Return a note for each encoder that was trained on the store's data set, as far as that is known.

    Parameters
    ----------
    keys : encoder keys of runs
    """
    notes = []
    for key in dict.fromkeys(keys):
        record = read_record(store, key) if key and key != store.key else None
        notes.append(
            in_domain(store.recipe) if key == store.key else has_seen(record.name if record else "", store.recipe)
        )
    return [note for note in dict.fromkeys(notes) if note]


def variant_of(store: Store, cut: int | None = None, adapter: str | None = None) -> Store:
    """Return the store with other embeddings than the recipe's.

    Parameters
    ----------
    cut : of the tokens after so many blocks
    adapter : of the encoder that a fine-tuning run (id, its beginning or ``"latest"``) adapted

    Raises
    ------
    RecipeError
        The encoder has no such block, or both are given.
    RunError
        An unknown run, one that adapted no encoder, or another one.
    """
    if adapter is not None:
        run = load_run(store.path, adapter, "finetune")
        if not adapts_encoder(run):
            raise RunError(f"run {run.id} adapted no encoder; `hela-store finetune --adapt encoder --cut K` does")
        store = store_of(store, run)
    return store if cut is None else store.with_encoder(cut=cut)
