"""The ``grid`` head: a small convolutional network on a stored 256x64x64 embedding.

It says for every position of a 128x128 grid whether a cell's centre is there (CenterNet: Zhou et al., "Objects as
Points", 2019), how large that cell is, where to click, whether it is a cell or debris, whether the position is inside
of a cell, and where that cell's centre is (Panoptic-DeepLab: Cheng et al. 2020), from which coarse masks follow.

Shape suffixes: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import RunError
from hela_store.images.geometry import SAM_INPUT
from hela_store.sam.decoder import CHANNELS

from .targets import HEAD_POSITIONS

PITCH = SAM_INPUT // HEAD_POSITIONS
"""SAM input px a position covers along each side."""
WIDTH = 64
DILATIONS = (1, 2, 4)
RARE = 0.01
"""Share of centres among positions that an untrained head assumes (Lin et al., "Focal loss", 2017, section 4.1)."""
LARGEST = HEAD_POSITIONS * 2.0
"""Longest side of a box, positions: keeps an untrained head's boxes finite."""


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """Describe what the head says of B views, float32.

    Attributes
    ----------
    centre : (B, H, W) logits, a cell's centre is at this position
    quality : (B, H, W) logits, a box from this position fits a cell: low on debris
    inside : (B, H, W) logits, the position is inside of a cell
    offset : (B, 2, H, W) ``(x, y)`` positions, from here to the centre of the cell
    size : (B, 2, H, W) log of ``(width, height)``, positions
    click : (B, 2, H, W) ``(x, y)`` positions, from here to the cell's most interior point
    """

    centre: Tensor
    quality: Tensor
    inside: Tensor
    offset: Tensor
    size: Tensor
    click: Tensor


def on_cpu(output: HeadOutput) -> HeadOutput:
    """Return the same on the CPU, where float64 exists and nothing has to wait for a device."""
    return HeadOutput(**{name: value.cpu() for name, value in vars(output).items()})


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + nn.functional.gelu(self.norm(self.conv(x_BCHW)))


class GridHead(nn.Module):
    """Embeddings in, :class:`HeadOutput` out.

    Parameters
    ----------
    side : float
        Side of a typical cell's box, positions: what an untrained head answers.
    width : int
        Channels on the embedding's grid, a multiple of 8; the finer grid has half as many.
    """

    def __init__(self, side: float = 6.0, width: int = WIDTH) -> None:
        super().__init__()
        self.width, fine = width, width // 2
        self.reduce = nn.Sequential(nn.Conv2d(CHANNELS, width, 1), nn.GroupNorm(8, width), nn.GELU())
        self.body = nn.Sequential(*(_Residual(width, dilation) for dilation in DILATIONS))
        self.up = nn.ConvTranspose2d(width, fine, 2, stride=2)
        self.fine = nn.Sequential(nn.GELU(), nn.Conv2d(fine, fine, 3, padding=1), nn.GELU())
        self.out = nn.Conv2d(fine, 9, 1)
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()
            self.out.bias[0] = -math.log(1 / RARE - 1)
            self.out.bias[5:7] = math.log(side)

    def forward(self, embedding_BCHW: Tensor) -> HeadOutput:
        """Return what the head says of embeddings, float32, (B, 256, 64, 64)."""
        out = self.out(self.fine(self.up(self.body(self.reduce(embedding_BCHW)))))
        return HeadOutput(
            centre=out[:, 0],
            quality=out[:, 1],
            inside=out[:, 2],
            offset=out[:, 3:5],
            size=out[:, 5:7].clamp(max=math.log(LARGEST)),
            click=out[:, 7:9],
        )


def widened(head: GridHead, width: int) -> GridHead:
    """Return a head of this width that says the same: each channel becomes several, which share its work.

    Chen et al., "Net2Net" (2016). Copies of a channel lie in one group, so its norm stays what it is. Noise of a
    thousandth of the weights lets the copies learn different things.

    Raises
    ------
    RunError
        The width is no multiple of the head's own.
    """
    own = head.width
    if width % own:
        raise RunError(f"width is {width}, expected a multiple of the {own} of the weights it starts with")
    times, wide = width // own, GridHead(width=width)
    if times == 1:
        return head
    state = {}
    for name, value in wide.state_dict().items():
        old = head.state_dict()[name]
        for axis, (now, before) in enumerate(zip(value.shape, old.shape, strict=True)):
            if now == before:
                continue
            old = old.repeat_interleave(times, axis)
            # a transposed convolution has its inputs first, all others have their outputs first
            if old.ndim > 1 and axis == (0 if name.startswith("up.") else 1):
                old = old / times
        state[name] = old + 1e-3 * old.std() * torch.randn_like(old) if old.ndim > 1 else old
    wide.load_state_dict(state)
    return wide


def save_head(path: Path, head: GridHead, encoder: str) -> None:
    """Write a head durably as safetensors, with the encoder key it belongs to in the header."""
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    write_atomic(path, safetensors_bytes(state, {"detector": "grid", "encoder": encoder}))


def load_head(path: Path, encoder: str, device: str | torch.device = "cpu") -> GridHead:
    """Read what :func:`save_head` wrote.

    Raises
    ------
    RunError
        No such file, a damaged one, or a head trained on another encoder's embeddings.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
        if about.get("encoder") != encoder:
            raise RunError(
                f"{path} was trained on embeddings of {about.get('encoder')}, these are of {encoder}; "
                "train one for them with `hela-store detect train`"
            )
        head = GridHead(width=len(state["reduce.0.weight"]))
        head.load_state_dict(state)
    except FileNotFoundError:
        raise RunError(f"no detector at {path}; train one with `hela-store detect train`") from None
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, RunError):
            raise
        first = str(error).partition("\n")[0]
        raise RunError(f"{path} is no grid detector, or damaged ({first}); train another") from None
    return head.to(device).eval()
