"""Run folders: made beside the published ones, published by one rename, never changed afterwards.

``runs/.<id>.partial`` is being written and nobody's business; ``runs/<id>`` is complete. The id begins with the UTC
time and sorts by it: ``20261123-144501-finetune-box-3f9a``.
"""

from __future__ import annotations

import difflib
import fcntl
import importlib.metadata
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from hela_store.base.files import clear_temporary, explain_os_errors, fsync_path, fsync_tree, write_atomic
from hela_store.base.parquet import write_parquet
from hela_store.errors import RunError, StoreError

from .info import CONFIG, FORMAT, LOG, MANIFEST, RunInfo, manifest_of, read_info, to_json

__all__ = [
    "RunFolder",
    "RunInfo",
    "has_run",
    "is_running",
    "latest",
    "list_runs",
    "load_run",
    "new_run",
    "partial_runs",
    "resume_run",
    "run_ids",
    "take_up",
]

RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{4}")
MADE_BY = {
    "finetune": ("fine-tuning", "finetune"),
    "evaluate": ("evaluation", "evaluate"),
    "detector": ("trained detector", "detect train"),
    "detect": ("detection run", "detect run"),
    "baseline": ("baseline", "baseline"),
}
"""What people call a run, and the command that makes it, by the kind of the run."""
_PARTIAL = re.compile(rf"\.({RUN_ID.pattern})\.partial")


@dataclass(kw_only=True)
class RunFolder:
    """A run that is being written. Only :meth:`publish` makes it visible.

    Attributes
    ----------
    id : str
    path : Path
        ``runs/.<id>.partial``, from :meth:`publish` on ``runs/<id>``.
    info : RunInfo
        What its ``config.json`` says.
    tell : callable or None
        Given every row of the log, too.
    """

    info: RunInfo
    path: Path
    tell: Callable[[Mapping[str, object]], None] | None = field(default=None, repr=False)
    _lock: int = field(repr=False)
    _log: IO[str] | None = field(default=None, repr=False)
    _open: bool = field(default=True, repr=False)

    @property
    def id(self) -> str:
        """Name of the folder once it is published."""
        return self.info.id

    def log(self, **row: object) -> None:
        """Append one line to ``log.jsonl``; NaN and infinities become null."""
        self._writable()
        with explain_os_errors(f"writing the log of run {self.id}"):
            if self._log is None:
                self._log = (self.path / LOG).open("a", encoding="utf-8")
            self._log.write(to_json(row) + "\n")
            self._log.flush()
        if self.tell is not None:
            self.tell(row)

    def rewind(self, step: int) -> None:
        """Drop the log's lines of later steps: they will be written again by a run that goes on from ``step``."""
        self._writable()
        self._close_log()
        rows = [row for row in self.info.log() if row.get("step", 0) <= step]
        write_atomic(self.path / LOG, "".join(to_json(row) + "\n" for row in rows).encode())

    def write_table(self, name: str, table: pa.Table) -> Path:
        """Write ``<name>.parquet``, durably, replacing one of that name; return its path."""
        self._writable()
        path = self.path / f"{name.removesuffix('.parquet')}.parquet"
        write_parquet(path, table)
        return path

    def publish(self) -> Path:
        """Write the manifest, make every file durable, then rename the folder to ``runs/<id>`` and return that.

        Raises
        ------
        RunError
            It was published before.
        StoreError
            No space left, or no permission; the folder stays partial.
        """
        self._writable()
        target = self.path.with_name(self.id)
        with explain_os_errors(f"publishing run {self.id}"):
            self._close_log()
            clear_temporary(self.path)
            write_atomic(self.path / MANIFEST, manifest_of(self.path).encode())
            fsync_tree(self.path)
            self.path.rename(target)
            fsync_path(target.parent)
        self.path, self.info = target, read_info(target, self.id)
        self._release()
        return target

    def discard(self) -> None:
        """Delete the partial folder: for a run that failed before it had anything worth resuming."""
        self._writable()
        self._close_log()
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def close(self) -> None:
        """Leave the folder partial, for :func:`resume_run`."""
        if self._open:
            self._close_log()
            self._release()

    @contextmanager
    def tidied(self, *, resumable: bool = False) -> Iterator[None]:
        """See to the folder where what writes it fails before it is published.

        Parameters
        ----------
        resumable : leave it partial, for :func:`resume_run`; otherwise it is deleted
        """
        try:
            yield
        except BaseException:
            if self._open:
                (self.close if resumable else self.discard)()
            raise

    def _writable(self) -> None:
        if not self._open:
            raise RunError(f"run {self.id} is closed; a published run never changes, start a new one")

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _release(self) -> None:
        self._open = False
        _unlock(self._lock)


def new_run(
    store_path: Path | str, kind: str, config: Mapping[str, Any], parent: str | None = None, label: str = ""
) -> RunFolder:
    """Start a run: make ``runs/.<id>.partial`` with its ``config.json``.

    Parameters
    ----------
    kind : str
        Lower case letters and digits.
    config : mapping
        The full resolved configuration. ``encoder``, ``checkpoint`` (run id or None), ``split``, ``prompts`` (or
        ``prompt``) and ``seeds`` (or ``seed``) are also shown at the top level of ``config.json`` and in the catalog.
    parent : str, optional
        Id of the run this one builds on.
    label : str
        Becomes part of the id.

    Raises
    ------
    RunError
        ``kind`` cannot be part of an id, or ``config`` holds what JSON cannot.
    StoreError
        No space left, or no permission.
    """
    if not re.fullmatch(r"[a-z0-9]+", kind):
        raise RunError(f"run kind is {kind!r}, expected lower case letters and digits")
    folder = Path(store_path) / "runs"
    words = "-".join([kind, *re.findall(r"[a-z0-9]+", label.lower())])
    created = datetime.now(UTC)
    with explain_os_errors(f"starting a run in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        identity, partial, lock = _claim(folder, f"{created:%Y%m%d-%H%M%S}-{words}")
    try:
        raw = {"format": FORMAT, "id": identity, "kind": kind, "parent": parent, "label": label, "manifest": True}
        raw |= {"created": created.isoformat(), "version": package_version(), "torch": _torch()} | _headline(config)
        write_atomic(partial / CONFIG, (to_json(raw | {"config": config}, indent=2) + "\n").encode())
        return RunFolder(info=read_info(partial, identity), path=partial, _lock=lock)
    except BaseException:
        _unlock(lock)
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load_run(
    store_path: Path | str, id: str, kind: str | None = None, *, latest_of: str | tuple[str, ...] | None = None
) -> RunInfo:
    """Read a published run.

    Parameters
    ----------
    id : str
        The whole id, a prefix that only one run has, or ``"latest"``: the one that began last.
    kind : str, optional
        ``"latest"`` looks among runs of this kind; any other run must be of it.
    latest_of : str or tuple of str, optional
        ``"latest"`` looks among runs of this kind, or of these kinds; any other run may be of another kind.

    Raises
    ------
    RunError
        Unknown, ambiguous, of another kind, damaged, or made by a newer version.
    """
    store_path = Path(store_path)
    if id == "latest":
        return latest(store_path, kind or latest_of)
    name = _resolve(id, run_ids(store_path), "run", _kinds(kind or latest_of))
    info = read_info(store_path / "runs" / name, name)
    if kind is not None and info.kind != kind:
        raise RunError(f"run {name} is of kind {info.kind}, expected {kind}{_last(run_ids(store_path), (kind,))}")
    return info


def latest(store_path: Path | str, kind: str | tuple[str, ...] | None = None) -> RunInfo:
    """Read the published run (of that kind, or of these kinds) that began last; RunError if there is none.

    Of a kind, the points of a study of budgets do not count.
    """
    kinds = _kinds(kind)
    found: list[RunInfo] = []
    for name in reversed(run_ids(store_path)):
        if found and not name.startswith(found[0].id[:15]):
            break
        info = read_info(Path(store_path) / "runs" / name, name)
        if not kinds or (info.kind in kinds and not info.is_point):
            found.append(info)
    if not found:
        what, command = _made_by(kinds)
        makes = f"`hela-store {command}` makes one" if command else "commands such as `hela-store evaluate` make runs"
        raise RunError(f"there is no {what} in {store_path} yet; {makes}")
    return max(found, key=lambda info: (info.created, info.id))


def list_runs(store_path: Path | str, kind: str | None = None) -> list[RunInfo]:
    """Read all published runs (of that kind), oldest first; RunError if one is damaged."""
    infos = [read_info(Path(store_path) / "runs" / name, name) for name in run_ids(store_path)]
    return sorted((i for i in infos if kind in (None, i.kind)), key=lambda info: (info.created, info.id))


def run_ids(store_path: Path | str) -> list[str]:
    """Return the ids of all published runs, sorted; other names in ``runs/`` are none of ours."""
    return _names(store_path, RUN_ID)


def has_run(store_path: Path | str, kind: str) -> bool:
    """Return whether a store has a published run of a kind, by the names of the folders alone."""
    return any(name.split("-")[2] == kind for name in run_ids(store_path))


def partial_runs(store_path: Path | str) -> list[str]:
    """Return the ids of runs that were started and not published, sorted; some may be running now."""
    return _names(store_path, _PARTIAL)


def is_running(store_path: Path | str, id: str) -> bool:
    """Whether a process is writing this run now; False for one that was published or interrupted."""
    path = Path(store_path) / "runs" / f".{id}.partial"
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return True  # a file system that cannot lock folders cannot tell
    finally:
        os.close(handle)
    return False


@contextmanager
def held_partial(store_path: Path | str, id: str) -> Iterator[None]:
    """Hold a partial run against all others; RunError where another process is writing it."""
    lock = _lock(Path(store_path) / "runs" / f".{id}.partial", id)
    try:
        yield
    finally:
        _unlock(lock)


def resume_run(store_path: Path | str, id: str = "latest") -> RunFolder:
    """Take up a run that was not published; its log is appended to.

    Raises
    ------
    RunError
        Unknown, ambiguous, damaged, published already, or another process is writing it.
    """
    names = partial_runs(store_path)
    if id == "latest" and names:
        id = names[-1]
    if id not in names and id in run_ids(store_path):
        raise RunError(f"run {id} is complete; there is nothing to resume")
    name = _resolve(id, names, "unfinished run")
    path = Path(store_path) / "runs" / f".{name}.partial"
    lock = _lock(path, name)
    try:
        info = read_info(path, name)
        _drop_torn_line(path / LOG)
    except BaseException:
        _unlock(lock)
        raise
    return RunFolder(info=info, path=path, _lock=lock)


def take_up(store_path: Path | str, kind: str, state: str, same: Callable[[dict[str, Any]], bool]) -> RunFolder | None:
    """Take up the last interrupted run of a kind that can be gone on with; None where there is none.

    Parameters
    ----------
    state : name of the file in its folder that it goes on from
    same : whether a configuration is the wanted one
    """
    for name in reversed(partial_runs(store_path)):
        path = Path(store_path) / "runs" / f".{name}.partial"
        if name.split("-")[2] != kind or not (path / state).exists():
            continue
        try:
            if same(read_info(path, name).config):
                return resume_run(store_path, name)
        except (RunError, StoreError):
            continue  # damaged, or another process is at it
    return None


def _names(store_path: Path | str, pattern: re.Pattern[str]) -> list[str]:
    try:
        with os.scandir(Path(store_path) / "runs") as entries:
            matches = [(pattern.fullmatch(entry.name), entry.is_dir()) for entry in entries]
    except FileNotFoundError:
        return []
    return sorted(match.group(match.lastindex or 0) for match, folder in matches if match and folder)


def _claim(folder: Path, stem: str) -> tuple[str, Path, int]:
    """Make a partial folder whose id no other process has or had, and lock it."""
    while True:
        identity = f"{stem}-{secrets.token_hex(2)}"
        partial = folder / f".{identity}.partial"
        try:
            partial.mkdir()
        except FileExistsError:
            continue
        # Another process may have published this very id between its mkdir and ours.
        if (folder / identity).exists():
            partial.rmdir()
            continue
        # one that clears leftovers may have taken it for one before it was locked
        with suppress(RunError, FileNotFoundError):
            lock = _lock(partial, identity)
            if partial.exists():
                return identity, partial, lock
            _unlock(lock)


def _lock(partial: Path, identity: str) -> int:
    # The lock sits on the folder itself, so that it leaves no file behind and ends with its process, however that ends.
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(f"run {identity} is being written by another process; wait for it or stop it first") from None
    except OSError:
        pass  # some network file systems cannot lock folders; the id is still ours alone
    _held.add(handle)
    return handle


def _unlock(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


_held: set[int] = set()
"""Locks of this process."""


def _let_go() -> None:
    # a loader worker that outlives a killed process would keep the run locked, so that it could not be gone on with
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _resolve(id: str, names: list[str], what: str, kinds: tuple[str, ...] = ()) -> str:
    if id in names:
        return id
    found = [name for name in names if id and name.startswith(id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(f"{id!r} is the beginning of {len(found)} runs: {', '.join(found[-5:])}; give more of the id")
    near = difflib.get_close_matches(id, names, n=1, cutoff=0.8)
    hint = f"; did you mean {near[0]}?" if near else _last(names, kinds)
    raise RunError(f"no {what} {id!r}{hint}")


def _kinds(kind: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (kind,) if isinstance(kind, str) else kind or ()


def _made_by(kinds: tuple[str, ...]) -> tuple[str, str]:
    """Return what people call runs of these kinds, and the command that makes the first kind."""
    called = [MADE_BY.get(kind, (f"{kind} run", "")) for kind in kinds] or [("run", "")]
    return " or ".join(what for what, _ in called), called[0][1]


def _last(names: list[str], kinds: tuple[str, ...]) -> str:
    names = [name for name in names if not kinds or name.split("-")[2] in kinds]
    what, command = _made_by(kinds)
    makes = f"; `hela-store {command}` makes one" if command else ""
    return f"; the last: {', '.join(names[-3:])}" if names else f"; the store has no {what} yet{makes}"


def _headline(config: Mapping[str, Any]) -> dict[str, Any]:
    def several(plural: str, single: str) -> list[Any]:
        value = config.get(plural, config.get(single, ()))
        return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]

    return {
        "encoder": config.get("encoder"),
        "checkpoint": config.get("checkpoint"),
        "split": config.get("split"),
        "prompts": several("prompts", "prompt"),
        "seeds": several("seeds", "seed"),
    }


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left of its last line, or the next line would be glued to it."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def package_version() -> str:
    """Return the version of this package; empty where it is not installed."""
    try:
        return importlib.metadata.version("hela-store")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _torch() -> str:
    torch = sys.modules.get("torch")
    return str(torch.__version__) if torch is not None else ""
