"""How a command's help looks: arguments and options under headings, and examples at the end."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import click

RUN = "an id that `hela-store info` lists, its beginning, or latest"
"""How a run is named on the command line."""

NUMBERS: dict[type[click.ParamType[Any]], str] = {
    type(click.INT): "N",
    click.IntRange: "N",
    type(click.FLOAT): "X",
    click.FloatRange: "X",
}
"""How the value of an option is written in its help where the option does not say it, by its type."""


class Several(click.Option):
    """An option that takes all values up to the next option: ``--lr 1e-5 1e-4``; it may be repeated as well.

    It is for commands without positional arguments, which it would swallow.
    """

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the option go on taking values."""
        super().add_to_parser(parser, ctx)
        mine = next(parser._long_opt[name] for name in self.opts if name in parser._long_opt)
        once = mine.process

        def process(value: Any, state: Any) -> None:
            once(value, state)
            while state.rargs and not state.rargs[0].startswith("-"):
                once(state.rargs.pop(0), state)

        mine.process = process


class Group(click.Group):
    """A group that proposes the nearest command where there is none of a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; UsageError, with the nearest name, where there is none."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
        hint = f"did you mean {near[0]}?" if near else f"`{ctx.command_path} --help` lists the commands"
        raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)


class Command(click.Command):
    """A command whose help explains its arguments, lists its options under headings and ends with examples.

    Parameters
    ----------
    positional : mapping of str to str
        What each argument is, by its name.
    groups : mapping of str to sequence of str
        Headings, each with the names of its parameters; options that no heading names come last.
    examples : sequence of str
        Commands as a user types them, 76 characters at most.
    """

    def __init__(
        self,
        *arguments: Any,
        positional: Mapping[str, str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.positional = dict(positional or {})
        self.groups = dict(groups or {})
        self.examples = tuple(examples)
        for option in self.params:
            if isinstance(option, click.Option) and option.metavar is None:
                option.metavar = next((name for kind, name in NUMBERS.items() if isinstance(option.type, kind)), None)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options, heading by heading."""
        given = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Argument)]
        if given:
            with formatter.section("Arguments"):
                formatter.write_dl(
                    [(each.make_metavar(ctx), self.positional.get(each.name or "", "")) for each in given]
                )
        heading_of = {name: heading for heading, names in self.groups.items() for name in names}
        last = "Other options" if self.groups else "Options"
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.groups, last)}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                sections[heading_of.get(parameter.name or "", last)].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
