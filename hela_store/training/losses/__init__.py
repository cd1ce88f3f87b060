"""Losses on decoder logits: one number per mask, so that callers weight and choose."""
