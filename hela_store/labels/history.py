"""Say which version can be taken back next, and which can be repeated, from the log alone.

Versions are taken back in the reverse of their order. A new change makes those that were taken back final. A version
that a label file of the data set made is never taken back: the file would only be taken in again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hela_store.errors import RESTORE_LABELS, LabelError, StoreError
from hela_store.store.label_changes import Line

from .events import FILE, LabelEvent


@dataclass(frozen=True, kw_only=True)
class History:
    """Versions that can be taken back and repeated, each in the order in which that has to happen, the next one last.

    Attributes
    ----------
    done, undone : tuple of int
    frames : dict of version to the frames that it changed
    """

    done: tuple[int, ...]
    undone: tuple[int, ...]
    frames: dict[int, tuple[str, ...]]

    @classmethod
    def of(cls, versions: Sequence[tuple[Line, ...]]) -> History:
        """Return the history after these versions; StoreError where one takes back or repeats what is not there."""
        done: list[int] = []
        undone: list[int] = []
        frames: dict[int, tuple[str, ...]] = {}
        for number, lines in enumerate(versions, 1):
            frames[number] = tuple(dict.fromkeys(line.change.frame for line in lines))
            kind = lines[0].event["kind"]
            if (kind == "undo" and not done) or (kind == "redo" and not undone):
                raise StoreError(
                    f"version {number} of the labels has nothing to {kind}, it is damaged; {RESTORE_LABELS}"
                )
            if kind == "undo":
                undone.append(done.pop())
            elif kind == "redo":
                done.append(undone.pop())
            else:
                undone.clear()
                done = [] if any(line.event["who"] == FILE for line in lines) else [*done, number]
        return cls(done=tuple(done), undone=tuple(undone), frames=frames)

    def check(self, events: Sequence[LabelEvent]) -> None:
        """Raise LabelError where events take back or repeat a version out of turn, or not in all of its frames."""
        kinds = {event.kind for event in events if event.target is not None}
        if not kinds:
            return
        kind = events[0].kind
        stack = self.done if kind == "undo" else self.undone
        right = stack[-1] if stack else None
        targets = {event.target for event in events}
        if targets != {right} or kinds != {kind}:
            way_out = "there is none left" if right is None else f"the next one is {right}"
            shown = ", ".join(str(target) for target in sorted(targets, key=str))
            raise LabelError(f"version {shown} of the labels cannot be changed by {kind} now; {way_out}")
        assert right is not None
        if sorted(event.frame for event in events) != sorted(self.frames[right]):
            raise LabelError(f"{kind} of version {right} needs one event for each frame that it changed")
