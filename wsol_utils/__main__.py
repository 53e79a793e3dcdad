"""The command line: python -m wsol_utils --help."""

import io
import sys
from typing import Any

import click

from wsol_utils.data.text import shown
from wsol_utils.own_pictures.command import localize
from wsol_utils.runner import commands


class Commands(click.Group):
    """Commands that say in one line what is wrong with what they were given."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click ends quietly where nobody reads on
            raise
        except (ValueError, OSError) as error:
            raise click.ClickException(shown(" ".join(str(error).splitlines()))) from error


@click.group(cls=Commands)
def main() -> None:
    """Weakly supervised object localisation: the commands beside the notebooks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot show is escaped


for command in (
    localize, commands.download, commands.convert, commands.train, commands.predict,
    commands.tune_heads, commands.verify, commands.evaluate, commands.notebooks, commands.benchmarks,
    commands.measure_reference, commands.keep_reference,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
