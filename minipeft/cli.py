"""The command line: python -m minipeft compare | train | eval | generate | inspect | sweep, and the classroom's."""

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm

from minipeft import comparison, deltas
from minipeft.attach import attachments, detach
from minipeft.bases import base
from minipeft.classroom import commands, use
from minipeft.costs import delta_bytes
from minipeft.files import SIGNED, is_sweep, place, rescue, write_atomically
from minipeft.methods import METHODS, AdapterFusion, PrefixTuning, PromptTuning, PTuning, PTuningV2, parse
from minipeft.mixing import MultiTask
from minipeft.tasks import (
    EOS,
    LENGTH,
    OPERATIONS,
    TABLES,
    VOCABULARY,
    Few,
    Mixture,
    answer,
    decode,
    encode,
    examples,
    task,
)
from minipeft.training import evaluate, fit
from minipeft.views import summary

app = typer.Typer(
    help=(
        "Parameter-efficient fine-tuning, small enough to read.\n\n"
        "A tiny frozen Transformer knows 58 of 64 string tasks, such as: reverse next : cabbed = efccbd\n\n"
        "Teach it another one through a few hundred parameters. Begin with: python -m minipeft compare"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=(
        f"A task is an operation ({', '.join(OPERATIONS)}), a plus and a table ({', '.join(TABLES)}). Examples:\n\n"
        "python -m minipeft train reverse+blue --method 'PromptTuning(length=4)' --out blue.safetensors\n\n"
        "python -m minipeft generate cabbed --delta blue.safetensors\n\n"
        "python -m minipeft compare reverse+blue --examples 8\n\n"
        "python -m minipeft start lora     (write it yourself; then: check work/lora.py)"
    ),
)
for command in (commands.start, commands.check, commands.grade, commands.grades):
    app.command()(command)
console = Console(markup=False, emoji=False)  # what looks like markup in a name or a note is shown as it is
complaints = Console(stderr=True, markup=False, emoji=False)
torch.set_num_threads(1)  # models this small are slower on several threads, and much slower on a busy machine


@app.callback()
def begin(context: typer.Context):
    """MINIPEFT_USE=work/lora.py: what trains or answers runs on a student's file."""
    if context.invoked_subcommand not in ("start", "check", "grade"):
        use()


TASK_HELP = (
    "An operation and a table: reverse+blue (a pair the base never saw together), reverse+red (one it knows), "
    "reverse+violet (a table it has never seen)."
)
TaskName = Annotated[str, typer.Argument(metavar="TASK", help=TASK_HELP)]
DeltaPath = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta that `train` saved.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of 64 examples each.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes to share the runs; by default one for each core.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite also a file that minipeft did not write.")]
Examples = Annotated[
    int | None,
    typer.Option("--examples", min=1, help="Train on so many examples only, instead of new ones at every step."),
]
Method = Annotated[
    str, typer.Option(help=f"A method as Python writes it, LoRA(rank=4), or a name: {', '.join(METHODS)}.")
]


def share(values):
    """Mean over seeds in percent, and under it the range if there is one."""
    low, mean, high = 100 * min(values), 100 * sum(values) / len(values), 100 * max(values)
    return Text.assemble(f"{mean:.1f}", (f"\n{low:.0f}–{high:.0f}" if round(low) < round(high) else "", "dim"))


@app.command()
def compare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TASK...", help=f"{TASK_HELP} By default reverse+blue.")
    ] = None,
    steps: Steps = comparison.STEPS,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per method, each with its own start and data.")] = 3,
    few: Examples = None,
    workers: Workers = None,
    out: Annotated[Path, typer.Option(help="Folder for the table (CSV) and the picture (PNG).")] = Path("results"),
    force: Force = False,
):
    """Adapt the base to a task with every method and lay the results side by side."""
    from minipeft import plots

    goals = [task(name) for name in dict.fromkeys(names or ["reverse+blue"])]
    table, picture = out / "compare.csv", out / "compare.png"
    place(table, "table", force)
    place(picture, "picture", force)
    found = {}
    for goal in goals:
        introduce(goal)
        words, _ = examples(goal)

        def show(tuned, seed, result, words=words):
            if seed == 0:  # tqdm writes above its bar
                said = "   ".join(f"{w.strip(': =')} {a}" for w, a in zip(words, result["answers"], strict=True))
                tqdm.write(f"  {tuned.method!s:22} now answers  {said}")

        found[goal] = comparison.compare(
            goal,
            comparison.TUNED_METHODS,
            steps=steps,
            seeds=seeds,
            examples=few,
            words=words,
            workers=workers,
            on_run=show,
        )
        console.print("", results(found[goal], goal, steps, seeds, few), "")
    text = comparison.as_csv([{"task": str(goal)} | row for goal, rows in found.items() for row in rows])
    rescue(lambda path: write_atomically(path, text.encode()), table, say=lambda: print(text))
    console.print(f"Table: {table}", soft_wrap=True)
    axes = plots.new(7.5, 4.6 * len(goals), rows=len(goals), squeeze=False)[:, 0]
    for ax, (goal, rows) in zip(axes, found.items(), strict=True):
        plots.pareto(rows, ax).set_title(f"{goal} ({goal.kind}), {steps} steps, {seeds} seeds", fontsize=10)
    draw(axes[0].figure, picture)


def introduce(goal):
    """What the task is, and that the base does not do it yet."""
    model = base()
    known, able = evaluate(model, Mixture()).accuracy, evaluate(model, goal).accuracy
    console.print(Text.assemble((f"Task {goal}", "bold"), f": {goal.kind}, given without instruction words."))
    for word, expected in zip(*examples(goal), strict=True):
        console.print(Text.assemble(f"  {word} {expected}      ", (f"the base answers {answer(model, word)}", "dim")))
    console.print(f"The base solves {100 * known:.1f} % of its pretraining examples and {100 * able:.1f} % of these.")
    console.print("It stays frozen: Full trains a copy, the other methods train beside it.\n")


def results(rows, goal, steps, seeds, few):
    """The rows of `compare` as a table; few: how many examples were trained on, None for new ones at every step."""
    on = f" on {few} examples" if few else ""
    table = Table(
        title=f"{goal} after {steps} steps{on}, mean and range over {seeds} seeds",
        title_justify="left",
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    training = ("training\naccuracy\n%",) if few else ()
    for heading in ("trained", "% of\nbase", *training, "accuracy\n%", "retention\n%", "time\ns", "delta\nbytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds = sum(row["seconds"]) / len(row["seconds"])
        table.add_row(
            row["method"], f"{row['parameters']:,}", f"{row['percent']:.2f}",
            *([share(row["training_accuracy"])] if few else []), share(row["accuracy"]),
            share(row["retention_attached"]), f"{seconds:.1f}", f"{row['bytes']:,}",
        )  # fmt: skip
    detached = [100 * value for row in rows for value in row["retention_detached"]]
    low, high = f"{min(detached):.1f}", f"{max(detached):.1f}"
    table.caption = (
        ("training accuracy: on the examples that were trained on. " if few else "")
        + "accuracy: exact match on unseen examples of the task. retention: accuracy on the pretraining mixture with "
        f"the delta attached; detached, it is {low if low == high else f'{low} to {high}'} %."
    )
    table.caption_justify = "left"
    return table


@app.command()
def train(
    name: TaskName,
    out: Annotated[Path, typer.Option(help="Where the delta is saved.")] = Path("deltas/delta.safetensors"),
    method: Method = "LoRA(rank=4)",
    few: Examples = None,
    fuse: Annotated[
        list[Path] | None, typer.Option(help="For AdapterFusion: a delta of Pfeiffer; once for each adapter.")
    ] = None,
    steps: Steps = comparison.STEPS,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; by default what `sweep` found.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the start and the data.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    force: Force = False,
):
    """Train one method on a task and save its delta."""
    goal, method, model = task(name), parse(method), base()
    lr = comparison.learning_rate_of(method) if lr is None else lr
    torch.manual_seed(seed)
    model = method.attach(model)
    if isinstance(method, AdapterFusion):
        method.fill(model, [deltas.read(path, detach(model)) for path in fuse or ()])
    elif fuse:
        raise ValueError(f"--fuse is for AdapterFusion, not for {method}: leave it out")
    place(out, "delta", force, inputs=fuse or (), room=delta_bytes(model) + 10_000)
    console.print(f"{method} on {goal} ({goal.kind})\n{summary(model)}")
    given = Few(goal, few, seed) if few else goal
    history = fit(model, given, steps=steps, lr=lr, seed=seed, device=device)
    score = evaluate(model, goal)
    notes = {"task": str(goal), "steps": steps, "lr": lr, "seed": seed, "accuracy": round(score.accuracy, 4)}
    if few:
        notes["examples"] = few
        console.print(f"accuracy on the {few} training examples: {100 * evaluate(model, given, few).accuracy:.1f} %")
    size = rescue(lambda path: deltas.save(model, path, notes), out)
    console.print(f"accuracy on unseen examples: {100 * score.accuracy:.1f} % after {history.seconds:.0f} s")
    console.print(f"Saved {size:,} bytes to {out}. To see it at work:", soft_wrap=True)
    console.print(f"  python -m minipeft generate cabbed --delta {shlex.quote(str(out))}", soft_wrap=True)


@app.command("eval")
def evaluate_(
    path: DeltaPath,
    name: Annotated[str | None, typer.Option("--task", help="Another task than the one it was trained on.")] = None,
):
    """Score a delta on its task and on the pretraining mixture, attached and detached."""
    delta = deltas.read(path)
    goal = task(name or str(delta.notes.get("task", "")))
    model = deltas.load(path, base())
    console.print(f"{delta.method} from {path}", soft_wrap=True)
    table = Table(box=SIMPLE)
    for heading in ("accuracy, %", "attached", "detached"):
        table.add_column(heading, justify="left" if heading.startswith("accuracy") else "right")
    for what in (goal, Mixture()):
        attached = evaluate(model, what).accuracy
        detached = evaluate(detach(model), what).accuracy
        table.add_row(f"{what}", f"{100 * attached:.1f}", f"{100 * detached:.1f}")
    console.print(table)


@app.command()
def generate(
    text: Annotated[
        str, typer.Argument(help="A word of six letters, cabbed, or one with an instruction: 'reverse next : cabbed'.")
    ],
    paths: Annotated[
        list[Path] | None, typer.Option("--delta", help="A saved delta, or several: they answer in one batch.")
    ] = None,
):
    """See how the base continues a word or an instruction, and how it does under each delta."""
    if " " in text.strip() and ":" not in text:
        raise ValueError(f"a colon parts the instruction from the word, as in 'reverse next : cabbed'; got {text!r}")
    line = decode(encode((text if ":" in text else f": {text}").rstrip("= ") + " ="))
    size = len(line.partition(":")[2].strip("= "))
    if size != LENGTH:
        console.print(f"The base reads words of {LENGTH} letters, this has {size}: expect nonsense.", style="yellow")
    model = base()
    views = {str(path): deltas.load(path, model) for path in paths or ()}
    rows, names = encode(line).expand(1 + len(views), -1), [None, *views]
    if views:
        made = MultiTask(views).generate(rows, names, LENGTH + 1, stop=EOS)
    else:
        made = model.generate(rows, LENGTH + 1, stop=EOS)
    for name, tokens in zip(names, made, strict=True):
        said = decode(tokens).partition(".")[0].strip()
        who = f"      {name}: {attachments(views[name])[-1].method}" if name else ""
        console.print(Text.assemble(f"{'adapted' if name else 'base':9} {line} {said}", (who, "dim")), soft_wrap=True)


@app.command()
def inspect(
    path: DeltaPath,
    picture: Annotated[Path | None, typer.Option(help="Also draw what was learned, as PNG.")] = None,
    force: Force = False,
):
    """What is in a delta: method, tensors, how many directions its update of each weight really has; of a prompt, the
    words it is nearest to."""
    delta = deltas.read(path)
    if picture:
        place(picture, "picture", force, inputs=(path,))
    model = base()
    fits = deltas.fingerprint(model) == delta.base
    whose = "the shipped base" if fits else "another base"
    about = f"  {path.stat().st_size:,} bytes, for {whose} ({delta.base[:12]})"
    console.print(Text.assemble((str(path), "bold"), about), soft_wrap=True)
    for key, value in {"method": repr(delta.method), **delta.notes}.items():
        console.print(printable(f"{key:8} {value}"), soft_wrap=True)
    table = Table(title="Tensors", title_justify="left", box=SIMPLE)
    for heading in ("name", "shape", "parameters"):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    for name, tensor in delta.tensors.items():
        table.add_row(printable(name), " × ".join(map(str, tensor.shape)), f"{tensor.numel():,}")
    console.print(table)
    if not fits:
        console.print("What it changes can only be told on its own base.")
        return
    words = model.embed.token.weight
    prompts = [t for t in delta.tensors.values() if isinstance(delta.method, PromptTuning | PTuning)]
    for vectors in prompts:
        console.print(nearest(vectors, words))
    model = deltas.load(path, model)
    moved = deltas.updates(model)
    matrices = {name: d.flatten(1) for name, (_, d) in moved.items() if d.ndim > 1}
    if not matrices:
        console.print("It changes no matrix: there is no ΔW to take apart.")
        if picture:
            from minipeft import plots

            if prompts:
                axes = plots.nearest_words(prompts[0], words, VOCABULARY)
            elif isinstance(delta.method, PrefixTuning | PTuningV2):
                axes = plots.prefix_map(plots.prefixes(model), model.config.heads)
            else:
                axes = plots.what_moved(model, moved) if moved else plots.module_tree(model)
            draw(np.ravel(axes)[0].figure, picture)
        return
    table = Table(title="Updates of the weights, ΔW", title_justify="left", box=SIMPLE)
    for heading in ("weight", "‖ΔW‖/‖W‖", "rank", "singular values, largest first"):
        table.add_column(heading, justify="right" if heading in ("rank", "‖ΔW‖/‖W‖") else "left")
    for name, d in matrices.items():
        values = torch.linalg.svdvals(d)
        rank = int((values > 1e-5 * values[0]).sum())  # what is below is rounding
        shown = "  ".join(f"{v:.3f}" for v in values[: min(rank, 6)]) + ("  …" if rank > 6 else "")
        table.add_row(name, f"{d.norm() / moved[name][0].norm():.3f}", str(rank), shown)
    console.print(table)
    if picture:
        from minipeft import plots

        figure = plots.plt.figure(figsize=(8, 6), layout="constrained")
        top, bottom = figure.subfigures(2, 1)  # each as wide as it can be beside its own legend
        plots.spectrum(dict(list(matrices.items())[:6]), top.subplots())
        plots.what_moved(model, moved, bottom.subplots())
        draw(figure, picture)


def draw(figure, path):
    """Write a figure as a PNG that is known again as ours."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata=SIGNED)
    rescue(lambda path: write_atomically(path, file.getvalue()), path)
    console.print(f"Picture: {path}", soft_wrap=True)


def printable(text):
    """The text with what would command a terminal spelled out: a note may be anybody's."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(vectors, table, number=3):
    """The words that a soft prompt is nearest to, vector by vector."""
    shown = Table(title="Nearest words (cosine; 1 is the word itself)", title_justify="left", box=SIMPLE)
    for heading in ("vector", "length", *map(str, range(1, number + 1))):
        shown.add_column(heading)
    likeness = F.normalize(vectors, dim=1) @ F.normalize(table, dim=1).T
    for i, (values, tokens) in enumerate(zip(*likeness.topk(number), strict=True)):
        words = [f"{VOCABULARY[t]} {v:.2f}" for v, t in zip(values, tokens, strict=True)]
        shown.add_row(str(i + 1), f"{vectors[i].norm():.2f}", *words)
    mean = float(table.norm(dim=1).mean())
    shown.caption, shown.caption_justify = f"The embeddings of the words have a mean length of {mean:.2f}.", "left"
    return shown


@app.command()
def sweep(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TASKS", help="By default reverse+blue reverse+violet.")
    ] = None,
    steps: Steps = comparison.STEPS,
    workers: Workers = None,
    out: Annotated[
        Path, typer.Option(help="Where the results are saved, as JSON. Runs that it holds already are not made again.")
    ] = Path("results/learning_rates.json"),
    force: Force = False,
):
    """Try the same learning rates with every method, on examples that `compare` does not report (minutes a method)."""
    names = names or ["reverse+blue", "reverse+violet"]
    goals, found, unsaved = [task(name) for name in names], {}, []
    place(out, "sweep", force)
    if out.exists() and is_sweep(out):
        stored = json.loads(out.read_bytes())
        if stored["steps"] != steps:
            raise ValueError(f"{out} holds runs of {stored['steps']} steps, not {steps}: choose another file")
        found = stored["results"]

    def write(path):
        write_atomically(path, (json.dumps({"steps": steps, "results": found}, indent=1) + "\n").encode())

    def save(found):  # after each run, so that what is done is kept
        try:
            write(out)
            unsaved.clear()
        except (OSError, ValueError) as error:
            if not unsaved:
                tqdm.write(f"Not saved: {error}. The sweep goes on and tries again after each run.")
            unsaved.append(error)

    try:
        comparison.sweep(goals, steps=steps, found=found, workers=workers, on_run=save)
    finally:
        if unsaved:
            rescue(write, out, say=lambda: print(json.dumps({"steps": steps, "results": found})))
    for name in names:
        table = Table(title=f"{name}: accuracy on validation examples, %", title_justify="left", box=SIMPLE)
        table.add_column("method", no_wrap=True)
        for lr in comparison.LEARNING_RATES:
            table.add_column(f"{lr:g}", justify="right")
        for method, by_lr in found.items():
            cells = []
            for lr, runs in by_lr.items():
                accuracies = [100 * run["accuracy"] for run in runs if run["task"] == name]
                chosen = "*" if float(lr) == comparison.best_learning_rate(by_lr) else ""
                cells.append(Text.assemble((chosen, "bold"), f"{sum(accuracies) / len(accuracies):.0f}"))
            table.add_row(method, *cells)
        console.print(table)
    console.print("* the learning rate of least validation loss, all tasks together")
    console.print(f"Saved to {out}", soft_wrap=True)


def main():
    """The entry point: what the user can mend is told in a line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):  # Δ and ‖ cannot be printed in every country's old encoding
        stream.reconfigure(encoding="utf-8")
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError) as error:
        said = printable(" ".join(str(error).split()))
        complaints.print(Text.assemble((type(error).__name__, "red"), f": {said}"), soft_wrap=True)
        raise SystemExit(2) from None
