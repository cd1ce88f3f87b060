from dataclasses import replace

from hela_store.evaluation.reads import data_digest
from hela_store.store.store import Store
from stores import changed


def test_other_views_and_other_blocks_are_other_data_and_other_frames_are_not(store: Store) -> None:
    """The encoder key does not hold the tile, so a run of other tiles could be taken for the one that is asked for."""
    recipe, trained = store.recipe, ("train", "val")
    first = data_digest(store, trained)
    assert first == data_digest(Store.open(store.path), trained) and len(first) == 16
    tiled = changed(store, views=replace(recipe.views, tile=128, overlap=64))
    darker = changed(store, normalise=replace(recipe.normalise, low=1.0))
    shorter = changed(store, split=replace(recipe.split, train="0-2"))
    varied = changed(store, augment=replace(recipe.augment, variants=2))
    assert len({first, *(data_digest(other, trained) for other in (tiled, darker, shorter, varied))}) == 5
    tested = changed(store, split=replace(recipe.split, test="6-7"))
    assert data_digest(tested, trained) == first and data_digest(tested, ("test",)) != data_digest(store, ("test",))
    assert data_digest(store, ("train", "all")) == data_digest(store, ("all",)) != first
