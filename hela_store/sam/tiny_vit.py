"""``vit_t``: MobileSAM's image encoder, TinyViT, with the names of its tensors; decoder and prompts are SAM's own.

The model is TinyViT-5M (Wu et al., ECCV 2022) as MobileSAM (Zhang et al., 2023; Apache-2.0) trains it for SAM: a stage
of convolutions, three of windowed attention, and SAM's neck. micro-sam's ``vit_t_lm`` is the same network.

Only the forward pass is ours: each BatchNorm is folded into the convolution before it, everything runs with channels
last, attention adds its bias inside torch's fused kernel, and the widest layers are computed in strips that fit into a
CPU's cache. Equal to MobileSAM's own encoder within 1e-5 relative (tested).

Shape suffixes: B views, H rows, W columns, C channels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, linear, pad, scaled_dot_product_attention

from .decoder import CHANNELS, build_decoder
from .fast_encoder import layer_norm_2d
from .modeling import LayerNorm2d, Sam

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
STRIDES = (2, 2, 1)
"""Of the convolutions between stages: the last keeps the 64 x 64 grid that SAM's decoder reads."""
CLASSES = 1000
"""Of the classifier that TinyViT was trained with first; SAM's checkpoints still have it, and nothing uses it."""
STRIP = 32
"""Rows of the first stage that are computed at once, so that its wide layer stays in the cache of a CPU."""


class ConvNorm(nn.Module):
    """A convolution without a bias and its BatchNorm, applied as one convolution in evaluation mode."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that both are in evaluation mode."""
        assert self.bn.running_var is not None and self.bn.running_mean is not None
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        weight = self.c.weight * scale[:, None, None, None]
        return weight, self.bn.bias - self.bn.running_mean * scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised convolution."""
        weight, bias = self.folded()
        if self.c.kernel_size == (1, 1):  # with channels last a plain product, which needs no copy
            return linear(x_BCHW.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        return conv2d(x_BCHW, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class PatchEmbed(nn.Module):
    """From an image to features 4 px apart."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTHS[0] // 2
        self.seq = nn.Sequential(ConvNorm(3, half, 3, 2), nn.GELU(), ConvNorm(half, WIDTHS[0], 3, 2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, 64, H / 4, W / 4)."""
        out: Tensor = self.seq(x_BCHW)
        return out


class MobileBlock(nn.Module):
    """Widen, convolve each channel, narrow, add; (B, C, H, W) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, 4 * width)
        self.conv2 = ConvNorm(4 * width, 4 * width, 3, groups=4 * width)
        self.conv3 = ConvNorm(4 * width, width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output, computed in strips of rows."""
        height, out = x_BCHW.shape[2], torch.empty_like(x_BCHW)
        for first in range(0, height, STRIP):
            # the 3x3 convolution sees one row more on either side, but none beyond the image
            above, below = max(first - 1, 0), min(first + STRIP + 1, height)
            hidden = self.conv2(gelu(self.conv1(x_BCHW[:, :, above:below])))
            rows = slice(first, min(first + STRIP, height))
            kept = hidden[:, :, first - above : first - above + rows.stop - first]
            out[:, :, rows] = gelu(x_BCHW[:, :, rows] + self.conv3(gelu(kept)))
        return out


class PatchMerging(nn.Module):
    """Between two stages: from one width and grid to the next; (B, C, H, W) in and out."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the next stage's input."""
        out: Tensor = self.conv3(gelu(self.conv2(gelu(self.conv1(x_BCHW)))))
        return out


class Attention(nn.Module):
    """Attention within windows of ``window`` x ``window`` tokens, with a learned bias for each distance."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.index: Tensor
        self.register_buffer("index", _distances(window), persistent=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return what attention adds."""
        batch, height, width, channels = x_BHWC.shape
        side, heads = self.window, self.heads
        down, across = -(-height // side), -(-width // side)
        # MobileSAM pads with zeros before the norm, and attends to what becomes of them
        padded = pad(x_BHWC, (0, 0, 0, across * side - width, 0, down * side - height))
        windows = padded.view(batch, down, side, across, side, channels).transpose(2, 3)
        windows = windows.reshape(-1, side * side, channels)
        # q, k and v of a head lie side by side
        qkv = self.qkv(self.norm(windows)).view(-1, side * side, heads, 3 * channels // heads).transpose(1, 2)
        q, k, v = qkv.chunk(3, -1)
        bias = self.attention_biases[:, self.index].to(q.dtype)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2)
        out = self.proj(out.reshape(-1, side * side, channels))
        out = out.view(batch, down, across, side, side, channels).transpose(2, 3)
        merged: Tensor = out.reshape(batch, down * side, across * side, channels)[:, :height, :width]
        return merged


def _distances(window: int) -> Tensor:
    """Return which bias belongs to each pair of tokens, int64, (N, N), N = window * window."""
    places = list(itertools.product(range(window), range(window)))
    numbers: dict[tuple[int, int], int] = {}
    index = [
        numbers.setdefault((abs(row - other_row), abs(column - other_column)), len(numbers))
        for row, column in places
        for other_row, other_column in places
    ]
    return torch.tensor(index, device="cpu").view(len(places), len(places))


class Mlp(nn.Module):
    """The two linear layers of a block; (B, H, W, C) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return what is added."""
        out: Tensor = self.fc2(gelu(self.fc1(self.norm(x_BHWC))))
        return out


class AttentionBlock(nn.Module):
    """Attention, a 3x3 convolution of each channel, and two linear layers; (B, H, W, C) in and out."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads, window)
        self.mlp = Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return the block's output."""
        x_BHWC = x_BHWC + self.attn(x_BHWC)
        x_BHWC = self.local_conv(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = x_BHWC + self.mlp(x_BHWC)
        return out


class Stage(nn.Module):
    """Blocks of one width, and what leads to the next; (B, C, H, W) in and out, channels last in memory."""

    def __init__(self, number: int) -> None:
        super().__init__()
        width = WIDTHS[number]
        self.blocks = nn.ModuleList(
            AttentionBlock(width, HEADS[number], WINDOWS[number]) if number else MobileBlock(width)
            for _ in range(DEPTHS[number])
        )
        self.attends = number > 0
        self.downsample = PatchMerging(width, WIDTHS[number + 1], STRIDES[number]) if number < len(STRIDES) else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the next stage's input."""
        x = x_BCHW.permute(0, 2, 3, 1) if self.attends else x_BCHW
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2) if self.attends else x
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """MobileSAM's image encoder, to be run in evaluation mode; its state dict has MobileSAM's names and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.layers = nn.ModuleList(Stage(number) for number in range(len(WIDTHS)))
        self.norm_head = nn.LayerNorm(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], CHANNELS, 1, bias=False),
            LayerNorm2d(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(CHANNELS),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode normalised, padded images, (B, 3, 1024, 1024); return (B, 256, 64, 64)."""
        x_BCHW = self.patch_embed(x_BCHW.contiguous(memory_format=torch.channels_last))
        for stage in self.layers:
            x_BCHW = stage(x_BCHW)
        for layer in self.neck:
            x_BCHW = layer_norm_2d(layer, x_BCHW) if isinstance(layer, LayerNorm2d) else layer(x_BCHW)
        return x_BCHW


def build_vit_t() -> Sam:
    """Return MobileSAM's model with random weights: a ``Sam`` whose image encoder is a :class:`TinyViT`."""
    decoder = build_decoder("vit_t")
    return Sam(image_encoder=TinyViT(), prompt_encoder=decoder.prompt_encoder, mask_decoder=decoder.mask_decoder)
