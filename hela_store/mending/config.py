"""Settings of mending; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hela_store.errors import PromptError

Form = Literal["mask", "box", "both"]
FORMS: tuple[Form, ...] = get_args(Form)
"""What of a mask the decoder is given."""
TRAINED = {"mask": "mask", "box": "box", "both": "box+mask"}
"""The prompt that a decoder is fine-tuned for, by form."""


@dataclass(frozen=True, kw_only=True)
class MendConfig:
    """Describe how masks are mended.

    Attributes
    ----------
    out : folder that gets the label images; it must not be there yet
    checkpoint : a fine-tuning run whose decoder answers; None for zero-shot
    prompt : what of a mask the decoder is given: ``"mask"``, ``"box"`` or ``"both"``
    split_merge : apply the proposed splits and merges; otherwise every mask keeps its number
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    out: Path
    checkpoint: str | None = None
    prompt: str = "mask"
    split_merge: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.prompt not in FORMS:
            raise PromptError(f"prompt is {self.prompt!r}, expected one of {', '.join(FORMS)}")
