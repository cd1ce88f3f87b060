"""Weights of a known encoder: fetched once into the cache, and compared with the hash that its project publishes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hela_store.base.files import explain_os_errors
from hela_store.base.locks import claim
from hela_store.base.progress import Progress, silent
from hela_store.errors import CheckpointError, StoreError

from .registry import ENCODERS, KnownEncoder

FETCH_CHUNK = 1 << 20


def fetch(known: KnownEncoder, cache_dir: Path, *, progress: Progress = silent) -> Path:
    """Return the file of a known encoder, downloaded once into ``cache_dir``; its hash is checked every time.

    A download becomes a file of the cache only when it is whole and its hash is right. One process at a time fetches;
    the others wait for it, and what a killed one left half-written is removed.

    Raises
    ------
    CheckpointError
        The server cannot be reached, or what it sends has another hash; nothing is left behind.
    StoreError
        No space or permission in the cache.
    """
    path = cache_dir / known.file
    bar = _Bar(progress, f"fetch {known.file} (MiB)")
    try:
        with explain_os_errors(f"fetching into {cache_dir}"):
            if _is_there(known, path):  # in a cache that cannot be written to, too
                return path
            cache_dir.mkdir(parents=True, exist_ok=True)
            with claim(cache_dir, "fetch", wait=True, progress=progress):
                if not _is_there(known, path):
                    _clear(cache_dir)
                    _retrieve(known, cache_dir, bar)
    except StoreError as error:
        raise StoreError(f"{error}; {by_hand(known, cache_dir)}") from error
    except OSError as error:
        # errors of the disk have a number; those of the network, which pooch's downloader raises, have none
        if error.errno is not None:
            raise
        other = f"; the file at {path} has another hash than {known.hash} and is not used" if path.exists() else ""
        raise CheckpointError(
            f"cannot fetch {known.file} ({type(error).__name__}){other}; {by_hand(known, cache_dir)}"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"what was fetched is not the file expected ({known.hash}), or was cut short; it was thrown away, "
            f"try again, or {by_hand(known, cache_dir)}"
        ) from error
    finally:
        bar.close()
    return path


def _is_there(known: KnownEncoder, path: Path) -> bool:
    return path.is_file() and hash_of(path, known.hash.partition(":")[0]) == known.hash


def _clear(cache_dir: Path) -> None:
    """Remove the downloads that a killed process left; whoever calls holds the claim on the cache."""
    for path in cache_dir.glob(f"{tempfile.gettempprefix()}*"):
        path.unlink(missing_ok=True)


def _retrieve(known: KnownEncoder, cache_dir: Path, bar: _Bar) -> None:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(
            known.url,
            known_hash=known.hash,
            fname=known.file,
            path=cache_dir,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=FETCH_CHUNK, timeout=30),
        )
    except PermissionError as error:
        # pooch raises one without a number, from the one that has it
        raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None


def by_hand(known: KnownEncoder, cache_dir: Path) -> str:
    """Say where a file goes that was downloaded elsewhere."""
    return (
        f"download {known.url} elsewhere and put it at {cache_dir / known.file}, or pass it with --checkpoint FILE "
        f"--encoder {known.name}"
    )


def hash_of(path: Path, algorithm: str) -> str:
    """Return the hash of a file as ``"algorithm:digest"``."""
    import pooch

    return f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"


def name_of(path: Path, architecture: str) -> str:
    """Return the name of the known encoder whose weights a file holds, ``""`` where it is none of them."""
    alike = [known for known in ENCODERS.values() if known.hash and known.architecture == architecture]
    hashes = {hash_of(path, algorithm) for algorithm in {known.hash.partition(":")[0] for known in alike}}
    return next((known.name for known in alike if known.hash in hashes), "")


class _Bar:
    """A progress bar as pooch's downloader calls it; it shows one step of ours for each chunk."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.total = 0  # in bytes; the downloader sets it when it knows
        self._progress, self._what = progress, what
        self._shown: Iterator[None] | None = None
        self._ended = False

    def update(self, _bytes: int) -> None:
        """Show one more chunk."""
        if self._shown is None:
            self._shown = self._progress(self._chunks(), total=-(-self.total // FETCH_CHUNK), what=self._what)
        next(self._shown, None)

    def reset(self) -> None:
        """Let the next update be the last: the downloader has all chunks, and fills its bar once more."""
        self._ended = True

    def close(self) -> None:
        """End what is shown, wherever it stands."""
        self._ended = True
        if self._shown is not None:
            next(self._shown, None)

    def _chunks(self) -> Iterator[None]:
        while not self._ended:
            yield
