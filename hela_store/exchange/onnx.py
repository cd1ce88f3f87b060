"""A tuned decoder as one ONNX file that takes any number of prompts, of any number of points each.

Inputs have the names and the meaning they have in segment-anything's own export (``SamOnnxModel``): a box is two points
with the labels 2 and 3, and a point with the label -1 is padding, of which a prompt of points without a box has one.
Left out is that export's last step, the upsampling to an image's pixels. A decoder tuned on windows reads the same
windows here, centred on the prompt; unlike those of ``evaluate`` they do not grow where a mask reaches their edge.

Shape suffixes: B prompts, N points, P positions of the grid, C channels, H rows, W columns.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hela_store.base.extras import needs
from hela_store.base.names import refuse_link
from hela_store.base.rng import generator
from hela_store.embedding.encoders import store_of
from hela_store.errors import RunError
from hela_store.evaluation.checkpoint import checkpoint_of
from hela_store.images.geometry import EMBEDDING_POSITIONS
from hela_store.prompts.logits import LOGIT
from hela_store.sam.decoder import ALL_MASKS, INPUT, LOGITS, POSITION, SamDecoder, view_tokens
from hela_store.sam.fast_decoder import decode_windows
from hela_store.sam.predict import check_window
from hela_store.store.store import Store

from .checkpoint import tuned_run
from .target import Targets

INPUTS = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
OUTPUTS = ("low_res_masks", "iou_predictions")
SIDE = EMBEDDING_POSITIONS * LOGITS
TOLERANCE = 1e-3
"""Largest difference of a logit that is rounding: float32 and logits of about 10; measured 2e-5."""


@dataclass(frozen=True, kw_only=True)
class OnnxExport:
    """A file that was written.

    Attributes
    ----------
    path : Path
    run : id of the fine-tuning whose decoder it is
    window : positions along each side that a prompt reads
    bytes : int
    difference : largest difference of a logit between onnxruntime and torch, on this store's embedding
    """

    path: Path
    run: str
    window: int
    bytes: int
    difference: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"path": str(self.path)}


class OnnxDecoder(nn.Module):
    """Exported decoder: it takes prompts as tensors and gives all four masks of a prompt on SAM's whole grid."""

    def __init__(self, decoder: SamDecoder, window: int) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder, self.window = decoder.prompt_encoder, decoder.mask_decoder, window
        self.positions_PC = nn.Buffer(view_tokens(decoder.prompt_encoder.get_dense_pe()[0]))

    def forward(
        self, embedding: Tensor, points_BN2: Tensor, labels_BN: Tensor, mask_B1HW: Tensor, has_mask_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts of one view.

        Parameters
        ----------
        embedding : float32, (1, 256, 64, 64)
        points_BN2 : float32, (B, N, 2), ``(x, y)`` SAM input px; N may be 0 beside a mask
        labels_BN : float32, (B, N), 1 cell, 0 background, 2 and 3 corners of a box, -1 padding
        mask_B1HW : float32, (B, 1, 256, 256) logits; not looked at where there is none
        has_mask_B : float32, (B,), 1 or 0

        Returns
        -------
        logits : float32, (B, 4, 256, 256), the single mask first; -10 beyond the window
        iou : float32, (B, 4)
        """
        origins_B2 = self._origins(points_BN2, labels_BN, mask_B1HW[:, 0], has_mask_B)
        index_BP = self._index(origins_B2)
        dense_BPC = self._dense(mask_B1HW, has_mask_B)
        dense_BPC = dense_BPC.gather(1, index_BP[..., None].expand(-1, -1, dense_BPC.shape[2]))
        src_BPC = view_tokens(embedding[0])[index_BP] + dense_BPC
        sparse_BNC = self._sparse(points_BN2, labels_BN)
        logits, iou = decode_windows(self.mask_decoder, src_BPC, self.positions_PC[index_BP], sparse_BNC, ALL_MASKS)
        return self._whole(logits, origins_B2), iou

    def _origins(self, points_BN2: Tensor, labels_BN: Tensor, mask_BHW: Tensor, has_mask_B: Tensor) -> Tensor:
        """Return each window's first position as :func:`hela_store.sam.decoder.window_origins` does, (B, 2)."""
        corner_BN = labels_BN >= 2
        # onnxruntime's `any` over no points is true
        is_box_B = corner_BN.sum(1) > 0
        # a box alone says where, as in SamPrompts.extents; onnxruntime has no `where` of bools
        counts_BN = corner_BN | (labels_BN == 1) & ~is_box_B[:, None]
        low, high = _extent(points_BN2, counts_BN)
        mask_low, mask_high = _mask_extent((mask_BHW > 0) & (has_mask_B[:, None, None] > 0))
        low = torch.where(is_box_B[:, None], low, torch.minimum(low, mask_low))
        high = torch.where(is_box_B[:, None], high, torch.maximum(high, mask_high))
        nowhere_B = (low > high).any(1, keepdim=True)
        centre = torch.where(nowhere_B, INPUT / 2, (low + high) / 2) / POSITION
        return (centre - self.window / 2).round().long().clamp(0, EMBEDDING_POSITIONS - self.window)

    def _index(self, origins_B2: Tensor) -> Tensor:
        """Return the grid positions of each window, rows first, int64, (B, window * window)."""
        reach = torch.arange(self.window)
        columns, rows = origins_B2[:, 0, None] + reach, origins_B2[:, 1, None] + reach
        return (rows[:, :, None] * EMBEDDING_POSITIONS + columns[:, None, :]).flatten(1)

    def _dense(self, mask_B1HW: Tensor, has_mask_B: Tensor) -> Tensor:
        """Return the dense prompt of all positions, (B, 4096, C)."""
        dense_BPC = self.prompt_encoder.mask_downscaling(mask_B1HW).flatten(2).transpose(1, 2)
        return torch.where(has_mask_B[:, None, None] > 0, dense_BPC, self.prompt_encoder.no_mask_embed.weight)

    def _sparse(self, points_BN2: Tensor, labels_BN: Tensor) -> Tensor:
        encoder = self.prompt_encoder
        # SAM puts points and box corners half a pixel further, at pixel centres
        out_BNC = encoder.pe_layer._pe_encoding((points_BN2 + 0.5) / INPUT)
        labels_BN1 = labels_BN[..., None]
        out_BNC = torch.where(labels_BN1 == -1, encoder.not_a_point_embed.weight, out_BNC)
        for label, embedding in enumerate(encoder.point_embeddings):
            out_BNC = torch.where(labels_BN1 == label, out_BNC + embedding.weight, out_BNC)
        return out_BNC

    def _whole(self, logits_BMHW: Tensor, origins_B2: Tensor) -> Tensor:
        """Put each window at its place on a grid of background."""
        if self.window == EMBEDDING_POSITIONS:
            return logits_BMHW
        size = self.window * LOGITS
        place_B2W = torch.arange(SIDE) - origins_B2[..., None] * LOGITS
        inside_B2W = (place_B2W >= 0) & (place_B2W < size)
        columns_BW, rows_BH = place_B2W.clamp(0, size - 1).unbind(1)
        masks = logits_BMHW.shape[1]
        wide = logits_BMHW.gather(3, columns_BW[:, None, None, :].expand(-1, masks, size, -1))
        whole = wide.gather(2, rows_BH[:, None, :, None].expand(-1, masks, -1, SIDE))
        return torch.where(inside_B2W[:, None, 1, :, None] & inside_B2W[:, None, 0, None, :], whole, -LOGIT)


def _extent(points_BN2: Tensor, counts_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corners, (B, 2) each, of what those points span that count; without any, low above high."""
    beyond = points_BN2.new_full((points_BN2.shape[0], 1, 2), torch.inf)
    counts_BN1 = counts_BN[..., None]
    # one more point, so that a minimum over none exists
    low = torch.cat([torch.where(counts_BN1, points_BN2, torch.inf), beyond], 1).amin(1)
    return low, torch.cat([torch.where(counts_BN1, points_BN2, -torch.inf), -beyond], 1).amax(1)


def _mask_extent(mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
    step = INPUT / SIDE
    places = torch.arange(SIDE) * step
    sides = [mask_BHW.any(axis) for axis in (1, 2)]
    low = torch.stack([torch.where(side, places, torch.inf).amin(1) for side in sides], 1)
    return low, torch.stack([torch.where(side, places + step, -torch.inf).amax(1) for side in sides], 1)


def export_onnx(store: Store, run: str | None, out: Path, *, window: int | None = None) -> OnnxExport:
    """Write a tuned decoder as ONNX, checked with onnxruntime against torch before it gets its name.

    Parameters
    ----------
    store : Store
        With an embedding, on which both are compared.
    run : a fine-tuning (id, its beginning or ``"latest"``); None for the store's default run
    out : ``.onnx``
    window : positions along each side that a prompt reads; None for those the run was tuned with

    Raises
    ------
    RunError
        Unknown or damaged run, one of another encoder, another ending, a file that is there, or other results.
    RecipeError
        A window there is not.
    ExtraError
        The extra ``onnx`` is not installed.
    """
    if out.suffix != ".onnx":
        raise RunError(f"--out is {out.name}; an ONNX file ends in .onnx")
    refuse_link(out)  # before half a minute of work
    info = tuned_run(store, run)
    store = store_of(store, info)
    if not (rows := store.committed().values()):
        raise RunError(f"no view is embedded under {store.key} to check the decoder with; run `hela-store embed` first")
    window = check_window(int(info.config["window"]) if window is None else window)
    model = OnnxDecoder(checkpoint_of(store, info).load_decoder(), window).eval()
    data = to_onnx(model, {"run": info.id, "encoder": store.key, "window": str(window)})
    embedding = np.asarray(store.embedding_at(min(rows)), np.float32)[None]
    examples = _example(2, 3), _example(5, 2)
    difference = max(largest_difference(model, data, (embedding, *example)) for example in examples)
    if not difference <= TOLERANCE:
        raise RunError(f"logits of onnxruntime differ from torch's by {difference:.3g}, expected at most {TOLERANCE}")
    targets = Targets()
    targets.file(out, data)
    targets.finish()
    return OnnxExport(path=out, run=info.id, window=window, bytes=len(data), difference=difference)


def to_onnx(model: OnnxDecoder, metadata: dict[str, str]) -> bytes:
    """Return the model as ONNX, its metadata in the file; ExtraError without the extra ``onnx``."""
    with needs("onnx"):
        import onnx
        import onnxscript  # noqa: F401
    dynamic = torch.export.Dim.DYNAMIC
    shapes: tuple[dict[int, Any], ...] = ({}, *[{0: dynamic, 1: dynamic}] * 2, *[{0: dynamic}] * 2)
    arguments = (torch.zeros(1, 256, EMBEDDING_POSITIONS, EMBEDDING_POSITIONS), *map(torch.from_numpy, _example(3, 4)))
    with _quiet():
        program = torch.onnx.export(
            model, arguments, dynamic_shapes=shapes, input_names=INPUTS, output_names=OUTPUTS, verbose=False
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    return proto.SerializeToString()


def largest_difference(model: OnnxDecoder, data: bytes, inputs: tuple[npt.NDArray[np.float32], ...]) -> float:
    """Return how far onnxruntime and torch are apart on the same inputs, over all outputs."""
    with needs("onnx"):
        from onnxruntime import InferenceSession
    session = InferenceSession(data, providers=["CPUExecutionProvider"])
    found = session.run(OUTPUTS, dict(zip(INPUTS, inputs, strict=True)))
    with torch.no_grad():
        expected = model(*map(torch.from_numpy, inputs))
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected, strict=True))


def _example(prompts: int, points: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Return prompts to trace and to compare with: the first a box, the last a click and a mask, others clicks."""
    random = generator("onnx", prompts, points)
    coords = random.uniform(0, INPUT, (prompts, points, 2))
    labels = np.full((prompts, points), -1)
    labels[:, 0], labels[0, :2] = 1, (2, 3)
    masks = np.full((prompts, 1, SIDE, SIDE), -LOGIT)
    masks[-1, :, 100:130, 40:60] = LOGIT
    has_mask = np.zeros(prompts)
    has_mask[-1] = 1
    return tuple(part.astype(np.float32) for part in (coords, labels, masks, has_mask))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on what it tried off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
