"""Answer the questions of the page with plain values: frames, cells, masks, edits, proposals and the next cell."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from hela_store.audit.proposal import label_of
from hela_store.errors import HelaError, LabelError, PromptError, QueryError
from hela_store.images.rle import encode
from hela_store.labels.events import LabelEvent
from hela_store.labels.versions import now
from hela_store.show.viewer.frames import known_frame
from hela_store.store.store import Store

from .background import Background
from .config import TeachConfig
from .decode import Decoding, prompt_of
from .edits import LEAST_FREE, seconds_of
from .learning import Learning, first_checkpoint
from .offers import Offers
from .overview import Overview
from .proposals import Proposals, doubt_of
from .rules import rule_of
from .session import Saved, Session
from .suspects import Suspects


class Lesson:
    """Answers what pages ask of one store.

    Parameters
    ----------
    store : Store
    config : TeachConfig
    encoding : Background
        Embeds frames beside the page, where that was begun.
    """

    def __init__(self, store: Store, config: TeachConfig, encoding: Background | None = None) -> None:
        self._encoding = encoding or Background()
        self.store, self.config = store, config
        self.session = Session(store, config.who, config.held)
        self.decoding = Decoding(first_checkpoint(store), config.device)
        self.proposals = Proposals(store, self.decoding)
        self.overview = Overview(store)
        rule = rule_of(config.next, store, self.proposals, self.decoding, self.session.taught_labels)
        self.offers = Offers(self.session, self.proposals, self.overview, rule)
        self.suspects = Suspects(self.session)
        self._learning = Learning(store, config, self.decoding)
        self._asked: dict[str, int] = {}
        self._failed = ""
        self._asking = Lock()

    def close(self) -> None:
        """End what runs beside the page, and give the right to change labels back."""
        self._learning.close()
        self.session.close()

    def state(self, page: str, frame: str) -> dict[str, Any]:
        """Return what stands around the canvas."""
        session = self.session
        version = session.log.version
        frames = self.overview.listed(version, session.taught)
        return {
            "store": self.store.recipe.name,
            "version": version,
            "decoder": self.decoding.checkpoint.name,
            "frames": frames,
            "encoding": self._encoded(frames),
            "others": session.seen(page, frame),
            "learning": self.learning(),
            **session.can(),
        }

    def _encoded(self, frames: list[dict[str, Any]]) -> str:
        """Say how far encoding beside the page is; empty where it is done."""
        found = self._encoding.result()
        if isinstance(found, HelaError):
            self._failed = f"Encoding the frames failed: {found}"
        if not self._encoding.running:
            return self._failed
        return f"{sum(about['embedded'] for about in frames)} of {len(frames)} frames are encoded; the others follow"

    def learning(self, *, asked: bool = False) -> dict[str, Any]:
        """Return what the page says of learning; begin a fine-tuning where it is time, or where it is ``asked`` for."""
        dealt = self.session.dealt()
        self._learning.turn(dealt, asked=asked)
        return self._learning.state(dealt) | {"rule": str(self.offers)}

    def retune(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a fine-tuning now."""
        return {"learning": self.learning(asked=True), **self.session.can()}

    def cells(self, frame: str) -> dict[str, Any]:
        """Return the cells of a frame."""
        with self.session.lock:
            return {"version": self.session.log.version, "cells": self.session.cells(frame)}

    def warm(self, frame: str) -> None:
        """Read what the first prompt in a frame needs; nothing where it is not embedded."""
        if self.overview.is_embedded(frame):
            self.decoding.warm(frame)

    def hover(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mask for a prompt, or that a later question of the same page took its place.

        Raises
        ------
        QueryError, PromptError, StoreError
            No such frame, not embedded; a prompt outside of it.
        """
        self.offers.busy()
        record = known_frame(self.store, asked.get("frame"))
        prompt = prompt_of(asked, record.shape)
        page, number = str(asked.get("page"))[:64], asked.get("number")
        if type(number) is not int:
            raise QueryError("a question needs its number, so that later ones can take its place")
        with self._asking:
            if number < self._asked.get(page, -1):
                return {"stale": True}
            self._asked[page] = number
        found = self.decoding.answer(record.frame, prompt, lambda: number < self._asked.get(page, -1))
        if found is None:
            return {"stale": True}
        counts = encode(found.mask, found.origin, record.shape).counts
        return {"counts": counts, "doubt": doubt_of(found.predicted_iou)}

    def edit(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Make a change and return the cells of it as they are now; it is durable then."""
        frame = known_frame(self.store, asked.get("frame")).frame
        saved = self.session.edit(frame, asked)
        if asked.get("kind") == "add":
            self.offers.took(str(asked.get("page")), saved)
        return self._saved(saved)

    def again(self, way: str) -> dict[str, Any]:
        """Take back or repeat the last change, whatever its frame."""
        saved = self.session.again(way)
        if saved is None:
            raise LabelError(f"there is nothing to {way}")
        return self._saved(saved) | {"told": ""}

    def _saved(self, saved: Saved) -> dict[str, Any]:
        named = saved.named
        every = self.session.cells(saved.frame, named)
        gone = [] if named is None else sorted(set(named) - {cell["cell"] for cell in every})
        return {
            "version": saved.version,
            "base": saved.base,
            "frame": saved.frame,
            "cells": every,
            "gone": gone,
            "whole": named is None,
            "learning": self.learning(),
            **self.session.can(),
        }

    def leave(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Note that a page was closed."""
        self.session.left(str(asked.get("page")))
        return {}

    def proposed(self, frame: object) -> dict[str, Any]:
        """Return what the detector proposes in a frame, and what it says of the labelled cells."""
        record = known_frame(self.store, frame)
        label = self.session.label(record.frame)
        proposals = [
            {"counts": proposal.rle.counts, "doubt": proposal.doubt, "label": number}
            for number, proposal in enumerate(self.proposals.open(record.frame, label))
        ]
        judged = self.proposals.judged(record.frame, label)
        return {"proposals": proposals, "cells": judged, "note": self.proposals.note}

    def accept(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Accept all proposals of a frame up to a doubt, as one version."""
        record, doubt = known_frame(self.store, asked.get("frame")), asked.get("doubt")
        if isinstance(doubt, bool) or not isinstance(doubt, int | float):
            raise PromptError("doubt has to be a number, 0 to 1")
        with self.session.lock:
            label = self.session.label(record.frame)
            taken = [p for p in self.proposals.open(record.frame, label) if p.doubt <= doubt]
            taken = [p for p in taken if 1 - p.taken(label) > LEAST_FREE]
            if not taken:
                raise LabelError(f"no proposal of this frame has a doubt of {doubt:.2f} or less; {self.proposals.note}")
            event = LabelEvent(
                kind="add",
                frame=record.frame,
                cells=tuple(self.session.new_labels(record.frame, len(taken))),
                masks=tuple(proposal.rle for proposal in taken),
                who=self.config.who,
                when=now(),
                reason=f"proposals up to doubt {doubt:.2f}, accepted at once",
            )
            saved = self.session.append([event])
        return self._saved(saved) | {"told": f"{len(taken)} proposals accepted; Ctrl-Z takes all of them back."}

    def next(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Offer the next cell, see :mod:`hela_store.teaching.next_cell`."""
        shown = known_frame(self.store, asked.get("frame")).frame
        if self.proposals.note:
            return {"frame": "", "told": self.proposals.note}
        offer = self.offers.next(str(asked.get("page")), shown)
        if offer is None:
            return {"frame": "", "told": "Every proposal in the training frames that were looked at is labelled."}
        proposal = offer.candidate.proposal
        x0, y0, x1, y1 = proposal.box
        return {
            "frame": offer.candidate.frame,
            "counts": proposal.rle.counts,
            "place": [(x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)],
            "box": [x0, y0, x1, y1],
            "doubt": proposal.doubt,
            "rule": offer.rule,
            "random": offer.random,
        }

    def suspect(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the next suspicious label of the latest audit, after the rank ``after``."""
        after = asked.get("after")
        if type(after) is not int:
            raise QueryError("the next suspect needs the rank after which it is looked for, a whole number")
        row = self.suspects.next(after)
        if row is None:
            return {"frame": "", "told": "No more suspects to decide on; J begins again with the first one."}
        x0, y0, x1, y1 = (row[name] for name in ("x0", "y0", "x1", "y1"))
        told = {name: row[name] for name in ("run", "suspect", "rank", "frame", "score", "kind", "reason")}
        return told | {
            "cell": label_of(row),
            "counts": row["rle"],
            "place": [(x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)],
        }

    def decide(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Accept what is proposed for a suspect, or keep its label, and return the cells of it as they are now."""
        run, suspect, accept = (asked.get(name) for name in ("run", "suspect", "accept"))
        if not isinstance(run, str) or not isinstance(suspect, str) or not isinstance(accept, bool):
            raise QueryError("a decision needs run and suspect, text, and accept, true or false")
        seconds = seconds_of(asked.get("seconds"))
        return self._saved(self.suspects.decide(run, suspect, accept, asked.get("version"), seconds))
