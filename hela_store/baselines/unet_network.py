"""MONAI's U-Net of three classes: made, saved, read, and run over frames of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hela_store.base.extras import needs
from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import RunError

CHANNELS = (16, 32, 64, 128, 256)
ROI = 512
"""Side of the windows a frame is answered in, px of the network: memory does not grow with the frame."""
OVERLAP = 0.125
"""Share of a window that it shares with the next."""


def new_network() -> nn.Module:
    """Return an untrained network, (B, 1, row, col) to logits (B, 3, row, col); ExtraError without MONAI."""
    with needs("unet"):
        from monai.networks.nets.unet import UNet
    strides = (2,) * (len(CHANNELS) - 1)
    # with batch norm it found nothing in whole frames, however small the loss on crops
    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=3,
        channels=CHANNELS,
        strides=strides,
        num_res_units=2,
        norm="INSTANCE",
    )
    return network


def save_network(path: Path, weights: dict[str, Tensor], shrink: float) -> None:
    """Write weights durably as safetensors, with the scale they were trained at in the header."""
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_atomic(path, safetensors_bytes(plain, {"network": "unet", "shrink": repr(shrink)}))


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, float]:
    """Return the network that :func:`save_network` wrote, ready to answer, and its scale; RunError if it is damaged."""
    network = new_network()
    try:
        with safe_open(path, framework="pt") as file:
            shrink = float((file.metadata() or {})["shrink"])
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} is no U-Net, or damaged ({str(error).splitlines()[0]}); train another") from None
    return network.to(device).eval(), shrink


@torch.no_grad()
def probabilities(
    network: nn.Module, image: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Return the probability of each class.

    Parameters
    ----------
    network : in evaluation mode
    image : float32, (row, col), 0..1
        At the network's size.
    shape : (rows, cols) px
        Of the frame.

    Returns
    -------
    float32, (3, row, col)
        Of background, nucleus and border, at the frame's size.
    """
    with needs("unet"):
        from monai.inferers.utils import sliding_window_inference
    given = torch.from_numpy(image[None, None]).to(next(network.parameters()).device)
    logits = sliding_window_inference(given, ROI, 1, network, overlap=OVERLAP, mode="gaussian")
    assert isinstance(logits, Tensor)
    if logits.shape[2:] != torch.Size(shape):
        logits = nn.functional.interpolate(logits, list(shape), mode="bilinear", align_corners=False)
    return np.asarray(logits.softmax(1)[0].cpu().numpy(), np.float32)
