"""SAM's prompt encoder and mask decoder, reading all of an embedding or only a window of it around the prompt.

Both modules are segment-anything's own, so stock weights load unchanged. Only the way they are called is ours: every
prompt may read its own ``window x window`` part of the 64x64 embedding together with the same part of the positional
encoding, so coordinates stay global. ``window = 64`` is SAM's own forward pass, value for value (tested).

Shape suffixes: B prompts, C channels, H rows, W columns, N tokens, M masks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import write_atomic
from ..geometry import EMBEDDING_POSITIONS, SAM_INPUT

GRID = EMBEDDING_POSITIONS
INPUT = SAM_INPUT
POSITION = INPUT // GRID
"""SAM input px a position covers along each side."""
LOGITS = 4
"""Low-resolution logits per position along each side (SAM: 256 over 64)."""
CHANNELS = 256
TRANSFORMER_MLP = {"nano": 512, "vit_b": 2048, "vit_l": 2048, "vit_h": 2048}


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
        """Return the prompts on a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return SamPrompts(**{name: None if value is None else value.to(device) for name, value in values.items()})

    def extents(self) -> Tensor:
        """Return what each prompt spans, float32, (B, 4) ``(x0, y0, x1, y1)`` SAM input px."""
        if self.boxes is not None:
            return self.boxes
        if self.masks is not None:
            return _mask_extents(self.masks[:, 0] > 0)
        assert self.points is not None and self.point_labels is not None
        inside = (self.point_labels == 1)[..., None]
        low = torch.where(inside, self.points, float("inf")).amin(1)
        high = torch.where(inside, self.points, float("-inf")).amax(1)
        return torch.cat([low, high], 1).nan_to_num(INPUT / 2, INPUT / 2, INPUT / 2)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What the decoder says about B prompts.

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
    step = INPUT / mask_BHW.shape[-1]
    whole = torch.tensor([0.0, 0.0, INPUT, INPUT])
    out = []
    for mask in mask_BHW.cpu():
        rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
        if len(rows) == 0:
            out.append(whole)
            continue
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        out.append(torch.tensor([float(edge) * step for edge in edges]))
    return torch.stack(out).to(mask_BHW.device)


def window_origins(prompts: SamPrompts, window: int) -> Tensor:
    """Return the first position of the window centred on each prompt, int64, (B, 2) ``(x, y)``, within the grid."""
    extents = prompts.extents()
    centre = (extents[:, :2] + extents[:, 2:]) / 2 / POSITION
    return (centre - window / 2).round().long().clamp(0, GRID - window)


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


class SamDecoder(nn.Module):
    """Prompt encoder and mask decoder of one SAM."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def forward(
        self,
        embedding: Tensor,
        prompts: SamPrompts,
        *,
        window: int = GRID,
        multimask: bool = False,
        origins: Tensor | None = None,
    ) -> Decoded:
        """Decode B prompts.

        Parameters
        ----------
        embedding : float32, (256, 64, 64) of the one view all prompts belong to, or (B, 256, 64, 64)
        prompts : B prompts
        window : positions along each side that a prompt may read, 1 to 64
        multimask : three masks and IoUs instead of one
        origins : int64, (B, 2), ``(x, y)`` of each window; centred on the prompt where None

        Returns
        -------
        Decoded
        """
        if origins is None:
            origins = window_origins(prompts, window)
        grid = embedding if embedding.dim() == 4 else embedding[None]
        if prompts.masks is not None:
            prompts = replace(prompts, masks=crop_windows(prompts.masks, origins, window * LOGITS, LOGITS))
        logits, iou = self.decode(crop_windows(grid, origins, window), prompts, origins)
        keep = slice(1, None) if multimask else slice(0, 1)
        return Decoded(logits=logits[:, keep], iou=iou[:, keep], origins=origins)

    def decode(self, window_BCHW: Tensor, prompts: SamPrompts, origins: Tensor) -> tuple[Tensor, Tensor]:
        """Decode B prompts from parts of embeddings that were cut out already.

        Parameters
        ----------
        window_BCHW : float32, (B, 256, window, window)
        prompts : B prompts; their masks, if any, cut to the same windows, (B, 1, 4 window, 4 window)
        origins : int64, (B, 2), ``(x, y)`` of each window in the 64x64 grid

        Returns
        -------
        logits : (B, 4, 4 window, 4 window), the single mask first, then the three of ``multimask``
        iou : (B, 4)
        """
        pe = crop_windows(self.prompt_encoder.get_dense_pe(), origins, window_BCHW.shape[-1])
        return self._predict(window_BCHW + self._dense(prompts), pe, self._sparse(prompts))

    def _sparse(self, prompts: SamPrompts) -> Tensor:
        points = None if prompts.points is None else (prompts.points, prompts.point_labels)
        sparse_BNC, _ = self.prompt_encoder(points=points, boxes=prompts.boxes, masks=None)
        return sparse_BNC if len(sparse_BNC) == len(prompts) else sparse_BNC.expand(len(prompts), -1, -1)

    def _dense(self, prompts: SamPrompts) -> Tensor:
        if prompts.masks is None:
            return self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        # both convolutions have kernel = stride, so a window of the mask gives the window of its embedding
        dense_BCHW: Tensor = self.prompt_encoder.mask_downscaling(prompts.masks)
        return dense_BCHW

    def _predict(self, src_BCHW: Tensor, pe_BCHW: Tensor, sparse_BNC: Tensor) -> tuple[Tensor, Tensor]:
        # as MaskDecoder.predict_masks, which repeats one image for all prompts instead of taking one part for each
        decoder = self.mask_decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output.expand(len(src_BCHW), -1, -1), sparse_BNC], dim=1)
        hidden_BNC, keys_BNC = decoder.transformer(src_BCHW, pe_BCHW, tokens)
        batch, channels, height, width = src_BCHW.shape
        upscaled = decoder.output_upscaling(keys_BNC.transpose(1, 2).reshape(batch, channels, height, width))
        hyper = [mlp(hidden_BNC[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
        logits = torch.stack(hyper, 1) @ upscaled.flatten(2)
        logits_BMHW = logits.view(batch, -1, height * LOGITS, width * LOGITS)
        return logits_BMHW, decoder.iou_prediction_head(hidden_BNC[:, 0])


def build_decoder(architecture: str) -> SamDecoder:
    """Return an untrained decoder of ``"nano"``, ``"vit_b"``, ``"vit_l"`` or ``"vit_h"``."""
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=(GRID, GRID), input_image_size=(INPUT, INPUT), mask_in_chans=16
    )
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=CHANNELS, mlp_dim=TRANSFORMER_MLP[architecture], num_heads=8
    )
    mask_decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, num_multimask_outputs=3)
    return SamDecoder(prompt_encoder, mask_decoder)


def save_decoder(path: Path, decoder: SamDecoder, architecture: str) -> None:
    """Write prompt encoder and mask decoder durably as safetensors, with the architecture in the header."""
    state = {name: value.detach().cpu().contiguous() for name, value in decoder.state_dict().items()}
    write_atomic(path, save(state, metadata={"architecture": architecture}))


def load_decoder(path: Path, device: str | torch.device = "cpu") -> SamDecoder:
    """Read what :func:`save_decoder` wrote.

    Raises
    ------
    CheckpointError
        No such file, a damaged one, or one whose tensors do not fit.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            architecture = (file.metadata() or {}).get("architecture", "")
            state = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise CheckpointError(f"no decoder weights at {path}; run `hela-store embed` first") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; run `hela-store embed` to write it again") from None
    if architecture not in TRANSFORMER_MLP:
        known = ", ".join(TRANSFORMER_MLP)
        raise CheckpointError(f"{path} names architecture {architecture!r}, expected one of {known}")
    decoder = build_decoder(architecture)
    missing, unexpected = decoder.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise CheckpointError(f"{path} does not fit {architecture}: {len(missing)} missing, first wrong key {first!r}")
    return decoder.to(device).eval()
