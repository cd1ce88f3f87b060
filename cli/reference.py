"""Writes `cli/README.md` from the commands' help: `python -m hela_store_cli.reference > cli/README.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from .main import main

WIDTH = 100
HEAD = """# The command `hela-store`

Written from the commands' own help by `python -m hela_store_cli.reference > cli/README.md`; a test compares the two.
`--store` (or `HELA_STORE`) names a store by its folder or its name under `./stores`. Results go to stdout, progress to
stderr. Exit code 1: bad input, told in one line; 2: wrong usage; 130: Ctrl-C.

## Shell completion

| shell | put into | line |
|---|---|---|
| bash (4.4 or newer) | `~/.bashrc` | `eval "$(_HELA_STORE_COMPLETE=bash_source hela-store)"` |
| zsh | `~/.zshrc` | `eval "$(_HELA_STORE_COMPLETE=zsh_source hela-store)"` |
| fish | `~/.config/fish/completions/hela-store.fish` | `_HELA_STORE_COMPLETE=fish_source hela-store \\| source` |

## Commands
"""


def commands(group: click.Group, above: click.Context) -> Iterator[click.Context]:
    """Yield a context for every command that is no group, in the order of ``--help``."""
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        assert command is not None, name
        inside = click.Context(
            command, parent=above, info_name=name, terminal_width=WIDTH, help_option_names=["-h", "--help"]
        )
        if isinstance(command, click.Group):
            yield from commands(command, inside)
        else:
            yield inside


def reference() -> str:
    """Return the page."""
    found = list(commands(main, click.Context(main, info_name="hela-store", terminal_width=WIDTH)))
    rows = [f"| [`{c.command_path}`](#{c.command_path.replace(' ', '-')}) | {_first(c.command)} |" for c in found]
    sections = [f"### {c.command_path}\n\n```text\n{c.get_help()}\n```\n" for c in found]
    return "\n".join([HEAD, "| command | does |\n|---|---|", *rows, "", *sections])


def _first(command: click.Command) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
