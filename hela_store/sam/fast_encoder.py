"""A faster forward pass over segment-anything's own image encoder; weights and modules stay theirs.

The decomposed relative-position bias of Li et al. (ViTDet, 2022), ``q . r_h + q . r_w``, is folded into one dot
product: the two bias rows are appended to ``q`` and one-hot row and column indicators to ``k``, so that plain
scaled-dot-product attention applies. On a CPU attention is made of plain products over as many queries as the cache
holds scores for, and the bias of the whole 64 x 64 grid is added, since three times longer rows would cost more.
Windows that do not divide the grid are padded after the projection of q, k and v and cut before the last one, so that
no product is spent on padding. Equal to the stock encoder within 1e-5 relative (tested). It can be cut after any block:
the tokens there are all that the blocks behind it need.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import Identity
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate, layer_norm, pad, scaled_dot_product_attention

from .modeling import Block, ImageEncoderViT, LayerNorm2d
from .modeling import ImageAttention as Attention

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Of RGB in 0..255, as in segment-anything's ``build_sam.py``."""
PART = 8 << 20
"""Bytes of attention scores that are made at once on a CPU."""
IN_PARTS = ("cpu",)
"""Devices on which torch's fused attention is slower than :func:`attend_in_parts`."""
PADDED = ("cuda",)
"""Devices whose fused kernels take rows of half precision in multiples of :data:`ALIGNED` channels only."""
ALIGNED = 8
KEPT = "relative_positions_kept"
"""Attribute of an attention that keeps its relative positions by axis, each with what they were made of."""
VALUES = 128
"""Channels of values that :data:`APART` multiplies beside longer rows of queries and keys."""
APART = SDPBackend.CUDNN_ATTENTION
"""The fused kernel whose values need not be as long as its keys (192 of ViT-B); all others would multiply zeros."""


class ShrinkingBlock(Block):  # type: ignore[misc]
    """A block whose windows are no larger than what there is, so that a crop is attended to without padding.

    The bias keeps its meaning: a smaller window reads the middle of the table, where stock blocks would stretch it.
    """

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return what :func:`block_forward` returns."""
        return block_forward(self, x_BHWC)


def normalise_input(x_BCHW: Tensor) -> Tensor:
    """Return ``(x - mean) / std`` for images in 0..255, (B, 3, H, W)."""
    return (x_BCHW - _channels(PIXEL_MEAN, x_BCHW)) / _channels(PIXEL_STD, x_BCHW)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    # filled on the device: torch.tensor() would copy from the CPU, and a GPU waits for that
    return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], 1)


def image_embedding(encoder: ImageEncoderViT, x_BCHW: Tensor) -> Tensor:
    """Encode normalised, padded images.

    Parameters
    ----------
    encoder : segment-anything's, with stock weights
    x_BCHW : float32, (B, 3, H, W), H and W multiples of 16

    Returns
    -------
    Tensor
        (B, 256, H / 16, W / 16)
    """
    return tail_embedding(encoder, x_BCHW, 0)


def trunk_tokens(encoder: ImageEncoderViT, x_BCHW: Tensor, cut: int) -> Tensor:
    """Return the tokens after the first ``cut`` blocks, (B, H / 16, W / 16, C), of normalised, padded images."""
    tokens_BHWC: Tensor = encoder.patch_embed(x_BCHW)
    if encoder.pos_embed is not None:
        tokens_BHWC = tokens_BHWC + encoder.pos_embed
    for block in encoder.blocks[:cut]:
        tokens_BHWC = block_forward(block, tokens_BHWC)
    return tokens_BHWC


def tail_embedding(encoder: ImageEncoderViT, x: Tensor, cut: int) -> Tensor:
    """Run the blocks after the first ``cut`` and the neck; the whole encoder where ``cut`` is 0.

    Parameters
    ----------
    encoder : as of :func:`image_embedding`
    x : what :func:`trunk_tokens` returns for the same cut; where it is 0, what :func:`image_embedding` takes
    cut : int

    Returns
    -------
    Tensor
        (B, 256, H / 16, W / 16), for tokens that were not rounded the very values of :func:`image_embedding`.
    """
    tokens_BHWC = trunk_tokens(encoder, x, 0) if cut == 0 else x
    for block in encoder.blocks[cut:]:
        tokens_BHWC = block_forward(block, tokens_BHWC)
    hidden_BCHW = tokens_BHWC.permute(0, 3, 1, 2)
    for layer in encoder.neck:
        hidden_BCHW = layer_norm_2d(layer, hidden_BCHW) if isinstance(layer, LayerNorm2d) else layer(hidden_BCHW)
    return hidden_BCHW


def view_embedding(encoder: ImageEncoderViT, x: Tensor, cut: int, precision: str) -> Tensor:
    """Return one view's embedding, float32, (256, 64, 64), in the precision of its recipe.

    Parameters
    ----------
    encoder, cut : as of :func:`tail_embedding`
    x : without a batch axis, on the encoder's device: tokens after the cut, or the preprocessed view where it is 0
    precision : such as ``"float32"``
    """
    half = getattr(torch, precision)
    with torch.autocast(x.device.type, dtype=half, enabled=half is not torch.float32):
        embedding = tail_embedding(encoder, x[None].float(), cut)
    return embedding[0].float()


def drop_trunk(encoder: ImageEncoderViT, cut: int) -> None:
    """Let go of the weights that :func:`tail_embedding` does not use, in place; names of the others stay."""
    if cut:
        encoder.patch_embed, encoder.pos_embed = Identity(), None
    for number in range(cut):
        encoder.blocks[number] = Identity()


def layer_norm_2d(norm: LayerNorm2d, x_BCHW: Tensor) -> Tensor:
    """Return what ``norm(x_BCHW)`` returns, in one pass and with channels last in memory."""
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    return layer_norm(x_BHWC, x_BHWC.shape[-1:], norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)


def block_forward(block: nn.Module, x_BHWC: Tensor) -> Tensor:
    """Return what ``block(x_BHWC)`` returns; a block that is not segment-anything's runs as it is."""
    if not isinstance(block, Block):
        found: Tensor = block(x_BHWC)
        return found
    window = block.window_size
    if isinstance(block, ShrinkingBlock):
        window = min(window, *x_BHWC.shape[1:3])
    x_BHWC = x_BHWC + _attention(block.attn, block.norm1(x_BHWC), window, cropped=isinstance(block, ShrinkingBlock))
    out_BHWC: Tensor = x_BHWC + block.mlp(block.norm2(x_BHWC))
    return out_BHWC


def _attention(attn: Attention, x_BHWC: Tensor, window: int, *, cropped: bool) -> Tensor:
    """Attend within windows of ``window`` x ``window`` tokens, all over where it is 0; projections see no padding."""
    batch, height, width, channels = x_BHWC.shape
    rows, columns = (window, window) if window else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    qkv = _padded(attn, attn.qkv(x_BHWC), down * rows, across * columns)
    heads, length = attn.num_heads, channels // attn.num_heads
    # three of (batch, down, across, head, row, column, channel)
    parts = qkv.view(batch, down, rows, across, columns, 3, heads, length).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = (part.reshape(-1, rows, columns, length).contiguous() for part in parts)
    out = _attend(attn, q, k, v, cropped=cropped)
    out = out.view(batch, down, across, heads, rows, columns, length).permute(0, 1, 4, 2, 5, 3, 6)
    merged = out.reshape(batch, down * rows, across * columns, channels)[:, :height, :width]
    # a linear layer copies its weights once a row of an input that is not contiguous
    projected: Tensor = attn.proj(merged.contiguous())
    return projected


def _padded(attn: Attention, qkv_BHWC: Tensor, height: int, width: int) -> Tensor:
    batch, inner_height, inner_width, channels = qkv_BHWC.shape
    if (height, width) == (inner_height, inner_width):
        return qkv_BHWC
    # the stock encoder projects zeros there, which gives the bias
    out = qkv_BHWC.new_zeros(channels) if attn.qkv.bias is None else attn.qkv.bias.to(qkv_BHWC.dtype)
    out = out.expand(batch, height, width, channels).contiguous()
    out[:, :inner_height, :inner_width] = qkv_BHWC
    return out


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, *, cropped: bool) -> Tensor:
    """Attend from every position of (N, H, W, C) to every other; return (N, H * W, C)."""
    height, width, length = q.shape[1:]
    scaled, down, across = q * attn.scale, None, None
    # with gradients the scores would be kept; the fused kernel makes them again
    in_parts = q.device.type in IN_PARTS and not q.requires_grad
    if attn.use_rel_pos:
        down = torch.einsum("nhwc,hkc->nhwk", q, _bias(attn, "rel_pos_h", height, cropped)).to(q.dtype)
        across = torch.einsum("nhwc,wkc->nhwk", q, _bias(attn, "rel_pos_w", width, cropped)).to(q.dtype)
        if in_parts and height + width >= length:
            down, across = down.flatten(1, 2), across.flatten(1, 2)
        else:
            # 92 channels in a window of ViT-B, 108 of ViT-H: torch would copy all three to append these zeros
            half = q.device.type in PADDED and q.element_size() == 2
            extra = -(length + height + width) % ALIGNED if half else 0
            scaled = torch.cat([scaled, down, across, scaled.new_zeros(*q.shape[:-1], extra)], -1)
            k, down, across = _with_indicators(k, extra), None, None
    scaled, k, v = (part.flatten(1, 2) for part in (scaled, k, v))
    if in_parts:
        found: Tensor = attend_in_parts(scaled, k, v, down, across)
        return found
    apart = _takes_apart(scaled, length)
    v = pad(v, (0, (VALUES if apart else k.shape[-1]) - length))
    with sdpa_kernel(APART) if apart else nullcontext():
        return scaled_dot_product_attention(scaled[None], k[None], v[None], scale=1.0)[0, ..., :length]


def _takes_apart(rows: Tensor, length: int) -> bool:
    """Whether :data:`APART` attends with these rows and values of :data:`VALUES` channels, ``length`` of them used."""
    wide, half = rows.shape[-1], rows.dtype in (torch.bfloat16, torch.float16)
    if rows.device.type not in PADDED or not half or not length <= VALUES < wide:
        return False
    # its gradient cannot be repeated to the bit
    return not rows.requires_grad and not torch.compiler.is_compiling() and _tried_apart(rows.device, rows.dtype, wide)


@functools.cache
def _tried_apart(device: torch.device, dtype: torch.dtype, wide: int) -> bool:
    """Whether it works with keys of so many channels: which GPUs, versions and sizes it takes is in no table."""
    with warnings.catch_warnings(), torch.inference_mode(), sdpa_kernel(APART):
        warnings.simplefilter("ignore")  # torch says why it cannot
        rows, values = (torch.zeros(1, 1, 128, channels, device=device, dtype=dtype) for channels in (wide, VALUES))
        try:
            scaled_dot_product_attention(rows, rows, values, scale=1.0)
        except RuntimeError:
            return False
    return True


def _bias(attn: Attention, axis: str, size: int, cropped: bool) -> Tensor:
    """Return the embedding of every offset along an axis; kept with ``attn`` while its table is frozen."""
    table_LC: Tensor = getattr(attn, axis)
    frozen = torch.is_inference_mode_enabled() and not (table_LC.requires_grad or table_LC.is_inference())
    # what stands in for a parameter while a pass is traced has no values
    if not frozen or type(table_LC) is not nn.Parameter or torch.compiler.is_compiling():
        return _offsets(table_LC, size, cropped)
    kept = attn.__dict__.setdefault(KEPT, {})
    state = table_LC._version, table_LC.data_ptr(), table_LC.device, table_LC.dtype, size, cropped
    if axis not in kept or kept[axis][0] != state:
        # the table is held as well, so that no other one can come to lie at its address
        kept[axis] = state, table_LC.detach(), _offsets(table_LC, size, cropped)
    made: Tensor = kept[axis][2]
    return made


def _offsets(table_LC: Tensor, size: int, cropped: bool) -> Tensor:
    """Return the embedding of every offset; of a smaller window the middle of the table where it is ``cropped``."""
    middle = len(table_LC) // 2
    return relative_positions(table_LC[middle - size + 1 : middle + size] if cropped else table_LC, size)


def relative_positions(table_LC: Tensor, size: int) -> Tensor:
    """Return the embedding of every offset between two of ``size`` positions, (size, size, C).

    Equal to segment-anything's ``get_rel_pos``, which makes its index on the CPU: a GPU would wait for two uploads in
    every attention, and could not replay the forward pass as a graph.

    Parameters
    ----------
    table_LC : one row an offset; stretched linearly where it was learned for another size
    size : int
    """
    offsets = 2 * size - 1
    if len(table_LC) != offsets:
        table_LC = interpolate(table_LC.T[None], size=offsets, mode="linear")[0].T
    reach = torch.arange(size, device=table_LC.device)
    return table_LC[reach[:, None] - reach + (size - 1)]


def _with_indicators(k: Tensor, extra: int) -> Tensor:
    """Append one-hot rows and columns, and ``extra`` zeros, to the channels of (N, H, W, C)."""
    height, width, length = k.shape[1:]
    out = k.new_zeros(*k.shape[:-1], length + height + width + extra)
    out[..., :length] = k
    out[..., length : length + height] = torch.eye(height, dtype=k.dtype, device=k.device)[:, None]
    out[..., length + height : length + height + width] = torch.eye(width, dtype=k.dtype, device=k.device)
    return out


# an operator of its own, because torch.compile would unroll the loops
@torch.library.custom_op(
    "hela_store::attend_in_parts",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? down, Tensor? across) -> Tensor",
)
def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, down: Tensor | None, across: Tensor | None) -> Tensor:
    """Return ``softmax(q k^T + bias) v`` of (N, L, C) each, over as many queries at once as the cache holds scores for.

    Over the whole grid of ViT-B twice (float32) to four times (bfloat16) as fast as torch's fused kernel for CPUs,
    which wants the bias folded into rows of one length and multiplies bfloat16 at the rate of float32 (Zen 5, torch
    2.14).

    Parameters
    ----------
    q, k : (N, L, K)
        ``q`` scaled.
    v : (N, L, C)
    down, across : (N, L, H) and (N, L, W), or None
        The bias: what is added to the scores of the keys of each row and of each column, L = H W.
    """
    count, length, _ = q.shape
    out, keys = torch.empty_like(v), k.transpose(1, 2)
    line = length * q.element_size()
    some, rows = max(1, PART // (line * length)), min(length, max(1, PART // line))
    for first in range(0, count, some):
        for row in range(0, length, rows):
            part = slice(first, first + some), slice(row, row + rows)
            if down is None or across is None:
                scores = torch.bmm(q[part], keys[part[0]])
            else:
                bias = down[part][..., None] + across[part][..., None, :]
                scores = bias.flatten(2).baddbmm_(q[part], keys[part[0]])
            out[part] = torch.bmm(scores.softmax(-1), v[part[0]])
    return out


@attend_in_parts.register_fake
def _attended(q: Tensor, k: Tensor, v: Tensor, down: Tensor | None, across: Tensor | None) -> Tensor:
    return torch.empty_like(v)
