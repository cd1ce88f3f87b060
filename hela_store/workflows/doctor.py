"""Collect what a bug report needs, and find what keeps things from working: `hela-store doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hela_store.base.files import fsync_path
from hela_store.base.sizes import folder_bytes, mebibytes
from hela_store.base.text import first_line
from hela_store.sam.registry import ENCODERS

PACKAGE = "hela-store"
PROBE_BYTES = 64 << 20
LEAST_FREE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Describe how this machine and installation are.

    Attributes
    ----------
    versions : dict of str to str
        Of Python and of every package this one needs; empty where one is missing.
    devices : dict of str to str
        What can run the encoder, with a word on each.
    machine : dict
        ``system``, ``cores``, ``usable_cores``, ``threads`` (of torch), ``memory``, ``memory_free`` (bytes).
    disk : dict
        ``folder``, ``free`` (bytes), ``write_mb_s`` (synced), ``read_mb_s`` (from the page cache); the speeds are None
        where nothing can be written.
    cache : dict
        ``folder``, ``bytes``, ``checkpoints`` (names of official ones that are there).
    extras : dict of str to list of str
        What is missing for each extra.
    problems : tuple of str
        What will not work, and what to do about it.
    """

    versions: dict[str, str]
    devices: dict[str, str]
    machine: dict[str, Any]
    disk: dict[str, Any]
    cache: dict[str, Any]
    extras: dict[str, list[str]]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """Return it as lines of (what, value)."""
        machine, disk, cache, extras = self.machine, self.disk, self.cache, self.extras.items()
        speed = "cannot be written"
        if disk["write_mb_s"] is not None:
            speed = f"writes {disk['write_mb_s']:.0f} MB/s (synced), reads {disk['read_mb_s']:.0f} MB/s (cached)"
        weights = ", ".join(cache["checkpoints"]) or "no weights downloaded"
        rows = [
            ("system", machine["system"]),
            ("cores", f"{machine['usable_cores']} usable of {machine['cores']}, torch threads {machine['threads']}"),
            ("memory", f"{mebibytes(machine['memory_free'])} free of {mebibytes(machine['memory'])}"),
            *((f"device {name}", text) for name, text in self.devices.items()),
            *([("GPU", "none that PyTorch sees; the CPU is used")] if self.devices.keys() == {"cpu"} else []),
            ("disk", f"{disk['folder']}: {mebibytes(disk['free'])} free, {speed}"),
            ("cache", f"{cache['folder']}: {mebibytes(cache['bytes'])}, {weights}"),
        ]
        rows += [
            (f"extra {name}", f"missing, optional: {', '.join(gone)}" if gone else "complete") for name, gone in extras
        ]
        versions = [f"{name} {version or 'MISSING'}" for name, version in self.versions.items()]
        lines = [", ".join(versions[first : first + 4]) for first in range(0, len(versions), 4)]
        return [
            *rows,
            *(("" if number else "versions", line) for number, line in enumerate(lines)),
            *(("problem", text) for text in self.problems),
        ]


def doctor(folder: Path, cache_dir: Path) -> DoctorReport:
    """Look at this machine and installation.

    Parameters
    ----------
    folder : Path
        Where stores are; the disk there is timed with a file of 64 MiB, which is removed again.
    cache_dir : Path
        Where official checkpoints are fetched to; need not exist.
    """
    needed, extras = _requirements()
    versions = {"python": platform.python_version(), PACKAGE: _version(PACKAGE)}
    versions |= {name: _version(name) for name in needed}
    missing = {extra: [name for name in names if not _version(name)] for extra, names in extras.items()}
    problems = [
        f"{name} is missing; run `pip install {PACKAGE}` again" for name, version in versions.items() if not version
    ]
    devices, threads = _devices(problems)
    disk = _disk(folder, problems)
    return DoctorReport(
        versions=versions,
        devices=devices,
        machine=_machine(threads),
        disk=disk,
        cache=_cache(cache_dir),
        extras=missing,
        problems=tuple(problems),
    )


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return the packages this one needs, and those of each extra, as its metadata say."""
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if name is not None:
            (extras.setdefault(extra[1], []) if extra else needed).append(name[0])
    return needed, extras


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _devices(problems: list[str]) -> tuple[dict[str, str], int]:
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"torch cannot be loaded ({first_line(error)}); install it again")
        return {}, 0
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        problems.append(
            f"torchvision cannot be loaded ({first_line(error)}); it fits one torch only: install both in one command"
        )
    found = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {_rates()}"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{card.name}, {mebibytes(card.total_memory)}{_advice(card.major)}"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found, torch.get_num_threads()


def _advice(major: int) -> str:
    """Name the precision that a card of this compute capability multiplies several times as fast as float32."""
    from hela_store.sam.rate import proposed_precision

    proposed = proposed_precision("cuda", major)
    return "" if proposed == "float32" else f"; {proposed} is several times as fast (`new --precision {proposed}`)"


def _rates() -> str:
    import torch

    from hela_store.sam.rate import bfloat16_pays, matrix_rate

    cpu = torch.device("cpu")
    text = f"{matrix_rate(cpu, torch.float32):.0f} GFLOP/s in float32"
    if not bfloat16_pays(cpu):
        return f"{text}; bfloat16 is slower"
    return f"{text}, {matrix_rate(cpu, torch.bfloat16):.0f} in bfloat16; `new --precision bfloat16` embeds faster"


def _machine(threads: int) -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "threads": threads,
        "memory": memory.total,
        "memory_free": memory.available,
    }


def _disk(folder: Path, problems: list[str]) -> dict[str, Any]:
    import psutil

    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = psutil.disk_usage(str(there)).free
    found: dict[str, Any] = {"folder": str(there), "free": free, "write_mb_s": None, "read_mb_s": None}
    if free < LEAST_FREE:
        problems.append(f"{there} has {mebibytes(free)} free; an embedding takes up to 2 MiB, so make room")
        return found
    try:
        found["write_mb_s"], found["read_mb_s"] = _disk_speed(there)
    except OSError as error:
        problems.append(f"{there} cannot be written ({first_line(error)}); put stores elsewhere or change its rights")
    return found


def _disk_speed(folder: Path) -> tuple[float, float]:
    """Return megabytes a second, written with a sync and read back."""
    block = os.urandom(1 << 20)  # a file system that compresses must not look fast
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hela-store-doctor-") as parent:
        path = Path(parent) / "probe"
        start = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(PROBE_BYTES >> 20):
                file.write(block)
        fsync_path(path)
        written = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        done = time.perf_counter()
    return PROBE_BYTES / 1e6 / (written - start), PROBE_BYTES / 1e6 / (done - written)


def _cache(folder: Path) -> dict[str, Any]:
    names = sorted(known.file for known in ENCODERS.values() if known.url and (folder / known.file).is_file())
    return {"folder": str(folder), "bytes": folder_bytes(folder), "checkpoints": names}
