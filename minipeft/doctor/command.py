"""The command: python -m minipeft doctor PATH."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minipeft.doctor.diagnosis import doctor as examine
from minipeft.doctor.findings import counted

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}

console = Console(markup=False, emoji=False)


def doctor(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A Python file that defines `model` (it is run), an adapter's folder or its .safetensors file.",
        ),
    ],
):
    """Find the usual silent failures of fine-tuning in a model or an adapter.

    A Python file IS RUN, all of it but what stands under `if __name__ == "__main__":`.

    It defines `model` and, if you like, `optimizer`, `targets` (a tuple of names) and `loss`, a function without
    arguments that returns the loss of one batch: then three steps are taken on trial, with a copy of the optimizer.

    The exit code is 1 if an error is found.
    """
    checkup = examine(path)
    console.print(Text(checkup.about, style="bold"), soft_wrap=True)
    for finding in checkup:
        colour = COLOURS[finding.severity]
        console.print()
        console.print(indented(Text(finding.what, style="bold"), Text(finding.severity, style=colour)))
        for heading, sentence in finding.lines():
            console.print(indented(Text.assemble((f"{heading}: ", colour), sentence)))
    console.print()
    for sentence in checkup.passed:
        console.print(Text(f"ok      {sentence}", style="dim"))
    for missing, sentences in checkup.skipped.items():
        console.print(Text(f"skipped {counted(len(sentences), 'check')}: {missing}", style="dim"))
    console.print(f"\n{checkup.verdict()}")
    raise typer.Exit(1 if checkup.of("error") else 0)


def indented(text, heading=""):
    """The text in a column of its own, beside a heading."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=7)
    table.add_column()
    table.add_row(heading, text)
    return table
