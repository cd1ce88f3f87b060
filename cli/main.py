"""The ``hela-store`` command: its group, and what every error becomes."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any, NoReturn

import click

from hela_store.base.text import visible
from hela_store.errors import AlreadyComplete, HelaError

from .help import Group
from .output import guard_terminal, show_starting, wipe_starting, with_store
from .threads import COMPUTE, set_threads

GROUPS = {
    "Start": ("doctor", "demo", "fit"),
    "Fine-tune": ("new", "embed", "finetune", "sweep", "encoders", "augment"),
    "Score and look": (
        *("evaluate", "baseline", "compare", "slices", "study", "score"),
        *("report", "explore", "sql", "similar", "info"),
    ),
    "New frames": ("detect", "segment", "mend"),
    "Labels": ("teach", "audit", "labels"),
    "Stores and other tools": ("verify", "catalog", "export", "import", "publish", "pull"),
    "Development": ("bench", "pretrain"),
}
"""The commands by the heading of the help, in the order they are used; each is defined in the module of its name."""
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
RESUMABLE = {
    *("fit", "embed", "finetune", "sweep", "study", "demo", "pretrain", "segment", "import", "audit"),
    *("publish", "pull"),
}
LOADS_TORCH = COMPUTE | {"new", "report", "doctor"}
"""Commands that say nothing for seconds, because they load PyTorch first."""
INTERRUPTED = 130


class Commands(Group):
    """A group that imports a command when it is used, and ends with one line instead of a traceback.

    Parameters
    ----------
    headings : mapping of str to sequence of str
        Names of commands that are defined in modules of this package, by the heading of the help.
    """

    def __init__(self, *arguments: Any, headings: Mapping[str, Sequence[str]] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.headings = dict(headings or {})
        self.modules = tuple(name for names in self.headings.values() for name in names)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order they are used."""
        return [*self.modules, *self.commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, heading by heading."""
        if not self.headings:
            super().format_commands(ctx, formatter)
            return
        width = max(map(len, self.modules))
        limit = formatter.width - 6 - width
        for heading, names in self.headings.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(f"{name:<{width}}", each.get_short_help_str(limit)) for name, each in commands if each is not None]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported here so that no other command's module is loaded."""
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f".{module}", __package__), module)
        return command

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command from the shell, with streams on which no name or value is obeyed by the terminal."""
        guard_terminal()
        return super().main(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors become one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = (
                "the same command resumes where it stopped"
                if ctx.invoked_subcommand in RESUMABLE
                else "nothing is kept"
            )
            _leave(f"stopped; {again}", INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except AlreadyComplete as done:
            _leave(str(done), 0)
        except HelaError as error:
            _fail(ctx, error, str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            _fail(ctx, error, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        except MemoryError as error:
            _fail(ctx, error, "out of memory; close other programs, or give smaller --tile, --batch or --cells")
        except Exception as error:
            text = f"{type(error).__name__}: {error} (a bug in hela-store; `hela-store --traceback ...` shows where)"
            _fail(ctx, error, text)


def _fail(ctx: click.Context, error: BaseException, text: str) -> NoReturn:
    if ctx.params.get("traceback"):
        raise error
    _leave(f"error: {text}", 1)


def _leave(text: str, code: int) -> NoReturn:
    click.echo(visible(with_store(" ".join(text.split()))), err=True)
    sys.exit(code)


@click.group(
    cls=Commands,
    headings=GROUPS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="hela-store", prog_name="hela-store")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Compute with N threads. [default: as many as the cores that other processes leave free]",
)
@click.pass_context
def main(ctx: click.Context, traceback: bool, threads: int | None) -> None:
    """Fine-tune SAM on microscopy frames, get masks of new ones and a score of every cell.

    The encoder runs once per image tile and its embeddings are kept in a store, a folder with a file store.toml.
    `hela-store demo` tries embedding, fine-tuning and scoring in a few minutes. For your own frames, use new, embed,
    finetune, evaluate, detect train, segment and report, in this order. The command fit does this for one folder.
    """
    set_threads(ctx.invoked_subcommand, threads)
    if ctx.invoked_subcommand in LOADS_TORCH:
        ctx.call_on_close(wipe_starting)
        show_starting()
