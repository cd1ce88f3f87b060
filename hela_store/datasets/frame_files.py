"""Files that a user brings for frames, such as one mask for each: which file is which frame's.

A frame is known by its sequence and its name. A file lies in a folder of its sequence, ``<folder>/<sequence>/`` or
``<folder>/<sequence>_RES/``, or in the folder itself. There its name has to fit one frame alone, or the folder has to
bear the name of a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hela_store.errors import PromptError

from .entries import list_folder
from .listing import same_name


@dataclass(frozen=True, kw_only=True)
class FrameFiles:
    """Files of frames.

    Attributes
    ----------
    found : dict of str to Path
        The file of each frame that has one, by the frame's id.
    unused : tuple of Path
        Files that fit no frame.
    """

    found: dict[str, Path]
    unused: tuple[Path, ...]


def files_of_frames(
    folder: Path,
    frames: Iterable[str],
    endings: Sequence[str],
    stems: Callable[[str], Sequence[str]],
    suffix: re.Pattern[str] | None = None,
) -> FrameFiles:
    """Find the file of each frame.

    Parameters
    ----------
    folder : Path
        Where the files are.
    frames : iterable of str
        Ids, ``"<sequence>/<name>"``.
    endings : sequence of str
        Endings of file names in small letters, with the dot; files may have them in capitals.
    stems : callable
        Returns what a file may be called, without its ending, by the name of its frame.
    suffix : pattern, optional
        What may follow that name, such as ``_cp_masks``. A file whose name has it goes before one of the bare name,
        which is the image that a tool saved its masks beside.

    Raises
    ------
    PromptError
        A file fits several frames, or a frame has several files.
    """
    ids = [(frame, *frame.rpartition("/")[::2]) for frame in frames]
    sequences = list(dict.fromkeys(sequence for _, sequence, _ in ids))
    flat = _listed([folder], endings, suffix)
    named = [sequence for sequence in sequences if folder.resolve().name in _folders(sequence)]
    inside = {
        sequence: _listed([folder / name for name in _folders(sequence)], endings, suffix) for sequence in sequences
    }
    found: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for frame, sequence, name in ids:
        wanted = [_same(stem) for stem in stems(name)]
        places = [inside[sequence]] + ([flat] if not named or sequence in named else [])
        files = [path for place in places for stem in wanted for path in place.of(stem)]
        if len(files) > 1:
            raise PromptError(f"{files[0]} and {files[1]} are both for frame {frame}; remove one of them")
        if files:
            found[frame] = files[0]
            other = owners.setdefault(files[0], frame)
            if other != frame:
                raise PromptError(
                    f"{files[0]} fits frame {other} and frame {frame}; put the files of each sequence into a folder of "
                    f"its name, such as {folder / other.rpartition('/')[0] / files[0].name}"
                )
    every = [path for place in (flat, *inside.values()) for paths in place.plain.values() for path in paths]
    return FrameFiles(found=found, unused=tuple(path for path in every if path not in owners))


def mask_stems(name: str) -> list[str]:
    """Return what the mask of a frame may be called: like the frame, or as other tools and the challenge call it."""
    number = re.fullmatch(r"t(\d+)", name, flags=re.ASCII)
    # TrackMate exports label images as LblImg_<name>
    return [name, f"mask_{name}", f"LblImg_{name}", *([f"mask{number[1]}", f"man_seg{number[1]}"] if number else [])]


def _folders(sequence: str) -> tuple[str, str]:
    return sequence, f"{sequence}_RES"


def _same(stem: str) -> str:
    # a name typed on one system and copied to another may come in another form of the same letters
    return same_name(stem)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """Files of folders by their stem, and by what is left of it without a suffix."""

    plain: dict[str, list[Path]]
    suffixed: dict[str, list[Path]]

    def of(self, stem: str) -> list[Path]:
        return self.suffixed.get(stem) or self.plain.get(stem, [])


def _listed(folders: Iterable[Path], endings: Sequence[str], suffix: re.Pattern[str] | None) -> _Listed:
    found = _Listed(plain={}, suffixed={})
    for path in [path for folder in folders if folder.is_dir() for path in list_folder(folder)]:
        if path.suffix.lower() in endings and path.is_file():
            stem = _same(path.stem.removesuffix(".ome"))
            found.plain.setdefault(stem, []).append(path)
            if suffix is not None and (bare := suffix.sub("", stem)) != stem:
                found.suffixed.setdefault(bare, []).append(path)
    return found
