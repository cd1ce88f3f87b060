"""Every error this package raises on purpose.

All derive from :class:`HelaError`; the command line turns one into a single line on stderr and exit code 1. Each also
derives from the builtin a Python caller would expect, and survives pickling, because workers send them home.
"""

from __future__ import annotations

RESTORE_LABELS = "restore the file from a copy; labels that people drew are stored nowhere else"
EMBED_FIRST = "run `hela-store embed`"
"""The way out where a store holds no embeddings yet."""


class HelaError(Exception):
    """Base of all errors raised on purpose; its text says what was found, what was expected and the way out."""


class RecipeError(HelaError, ValueError):
    """A recipe (``store.toml``) or a run configuration holds an unknown key or an impossible value."""


class DatasetError(HelaError, ValueError):
    """The frames or labels on disk cannot be used as they are."""


class CheckpointError(HelaError, ValueError):
    """A weights file is not what it was taken for."""


class StoreError(HelaError, RuntimeError):
    """The store on disk is missing, damaged, locked, or made by a newer version."""


class BucketError(StoreError):
    """A bucket refuses a request or does not answer; this says nothing about what it holds."""


class SplitError(HelaError, ValueError):
    """A split is empty, overlaps another, or names frames that do not exist."""


class PromptError(HelaError, ValueError):
    """A prompt is unknown or cannot be made for this cell."""


class LabelError(HelaError, ValueError):
    """A change of labels is wrong in itself or does not fit the labels of its frame."""


class NoImageError(HelaError, RuntimeError):
    """A predictor was asked for masks before an image was set."""


class RunError(HelaError, RuntimeError):
    """A run is unknown, damaged, or does not fit the store it is used with."""


class AlreadyComplete(RunError, StoreError):
    """All that was asked for is there already, just as it was asked for; the command line exits with 0."""


class ConflictError(HelaError, RuntimeError):
    """Somebody else changed the same thing since it was read."""


class QueryError(HelaError, ValueError):
    """SQL that fails, writes, or reaches outside the catalog."""


class ClusterError(HelaError, RuntimeError):
    """A Dask scheduler cannot be reached, or its workers cannot do the work."""


class ExtraError(HelaError, ImportError):
    """An optional part of this package is not installed."""
