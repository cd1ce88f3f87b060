import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hela_store.base.cores import usable_cores
from hela_store.errors import SplitError
from hela_store.sam.decoder import view_tokens
from hela_store.store.store import Store
from hela_store.training.data import TrainingStep, TrainingSteps, fine_labels, loader_workers, training_views


def steps(store: Store, first: int = 0, seed: int = 0, prompt: str = "box") -> TrainingSteps:
    return TrainingSteps(store, prompt, cells=4, seed=seed, first=first, count=10 - first)


def same(a: TrainingStep, b: TrainingStep) -> bool:
    assert a.prompts.boxes is not None and b.prompts.boxes is not None
    return a.view == b.view and a.cells == b.cells and torch.equal(a.prompts.boxes, b.prompts.boxes)


def test_order_does_not_depend_on_workers_or_on_where_it_begins(embedded) -> None:
    store = Store.open(embedded)
    alone = [steps(store)[i] for i in range(10)]
    workers = list(DataLoader(steps(store), batch_size=None, num_workers=2))
    resumed = [steps(store, first=6)[i] for i in range(4)]
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))
    assert all(same(a, b) for a, b in zip(alone[6:], resumed, strict=True))
    assert not all(same(a, b) for a, b in zip(alone, [steps(store, seed=1)[i] for i in range(10)], strict=True))


def test_every_view_of_the_block_comes_once_an_epoch_and_no_other(embedded) -> None:
    store = Store.open(embedded)
    data = steps(store)
    count = data.steps_per_epoch
    seen = [data[i].view for i in range(count)]
    blocks = {row["view"]: row["frame"] for row in store.views_table().to_pylist()}
    assert sorted(seen) == sorted(view.view for view in training_views(store))
    assert {blocks[view] for view in seen} <= {f"01/t{i:03d}" for i in range(4)}


@pytest.mark.parametrize("prompt", ["box", "point", "mask"])
def test_truth_lies_where_the_prompt_points(embedded, prompt: str) -> None:
    store = Store.open(embedded)
    step = steps(store, prompt=prompt)[0]
    assert getattr(step.prompts, {"box": "boxes", "point": "points", "mask": "masks"}[prompt]) is not None
    for i, label in enumerate(step.labels.tolist()):
        rows, columns = np.nonzero(step.truth.numpy() == label)
        if step.prompts.points is not None:
            x, y = (step.prompts.points[i, 0].numpy() + 0.5) / 2
            assert step.truth[int(y), int(x)] == label
        elif step.prompts.boxes is not None:
            x0, _y0, _x1, y1 = (step.prompts.boxes[i].numpy() + 0.5) / 2
            wide, high = columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()
            assert abs(x0 - columns.min()) < 0.3 * wide and abs(y1 - rows.max() - 1) < 0.3 * high
        else:
            assert step.prompts.masks is not None
            mask = step.prompts.masks[i, 0].numpy().repeat(2, 0).repeat(2, 1) > 0
            truth = step.truth.numpy() == label
            assert (mask & truth).sum() / (mask | truth).sum() > 0.3


def test_embeddings_are_those_of_the_store(embedded) -> None:
    store = Store.open(embedded)
    step = steps(store)[0]
    row = next(row for row in store.views_table().to_pylist() if row["view"] == step.view)
    expected = store.embedding(row["frame"], tile=row["tile"])
    assert expected.dtype == np.float16
    assert step.embedding.dtype == torch.float16 and np.array_equal(step.embedding.numpy(), expected)
    assert torch.equal(view_tokens(step.embedding), view_tokens(step.embedding.float()))


def test_fine_labels_are_the_frame_in_512_tiles_and_nearest_elsewhere() -> None:
    label = np.arange(700 * 1100, dtype=np.int32).reshape(700, 1100)
    assert np.array_equal(fine_labels(label, (100, 60, 512, 512)), label[60:572, 100:612])
    place = ((np.arange(512) + 0.5) * 1100 / 512).astype(int)
    whole = fine_labels(label, (0, 0, 1100, 700))
    assert np.array_equal(whole[:325], label[np.ix_(place[:325], place)])
    assert whole[0, 0] == label[1, 1] and (whole[330:] == 0).all() and (whole[:325] > 0).all()


def test_a_block_without_views_is_a_clear_error(embedded) -> None:
    with pytest.raises(SplitError, match="nosuch"):
        training_views(Store.open(embedded), "nosuch")


def test_loader_processes_by_device() -> None:
    cpu, cuda, mps = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))
    assert [loader_workers(None, device, None) for device in (cpu, mps)] == [0, 1]
    assert 1 <= loader_workers(None, cuda, None) <= min(4, max(1, usable_cores() - 1))
    assert loader_workers(None, cpu, "spawn") == 1, "a bucket answers late"
    assert [loader_workers(asked, cuda, None) for asked in (0, 7)] == [0, 7]
