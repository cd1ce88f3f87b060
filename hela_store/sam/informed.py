"""Say which data sets what ships with this package was looked at beside, so that "zero-shot" says what it is."""

from __future__ import annotations

from pathlib import PurePath

INFORMED = {
    "Fluo-N2DL-HeLa": "the look of nano's drawn scenes was informed by sequence 01 of this data set",
    "DIC-C2DH-HeLa": "nano's training crops were changed after results on sequence 01 of this data set were seen",
}
"""What of nano's pretraining was chosen beside a data set, by the name of its folder."""


def informed_by(architecture: str, dataset: str) -> str:
    """Return what zero-shot scores on a data set have to say of the encoder; empty where nothing is known.

    Parameters
    ----------
    architecture : of the encoder
    dataset : path of the data set
    """
    return INFORMED.get(PurePath(dataset).name, "") if architecture in ("nano", "nano2") else ""
