"""SAM's prompt encoder and mask decoder, reading all of an embedding or only a window of it around the prompt.

Both modules are segment-anything's own, so stock weights load unchanged. Only the way they are called is ours: every
prompt may read its own ``window x window`` part of the 64x64 embedding together with the same part of the positional
encoding, so coordinates stay global. ``window = 64`` is SAM's own forward pass, value for value (tested).

Shape suffixes: B prompts, C channels, H rows, W columns, N tokens, M masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import CheckpointError
from hela_store.images.geometry import EMBEDDING_POSITIONS, SAM_INPUT

from .fast_decoder import decode_windows, mask_token, prompt_tokens
from .modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

INPUT = SAM_INPUT
POSITION = INPUT // EMBEDDING_POSITIONS
"""SAM input px a position covers along each side."""
LOGITS = 4
"""Low-resolution logits per position along each side (SAM: 256 over 64)."""
CHANNELS = 256
ALL_MASKS = slice(0, 4)
TRANSFORMER_MLP = {"nano": 512, "nano2": 512, "vit_t": 2048, "vit_b": 2048, "vit_l": 2048, "vit_h": 2048}


@dataclass(frozen=True, kw_only=True)
class SamPrompts:
    """Prompts of B cells of one or several views, float32, SAM input px, pixel centres at integers.

    Attributes
    ----------
    boxes : (B, 4) ``(x0, y0, x1, y1)``, or None
    points : (B, N, 2) ``(x, y)``, or None
    point_labels : (B, N), 1 cell, 0 background, -1 padding, or None
    masks : (B, 1, 256, 256) logits, or None
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        given = (self.boxes, self.points, self.masks)
        return next(len(part) for part in given if part is not None)

    def take(self, index: Tensor) -> SamPrompts:
        """Return the prompts at ``index`` (int64, (K,))."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return SamPrompts(**{name: None if value is None else value[index] for name, value in values.items()})

    def to(self, device: torch.device) -> SamPrompts:
        """Return the prompts on a device; a GPU is not waited for."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        soon = device.type == "cuda"
        moved = {name: None if value is None else value.to(device, non_blocking=soon) for name, value in values.items()}
        return SamPrompts(**moved)

    def extents(self) -> Tensor:
        """Return what each prompt spans, float32, (B, 4) ``(x0, y0, x1, y1)`` SAM input px."""
        if self.boxes is not None:
            return self.boxes
        parts = []
        if self.masks is not None:
            parts.append(_mask_extents(self.masks[:, 0] > 0))
        if self.points is not None and self.point_labels is not None:
            inside = (self.point_labels == 1)[..., None]
            low = torch.where(inside, self.points, float("inf")).amin(1)
            parts.append(torch.cat([low, torch.where(inside, self.points, float("-inf")).amax(1)], 1))
        both = torch.stack(parts)
        low, high = both[..., :2].amin(0), both[..., 2:].amax(0)
        # an empty mask or no click in a cell may mean anything
        nowhere = (low > high).any(1, keepdim=True)
        if self.masks is None:
            return torch.cat([low, high], 1).where(~nowhere, INPUT / 2)
        return torch.cat([low.where(~nowhere, 0.0), high.where(~nowhere, float(INPUT))], 1)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Describe what the decoder says about B prompts.

    Attributes
    ----------
    logits : float32, (B, M, 4 window, 4 window); above 0 is cell
    iou : float32, (B, M), predicted IoU
    origins : int64, (B, 2), ``(x, y)`` of each window's first position
    """

    logits: Tensor
    iou: Tensor
    origins: Tensor


def _mask_extents(mask_BHW: Tensor) -> Tensor:
    """Return what each mask spans, float32, (B, 4) SAM input px; of an empty one the low edges are above the high."""
    step = INPUT / mask_BHW.shape[-1]
    low, high = [], []
    for there in (mask_BHW.any(1), mask_BHW.any(2)):  # columns, rows
        place = torch.arange(there.shape[1], device=there.device, dtype=torch.float32)
        low.append(torch.where(there, place * step, float("inf")).amin(1))
        high.append(torch.where(there, (place + 1) * step, float("-inf")).amax(1))
    return torch.stack([*low, *high], 1)


def window_origins(prompts: SamPrompts, window: int) -> Tensor:
    """Return the first position of the window centred on each prompt, int64, (B, 2) ``(x, y)``, within the grid."""
    extents = prompts.extents()
    centre = (extents[:, :2] + extents[:, 2:]) / 2 / POSITION
    return (centre - window / 2).round().long().clamp(0, EMBEDDING_POSITIONS - window)


def crop_windows(grid_BCHW: Tensor, origins: Tensor, size: int, step: int = 1) -> Tensor:
    """Return each sample's own ``size x size`` part of a grid, (B, C, size, size).

    Parameters
    ----------
    grid_BCHW : (B, C, H, W), or (1, C, H, W) shared by all samples
    origins : int64, (B, 2), ``(x, y)`` in units of ``step`` grid points
    size : int, grid points along each side
    step : int, grid points per unit of ``origins``
    """
    reach = torch.arange(size, device=grid_BCHW.device)
    columns = (origins[:, 0, None] * step + reach)[:, None, :]
    rows = (origins[:, 1, None] * step + reach)[:, :, None]
    if len(grid_BCHW) == 1:
        return grid_BCHW[0][:, rows, columns].transpose(0, 1)
    sample = torch.arange(len(grid_BCHW), device=grid_BCHW.device)[:, None, None]
    return grid_BCHW[sample, :, rows, columns].permute(0, 3, 1, 2)


def view_tokens(embedding_CHW: Tensor) -> Tensor:
    """Return an embedding, (256, 64, 64), as positions, rows first, (4096, 256): what windows are cut from fastest.

    Float32 of float16, too: half as much to turn round.
    """
    return embedding_CHW.flatten(1).T.contiguous().float()


def _cut(grid_PC: Tensor, origins: Tensor, size: int) -> Tensor:
    """Return each window's positions, rows first, (B, size * size, C), of a grid of 64 x 64 positions."""
    if size == EMBEDDING_POSITIONS:
        return grid_PC.expand(len(origins), -1, -1)
    reach = torch.arange(size, device=grid_PC.device)
    columns, rows = origins[:, 0, None] + reach, origins[:, 1, None] + reach
    return grid_PC[(rows[:, :, None] * EMBEDDING_POSITIONS + columns[:, None, :]).flatten(1)]


class SamDecoder(nn.Module):
    """Prompt encoder and mask decoder of one SAM."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self._pe: tuple[tuple[object, ...], Tensor] | None = None

    def forward(
        self,
        embedding: Tensor,
        prompts: SamPrompts,
        *,
        window: int = EMBEDDING_POSITIONS,
        multimask: bool | None = False,
        origins: Tensor | None = None,
    ) -> Decoded:
        """Decode B prompts.

        Parameters
        ----------
        embedding : float16 or float32, (256, 64, 64) of the one view all prompts belong to; its :func:`view_tokens`,
            (4096, 256), where it is asked several times; or float32, (B, 256, 64, 64)
        prompts : B prompts; masks may be cut to the windows already, (B, 1, 4 window, 4 window)
        window : positions along each side that a prompt may read, 1 to 64
        multimask : three masks and IoUs instead of one; None for all four, the single one first
        origins : int64, (B, 2), ``(x, y)`` of each window; centred on the prompt where None

        Returns
        -------
        Decoded
        """
        if origins is None:
            origins = window_origins(prompts, window)
        if prompts.masks is not None and prompts.masks.shape[-1] != window * LOGITS:
            prompts = replace(prompts, masks=crop_windows(prompts.masks, origins, window * LOGITS, LOGITS))
        masks = ALL_MASKS if multimask is None else slice(1, 4) if multimask else slice(0, 1)
        if embedding.dim() == 4:
            logits, iou = self.decode(crop_windows(embedding, origins, window), prompts, origins, masks)
        else:
            grid_PC = view_tokens(embedding) if embedding.dim() == 3 else embedding
            logits, iou = self._predict(_cut(grid_PC, origins, window), prompts, origins, masks)
        return Decoded(logits=logits, iou=iou, origins=origins)

    def decode(
        self, window_BCHW: Tensor, prompts: SamPrompts, origins: Tensor, masks: slice = ALL_MASKS
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts from parts of embeddings that were cut out already.

        Parameters
        ----------
        window_BCHW : float32, (B, 256, window, window)
        prompts : B prompts; their masks, if any, cut to the same windows, (B, 1, 4 window, 4 window)
        origins : int64, (B, 2), ``(x, y)`` of each window in the 64x64 grid
        masks : which of the four are wanted

        Returns
        -------
        logits : (B, M, 4 window, 4 window), the single mask first, then the three of ``multimask``
        iou : (B, M)
        """
        return self._predict(window_BCHW.flatten(2).transpose(1, 2), prompts, origins, masks)

    def mask_tokens(self, grid_PC: Tensor, prompts: SamPrompts, window: int) -> Tensor:
        """Return the token from which each prompt's single mask is drawn, float32, (B, 256).

        Parameters
        ----------
        grid_PC : :func:`view_tokens` of the one view that all prompts belong to, (4096, 256)
        prompts : B prompts without masks
        window : positions along each side that a prompt may read, 1 to 64
        """
        origins = window_origins(prompts, window)
        return mask_token(self.mask_decoder, *self._parts(_cut(grid_PC, origins, window), prompts, origins))

    def _predict(self, window_BNC: Tensor, prompts: SamPrompts, origins: Tensor, masks: slice) -> tuple[Tensor, Tensor]:
        return decode_windows(self.mask_decoder, *self._parts(window_BNC, prompts, origins), masks)

    def _parts(self, window_BNC: Tensor, prompts: SamPrompts, origins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the mask decoder reads: positions with the dense prompt, their places, tokens of the prompt."""
        pe_BNC = _cut(self._positions(), origins, math.isqrt(window_BNC.shape[1]))
        return window_BNC + self._dense(prompts), pe_BNC, self._sparse(prompts)

    def _positions(self) -> Tensor:
        """Return the positional encoding, (4096, 256), computed again only where its frequencies changed."""
        matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        key = (matrix.data_ptr(), matrix._version, matrix.device)
        if self._pe is None or self._pe[0] != key:
            self._pe = (key, view_tokens(self.prompt_encoder.get_dense_pe()[0]))
        return self._pe[1]

    def _sparse(self, prompts: SamPrompts) -> Tensor:
        points, labels = prompts.points, prompts.point_labels
        clicks = None if points is None or labels is None else (points, labels)
        sparse_BTC = prompt_tokens(self.prompt_encoder, clicks, prompts.boxes)
        return sparse_BTC if len(sparse_BTC) == len(prompts) else sparse_BTC.expand(len(prompts), -1, -1)

    def _dense(self, prompts: SamPrompts) -> Tensor:
        if prompts.masks is None:
            return self.prompt_encoder.no_mask_embed.weight
        # both convolutions have kernel = stride, so a window of the mask gives the window of its embedding
        dense_BCHW: Tensor = self.prompt_encoder.mask_downscaling(prompts.masks)
        return dense_BCHW.flatten(2).transpose(1, 2)


def build_decoder(architecture: str) -> SamDecoder:
    """Return an untrained decoder of an architecture, one of :data:`TRANSFORMER_MLP`."""
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS,
        image_embedding_size=(EMBEDDING_POSITIONS, EMBEDDING_POSITIONS),
        input_image_size=(INPUT, INPUT),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=TRANSFORMER_MLP[architecture], num_heads=8)
    mask_decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, num_multimask_outputs=3)
    return SamDecoder(prompt_encoder, mask_decoder)


def save_decoder(path: Path, decoder: SamDecoder, architecture: str) -> None:
    """Write prompt encoder and mask decoder durably as safetensors, with the architecture in the header."""
    state = {name: value.detach().cpu().contiguous() for name, value in decoder.state_dict().items()}
    write_atomic(path, safetensors_bytes(state, {"architecture": architecture}))


def load_decoder(path: Path, device: str | torch.device = "cpu", *, of_run: bool = False) -> SamDecoder:
    """Read what :func:`save_decoder` wrote.

    Parameters
    ----------
    of_run : whether it is a fine-tuning's, which no other command writes again

    Raises
    ------
    CheckpointError
        No such file, a damaged one, or one whose tensors do not fit.
    """
    way_out = "restore the run's folder, or tune again" if of_run else "`hela-store embed` writes it"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            architecture = (file.metadata() or {}).get("architecture", "")
            state = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise CheckpointError(f"no decoder weights at {path}; {way_out}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; {way_out}") from None
    if architecture not in TRANSFORMER_MLP:
        known = ", ".join(TRANSFORMER_MLP)
        raise CheckpointError(f"{path} names architecture {architecture!r}, expected one of {known}")
    decoder = build_decoder(architecture)
    missing, unexpected = decoder.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise CheckpointError(f"{path} does not fit {architecture}: {len(missing)} missing, first wrong key {first!r}")
    return decoder.to(device).eval()
