"""What a run's ``config.json`` holds, and how configurations become JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hela_store.base.names import check_name
from hela_store.base.parquet import read_parquet
from hela_store.base.plain import plain
from hela_store.base.text import first_line
from hela_store.errors import RunError, StoreError

FORMAT = 1


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

    @property
    def weights(self) -> Path:
        """``weights.safetensors`` of the run; only fine-tunings have one."""
        return self.path / "weights.safetensors"

    def rows(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of ``<name>.parquet``, its checksums compared.

        Raises
        ------
        RunError
            It is missing or damaged.
        """
        way_out = "restore it, or make the run again"
        try:
            rows: list[dict[str, Any]] = read_parquet(
                self.path / f"{name}.parquet", columns, way_out=way_out
            ).to_pylist()
        except StoreError as error:
            raise RunError(str(error)) from None
        return rows

    def log(self) -> list[dict[str, Any]]:
        """Return the rows of ``log.jsonl``, in the order they were written; a torn last line is left out."""
        path = self.path / "log.jsonl"
        rows: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
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
    for each in (path, path / "config.json"):
        if each.is_symlink():
            raise RunError(f"{each} is a symbolic link, which is not followed; put what it leads to in its place")
    file = path / "config.json"
    damaged = f"run {identity} is damaged: {file}"
    way_out = "restore the folder or move it out of runs/"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{damaged} is missing; {way_out}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{damaged} cannot be read ({first_line(error)}); {way_out}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int):
        raise RunError(f"{damaged} has no 'format' number; {way_out}")
    if raw["format"] > FORMAT:
        found = f"run {identity} has format {raw['format']}"
        raise RunError(f"{found}, this version reads up to {FORMAT}; upgrade hela-store")
    if raw.get("id") != identity:
        raise RunError(f"{damaged} says it is run {raw.get('id')!r}, a copy? {way_out}")
    try:
        return _info(raw, path)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{damaged} lacks or has a wrong {error}; {way_out}") from None


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
