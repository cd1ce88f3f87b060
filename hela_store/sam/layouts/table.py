"""The layouts of checkpoints that are read, in one table: how each is recognised, and how it becomes plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hela_store.errors import CheckpointError

from .foreign import foreign
from .hugging_face import from_hugging_face, is_hugging_face
from .micro_sam import has_lora, merge_lora
from .read import read_tensors

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names and parts of tensors as a project writes them.

    Attributes
    ----------
    name : str
    known : whether tensors are in this layout
    plain : brings them to segment-anything's names; the file is passed for errors and for what lies beside it
    """

    name: str
    known: Callable[[Tensors], bool]
    plain: Callable[[Tensors, Path], dict[str, Tensor]]


LAYOUTS = (
    Layout(name="Hugging Face SamModel", known=is_hugging_face, plain=from_hugging_face),
    Layout(name="micro-sam with LoRA", known=has_lora, plain=lambda tensors, _: merge_lora(tensors)),
    Layout(name="segment-anything", known=lambda _: True, plain=lambda tensors, _: dict(tensors)),
)
"""The first that knows the tensors is taken; the last takes all, and what is missing then is named elsewhere."""


@dataclass(frozen=True, kw_only=True)
class ReadSam:
    """A checkpoint by segment-anything's names; ``layout`` as in the table, ``left`` names parts that are not used."""

    state: dict[str, Tensor]
    layout: str
    left: tuple[str, ...] = ()


def read_sam(path: Path) -> ReadSam:
    """Read a checkpoint of any layout.

    Raises
    ------
    CheckpointError
        Not a checkpoint, damaged, or another model than a SAM; the error names it.
    """
    found = read_tensors(path)
    other = foreign(found.tensors)
    if other:
        raise CheckpointError(f"{path} {other}")
    layout = next(layout for layout in LAYOUTS if layout.known(found.tensors))
    try:
        state = layout.plain(found.tensors, path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    return ReadSam(state=state, layout=layout.name, left=found.left)
