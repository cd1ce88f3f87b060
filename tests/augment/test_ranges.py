from dataclasses import replace

import pytest

from hela_store.augment.ranges import ALPHA, AugmentRecipe, Elastic, paper_augment
from hela_store.errors import RecipeError
from hela_store.recipe.recipe import DatasetRecipe, Recipe, parse_recipe
from hela_store.recipe.toml import recipe_text

HEAD = 'format = 1\nname = "x"\n[dataset]\npath = "y"\n[augment]\n'


@pytest.mark.parametrize(
    "augment", [AugmentRecipe(), paper_augment(8), AugmentRecipe(variants=2, frames="train", seed=3)]
)
def test_the_text_reads_back_as_the_same_recipe(augment: AugmentRecipe) -> None:
    recipe = Recipe(name="x", dataset=DatasetRecipe(path="y"), augment=augment)
    assert parse_recipe(recipe_text(recipe)) == recipe


def test_what_is_left_out_keeps_its_default() -> None:
    found = parse_recipe(f"{HEAD}variants = 3\nrotate = {{ range = [0, 10] }}\nelastic.amplitude = 'literal'\n").augment
    assert found.variants == 3 and found.rotate.range == (0, 10) and found.rotate.probability == 1
    assert found.elastic.alpha_range == ALPHA["literal"] and found.shift == AugmentRecipe().shift
    assert parse_recipe('format = 1\nname = "x"\n[dataset]\npath = "y"\n').augment.variants == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("elastic = { sigma = -10.0 }", "sigma .* is -10.0, expected 0.5"),
        ("elastic = { alpha = [2.0, 1.0] }", "alpha is .2.0, 1.0., expected the lowest first"),
        ("elastic = { amplitude = 'max', alpha = [5.0, 15.0] }", "15.0, expected 0 to 10"),
        ("elastic = { amplitude = 'rsm' }", "did you mean 'rms'"),
        ("rotate = { probability = 1.5 }", "rotate.probability is 1.5, expected 0 to 1"),
        ("flip = { horizontal = -0.1 }", "flip.horizontal"),
        ("shift = { range = [1.0] }", "expected two numbers"),
        ("shift = { range = ['a', 'b'] }", "expected two numbers"),
        ("gamma = { range = [nan, 1.0] }", "finite"),
        ("brightness = { range = [0.5, 20.0] }", "20.0, expected 0 to 10"),
        ("poisson = { photons_per_count = 0.0 }", "photons_per_count"),
        ("variants = -1", "variants is -1"),
        ("rotation = { probability = 1.0 }", "did you mean 'rotate'"),
        ("rotate = { degrees = [0.0, 1.0] }", "unknown key 'degrees'"),
        ("rotate = 5", "expected a table"),
        ("keep = 2.0", "keep"),
        ("frames = 'tran'", "did you mean 'train'"),
    ],
)
def test_bad_input_is_a_clear_error(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe(HEAD + text)


def test_a_set_is_its_ranges_and_not_how_many_there_are() -> None:
    one = AugmentRecipe(variants=2)
    assert one.set == replace(one, variants=8, frames="train").set
    assert one.set == replace(one, elastic=Elastic(alpha=(1.0, 2.0))).set
    assert one.set == replace(one, rotate=replace(one.rotate, range=(-45, 45), probability=1)).set
    others = (replace(one, seed=1), replace(one, keep=0.5), replace(one, elastic=Elastic(sigma=9.0)), paper_augment(2))
    assert len({one.set, *(other.set for other in others)}) == 5
