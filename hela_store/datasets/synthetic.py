"""A seeded time-lapse that looks like Fluo-N2DL-HeLa, in the layout of the Cell Tracking Challenge.

Levels, noise, edges and sizes follow what was measured on sequence 01 of that data set (H2B-GFP HeLa nuclei, 10x, 0.645
um a pixel): a 12-bit signal on a black level of 32768, a background of about 300 counts that varies by some tens, noise
of 9.5 counts correlated between neighbouring columns, nuclei of 50 to 1500 counts, dividing ones up to saturation. No
pixel of it is used.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from hela_store.base.rng import generator
from hela_store.errors import DatasetError

from .nuclei import Array, Canvas, Labels, Patch, crop_frame, depth_map, one_piece, smooth_noise, soft_mask, spots
from .population import PATCH, Habitat, Nucleus, live

BLACK_LEVEL = 32768
FULL_SCALE = 4095  # counts above the black level
GROUND = 302.0  # counts of the background
READ_NOISE = 9.5  # counts, rms
SHOT_GAIN = 0.12  # variance per count of light
RADIUS_UM = 6.9  # at birth
OUTER_BAND = 25  # px; objects wholly inside it carry no label (the challenge's field of interest)
MIN_AREA = 30


@dataclass(frozen=True, kw_only=True)
class Debris:
    """Light and shade that stay with the sequence and are no cells.

    Attributes
    ----------
    ground : float32, (row, col)
        Background in counts: uneven illumination and dust.
    blobs : float64, (blob, 6)
        x, y, velocity in x and y (px a frame), sigma (px), height (counts).
    """

    ground: Array
    blobs: np.ndarray


def _debris(rng: np.random.Generator, shape: tuple[int, int]) -> Debris:
    """Uneven ground with dust, haze out of focus, and small bright fragments."""
    rows, cols = shape
    y, x = np.linspace(-1, 1, rows, dtype=np.float32)[:, None], np.linspace(-1, 1, cols, dtype=np.float32)[None, :]
    tilt = rng.normal(0, 8, 2)
    ground = GROUND + tilt[0] * x + tilt[1] * y - rng.uniform(12, 24) * (0.6 * x * x + 0.6 * y * y - 0.4)
    ground = ground + 1.5 * smooth_noise(rng, shape, 40.0)
    dust = Canvas(shape)
    for _ in range(max(1, rows * cols // 60000)):
        sigma = float(rng.uniform(3.5, 8.0))
        side, corner, middle = crop_frame((rng.uniform(0, cols), rng.uniform(0, rows)), 3 * sigma)
        depth = np.float32(rng.uniform(5, 14))
        dust.add_light(depth * spots(rng, side, middle, count=1, spread=0.0, sigma=sigma), corner)
    return Debris(ground=np.asarray(ground - dust.image, dtype=np.float32), blobs=_blobs(rng, shape))


def _blobs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Haze far from focus, specks, and the fragments of dead cells (two to four close together)."""
    rows, cols = shape
    places = rows * cols
    kinds = [  # how many, of how many parts, sigma, height
        (max(2, places // 70000), 1, (4.0, 8.0), (8.0, 45.0)),
        (max(1, places // 150000), 1, (0.9, 1.5), (40.0, 400.0)),
        (max(1, places // 250000), 3, (1.3, 2.0), (400.0, 1600.0)),
    ]
    blobs = []
    for count, parts, sigma, height in kinds:
        for _ in range(count):
            centre, drift = rng.uniform(0, (cols, rows)), rng.normal(0, 0.8, 2)
            for _ in range(parts):
                place = centre + rng.normal(0, 4.0, 2)
                blobs.append([*place, *drift, rng.uniform(*sigma), rng.uniform(*height)])
    return np.array(blobs)


def _chromatin(nucleus: Nucleus, time: int, side: int, middle: tuple[float, float]) -> Array:
    """Texture of a nucleus, turned with it and slowly changing, float32 (side, side), relative, about 0."""
    phase = 0.12 * time + nucleus.name
    grain = math.cos(phase) * nucleus.texture[0] + math.sin(phase) * nucleus.texture[1]
    field = 0.13 * grain + (0.0 if nucleus.dividing else 0.33) * nucleus.texture[2]
    axis = np.arange(side, dtype=np.float32)
    dx, dy = (axis - middle[0])[None, :], (axis - middle[1])[:, None]
    cos, sin = math.cos(nucleus.angle), math.sin(nucleus.angle)
    where = np.stack([dy * cos - dx * sin, dx * cos + dy * sin]) + PATCH / 2
    return np.asarray(ndimage.map_coordinates(field, where, order=1, mode="reflect"), dtype=np.float32)


def _draw(nucleus: Nucleus, time: int) -> Patch:
    """Draw one nucleus: thick in the middle, thin at its edge, textured."""
    outline, light = nucleus.outline(), nucleus.look[1]
    centre, blur = (nucleus.x, nucleus.y), 0.85 if nucleus.dividing else 1.25
    side, corner, middle = crop_frame(centre, outline.reach + 4.0)
    depth = depth_map(outline, side, middle)
    alpha = soft_mask(depth, blur)
    rise = 3.0 if nucleus.dividing else 7.5
    thickness = 1.0 - 0.58 * (1.0 - np.clip(depth / rise, 0.0, 1.0)) ** 2
    texture = 1.0 + _chromatin(nucleus, time, side, middle)
    value = np.asarray(light * thickness * np.clip(texture, 0.4, 1.8), dtype=np.float32)
    return Patch(value=value, alpha=alpha, mask=depth >= 0, corner=corner)


def render(nuclei: list[Nucleus], debris: Debris, time: int, rng: np.random.Generator) -> tuple[np.ndarray, Labels]:
    """Expose one frame.

    Parameters
    ----------
    nuclei : list of Nucleus
    debris : Debris
    time : int
        Frame number.
    rng : numpy.random.Generator
        Of the noise of this frame.

    Returns
    -------
    image : uint16, (row, col)
    label : int32, (row, col)
        Track numbers; objects wholly in the outer band are left out.
    """
    canvas = Canvas(debris.ground.shape)
    for nucleus in sorted(nuclei, key=lambda n: n.name):
        canvas.stamp(_draw(nucleus, time), opacity=0.75, overlap=1.0, min_area=1, name=nucleus.name)
    light = canvas.image
    halo = 0.11 * ndimage.gaussian_filter(light, 2.8, truncate=3.0)
    halo += 0.045 * ndimage.gaussian_filter(light, 8.0, truncate=2.5)
    canvas.image = 0.9 * light + halo
    for x, y, across, down, sigma, height in debris.blobs:
        side, corner, middle = crop_frame((x + across * time, y + down * time), 3 * sigma)
        canvas.add_light(height * spots(rng, side, middle, count=1, spread=0.0, sigma=sigma), corner)
    return _expose(canvas.image, debris.ground, rng), field_of_interest(one_piece(canvas.label, renumber=False))


def _expose(light: Array, ground: Array, rng: np.random.Generator) -> np.ndarray:
    """Return counts of a 12-bit camera on the black level, uint16; neighbouring columns share half of their noise."""
    rows, cols = light.shape
    white = rng.standard_normal((rows, cols + 2), dtype=np.float32)
    noise = (white[:, 2:] + white[:, 1:-1] + 0.15 * white[:, :-2]) * np.float32(2.0225**-0.5)
    counts = ground + light + noise * np.sqrt(READ_NOISE**2 + SHOT_GAIN * light)
    return np.asarray(np.clip(np.rint(counts), 0, FULL_SCALE) + BLACK_LEVEL, dtype=np.uint16)


def field_of_interest(label: Labels, band: int = OUTER_BAND) -> Labels:
    """Remove the objects that lie wholly in the outer `band` px."""
    inner = np.unique(label[band : label.shape[0] - band, band : label.shape[1] - band])
    keep = np.zeros(int(label.max()) + 1, np.int32)
    keep[inner] = inner
    return keep[label]


def _write(path: Path, image: np.ndarray, pixel_size_um: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    density = 1e4 / pixel_size_um
    tifffile.imwrite(
        path,
        image.astype(np.uint16),
        photometric="minisblack",
        compression="deflate",
        metadata=None,
        resolution=(density, density),
        resolutionunit="CENTIMETER",
    )


def write_sequence(
    root: Path,
    *,
    sequence: str = "01",
    frames: int = 24,
    shape: tuple[int, int] = (512, 640),
    cells: int = 36,
    seed: int = 0,
    pixel_size_um: float = 0.645,
) -> Path:
    """Write a synthetic sequence and its labels.

    Parameters
    ----------
    root : Path
        Folder of the data set; made where absent.
    sequence : str
        Name of the sequence; with `seed` it decides all random numbers.
    frames : int
        Number of frames, about 30 minutes apart.
    shape : (int, int)
        Rows and columns, at least 64 each.
    cells : int
        Nuclei at the start (a few lie outside the frame); about twice as many after 48 frames.
    seed : int
    pixel_size_um : float
        Nuclei have a median diameter of about 16 um, so 24 px at the default.

    Returns
    -------
    Path
        `root`, with `<sequence>/tNNN.tif` and `<sequence>_ST/SEG/man_segNNN.tif`, uint16, deflate. The folders appear
        when complete, the images last.

    Raises
    ------
    DatasetError
        The sequence is there already, or the numbers are impossible.
    """
    if frames < 1 or cells < 1 or min(shape) < 64 or not pixel_size_um > 0:
        raise DatasetError(
            f"found {frames=}, {cells=}, {shape=}, {pixel_size_um=}; give at least 1 frame, 1 cell, 64 px"
        )
    for name in (sequence, f"{sequence}_ST"):
        if (root / name).exists():
            raise DatasetError(f"{root / name} is there already; remove it or choose another sequence name")
    root.mkdir(parents=True, exist_ok=True)
    parts = Path(tempfile.mkdtemp(prefix=f".{sequence}.", dir=root))
    try:
        images, labels = parts / "images", parts / "labels"
        habitat = Habitat(shape=shape, radius=RADIUS_UM / pixel_size_um, cells=cells)
        for time, (image, label) in enumerate(_frames(habitat, frames, (seed, sequence))):
            _write(images / f"t{time:03d}.tif", image, pixel_size_um)
            _write(labels / "SEG" / f"man_seg{time:03d}.tif", label, pixel_size_um)
        labels.replace(root / f"{sequence}_ST")
        images.replace(root / sequence)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return root


def _frames(habitat: Habitat, frames: int, key: tuple[int, str]) -> Iterator[tuple[np.ndarray, Labels]]:
    """Yield image and label of every frame."""
    debris = _debris(generator("synthetic", *key, "debris"), habitat.shape)
    for time, nuclei in enumerate(live(generator("synthetic", *key, "life"), habitat, frames)):
        yield render(nuclei, debris, time, generator("synthetic", *key, "frame", time))
