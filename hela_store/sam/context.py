"""The blocks that the second edition of ``nano`` adds: they see the whole view, and across windows.

Windows of 16 positions hold a nucleus and its neighbours, but of a cell 300 px across only a piece of the inside.
Tokens 32 and 64 px apart are cheap (1,024 and 256 of them), and there a window of 16 holds half of the view and all of
it. What they find is added to the fine tokens through a projection that starts at zero, as do the mixing blocks behind
it, so that an encoder begins as good as the weights it starts from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from .fast_encoder import ShrinkingBlock, block_forward
from .resize import resize

COARSE = 256
"""Channels of a coarse token."""
HEADS = 4
WINDOW = 16
NEAR_BLOCKS, FAR_BLOCKS = 2, 3
"""Blocks on tokens 32 px and 64 px apart."""
KERNEL = 7


def _blocks(count: int) -> nn.ModuleList:
    sizes = {"use_rel_pos": True, "window_size": WINDOW, "input_size": (WINDOW, WINDOW)}
    return nn.ModuleList(ShrinkingBlock(COARSE, HEADS, **sizes) for _ in range(count))


class ContextBlock(nn.Module):
    """Coarse tokens see far and are added to the fine ones; (B, H, W, C) in and out, H and W multiples of 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.halve = nn.Conv2d(width, COARSE, 2, stride=2)
        self.near = _blocks(NEAR_BLOCKS)
        self.quarter = nn.Conv2d(COARSE, COARSE, 2, stride=2)
        self.far = _blocks(FAR_BLOCKS)
        self.out_norm = nn.LayerNorm(2 * COARSE)
        self.out = nn.Linear(2 * COARSE, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return the tokens with what is far away added."""
        half_BHWC = self.halve(self.norm(x_BHWC).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        for block in self.near:
            half_BHWC = block_forward(block, half_BHWC)
        quarter_BHWC = self.quarter(half_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        for block in self.far:
            quarter_BHWC = block_forward(block, quarter_BHWC)
        both_BHWC = torch.cat([half_BHWC, _enlarge(quarter_BHWC)], -1)
        added: Tensor = self.out(self.out_norm(both_BHWC))
        return x_BHWC + _enlarge(added)


def _enlarge(x_BHWC: Tensor) -> Tensor:
    """Interpolate to twice the rows and columns."""
    x_BCHW = x_BHWC.permute(0, 3, 1, 2)
    return resize(x_BCHW, (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3])).permute(0, 2, 3, 1)


class MixBlock(nn.Module):
    """Mix tokens across windows: a wide depthwise convolution and two linear layers.

    As of Liu et al., "A ConvNet for the 2020s", 2022, section 2. (B, H, W, C) in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)
        nn.init.zeros_(self.lin2.weight)
        nn.init.zeros_(self.lin2.bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return ``x + mlp(norm(conv(x)))``."""
        mixed_BHWC = self.across(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden: Tensor = self.lin2(gelu(self.lin1(self.norm(mixed_BHWC))))
        return x_BHWC + hidden
