"""SAM weights: which file, whose bytes, which architecture. Nothing is ever unpickled."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from hela_store.base.files import explain_os_errors, sha256_file
from hela_store.base.progress import Progress, silent
from hela_store.base.text import first_line
from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import UNTRAINED, EncoderRecipe, encoder_name
from hela_store.runs.folder import RunInfo, load_run

from . import nano
from .adapters import ADAPTER_FILE, apply_adapter
from .decoder import SamDecoder, load_decoder

OFFICIAL_URL = "https://dl.fbaipublicfiles.com/segment_anything"
WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
WRAPPERS = ("model", "state_dict", "model_state")
PREFIXES = ("module.", "sam.")
FETCH_CHUNK = 1 << 20
ZIP = b"PK\x03\x04"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, kw_only=True)
class Official:
    """A checkpoint of Meta's: file name and sha256."""

    file: str
    sha256: str


OFFICIAL = {
    "vit_b": Official(
        file="sam_vit_b_01ec64.pth", sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": Official(
        file="sam_vit_l_0b3195.pth", sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": Official(
        file="sam_vit_h_4b8939.pth", sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}
"""The sums agree in mazurowski-lab/SlicerSegmentWithSAM and a dozen other public repositories that pin them."""


@dataclass(frozen=True, kw_only=True)
class LoadedSam:
    """A SAM taken apart: what runs once, and what is tuned.

    Attributes
    ----------
    encoder : ImageEncoderViT, float32, eval mode, no gradients, on the device asked for; LoRA is merged
    decoder : SamDecoder, float32, on the CPU; of an adapted encoder the one that was tuned with it
    architecture : str
    sha256 : str
        Of the weights file; ``"untrained"`` where nano ships none.
    """

    encoder: ImageEncoderViT
    decoder: SamDecoder
    architecture: str
    sha256: str


def checkpoint_path(encoder: EncoderRecipe, base: Path, cache_dir: Path | None = None) -> Path | None:
    """Return the file with an encoder's weights, or None for the nano that ships with the package.

    Parameters
    ----------
    encoder : EncoderRecipe
    base : Path
        What a relative ``encoder.checkpoint`` is relative to: the store's folder.
    cache_dir : Path
        Where a fetched official checkpoint lies.

    Raises
    ------
    CheckpointError
        No such file.
    """
    if encoder.checkpoint:
        path = base / Path(encoder.checkpoint).expanduser()
    elif encoder.architecture in nano.ARCHITECTURES:
        return None
    else:
        path = Path(cache_dir or base) / OFFICIAL[encoder.architecture].file
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; pass the file with --checkpoint, or fetch the official one")
    return path


def checkpoint_sha256(encoder: EncoderRecipe, base: Path = Path()) -> str:
    """Return the sha256 that pins an encoder's weights: of nano and official checkpoints known, else computed.

    Raises
    ------
    CheckpointError
        No such file.
    """
    if encoder.checkpoint:
        path = checkpoint_path(encoder, base)
        assert path is not None
        return sha256_file(path)
    if encoder.architecture in nano.ARCHITECTURES:
        trained = nano.is_trained(encoder.architecture)
        return nano.shipped(encoder.architecture)[1] if trained else UNTRAINED
    return OFFICIAL[encoder.architecture].sha256


def fetch(official: Official, cache_dir: Path, *, base_url: str = OFFICIAL_URL, progress: Progress = silent) -> Path:
    """Return an official checkpoint's file, downloaded once into ``cache_dir``; its sha256 is checked every time.

    Raises
    ------
    CheckpointError
        The server cannot be reached, or what it sends has another sum; nothing is left behind.
    StoreError
        No space or permission in the cache.
    """
    import pooch

    url = f"{base_url.rstrip('/')}/{official.file}"
    bar = _Bar(progress, f"fetch {official.file} (MiB)")
    pooch.get_logger().setLevel("ERROR")
    try:
        with explain_os_errors(f"fetching {url} into {cache_dir}"):
            found = pooch.retrieve(
                url,
                known_hash=f"sha256:{official.sha256}",
                fname=official.file,
                path=cache_dir,
                downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=FETCH_CHUNK, timeout=30),
            )
    except OSError as error:
        # errors of the disk have a number; those of the network, which pooch's downloader raises, have none
        if error.errno is not None:
            raise
        raise CheckpointError(
            f"cannot fetch {url} ({type(error).__name__}); download it elsewhere and pass it with --checkpoint"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{url} is not the file expected (sha256 {official.sha256[:12]}...), or was cut short; it was thrown away, "
            "try again"
        ) from error
    finally:
        bar.close()
    return Path(found)


class _Bar:
    """A progress bar as pooch's downloader calls it; it shows one step of ours for each chunk."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.total = 0  # in bytes; the downloader sets it when it knows
        self._progress, self._what = progress, what
        self._shown: Iterator[None] | None = None
        self._ended = False

    def update(self, _bytes: int) -> None:
        """Show one more chunk."""
        if self._shown is None:
            self._shown = self._progress(self._chunks(), total=-(-self.total // FETCH_CHUNK), what=self._what)
        next(self._shown, None)

    def reset(self) -> None:
        """Let the next update be the last: the downloader has all chunks, and fills its bar once more."""
        self._ended = True

    def close(self) -> None:
        """End what is shown, wherever it stands."""
        self._ended = True
        if self._shown is not None:
            next(self._shown, None)

    def _chunks(self) -> Iterator[None]:
        while not self._ended:
            yield


def load_sam_encoder(
    encoder: EncoderRecipe,
    device: str | torch.device = "cpu",
    *,
    base: Path = Path(),
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> LoadedSam:
    """Load the SAM a recipe names; an official checkpoint is fetched into ``cache_dir`` where it is not there yet.

    Parameters
    ----------
    base : the store's folder: a relative checkpoint is relative to it, and the run of an adapter is in it

    Raises
    ------
    CheckpointError
        No such file, bytes other than the recipe pins, not a checkpoint, another architecture, missing or foreign keys;
        an adapter that does not fit.
    RecipeError
        The recipe's embeddings are another tool's; its weights are loaded where ``source`` is taken out.
    """
    encoder.check_encodes()
    if not encoder.checkpoint and encoder.architecture not in nano.ARCHITECTURES:
        if cache_dir is None:
            raise CheckpointError(f"{encoder.architecture} needs encoder.checkpoint, or a folder to fetch it into")
        path: Path | None = fetch(OFFICIAL[encoder.architecture], cache_dir, progress=progress)
    else:
        path = checkpoint_path(encoder, base, cache_dir)
    sha256 = sha256_file(path) if path else checkpoint_sha256(encoder)
    if encoder.sha256 and encoder.sha256 != sha256:
        raise CheckpointError(
            f"{path or 'the nano of this version'} has sha256 {sha256[:12]}, the store was made with "
            f"{encoder.sha256[:12]}; give it that file again, or make a new store"
        )
    named = encoder.architecture
    sam = nano.load_nano(None, named) if path is None else _build(named, read_state(path), path)
    sam.requires_grad_(False).eval()
    decoder = SamDecoder(sam.prompt_encoder, sam.mask_decoder)
    if encoder.adapter:
        decoder = _adapt(sam.image_encoder, encoder, load_run(base, encoder.adapter), sha256)
    return LoadedSam(
        encoder=sam.image_encoder.to(device),
        decoder=decoder,
        architecture=encoder.architecture,
        sha256=sha256,
    )


def _adapt(module: ImageEncoderViT, encoder: EncoderRecipe, run: RunInfo, sha256: str) -> SamDecoder:
    """Put a run's adapter into the encoder; return the decoder that was tuned with it."""
    path = run.file(ADAPTER_FILE)
    if path.exists() and sha256_file(path) != encoder.adapter_sha256:
        raise CheckpointError(
            f"{path} is not the one encoder.adapter_sha256 names ({encoder.adapter_sha256[:12]}); restore the run"
        )
    apply_adapter(module, path, encoder.architecture, sha256)
    module.eval()
    return load_decoder(run.weights, of_run=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a SAM checkpoint by segment-anything's names: ``.safetensors``, or ``.pth`` / ``.pt``.

    Raises
    ------
    CheckpointError
        Not a checkpoint, cut short, or with objects in it that would have to be unpickled.
    """
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # about odd pickles, which become an error below
                found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # readers of zip files and pickles raise anything on bytes that are neither
        raise CheckpointError(f"{path} {_instead(path, error)}") from error
    for name in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected named tensors of a SAM")
    return {_plain(str(name)): value for name, value in found.items() if isinstance(value, Tensor)}


def _instead(path: Path, error: Exception) -> str:
    """Say what a file that cannot be read as a checkpoint is; only one that lacks bytes can be fetched again."""
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    again = "copy or fetch it again"
    if not head:
        return f"is damaged or not a checkpoint: it is empty; {again}"
    if head == LFS_POINTER:
        return "is a Git LFS pointer, not the weights it stands for; fetch them with `git lfs pull`"
    if isinstance(error, pickle.UnpicklingError):
        return "is not a SAM checkpoint, or holds objects other than tensors, and nothing is ever unpickled"
    reason = first_line(error)[:120]
    torn = "incomplete" in reason.lower() or "unexpected EOF" in reason or isinstance(error, EOFError)
    if torn or (head.startswith(ZIP) and not is_zipfile(path)):
        return f"is damaged or not a checkpoint: bytes are missing ({reason}); {again}"
    return f"is damaged or not a checkpoint ({reason}); expected the .pth, .pt or .safetensors file of a SAM"


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def architecture_of(state: dict[str, Tensor]) -> str | None:
    """Say which SAM a state dict is of, None if of none that is known."""
    patch = state.get("image_encoder.patch_embed.proj.weight")
    if patch is not None and patch.ndim:
        return WIDTHS.get(patch.shape[0])
    if "image_encoder.patch_embed.layers.0.weight" not in state:
        return None
    return "nano2" if "image_encoder.blocks.4.out.weight" in state else "nano"


def _build(architecture: str, state: dict[str, Tensor], path: Path) -> Any:
    found = architecture_of(state)
    if found is None:
        raise CheckpointError(
            f"{path} is not a SAM checkpoint of a known architecture ({len(state)} tensors, no known patch embedding); "
            f"expected {architecture}"
        )
    if found != architecture:
        raise CheckpointError(
            f"{path} is a {found}, the recipe says {architecture}; use --encoder {encoder_name(found)}"
        )
    # the large ones are never filled with random numbers that would be thrown away
    with torch.device("cpu" if architecture in nano.ARCHITECTURES else "meta"):
        is_nano = architecture in nano.ARCHITECTURES
        sam = nano.build_nano(architecture) if is_nano else sam_model_registry[architecture]()
    expected = sam.state_dict()
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of {len(expected)} tensors of {architecture}: {_few(missing)}; "
            "expected all of a SAM: encoder, prompt encoder and mask decoder"
        )
    # ours alone would run without an adapter or an extra token the weights were trained with
    foreign = [name for name in state if name not in expected and name.startswith(PARTS)]
    if foreign:
        raise CheckpointError(f"{path} has {len(foreign)} tensors {architecture} does not know: {_few(foreign)}")
    odd = [name for name in expected if expected[name].shape != state[name].shape]
    if odd:
        raise CheckpointError(
            f"{path}: {odd[0]} has shape {tuple(state[odd[0]].shape)}, {architecture} has "
            f"{tuple(expected[odd[0]].shape)} ({len(odd)} such)"
        )
    for name in expected:
        if not (state[name].is_floating_point() and state[name].device.type == "cpu" and not state[name].is_sparse):
            kind = f"{state[name].dtype}, {state[name].layout}, {state[name].device}".replace("torch.", "")
            raise CheckpointError(f"{path}: {name} is of {kind}; expected plain floating-point numbers")
    values = {name: state[name].float() for name in expected}
    wrong = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if wrong:
        count = int((~torch.isfinite(values[wrong[0]])).sum())
        raise CheckpointError(
            f"{path}: {count} of the {values[wrong[0]].numel()} values of {wrong[0]} are NaN or infinite in float32 "
            f"({len(wrong)} of {len(expected)} tensors have such): the weights cannot be used, take others"
        )
    sam.load_state_dict(values, assign=True)
    return sam


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
