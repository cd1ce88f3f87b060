"""Which store a command means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from hela_store_cli.help import Several
from hela_store_cli.main import main
from hela_store_cli.options import find_store, new_folder

from hela_store.errors import StoreError


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "store.toml").write_text("format = 1\n")
    return path


def test_a_path_or_a_name(tmp_path: Path) -> None:
    fluo, other = make(tmp_path / "stores/fluo"), make(tmp_path / "elsewhere/other")
    assert find_store("fluo", tmp_path) == fluo
    assert find_store("stores/fluo", tmp_path) == fluo
    assert find_store("stores/fluo/store.toml", tmp_path) == fluo
    assert find_store(str(other), tmp_path) == other


def test_a_folder_without_recipe_does_not_hide_a_name(tmp_path: Path) -> None:
    (tmp_path / "fluo").mkdir()
    fluo = make(tmp_path / "stores/fluo")
    assert find_store("fluo", tmp_path) == fluo


def test_without_a_name_the_nearest_upward(tmp_path: Path) -> None:
    fluo = make(tmp_path / "stores/fluo")
    make(tmp_path / "stores/dic")
    below = fluo / "runs/x"
    below.mkdir(parents=True)
    assert find_store(None, below) == fluo


def test_without_a_name_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store under .*hela-store new"):
        find_store(None, tmp_path)
    fluo = make(tmp_path / "stores/fluo")
    assert find_store(None, tmp_path) == fluo
    make(tmp_path / "stores/dic")
    with pytest.raises(StoreError, match=r"several stores under .*there are: dic, fluo; choose one with --store"):
        find_store(None, tmp_path)


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    make(tmp_path / "stores/fluo")
    with pytest.raises(StoreError, match=r"no store 'flou'.*there are: fluo"):
        find_store("flou", tmp_path)


def test_where_a_new_store_goes(tmp_path: Path) -> None:
    assert new_folder("fluo", tmp_path) == tmp_path / "stores/fluo"
    assert new_folder("a/b", tmp_path) == tmp_path / "a/b"
    assert new_folder("./b", tmp_path) == tmp_path / "b"
    assert new_folder("/abs", tmp_path) == Path("/abs")


def leaf(*words: str) -> click.Command:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


def given(words: str, option: str, name: str) -> Any:
    command = leaf(*words.split())
    parser = command.make_parser(click.Context(command, help_option_names=["-h", "--help"]))
    values, rest, _ = parser.parse_args(option.split())
    assert not rest
    parameter = next(parameter for parameter in command.params if parameter.name == name)
    return parameter.process_value(click.Context(command), values[name])


@pytest.mark.parametrize(
    ("words", "option", "name", "values"),
    [
        ("finetune", "--prompt", "prompts", ("box", "point")),
        ("evaluate", "--prompt", "prompts", ("box@0.1", "mask")),
        ("study", "--prompt", "prompts", ("box", "point")),
        ("study", "--encoder", "encoders", ("nano@1", "nano@2")),
        ("sweep", "--seed", "seed", (0, 1)),
        ("embed", "--split", "splits", ("train", "val")),
        ("baseline image-free", "--prompt", "prompts", ("box", "point")),
        ("bench busy", "--competing", "competing", (0, 2)),
    ],
)
def test_several_values_are_separated_by_spaces_or_given_one_by_one(
    words: str, option: str, name: str, values: tuple[Any, ...]
) -> None:
    assert given(words, f"{option} {' '.join(map(str, values))} --json", name) == values
    assert given(words, f"{option} {f' {option} '.join(map(str, values))}", name) == values


@pytest.mark.parametrize("text", ["5,10,all", "5 10 all", "5, 10 all"])
def test_budgets_may_be_separated_by_spaces_or_commas(text: str) -> None:
    assert given("study", f"--budget {text}", "budget") == "5,10,all"


def commands(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    context = click.Context(command)
    below = [command.get_command(context, name) for name in command.list_commands(context)]
    return [each for one in below if one is not None for each in commands(one)]


def test_an_option_that_goes_on_taking_values_stands_before_no_argument() -> None:
    for command in commands(main):
        several = any(isinstance(parameter, Several) for parameter in command.params)
        assert not (several and any(isinstance(parameter, click.Argument) for parameter in command.params))
