"""Which precision is proposed for a device."""

from __future__ import annotations

import pytest

from hela_store.sam.rate import proposed_precision


@pytest.mark.parametrize(
    ("kind", "major", "expected"),
    [
        ("cpu", 0, "float32"),
        ("mps", 0, "float32"),
        ("cuda", 7, "float32"),
        ("cuda", 8, "bfloat16"),
        ("cuda", 9, "bfloat16"),
    ],
)
def test_bfloat16_is_proposed_for_gpus_that_multiply_it(kind: str, major: int, expected: str) -> None:
    assert proposed_precision(kind, major) == expected
