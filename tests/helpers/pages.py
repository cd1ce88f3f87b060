"""The shell commands of a page, and a folder in which they run: what the pages take for granted, small.

A command is changed by three rules and by nothing else. ``STANDS_FOR`` replaces what a reader fills in, such as RUN.
``SMALL`` adds settings that end after seconds, unless the command has them. Servers are interrupted when they are ready.
``ELSEWHERE`` lists the commands that are not run, with the reason.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from hela_store_cli.main import main

from hela_store.runs.folder import load_run, run_ids

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for folder in ("", "notebooks", "stores", "hela_store", "hela_store/sam", "cli", "tests/benchmarks")
    for path in (ROOT / folder).glob("*.md")
    if path.name != "CHANGELOG.md"
)
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}


def leaves(group: click.Group, above: str) -> dict[str, click.Command]:
    """Return the commands of a group and of its groups, by how they are typed."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found |= (
            leaves(command, f"{above} {name}") if isinstance(command, click.Group) else {f"{above} {name}": command}
        )
    return found


COMMANDS = leaves(main, "hela-store")
EXAMPLES = [(name, line) for name, command in COMMANDS.items() for line in getattr(command, "examples", ())]

TUNE = "--steps 2 --cells 2 --validation-cells 4"
SMALL = {
    "audit": "--steps 2",
    "baseline classical": "--budget 2",
    "baseline unet": "--steps 2 --workers 0",
    "bench augment": "--views 1",
    "bench bucket": "--steps 2 --workers 0",
    "bench codec": "--views 2",
    "bench embed": "--views 2 --rounds 1",
    "bench metrics": "--cells 4 --repeats 1",
    "bench pipeline": "--batch 2",
    "bench predict": "--boxes 2 --rounds 1 --large 512 --large-boxes 2 --frames 1",
    "bench read": "--views 2 --reads 2",
    "bench teach": "--hovers 2 --cells 4",
    "bench train": "--steps 2 --cells 2 --rounds 1 --encoder-steps 0 --predictions 2 --workers 0",
    "detect train": "--steps 4 --workers 0",
    "explore": "--port 0",
    "finetune": f"{TUNE} --workers 0",
    "fit": "--steps 2 --detector-steps 4",
    "pretrain": "--steps 1 --precision float32",
    "study": f"{TUNE} --workers 0 --seeds 1 --prompt-seeds 1 --prompt box",
    "sweep": "--steps 2 --validation-cells 4 --workers 0",
    "teach": "--port 0",
}
"""Settings that are added to a command, each unless the command has it."""

STANDS_FOR = {
    "5,10,20,50,100,200,500,all": "2,all",
    "5,20,100,500,all": "2,all",
    "5,20,100,all": "2,all",
    "20,50,200,all": "2,all",
    "--seeds 3": "--seeds 1",
    "--steps 900": "--steps 3",
    "--steps 800": "--steps 2",
    "--steps 80": "--steps 2",
    "--events 200": "--events 4",
    "--views 1000": "--views 20",
    "--views 8": "--views 2",
    "--boxes 32": "--boxes 2",
    "--competing 0 1": "--competing 0 --frames 6 --steps 2 --rounds 1",
    "/shares/cells": "shares/cells",
    "-s dic --out preview.png --frame 01/t012": "-s fluo --out preview.png --frame 01/t012",
    "ZERO A1,A2,A3": "{zero} {scored}",
    "report -s fluo RUN RUN": "report -s fluo {zero} {scored}",
    "compare -s fluo RUN RUN": "compare -s fluo {zero} {scored}",
    "--run RUN": "--run {tuned}",
    "checkpoint RUN": "checkpoint {tuned}",
    "export ome-zarr RUN RUN": "export ome-zarr {zero} {scored}",
    "new fluo": "new another",
    "--name fluo": "--name another",
    "RUN": "{scored}",
    "segment FRAMES": "segment new_frames",
    "--data FOLDER": "--data my_frames",
    "--out FOLDER": "--out weights",
    "--out FILE.json": "--out coco.json",
    "--out FILE": "--out file.safetensors",
    "--out DIR": "--out folder",
}
"""What a reader fills in, or makes a command long, and what is taken here; names in braces are runs of the store fluo."""

ELSEWHERE = {
    r"git clone|pip install|jupyter": "needs a network, or another program",
    r"python -m pytest": "the tests themselves",
    r"--device cuda|gpu_probe|^python .*-m gpu|gpu-[nw]": "needs a GPU",
    r"s3://": "needs a bucket; tests/store has one",
    r"tcp://": "needs a Dask cluster; tests/embedding starts one",
    r"vit_[bhl]|fluo-lm|fluo-b": "needs weights of 358 MB and more",
    r"(im|ex)port micro-sam": "needs a SAM that micro-sam has; tests/exchange makes a narrow one",
    r"hela-store demo|gpu-demo": "takes minutes; tests/workflows runs its steps",
    r"baseline unet|--unet| unet": "needs the extra unet, and minutes; tests/baselines trains one",
    r"hela-store mend |--errors-like": "needs 10 masks with a better answer and 10 without; tests/mending makes some",
    r"pull .*--expect": "names a checksum that stands for the reader's own",
}
"""Patterns of commands that are not run here, and why."""


def blocks(text: str) -> list[str]:
    """Return the commands of a page that begin a line in a block of shell, without their comments, in order."""
    lines = [
        line
        for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if kind in ("bash", "sh")
    ]
    return [bare for line in lines if (bare := re.sub(r"\s+#.*", "", line).strip())]


def spoken(text: str) -> list[str]:
    """Return the commands within sentences that have an option or an argument; without, they are names of commands."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = [line for line in re.findall(r"`(hela-store [^`]*)`", prose) if "..." not in line]
    return [line for line in found if len(line.split()) > len(command_name(line).split()) + 1]


def command_name(line: str) -> str:
    """Return the name of a command, such as ``detect train``."""
    words = line.split()[1:]
    groups = ("augment", "baseline", "bench", "catalog", "detect", "export", "import", "labels")
    return " ".join(words[: 2 if words[0] in groups else 1])


def reason(line: str) -> str:
    """Return why a command is not run here; empty where it is."""
    return next((why for pattern, why in ELSEWHERE.items() if re.search(pattern, line)), "")


def small(line: str, runs: dict[str, str]) -> list[str]:
    """Return the words of a command, small and filled in."""
    for there, here in STANDS_FOR.items():
        line = re.sub(rf"(?<![\w-]){re.escape(there)}(?![\w-])", here, line)
    words = shlex.split(line.format(**runs) if "{" in line else line)
    added = re.findall(r"--\S+ \S+", SMALL.get(command_name(line), ""))
    return [*words[1:], *(word for pair in added if pair.split()[0] not in words for word in pair.split())]


def runs_of(store: Path) -> dict[str, str]:
    """Return the runs that pages call RUN, by the names of ``STANDS_FOR``: the latest of their kind."""
    found = {}
    for run in (load_run(store, name) for name in run_ids(store)):
        if run.kind == "finetune":
            found["tuned"] = run.id
        elif run.kind == "evaluate":
            found["zero" if run.config["checkpoint"] is None else "scored"] = run.id
    return found
