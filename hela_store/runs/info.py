"""Describe a run's ``config.json``, and turn configurations into JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hela_store.base.files import sha256_file
from hela_store.base.names import check_name
from hela_store.base.parquet import parse_parquet
from hela_store.base.plain import plain
from hela_store.base.text import first_line
from hela_store.errors import RunError, StoreError

FORMAT = 1
CONFIG = "config.json"
LOG = "log.jsonl"
MANIFEST = "manifest.json"
"""Written when a run is published: the sha256 of each of its files."""
WAY_OUT = "restore it, or move the run's folder out of runs/ and make the run again"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as its ``config.json`` tells it.

    Attributes
    ----------
    id : str
    path : Path
        Its folder.
    kind : str
        ``"finetune"``, ``"evaluate"``, ...
    parent : str or None
        Id of the run it builds on.
    label : str
    created : datetime
        When it began, UTC.
    version, torch : str
        Of this package and of torch; empty where torch was not loaded.
    encoder : str
        Encoder key.
    checkpoint : str or None
        Id of the run whose weights it used; None for the decoder the encoder came with.
    split : str or None
    prompts : tuple of str
    seeds : tuple of int
    config : dict
        The full resolved configuration.
    raw : dict
        The whole of ``config.json``.
    files : dict or None
        The sha256 of every file of a published run by its name; None for a run that is being written, or that was
        published before runs had a manifest.
    """

    id: str
    path: Path
    kind: str
    parent: str | None
    label: str
    created: datetime
    version: str
    torch: str
    encoder: str
    checkpoint: str | None
    split: str | None
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    config: dict[str, Any]
    raw: dict[str, Any]
    files: Mapping[str, str] | None = None

    @property
    def labels_version(self) -> int:
        """Version of the labels that the run read; 0, as ingested, for runs of versions that kept no log of labels."""
        version = self.config.get("labels_version") or 0
        if not isinstance(version, int) or version < 0:
            raise RunError(f"run {self.id} is damaged: labels_version is {version!r}; {WAY_OUT}")
        return version

    @property
    def weights(self) -> Path:
        """``weights.safetensors`` of the run, as :meth:`file`; only fine-tunings have one."""
        return self.file("weights.safetensors")

    @property
    def is_point(self) -> bool:
        """Whether it is one of the many fine-tunings and scorings of a study of budgets."""
        return self.kind == "budget" or bool(self.config.get("pick"))

    def has(self, name: str) -> bool:
        """Return whether the run has a file of this name, by its manifest where there is one."""
        return (self.path / name).exists() if self.files is None else name in self.files

    def file(self, name: str) -> Path:
        """Return the path of one of the run's files, after its sum was compared with the manifest.

        Raises
        ------
        RunError
            The file changed since the run was published, or is lost.
        """
        path = self.path / name
        if self.files is not None:
            self._compare(name, sha256_file(path) if path.is_file() else None)
        return path

    def read(self, name: str) -> bytes | None:
        """Return what is in one of the run's files, None where the run has no such file; raises as :meth:`file`."""
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError:
            data = None
        except OSError as error:
            raise RunError(
                f"run {self.id} is damaged: {name} cannot be read ({first_line(error)}); {WAY_OUT}"
            ) from None
        if self.files is not None:
            self._compare(name, None if data is None else hashlib.sha256(data).hexdigest())
        return data

    def _compare(self, name: str, found: str | None) -> None:
        assert self.files is not None
        expected = self.files.get(name)
        if found == expected:
            return
        what = (
            "is not there"
            if found is None
            else "is not of this run"
            if expected is None
            else "changed since it was published"
        )
        raise RunError(f"run {self.id} is damaged: {self.path / name} {what}; {WAY_OUT}")

    def rows(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of ``<name>.parquet``, its checksums compared.

        Raises
        ------
        RunError
            It is missing or damaged.
        """
        path = self.path / f"{name}.parquet"
        data = self.read(path.name)
        if data is None:
            raise RunError(f"run {self.id} is damaged: {path} is not there; {WAY_OUT}")
        try:
            rows: list[dict[str, Any]] = parse_parquet(path, data, columns, way_out=WAY_OUT).to_pylist()
        except StoreError as error:
            raise RunError(str(error)) from None
        return rows

    def log(self) -> list[dict[str, Any]]:
        """Return the rows of ``log.jsonl``, in the order they were written; a torn last line is left out."""
        rows: list[dict[str, Any]] = []
        for line in (self.read(LOG) or b"").decode(errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def result(self) -> dict[str, Any]:
        """Return what the log says last of what came out; empty where it says nothing."""
        return next((dict(row["result"]) for row in reversed(self.log()) if "result" in row), {})


def read_info(path: Path, identity: str) -> RunInfo:
    """Read the ``config.json`` in a run's folder.

    Raises
    ------
    RunError
        It is missing, damaged, of another run, or was made by a newer version.
    """
    for each in (path, path / CONFIG):
        if each.is_symlink():
            raise RunError(f"{each} is a symbolic link, which is not followed; put what it leads to in its place")
    file = path / CONFIG
    damaged = f"run {identity} is damaged: {file}"
    way_out = "restore the folder or move it out of runs/"
    text, raw = _read_json(file, damaged, way_out)
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise RunError(f"{damaged} has no 'format' number; {way_out}")
    if raw["format"] > FORMAT:
        found = f"run {identity} has format {raw['format']}"
        raise RunError(f"{found}, this version reads up to {FORMAT}; upgrade hela-store")
    if raw.get("id") != identity:
        raise RunError(f"{damaged} says it is run {raw.get('id')!r}, a copy? {way_out}")
    try:
        info = _info(raw, path)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{damaged} lacks or has a wrong {error}; {way_out}") from None
    manifest = path / MANIFEST
    if path.name != identity or not (raw.get("manifest") or manifest.exists()):
        return info  # it is being written, or was published before there were manifests
    damaged = f"run {identity} is damaged: {manifest}"
    _, sums = _read_json(manifest, damaged, way_out)
    files = sums.get("files") if isinstance(sums, dict) else None
    if not isinstance(files, dict) or not all(isinstance(sum_, str) for sum_ in files.values()):
        raise RunError(f"{damaged} has no table of files; {way_out}")
    for part in {part for name in files for part in name.split("/")}:
        check_name(part, f"{damaged} names a file", RunError)
    info = dataclasses.replace(info, files=files)
    info._compare(CONFIG, hashlib.sha256(text).hexdigest())
    return info


def manifest_of(folder: Path) -> str:
    """Return the text of the manifest of a run's folder: the sha256 of every file in it, by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    sums = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    return json.dumps({"format": FORMAT, "files": sums}, indent=2) + "\n"


def manifest_sum(folder: Path) -> str:
    """Return the sha256 of the manifest in a run's folder, empty where there is none."""
    try:
        return sha256_file(folder / MANIFEST)
    except OSError:
        return ""


def _read_json(file: Path, damaged: str, way_out: str) -> tuple[bytes, Any]:
    try:
        text = file.read_bytes()
        return text, json.loads(text)
    except FileNotFoundError:
        raise RunError(f"{damaged} is missing; {way_out}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"{damaged} cannot be read ({first_line(error)}); {way_out}") from None


def _info(raw: dict[str, Any], path: Path) -> RunInfo:
    def value(name: str, *types: type) -> Any:
        if not isinstance(raw[name], types):
            raise TypeError(f"{name!r} ({raw[name]!r:.40})")
        return raw[name]

    none = type(None)
    for name in ("encoder", "checkpoint", "parent"):
        if isinstance(raw.get(name), str) and raw[name]:
            check_name(raw[name], f"run {raw['id']} is damaged: {name}", RunError)
    return RunInfo(
        id=raw["id"],
        path=path,
        kind=value("kind", str),
        parent=value("parent", str, none),
        label=value("label", str),
        created=datetime.fromisoformat(value("created", str)).astimezone(UTC),
        version=value("version", str),
        torch=value("torch", str),
        encoder=value("encoder", str, none) or "",
        checkpoint=value("checkpoint", str, none),
        split=value("split", str, none),
        prompts=tuple(value("prompts", list)),
        seeds=tuple(value("seeds", list)),
        config=value("config", dict),
        raw=raw,
    )


def to_json(value: object, indent: int | None = None) -> str:
    """Return JSON text of a configuration or a log row; RunError for what JSON cannot hold."""
    return json.dumps(plain(value, _recorded), indent=indent, ensure_ascii=False, allow_nan=False)


def _recorded(value: Any) -> Any:
    """Return what configurations hold beside JSON's own types: dataclasses, paths and NumPy's arrays and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise RunError(f"a run cannot record {type(value).__name__} ({value!r:.60}); expected numbers, text, lists, tables")
