import pytest

from hela_store.bench.adapt import AdaptBenchConfig, bench_adapt, time_way
from hela_store.bench.stock import stock_sam
from hela_store.errors import RecipeError
from hela_store.sam.build import build_sam, random_sam


@pytest.mark.slow  # three processes that load torch
def test_every_way_is_timed_in_a_process_of_its_own() -> None:
    found = bench_adapt(AdaptBenchConfig(encoder="nano", cuts=(3,), cells=2, steps=1, device="cpu"))
    assert [row.what for row in found.rows] == ["encoder LoRA", "decoder", "decoder LoRA"]
    encoder, decoder, lora = found.rows
    assert encoder.parameters == decoder.parameters + 2 * 4 * (192 + 192)
    assert lora.parameters < decoder.parameters / 10 and lora.run_bytes == 4 * lora.parameters < 4e5
    assert (encoder.view_bytes, decoder.view_bytes) == (2 * 64 * 64 * 192, 2 * 64 * 64 * 256)
    assert all(row.seconds > 0 and row.memory_mib > 100 for row in found.rows)


@pytest.mark.ci
def test_the_whole_encoder_reads_nothing_from_the_store() -> None:
    config = AdaptBenchConfig(encoder="nano", full=True, cells=2, steps=1, device="cpu")
    assert config.cuts == (0, 2)
    row = time_way(config, 0, "cpu", 1)
    assert (row.cut, row.view_bytes) == (0, 0) and row.parameters > 5e6 and row.what == "encoder, full"


def test_what_takes_no_adapters_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(RecipeError, match="vit_t cannot be cut, so its encoder cannot be adapted either"):
        AdaptBenchConfig(encoder="vit_t")
    with pytest.raises(RecipeError, match=r"cut of nano \(layers\) is 9, expected 0 to 3"):
        AdaptBenchConfig(encoder="nano", cuts=(9,))


def test_the_default_cuts_are_cuts_that_the_encoder_takes() -> None:
    assert AdaptBenchConfig(encoder="nano2").cuts == (0, 3)
    assert AdaptBenchConfig(encoder="nano2", full=True).cuts == (0, 3, 5)
    assert AdaptBenchConfig(encoder="vit_b").cuts == (0, 6, 10)
    with pytest.raises(RecipeError, match="cut is 5, but the last layer that takes low-rank adapters is 3"):
        AdaptBenchConfig(encoder="nano2", cuts=(0, 5))


@pytest.mark.slow  # three processes that load torch
def test_the_second_edition_is_timed_at_its_default_cuts() -> None:
    found = bench_adapt(AdaptBenchConfig(encoder="nano2", cells=2, steps=1, device="cpu"))
    assert [row.cut for row in found.rows] == [0, 3, None, None]


def test_vit_t_is_timed_against_the_package_of_its_authors() -> None:
    theirs, predictor = stock_sam("vit_t")
    assert theirs.image_encoder.__module__.startswith("mobile_sam") and predictor.__module__.startswith("mobile_sam")
    ours = random_sam("vit_t")
    assert type(ours.image_encoder).__name__ == "TinyViT" and ours.state_dict().keys() == theirs.state_dict().keys()
    assert not any(value.is_meta for value in ours.parameters())
    assert all(value.is_meta for value in build_sam("vit_t").image_encoder.parameters())
