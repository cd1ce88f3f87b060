"""``encoders/<key>/``: the decoder that belongs to the embeddings, and under which conditions the first were made.

``encoder.json`` pins what the bits of an embedding depend on beyond the recipe: torch, thread count, batch. Later
processes adopt the thread count and the batch, so that a resumed job gives the bytes of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hela_store.base.files import digest, fsync_path, sha256_file, write_atomic
from hela_store.errors import CheckpointError, StoreError
from hela_store.sam.registry import weights_of

if TYPE_CHECKING:
    import torch

    from hela_store.sam.checkpoints import LoadedSam
    from hela_store.store.store import Store

GPU_BATCH = 4
RECORD_FILE = "encoder.json"
DECODER_FILE = "decoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Describe what the last bits of an embedding depend on beyond recipe, weights and batch.

    Attributes
    ----------
    device : str
        Kind: ``"cpu"``, ``"cuda"``, ``"mps"``.
    processor, torch : str
        Name of the processor (or GPU) with its vector instructions, and version of torch.
    threads : int
        Threads within an operation.
    libraries : str
        Versions of CUDA and cuDNN; empty on a CPU, and in records of earlier versions.
    """

    device: str
    processor: str
    torch: str
    threads: int
    libraries: str = ""


def conditions_on(device: torch.device) -> Conditions:
    """Return the conditions in this process on a device."""
    import torch

    from hela_store.sam.devices import libraries

    return Conditions(
        device=device.type,
        processor=_processor(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        libraries=libraries(device),
    )


IMPORTED = Conditions(device="imported", processor="", torch="", threads=0)
"""Of embeddings that another tool made: it does not say."""


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """Describe how the first embed of an encoder key ran.

    Attributes
    ----------
    architecture, sha256, precision : str
        Of the encoder; ``sha256`` of its weights file.
    device, processor, torch, threads, libraries
        Its :class:`Conditions`; :data:`IMPORTED` of embeddings that another tool made.
    batch : int
        Views encoded together.
    created : str
        UTC, ISO 8601.
    compiled : bool
        Whether the encoder ran through ``torch.compile``.
    decoder_sha256 : str
        Of ``decoder.safetensors``; empty in records of earlier versions.
    seconds_per_view : float or None
        Of the last embed that encoded any.
    name : str
        Which known encoder (:mod:`hela_store.sam.registry`) these weights are; empty for other weights, and in records
        of earlier versions.
    """

    architecture: str
    sha256: str
    precision: str
    device: str
    processor: str
    torch: str
    threads: int
    batch: int
    created: str
    compiled: bool = False
    libraries: str = ""
    decoder_sha256: str = ""
    seconds_per_view: float | None = None
    name: str = ""


def read_record(store: Store, key: str | None = None) -> EncoderRecord | None:
    """Return the record of an encoder key (default: the recipe's), None before the first embed.

    Raises
    ------
    StoreError
        It is damaged.
    """
    path = store.encoder_folder(key) / RECORD_FILE
    try:
        values = json.loads(path.read_bytes())
        if values.pop("digest", None) != _digest(values):
            raise ValueError("its values are not those that were written")
        return EncoderRecord(**values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); restore it, or make a new store") from None


def write_record(store: Store, record: EncoderRecord) -> None:
    """Write a record durably."""
    folder = store.encoder_folder()
    values = asdict(record)
    text = json.dumps(values | {"digest": _digest(values)}, indent=2) + "\n"
    write_atomic(folder / RECORD_FILE, text.encode())
    for parent in (folder.parent, store.path):
        fsync_path(parent)


def has_decoder(store: Store) -> bool:
    """Whether the decoder of the recipe's encoder key is there and whole."""
    return decoder_fault(store) is None


def decoder_fault(store: Store) -> str | None:
    """Say what is wrong with the decoder of the recipe's encoder key, None where nothing is."""
    from hela_store.sam.decoder import load_decoder

    try:
        load_decoder(decoder_file(store))
    except (CheckpointError, StoreError) as error:
        return str(error)
    return None


def decoder_file(store: Store) -> Path:
    """Return the file with the decoder of the recipe's encoder key, after its sum was compared.

    Raises
    ------
    StoreError
        It is not the one that ``embed`` wrote, or the record of the encoder is damaged.
    """
    path, record = store.encoder_folder() / DECODER_FILE, read_record(store)
    if record is None and path.exists():
        raise StoreError(f"{path.with_name(RECORD_FILE)} is missing; `hela-store verify --repair` makes it again")
    expected = record.decoder_sha256 if record else ""
    if expected and path.exists() and sha256_file(path) != expected:
        raise StoreError(f"{path} is not the file that was written; `hela-store verify --repair` makes it again")
    return path


def prepare(
    store: Store, sam: LoadedSam, conditions: Conditions, batch: int | None, compiled: bool = False
) -> tuple[EncoderRecord, tuple[str, ...]]:
    """Write the decoder, and the record of the first embed or compare with it.

    Returns
    -------
    EncoderRecord
        To run by.
    tuple of str
        In what this run differs from the first.

    Raises
    ------
    StoreError
        The embeddings there are come from other weights, were not compiled where these are to be, or on the CPU come
        from another batch.
    """
    known = weights_of(store.recipe.encoder)
    now = EncoderRecord(
        architecture=sam.architecture,
        sha256=sam.sha256,
        precision=store.recipe.encoder.precision,
        **asdict(conditions),
        batch=batch or (GPU_BATCH if conditions.device == "cuda" else 1),
        created=datetime.now(UTC).isoformat("T", "seconds"),
        compiled=compiled,
        name=known.name if known else "",
    )
    first = read_record(store)
    if first is None:
        now = replace(now, decoder_sha256=_write_decoder(store, sam))
        write_record(store, now)
        return now, ()
    check_weights(store, sam.sha256)
    if not has_decoder(store):
        _write_decoder(store, sam)
    same = conditions.device == first.device
    if same and conditions.device == "cpu" and batch not in (None, first.batch):
        raise StoreError(
            f"the embeddings under {store.key} are made in batches of {first.batch}, which decides their last bits, "
            f"not of {batch}; leave the batch out"
        )
    if same and compiled and not first.compiled:
        raise StoreError(
            f"the embeddings under {store.key} are made without torch.compile, which decides their last bits; leave "
            "--compile out"
        )
    adopted = replace(first, batch=first.batch if same and batch is None else now.batch)
    notes = differences(first, conditions)
    if same and conditions.threads != first.threads:
        notes += (f"computes with {first.threads} threads as the first embeddings did: their number decides last bits",)
    return replace(adopted, compiled=first.compiled if same else compiled), notes


def check_weights(store: Store, sha256: str) -> None:
    """Raise StoreError where what is stored under the recipe's encoder key was made with other weights."""
    first = read_record(store)
    if first is not None and first.sha256 != sha256:
        raise StoreError(
            f"the embeddings under {store.key} were made with weights {first.sha256[:12]}, now they are "
            f"{sha256[:12]}; set encoder.sha256 in store.toml, which gives them a key of their own"
        )


def _write_decoder(store: Store, sam: LoadedSam) -> str:
    from hela_store.sam.decoder import save_decoder

    path = store.encoder_folder() / DECODER_FILE
    save_decoder(path, sam.decoder, sam.architecture)
    return sha256_file(path)


def _digest(values: dict[str, object]) -> str:
    return digest(json.dumps(values, sort_keys=True))


def differences(first: EncoderRecord, now: Conditions) -> tuple[str, ...]:
    """Say in what conditions differ from those of the first embeddings."""
    names = [
        name for name in ("device", "processor", "torch", "libraries") if getattr(first, name) != getattr(now, name)
    ]
    return tuple(
        f"{name} is {getattr(now, name)}, the first embeddings were made with {getattr(first, name)}: equal within "
        "rounding, not bit by bit"
        for name in names
    )


def _processor(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch with this many threads within an operation, then as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
