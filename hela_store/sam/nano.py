"""``nano``: the small SAM that ships with the package.

Segment-anything's own classes throughout (ViT blocks with windowed attention, neck, prompt encoder, two-way decoder),
with one change: a convolutional stem in place of the 16x16 patch projection, which learns edges from far less data
(Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021). All attention is windowed and there is
no absolute position in the encoder, so it may be trained on crops of the 1024x1024 input and works on the whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from hela_store.errors import CheckpointError

from .context import ContextBlock, MixBlock
from .decoder import CHANNELS, INPUT, POSITION, build_decoder
from .fast_encoder import layer_norm_2d
from .modeling import Attention, ImageEncoderViT, LayerNorm2d, Sam

NANO_FILE = Path(__file__).with_name("nano.safetensors")
NANO_SHA256 = "37804d2aac02082ddafcaa35a1df15f4114d2ae465ef259321de7109b87860a5"
"""Of the first edition's weights; empty where a build ships none, and nano is random from a fixed seed."""
NANO2_FILE = Path(__file__).with_name("nano2.safetensors")
NANO2_SHA256 = "9157079ae80dae3de3b09913f160a43ba5c6f2b01e86c78c444e2edb0f04e13b"
"""Of the second edition's weights, as above."""
ARCHITECTURES = ("nano", "nano2")

WIDTH = 192
DEPTH = 4
HEADS = 4
WINDOW = 16
MIXES = 2
"""Mixing blocks of the second edition, after the one that sees the whole view."""
STEM = (32, 64)
HIGHEST_FREQUENCY = 12.0


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around a GELU, added to their input; (B, C, H, W) in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return ``x + conv(gelu(conv(norm(x))))``."""
        hidden: Tensor = self.conv2(nn.functional.gelu(self.conv1(layer_norm_2d(self.norm, x_BCHW))))
        return x_BCHW + hidden


class ConvStem(nn.Module):
    """From an image to tokens 16 px apart: (B, 3, H, W) -> (B, H/16, W/16, 192)."""

    def __init__(self) -> None:
        super().__init__()
        first, second = STEM
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=4, padding=3),
            ResidualConv(first),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            ResidualConv(second),
            ResidualConv(second),
            nn.Conv2d(second, WIDTH, 3, stride=2, padding=1),
        )
        # on a CPU convolutions over channels-last images take half the time
        self.to(memory_format=torch.channels_last)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return tokens, channels last, as segment-anything's PatchEmbed does."""
        tokens: Tensor = self.layers(x_BCHW)
        return tokens.permute(0, 2, 3, 1)


def build_nano(architecture: str = "nano") -> Sam:
    """Return nano with random weights: a ``Sam`` with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``.

    Parameters
    ----------
    architecture : ``"nano"``, of the first edition, or ``"nano2"``, of the second, which sees the whole view
    """
    encoder = ImageEncoderViT(
        img_size=INPUT,
        patch_size=POSITION,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        out_chans=CHANNELS,
        use_abs_pos=False,
        use_rel_pos=True,
        window_size=WINDOW,
    )
    encoder.patch_embed = ConvStem()
    if architecture == "nano2":
        encoder.blocks.extend([ContextBlock(WIDTH), *(MixBlock(WIDTH) for _ in range(MIXES))])
    encoder.neck.to(memory_format=torch.channels_last)
    decoder = build_decoder("nano")
    _spread_frequencies(decoder.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    _look_where_asked(decoder.mask_decoder.transformer)
    return Sam(image_encoder=encoder, prompt_encoder=decoder.prompt_encoder, mask_decoder=decoder.mask_decoder)


def _spread_frequencies(matrix: Tensor) -> None:
    # SAM draws from N(0, 1), so slow that two positions 16 px apart look alike; a nucleus spans three
    scale = torch.logspace(0, torch.log10(torch.tensor(HIGHEST_FREQUENCY)).item(), matrix.shape[1])
    with torch.no_grad():
        matrix.mul_(scale)


def _look_where_asked(transformer: nn.Module) -> None:
    # with equal projections a prompt's position attends to the same position of the image from the first step on;
    # with independent ones the decoder spends thousands of steps on finding that out
    for module in transformer.modules():
        if isinstance(module, Attention):
            module.k_proj.load_state_dict(module.q_proj.state_dict())


def shipped(architecture: str = "nano") -> tuple[Path, str]:
    """Return the file and the sha256 of an edition's shipped weights."""
    return (NANO2_FILE, NANO2_SHA256) if architecture == "nano2" else (NANO_FILE, NANO_SHA256)


def is_trained(architecture: str = "nano") -> bool:
    """Whether this version ships trained weights of an edition."""
    file, sha256 = shipped(architecture)
    return bool(sha256) and file.exists()


def load_nano(path: Path | None = None, architecture: str = "nano") -> Sam:
    """Return nano with its shipped weights, those at ``path``, or, where there are none, random ones (fixed seed).

    Parameters
    ----------
    path : a weights file of that edition
    architecture : ``"nano"`` for the first edition, ``"nano2"`` for the second

    Raises
    ------
    CheckpointError
        The shipped file is not the one this version pins: half an upgrade, or damage.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nano = build_nano(architecture)
    file, pinned = shipped(architecture)
    if path is not None or is_trained(architecture):
        data = (path or file).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if path is None and found != pinned:
            raise CheckpointError(
                f"{file} has sha256 {found[:12]}, this version ships {pinned[:12]}; install hela-store again"
            )
        nano.load_state_dict({name: value.float() for name, value in load(data).items()}, strict=False)
    return nano.eval()
