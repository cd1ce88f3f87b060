"""A faster forward pass over segment-anything's own mask decoder; weights and modules stay theirs.

The decoder's cost is all in the image positions: 7 to 10 tokens meet up to 4096 of them. So every projection of a
position is folded into the tokens instead: ``q . (W x) = (W' q) . x`` takes heads x tokens = 56 products of length 256
for a position where projecting it takes 128, and the same holds for values and outputs. The two transposed convolutions
have kernel = stride, so they are matrix products too, and positions stay the leading axis from the embedding to the
logits. Equal to the stock decoder but for rounding (tested).

Shape suffixes: B prompts, N positions of a window, T tokens, C channels, H heads, M masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, pad

from .modeling import Attention, MaskDecoder, PromptEncoder, TwoWayAttentionBlock


def decode_windows(
    decoder: MaskDecoder, src_BNC: Tensor, pe_BNC: Tensor, sparse_BTC: Tensor, masks: slice
) -> tuple[Tensor, Tensor]:
    """Return what ``MaskDecoder.predict_masks`` does, for a square window of positions for each prompt.

    Parameters
    ----------
    decoder : segment-anything's
    src_BNC : float32, (B, N, 256), embedding plus dense prompt, rows first
    pe_BNC : float32, (B, N, 256), positional encoding of the same positions
    sparse_BTC : float32, (B, T, 256), of points and boxes
    masks : which of the four masks and IoUs are wanted, the single one first

    Returns
    -------
    logits : (B, M, 4 sqrt(N), 4 sqrt(N))
    iou : (B, M)
    """
    queries, keys = _attended(decoder, src_BNC, pe_BNC, sparse_BTC)
    wanted = range(*masks.indices(decoder.num_mask_tokens))
    hyper = torch.stack([decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in wanted], 1)
    return _upscale(decoder, keys, hyper), decoder.iou_prediction_head(queries[:, 0])[:, masks]


def mask_token(decoder: MaskDecoder, src_BNC: Tensor, pe_BNC: Tensor, sparse_BTC: Tensor) -> Tensor:
    """Return the token from which the single mask is drawn, float32, (B, 256); parameters of :func:`decode_windows`."""
    return _attended(decoder, src_BNC, pe_BNC, sparse_BTC)[0][:, 1]


def _attended(decoder: MaskDecoder, src_BNC: Tensor, pe_BNC: Tensor, sparse_BTC: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens and positions after the transformer: (B, T, C), the token of the IoU first, and (B, N, C)."""
    transformer = decoder.transformer
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output.expand(src_BNC.shape[0], -1, -1), sparse_BTC], dim=1)
    queries, keys = tokens, src_BNC
    for layer in transformer.layers:
        queries, keys = _block(layer, queries, keys, tokens, pe_BNC)
    read = _read(transformer.final_attn_token_to_image, queries + tokens, keys + pe_BNC, keys)
    queries = transformer.norm_final_attn(queries + read)
    return queries, keys


def prompt_tokens(encoder: PromptEncoder, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None) -> Tensor:
    """Return the tokens of clicks and boxes, as ``PromptEncoder`` makes them.

    Segment-anything picks clicks by their label with boolean indices, and a GPU waits for each of them.

    Parameters
    ----------
    encoder : segment-anything's
    points : float32, (B, N, 2) ``(x, y)`` SAM input px, and their labels, (B, N): 1 cell, 0 background, -1 padding
    boxes : float32, (B, 4) ``(x0, y0, x1, y1)`` SAM input px

    Returns
    -------
    float32, (B, T, 256)
        A token for each click, with one of padding where there is no box, and two for each box; T is 0 for neither.
    """
    encode, size = encoder.pe_layer.forward_with_coords, encoder.input_image_size
    weights = [embedding.weight for embedding in encoder.point_embeddings]
    parts: list[Tensor] = []
    if points is not None:
        coordinates, labels = points
        if boxes is None:
            coordinates, labels = pad(coordinates, (0, 0, 0, 1)), pad(labels, (0, 1), value=-1.0)
        label = labels[..., None]
        placed = encode(coordinates + 0.5, size)
        background, cell = placed + weights[0], placed + weights[1]
        nothing = encoder.not_a_point_embed.weight
        parts.append(torch.where(label == 1, cell, torch.where(label == 0, background, nothing)))
    if boxes is not None:
        corners = encode((boxes + 0.5).reshape(-1, 2, 2), size)
        parts.append(corners + torch.cat([weights[2], weights[3]]))
    return torch.cat(parts, 1) if parts else weights[0].new_empty(1, 0, encoder.embed_dim)


def _block(
    layer: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, tokens: Tensor, pe: Tensor
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    where = keys + pe
    queries = layer.norm2(queries + _read(layer.cross_attn_token_to_image, queries + tokens, where, keys))
    queries = layer.norm3(queries + layer.mlp(queries))
    keys = layer.norm4(_write(layer.cross_attn_image_to_token, keys, where, queries + tokens, queries))
    return queries, keys


def _fold(attention: Attention, x_BTC: Tensor, projection: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    """Return what dot products with ``projection`` of a position become: (B, H T, C) and an offset, (B, H T)."""
    heads = attention.num_heads
    x_BTHD = x_BTC.unflatten(-1, (heads, -1)) / math.sqrt(attention.internal_dim // heads)
    folded_BHTC = torch.einsum("bthd,hdc->bhtc", x_BTHD, projection.weight.unflatten(0, (heads, -1)))
    offset_BHT = torch.einsum("bthd,hd->bht", x_BTHD, projection.bias.unflatten(0, (heads, -1)))
    return folded_BHTC.flatten(1, 2), offset_BHT.flatten(1)


def _read(attention: Attention, tokens: Tensor, where: Tensor, what: Tensor) -> Tensor:
    """Attend from tokens to positions, (B, T, C)."""
    heads = attention.num_heads
    folded, offset = _fold(attention, attention.q_proj(tokens), attention.k_proj)
    weights = torch.baddbmm(offset[..., None], folded, where.transpose(1, 2)).softmax(-1)
    mixed = torch.bmm(weights, what).unflatten(1, (heads, -1))
    values = torch.einsum("bhtc,hdc->bthd", mixed, attention.v_proj.weight.unflatten(0, (heads, -1)))
    out: Tensor = attention.out_proj(values.flatten(2) + attention.v_proj.bias)
    return out


def _write(attention: Attention, keys: Tensor, where: Tensor, tokens: Tensor, what: Tensor) -> Tensor:
    """Return positions, (B, N, C), plus what they attend to in tokens."""
    heads = attention.num_heads
    folded, offset = _fold(attention, attention.k_proj(tokens), attention.q_proj)
    scores = torch.baddbmm(offset[..., None], folded, where.transpose(1, 2))
    # tokens before positions: a softmax over seven neighbouring numbers takes as long as all the products here
    weights = scores.unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)
    values = attention.v_proj(what).unflatten(-1, (heads, -1))
    out = torch.einsum("bthd,chd->bhtc", values, attention.out_proj.weight.unflatten(-1, (heads, -1)))
    # the weights of each head sum to 1, so its share of the bias may stand in every row
    out = out.flatten(1, 2) + attention.out_proj.bias / heads
    return torch.baddbmm(keys, weights.transpose(1, 2), out)


def _upscale(decoder: MaskDecoder, keys_BNC: Tensor, hyper_BMC: Tensor) -> Tensor:
    """Return ``hyper @ output_upscaling(keys)`` as images, (B, M, 4 sqrt(N), 4 sqrt(N))."""
    first, norm, _, second, _ = decoder.output_upscaling
    # (in, out, 2, 2) -> (2, 2, out, in): every position becomes its four children, channels last
    fine = linear(keys_BNC, first.weight.permute(2, 3, 1, 0).flatten(0, 2), first.bias.repeat(4)).unflatten(-1, (4, -1))
    fine = gelu(layer_norm(fine, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    fine = gelu(linear(fine, second.weight.permute(2, 3, 1, 0).flatten(0, 2), second.bias.repeat(4)))
    side = math.isqrt(keys_BNC.shape[1])
    values = torch.bmm(fine.view(keys_BNC.shape[0], side * side * 16, -1), hyper_BMC.transpose(1, 2))
    images = values.view(values.shape[0], side, side, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return images.reshape(values.shape[0], -1, side * 4, side * 4)
