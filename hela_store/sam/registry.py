"""The encoders that are known by name: where their weights are, what they are checked against, what they learned from.

Addresses and hashes are those that the projects publish themselves: Meta's in a dozen repositories that pin them,
micro-sam's in ``micro_sam.util.models()`` of version 1.8.14, MedSAM's on its Zenodo record. Nothing here imports torch.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hela_store.base.checks import did_you_mean
from hela_store.errors import CheckpointError
from hela_store.recipe.recipe import EncoderRecipe, Recipe

META = "https://dl.fbaipublicfiles.com/segment_anything"
BIOIMAGE = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
GOETTINGEN = "https://owncloud.gwdg.de/index.php/s"
SAM_PAPER = "Kirillov et al. 2023, doi:10.1109/ICCV51070.2023.00371"
MICRO_SAM_PAPER = "Archit et al. 2025, doi:10.1038/s41592-024-02580-4"
PATHO_SAM_PAPER = "Griebel et al. 2025, arXiv:2502.00408"
LIGHT_MICROSCOPY = (
    *("BF-C2DL-HSC", "BF-C2DL-MuSC", "DIC-C2DH-HeLa", "Fluo-C2DL-Huh7", "Fluo-C2DL-MSC", "Fluo-N2DH-SIM+"),
    *("PhC-C2DH-U373", "PhC-C2DL-PSC", "DSB 2018", "LIVECell", "DeepBacs", "TissueNet", "PlantSeg", "NeurIPS CellSeg"),
    *("EmbedSeg", "YeaZ", "CVZ Fluo", "DynamicNuclearNet", "Cellpose", "OmniPose", "OrgaSegment"),
)
"""What micro-sam's page of the training data of its light-microscopy models lists (doc/datasets/lm_v3.md, lm_v4.md)."""
OPEN_IMAGES = ("Usiigaci", "MNFinder", "BBBC039", "S-BIAD634", "QCANet", "BABY", "PFC neurons")
"""What nano's second edition learned from beside DSB 2018 and synthetic scenes."""
ELECTRON_MICROSCOPY = ("MitoEM", "MitoLab", "Platynereis")
"""The same of its electron-microscopy models (doc/datasets/em_organelles_v4.md)."""
FOLDERS = {
    "DSB 2018": ("dsb2018", "datasciencebowl2018", "bbbc038", "stage1train", "stage1test"),
    "NeurIPS CellSeg": ("neuripscellseg", "neurips22cellseg"),
    "BABY": ("babyyeast", "babyecoli"),
    "PFC neurons": ("pfcneurons", "pfcpn"),
}
"""How a folder of a data set is called, in small letters and digits, where that is not the name of the data set."""
FOLDERS_SEEN = 3


@dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """An encoder that is known by name.

    Attributes
    ----------
    name, architecture : str
        What ``--encoder`` takes, and which SAM it is.
    file : str
        Name of the weights in the cache.
    url : str
        Where the project itself has them; empty for weights that ship with this package.
    hash : str
        ``"algorithm:digest"`` of the file, as the project publishes it; empty for weights that ship with this package.
    megabytes : int
        Approximate size of the file.
    licence, cite : str
        Licence of the weights, and what to cite.
    trained_on : str
        What the encoder learned from, in words.
    domain : tuple of str
        Data sets that it was trained on, as far as its project lists them.
    """

    name: str
    architecture: str
    file: str
    url: str
    hash: str
    megabytes: int
    licence: str
    cite: str
    trained_on: str
    domain: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """The sha256 of the file, empty where the project publishes another hash."""
        algorithm, _, digest = self.hash.partition(":")
        return digest if algorithm == "sha256" else ""

    def place(self, cache: Path) -> Path:
        """Return where the weights lie or will lie: in the cache, or in this package where they ship with it."""
        return cache / self.file if self.url else Path(__file__).with_name(self.file)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def _meta(name: str, file: str, sha256: str, megabytes: int) -> KnownEncoder:
    return KnownEncoder(
        name=name,
        architecture=name,
        file=file,
        url=f"{META}/{file}",
        hash=f"sha256:{sha256}",
        megabytes=megabytes,
        licence="Apache-2.0",
        cite=SAM_PAPER,
        trained_on="photographs (SA-1B)",
    )


MEGABYTES = {"vit_t": 41, "vit_b": 375, "vit_l": 1250, "vit_h": 2565}
KINDS: dict[str, dict[str, Any]] = {
    "lm": {
        "trained_on": "light microscopy: cells and nuclei",
        "domain": LIGHT_MICROSCOPY,
        "cite": MICRO_SAM_PAPER,
    },
    "em_organelles": {
        "trained_on": "electron microscopy: organelles",
        "domain": ELECTRON_MICROSCOPY,
        "cite": MICRO_SAM_PAPER,
    },
    "histopathology": {
        "trained_on": "H&E histopathology: nuclei",
        "cite": PATHO_SAM_PAPER,
    },
    "medical_imaging": {
        "trained_on": "medical images",
        "cite": "Archit et al. 2025, arXiv:2501.11734",
    },
}
"""What micro-sam's models of one kind share, by the part of their names behind the architecture."""


def _micro_sam(name: str, url: str, xxh128: str) -> KnownEncoder:
    architecture, kind = name[:5], name[6:]
    return KnownEncoder(
        name=name,
        architecture=architecture,
        file=f"{name}.pt",
        url=url,
        hash=f"xxh128:{xxh128}",
        megabytes=MEGABYTES[architecture],
        licence="CC-BY-4.0",
        **KINDS[kind],
    )


_KNOWN = (
    KnownEncoder(
        name="nano@1",
        architecture="nano",
        file="nano.safetensors",
        url="",
        hash="",
        megabytes=10,
        licence="Apache-2.0",
        cite="",
        trained_on="synthetic scenes, 332 stills of DSB 2018",
        domain=("DSB 2018",),
    ),
    KnownEncoder(
        name="nano@2",
        architecture="nano2",
        file="nano2.safetensors",
        url="",
        hash="",
        megabytes=21,
        licence="Apache-2.0",
        cite="",
        trained_on="synthetic scenes, open images of cells",
        domain=("DSB 2018", *OPEN_IMAGES),
    ),
    KnownEncoder(
        name="vit_t",
        architecture="vit_t",
        file="vit_t.pt",
        url=f"{GOETTINGEN}/TuDzuwVDHd1ZDnQ/download",
        hash="xxh128:8eadbc88aeb9d8c7e0b4b60c3db48bd0",
        megabytes=MEGABYTES["vit_t"],
        licence="Apache-2.0",
        cite="Zhang et al. 2023 (MobileSAM), arXiv:2306.14289",
        trained_on="photographs (SA-1B), from vit_h",
    ),
    _meta("vit_b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375),
    _meta("vit_l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1250),
    _meta("vit_h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2565),
    _micro_sam("vit_t_lm", f"{BIOIMAGE}/faithful-chicken/1.1/files/vit_t.pt", "72ec5074774761a6e5c05a08942f981e"),
    _micro_sam("vit_b_lm", f"{BIOIMAGE}/diplomatic-bug/1.2/files/vit_b.pt", "fe9252a29f3f4ea53c15a06de471e186"),
    _micro_sam("vit_l_lm", f"{BIOIMAGE}/idealistic-rat/1.2/files/vit_l.pt", "017f20677997d628426dec80a8018f9d"),
    _micro_sam("vit_t_em_organelles", f"{BIOIMAGE}/greedy-whale/1/files/vit_t.pt", "253474720c497cce605e57c9b1d18fd9"),
    _micro_sam("vit_b_em_organelles", f"{BIOIMAGE}/noisy-ox/1.2/files/vit_b.pt", "f3bf2ed83d691456bae2c3f9a05fb438"),
    _micro_sam(
        "vit_l_em_organelles", f"{BIOIMAGE}/humorous-crab/1.2/files/vit_l.pt", "810b084b6e51acdbf760a993d8619f2d"
    ),
    _micro_sam("vit_b_histopathology", f"{GOETTINGEN}/sBB4H8CTmIoBZsQ/download", "ffd1a2cd84570458b257bd95fdd8f974"),
    _micro_sam("vit_l_histopathology", f"{GOETTINGEN}/IZgnn1cpBq2PHod/download", "b591833c89754271023e901281dee3f2"),
    _micro_sam("vit_h_histopathology", f"{GOETTINGEN}/L7AcvVz7DoWJ2RZ/download", "bd1856dafc156a43fb3aa705f1a6e92e"),
    _micro_sam("vit_b_medical_imaging", f"{GOETTINGEN}/f5Ol4FrjPQWfjUF/download", "40169f1e3c03a4b67bff58249c176d92"),
    KnownEncoder(
        name="medsam",
        architecture="vit_b",
        file="medsam_vit_b.pth",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        hash="md5:3bb6db55bd0c9ca30b61248bca72f8d6",
        megabytes=375,
        licence="CC-BY-4.0",
        cite="Ma et al. 2024 (MedSAM), doi:10.1038/s41467-024-44824-z",
        trained_on="medical images",
    ),
)
ENCODERS = {known.name: known for known in _KNOWN}
"""Every encoder that ``--encoder`` takes, by name; ``nano`` without a number is :data:`NANO`."""
NANO = "nano@1"
"""The edition of nano that new stores are made with."""
PLAIN = {"nano": "nano@1", "nano2": "nano@2"}


def plain_name(architecture: str) -> str:
    """Return the name of the encoder whose weights an architecture stands for where nothing else is said."""
    return PLAIN.get(architecture, architecture)


def find_encoder(name: str) -> KnownEncoder:
    """Return the encoder of a name.

    Raises
    ------
    CheckpointError
        No encoder has that name; the message gives the nearest one.
    """
    name = NANO if name == "nano" else name
    if name not in ENCODERS:
        raise CheckpointError(
            f"no encoder is called {name!r}{did_you_mean(name, ENCODERS) or ';'} `hela-store encoders` lists them"
        )
    return ENCODERS[name]


def weights_of(encoder: EncoderRecipe) -> KnownEncoder | None:
    """Return the known encoder whose weights a recipe asks for; None for a file of no known one.

    Raises
    ------
    CheckpointError
        ``encoder.name`` is unknown, or of another architecture.
    """
    if encoder.checkpoint and not encoder.name:
        return None
    known = find_encoder(encoder.name or plain_name(encoder.architecture))
    if known.architecture != encoder.architecture:
        raise CheckpointError(
            f"encoder.name is {known.name}, a {known.architecture}, and encoder.architecture is "
            f"{encoder.architecture}; correct one of the two in store.toml"
        )
    return known


def in_domain(recipe: Recipe) -> str:
    """Say that a recipe's encoder was trained on its data set; return ``""`` where that is not known."""
    known = weights_of(recipe.encoder)
    return has_seen(known.name if known else "", recipe)


def has_seen(name: str, recipe: Recipe) -> str:
    """Say that a known encoder was trained on the data set of a recipe; return ``""`` where that is not known.

    A data set is recognised by the names of the last three folders of its path alone, and the text says so: images of
    one that lie elsewhere are not recognised, and others in a folder of its name are taken for it.
    """
    known = ENCODERS.get(name)
    parts = Path(os.path.normpath(recipe.dataset.path)).parts[-FOLDERS_SEEN:]
    for seen in known.domain if known else ():
        folders = FOLDERS.get(seen, (_letters(seen),))
        if called := next((part for part in parts if _letters(part).startswith(folders)), ""):
            return (
                f"the encoder {name} was trained on {seen}: its scores here, zero-shot ones too, may be on images it "
                f"has seen, and say little about new data (recognised by the folder name {called!r} alone)"
            )
    return ""


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())
