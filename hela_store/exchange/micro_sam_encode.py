"""A frame encoded as micro-sam (1.8) does it, to tell whose checkpoint made an embedding of its."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from hela_store.images.geometry import SAM_INPUT
from hela_store.sam.encoder import whole_embedding
from hela_store.sam.fast_encoder import normalise_input
from hela_store.sam.modeling import ImageEncoderViT


@torch.inference_mode()
def encode_as_micro_sam(encoder: ImageEncoderViT, image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Encode an image stretched to its extremes, as 8-bit RGB, resized as segment-anything's predictor does.

    Parameters
    ----------
    encoder : on the device to use
    image : (row, col), counts

    Returns
    -------
    float32, (256, 64, 64), CHW
    """
    # with it comes torchvision, which takes a second and more
    from segment_anything.utils.transforms import ResizeLongestSide

    above = image.astype(np.float32) - np.float32(image.min())
    grey = (above / (above.max() + np.float32(1e-7)) * 255).astype(np.uint8)
    resized = ResizeLongestSide(SAM_INPUT).apply_image(np.repeat(grey[..., None], 3, axis=-1))
    device = next(encoder.parameters()).device
    x_13HW = torch.as_tensor(resized, device=device).permute(2, 0, 1)[None].float()
    room = (0, SAM_INPUT - x_13HW.shape[3], 0, SAM_INPUT - x_13HW.shape[2])
    embedding: npt.NDArray[np.float32] = whole_embedding(encoder, pad(normalise_input(x_13HW), room))[0].cpu().numpy()
    return embedding
