"""Say which layers of a SAM are adapted, and adapters as files.

An adapter is a safetensors file of what was learned beside frozen weights; its header says which these are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import CheckpointError, RecipeError

from .decoder import SamDecoder
from .lora import adapt_linear, merge
from .modeling import Attention, Block, ImageEncoderViT

ADAPTER_FILE = "adapter.safetensors"
Part = Literal["decoder", "encoder"]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Describe what learns beside frozen weights.

    Attributes
    ----------
    part : ``"decoder"``: the attention projections of the two-way transformer; ``"encoder"``: blocks after ``cut``
    rank : of the low-rank matrices
    full : no adapters, but the blocks after ``cut`` and the neck themselves
    cut : blocks of the encoder that stay as they are
    conv : Conv-LoRA
    linear : adapt all linear layers of a block, not only the projections to q and v
    """

    part: Part
    rank: int = 4
    full: bool = False
    cut: int = 0
    conv: bool = False
    linear: bool = False


def check_cut(cut: int, blocks: int, what: str = "cut") -> int:
    """Return ``cut``; RecipeError unless a block is left behind it."""
    if not 0 <= cut < blocks:
        raise RecipeError(f"{what} is {cut}, expected 0 to {blocks - 1}: the encoder has {blocks} layers")
    return cut


def adaptable_blocks(encoder: ImageEncoderViT, cut: int) -> list[int]:
    """Return the numbers of the blocks after a cut that take low-rank adapters.

    Raises
    ------
    RecipeError
        The cut leaves no block, or none that takes any.
    """
    check_cut(cut, len(encoder.blocks))
    fitting = [number for number, block in enumerate(encoder.blocks) if isinstance(block, Block)]
    if cut > fitting[-1]:
        raise RecipeError(
            f"cut is {cut}, but the last layer that takes low-rank adapters is {fitting[-1]}; cut at "
            f"{fitting[-1]} or before, or adapt the layers themselves with --adapt encoder-full"
        )
    return [number for number in fitting if number >= cut]


def adapt_decoder(decoder: SamDecoder, adapter: Adapter, seed: int = 0) -> None:
    """Freeze a decoder and put adapters beside the attention projections of its transformer, in place.

    Raises
    ------
    RecipeError
        The rank is no rank of such a layer.
    """
    decoder.requires_grad_(False)
    for name, module in list(decoder.named_modules()):
        if isinstance(module, Attention):
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                adapt_linear(decoder, f"{name}.{projection}", {"all": 0}, adapter.rank, seed=seed)


def adapt_encoder(encoder: ImageEncoderViT, adapter: Adapter, seed: int = 0) -> None:
    """Freeze an encoder but for what learns in the blocks after the cut, in place.

    Raises
    ------
    RecipeError
        The cut leaves no block, or none that low-rank adapters fit; the rank is no rank of its layers.
    """
    encoder.requires_grad_(False)
    if adapter.full:
        check_cut(adapter.cut, len(encoder.blocks))
        free = [*encoder.blocks[adapter.cut :], encoder.neck]
        for module in [encoder] if adapter.cut == 0 else free:
            module.requires_grad_(True)
        return
    for number in adaptable_blocks(encoder, adapter.cut):
        block = encoder.blocks[number]
        width = block.attn.qkv.in_features
        fused = {"q": 0, "k": width, "v": 2 * width} if adapter.linear else {"q": 0, "v": 2 * width}
        layers = {"attn.qkv": fused}
        if adapter.linear:
            layers |= {name: {"all": 0} for name in ("attn.proj", "mlp.lin1", "mlp.lin2")}
        for name, parts in layers.items():
            adapt_linear(encoder, f"blocks.{number}.{name}", parts, adapter.rank, conv=adapter.conv, seed=seed)


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that learn, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def set_learned(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Put back what :func:`learned` returned.

    Raises
    ------
    CheckpointError
        Other names or shapes.
    """
    mine = learned(module)
    odd = [n for n in sorted({*mine, *values}) if n not in mine or n not in values or mine[n].shape != values[n].shape]
    if odd:
        raise CheckpointError(
            f"{len(odd)} of {len(values)} tensors do not fit what is adapted, first {odd[0]!r}; expected {len(mine)}"
        )
    with torch.no_grad():
        for name, value in values.items():
            mine[name].copy_(value)


def save_adapter(path: Path, module: nn.Module, adapter: Adapter, about: dict[str, str]) -> None:
    """Write what learned in a module durably; ``about`` has ``architecture`` and ``sha256`` of the frozen weights."""
    state = {name: value.detach().cpu().contiguous() for name, value in learned(module).items()}
    write_atomic(path, safetensors_bytes(state, about | {"adapter": json.dumps(asdict(adapter))}))


def read_adapter(path: Path) -> tuple[Adapter, dict[str, Tensor], dict[str, str]]:
    """Return what an adapter file holds: which, its tensors, and ``about`` as it was written.

    Raises
    ------
    CheckpointError
        No such file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = dict(file.metadata() or {})
            values: dict[str, Any] = json.loads(about.pop("adapter"))
            return Adapter(**values), {name: file.get_tensor(name) for name in file.keys()}, about
    except FileNotFoundError:
        raise CheckpointError(f"no adapter at {path}; the run adapts nothing, or its folder is not whole") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore the run's folder, or tune again") from None


def apply_adapter(module: SamDecoder | ImageEncoderViT, path: Path, architecture: str, sha256: str) -> Adapter:
    """Put a stored adapter into the weights it was learned beside, merged where it can be, in place.

    Parameters
    ----------
    module : with the frozen weights; all of it is frozen afterwards
    path : of the adapter
    architecture, sha256 : of the weights file that ``module`` comes from

    Raises
    ------
    CheckpointError
        It was learned beside other weights, adapts another part, or is damaged.
    """
    adapter, state, about = read_adapter(path)
    part = "decoder" if isinstance(module, SamDecoder) else "encoder"
    found = {"part": adapter.part, "architecture": about.get("architecture"), "weights": about.get("sha256")}
    expected = {"part": part, "architecture": architecture, "weights": sha256}
    for name, value in expected.items():
        if found[name] != value:
            raise CheckpointError(
                f"{path} does not fit: its {name} is {str(found[name])[:12]}, expected {value[:12]}; use it with the "
                "encoder it was trained beside"
            )
    try:
        if isinstance(module, SamDecoder):
            adapt_decoder(module, adapter)
        else:
            adapt_encoder(module, adapter)
        set_learned(module, state)
    except (RecipeError, CheckpointError) as error:
        raise CheckpointError(f"{path} does not fit {architecture}: {error}") from None
    merge(module)
    module.requires_grad_(False)
    return adapter
