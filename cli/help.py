"""How a command's help looks: options under headings, and examples at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class Command(click.Command):
    """A command whose help lists its options under headings and ends with examples.

    Parameters
    ----------
    groups : mapping of str to sequence of str
        Headings, each with the names of its parameters; options that no heading names come last.
    examples : sequence of str
        Commands as a user types them, 76 characters at most.
    """

    def __init__(
        self,
        *arguments: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        examples: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.groups = dict(groups or {})
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        heading_of = {name: heading for heading, names in self.groups.items() for name in names}
        last = "Other options" if self.groups else "Options"
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.groups, last)}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
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
