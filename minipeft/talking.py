"""The commands for the real language model: python -m minipeft teach | chat."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.text import Text

from minipeft import deltas
from minipeft.attach import attachments
from minipeft.costs import delta_bytes
from minipeft.files import place, rescue
from minipeft.methods import parse
from minipeft.published import smollm2
from minipeft.training import evaluate, fit
from minipeft.views import summary
from minipeft.worlds.dialogues import PIRATE, Dialogues, pairs_of

console = Console(markup=False, emoji=False)
BATCH = 4  # pairs a step: more take longer, and the lesson's numbers are made with so many


def teach(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="pirate, or a TOML file with pairs = [[question, answer], ...].")
    ] = "pirate",
    out: Annotated[Path, typer.Option(help="Where the delta is saved.")] = Path("deltas/style.safetensors"),
    method: Annotated[
        str, typer.Option(help="A method as Python writes it.")
    ] = "LoRA(rank=8, alpha=16, targets=('q', 'v'))",
    steps: Annotated[int, typer.Option(min=1, help=f"Training steps of {BATCH} pairs each.")] = 36,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate. A prompt wants about 0.01.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Draws the start and the order.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite also a file that minipeft did not write.")] = False,
):
    """Teach a real language model to answer as in a file (a minute or two). It needs: python run.py real"""
    pairs, method = PIRATE if file == "pirate" else pairs_of(file), parse(method)
    smollm2.path()
    place(out, "delta", force, inputs=() if file == "pirate" else (file,))
    model, _ = smollm2.smollm2()
    torch.manual_seed(seed)
    view, goal = method.attach(model), Dialogues(pairs)
    place(out, "delta", force, room=delta_bytes(view) + 10_000)
    console.print(f"{method} on {goal}\n{summary(view)}")
    before = evaluate(view, goal).loss
    history = fit(view, goal, steps=steps, batch_size=BATCH, lr=lr, seed=seed)
    after = evaluate(view, goal).loss
    console.print(f"loss on these answers: {before:.2f} nats before, {after:.2f} after {history.seconds:.0f} s")
    notes = {"base": "smollm2", "task": str(goal), "steps": steps, "lr": lr, "seed": seed}
    size = rescue(lambda path: deltas.save(view, path, notes), out)
    console.print(f"Saved {size:,} bytes to {out}. To talk with it:", soft_wrap=True)
    console.print(f"  python -m minipeft chat --delta {shlex.quote(str(out))}", soft_wrap=True)


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Without one you talk with the model until you send an empty line.")
    ] = None,
    path: Annotated[Path | None, typer.Option("--delta", help="A delta that `teach` saved.")] = None,
    system: Annotated[str, typer.Option(help="What the model is told before everything.")] = smollm2.SYSTEM,
    new: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 150,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token; above 0 samples.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="For the same samples again.")] = None,
):
    """Talk with a real language model. It needs: python run.py real"""
    model, words = smollm2.smollm2()
    if path:
        model = deltas.load(path, model)
        console.print(f"with {attachments(model)[-1].method}", style="dim", soft_wrap=True)
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    say = partial(print, end="", flush=True)
    said = []
    while question or (question := asked()):
        said.append(question)
        made = smollm2.answer(model, words, *said, system=system, new=new, temperature=temperature,
                              generator=generator, say=say)  # fmt: skip
        print()
        if not sys.stdin.isatty():
            return
        said.append(made)
        question = None


def asked():
    """A line from the person at the keyboard; an empty one ends the conversation."""
    try:
        return console.input(Text("> ", style="bold")).strip()
    except (EOFError, KeyboardInterrupt):
        return ""
