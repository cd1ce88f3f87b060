"""What bfloat16 does to embeddings and to the masks decoded from them, against segment-anything's own encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hela_store.embedding.batches import Frames, unique_views
from hela_store.evaluation.frames import frame_cells, labelled_frames
from hela_store.evaluation.questions import truth_questions
from hela_store.metrics.overlap import overlap
from hela_store.sam.decoder import SamDecoder
from hela_store.sam.encoder import encode, preprocess
from hela_store.sam.nano import load_nano
from hela_store.sam.predict import predict_view
from hela_store.sam.rate import bfloat16_pays
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

pytestmark = pytest.mark.skipif(
    not bfloat16_pays(torch.device("cpu")), reason="this CPU has no instructions for bfloat16; a view takes minutes"
)
KINDS = ["box", "point", "mask"]


@pytest.mark.ci
@pytest.mark.parametrize("frames", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_masks_from_bfloat16_are_those_of_the_stock_encoder(embedded: Path, frames: int) -> None:
    store, sam = Store.open(embedded), load_nano()
    decoder, reader = SamDecoder(sam.prompt_encoder, sam.mask_decoder), Frames(store)
    views = {view.row: view for view in ViewRecord.of(unique_views(store.views_table()))}
    ious, errors = [], []
    for frame in frame_cells(store, labelled_frames(store, "all")[:frames]):
        questions = truth_questions(frame, KINDS, list(range(5)), 1.0)
        tile = questions[0].tile
        pixels = torch.from_numpy(reader.pixels(views[tile.row])[None])
        with torch.no_grad():
            stock = sam.image_encoder(preprocess(pixels))[0]
        half = encode(sam.image_encoder, pixels, "bfloat16")[0]
        errors.append(float((half - stock).norm() / stock.norm()))
        prompts = [question.prompt for question in questions]
        answers = [predict_view(decoder, embedding, tile.rect, prompts, window=16) for embedding in (stock, half)]
        ious += [overlap(b.mask, a.mask, b.origin, a.origin).iou for a, b in zip(*answers, strict=True)]
    assert len(ious) >= 25 * frames
    assert max(errors) <= 2e-2
    assert np.mean(ious) >= 0.99 and min(ious) >= 0.95
