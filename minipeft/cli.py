"""The command line: compare | train | eval | generate | inspect | tune, and the commands of other rooms."""

import io
import shlex
import sys
from dataclasses import replace
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

from minipeft import deltas, lab, processes, talking
from minipeft.attach import attachments, detach
from minipeft.bases import base
from minipeft.classroom import commands, use
from minipeft.costs import delta_bytes
from minipeft.doctor.command import doctor
from minipeft.exchange import commands as exchange
from minipeft.files import SIGNED, is_store, place, rescue, write_atomically
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
    Task,
    answer,
    decode,
    encode,
    examples,
    task,
)
from minipeft.training import RECIPE, evaluate, fit
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
for command in (
    commands.start, commands.check, commands.interview, commands.grade, commands.grades, talking.teach, talking.chat,
    exchange.export, doctor,
):  # fmt: skip
    app.command()(command)
app.command("import")(exchange.import_)
console = Console(markup=False, emoji=False)  # what looks like markup in a name or a note is shown as it is
complaints = Console(stderr=True, markup=False, emoji=False)
torch.set_num_threads(1)  # models this small are slower on several threads, and much slower on a busy machine


@app.callback()
def begin(context: typer.Context):
    """MINIPEFT_USE=work/lora.py: what trains or answers runs on a student's file."""
    if processes.started() and context.invoked_subcommand != "train":
        raise ValueError(
            f"torchrun is for `train`, whose processes share each batch; start {context.invoked_subcommand} without it"
        )
    if context.invoked_subcommand not in ("start", "check", "grade"):
        use()


TASK_HELP = (
    "An operation and a table: reverse+blue (a pair the base never saw together), reverse+red (one it knows), "
    "reverse+violet (a table it has never seen)."
)
TaskName = Annotated[str, typer.Argument(metavar="TASK", help=TASK_HELP)]
DeltaPath = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta that `train` saved.")]
Steps = Annotated[int, typer.Option(min=1, help=f"Training steps of {RECIPE.batch_size} examples each.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes to share the runs; by default one for each core.")]
Executor = Annotated[
    str, typer.Option(help="Where the runs are made: processes (here), loky, or dask://HOST:PORT, a Dask cluster.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite also a file that minipeft did not write.")]
Examples = Annotated[
    int | None,
    typer.Option("--examples", min=1, help="Train on so many examples only, instead of new ones at every step."),
]
Method = Annotated[
    str, typer.Option(help=f"A method as Python writes it, LoRA(rank=4), or a name: {', '.join(METHODS)}.")
]


def share(values):
    """Mean over seeds in percent, and under it the range if there is one; a dash if there is nothing to tell."""
    if None in values:
        return Text("–")
    low, mean, high = 100 * min(values), 100 * sum(values) / len(values), 100 * max(values)
    return Text.assemble(f"{mean:.1f}", (f"\n{low:.0f}–{high:.0f}" if round(low) < round(high) else "", "dim"))


@app.command()
def compare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TASK...", help=f"{TASK_HELP} By default reverse+blue.")
    ] = None,
    base_name: Annotated[
        str, typer.Option("--base", help=f"The base, and with it the world: {', '.join(lab.WORLDS)}.")
    ] = "letters-d64",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Training steps of {RECIPE.batch_size} examples each; as usual if not said."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs for each method, each with its own start and data.")] = 1,
    few: Annotated[
        int | None,
        typer.Option("--examples", min=1, help="Train on so many examples only; of pictures, so many of each class."),
    ] = None,
    workers: Workers = None,
    executor: Executor = "processes",
    out: Annotated[Path, typer.Option(help="Folder for the table (CSV) and the picture (PNG).")] = Path("results"),
    force: Force = False,
):
    """Adapt the base to a task with every method and lay the results side by side."""
    from minipeft import plots

    world = lab.world(base_name)
    goals = [world.goal(name) for name in dict.fromkeys(names or [world.first])]
    table, picture = out / "compare.csv", out / "compare.png"
    place(table, "table", force)
    place(picture, "picture", force)
    known, found, recipe = lab.known(world), {}, replace(world.recipe, steps=steps or world.recipe.steps)
    few = few or world.examples
    with lab.executor_from(executor, workers) as elsewhere, lab.Lab(workers=workers, executor=elsewhere) as pool:
        for goal in goals:
            introduce(goal, known, world)
            show = lines_of(goal, world.methods)
            found[goal] = lab.compare(goal, world.methods, seeds, recipe, few, pool, on_row=show, base=world.base)
            console.print("", results(found[goal], goal, recipe.steps, seeds, few, known), "")
    text = lab.as_csv([{"task": str(goal)} | row for goal, rows in found.items() for row in rows])
    rescue(lambda path: write_atomically(path, text.encode()), table, say=lambda: print(text))
    console.print(f"Table: {table}", soft_wrap=True)
    axes = plots.new(7.5, 4.6 * len(goals), rows=len(goals), squeeze=False)[:, 0]
    for ax, (goal, rows) in zip(axes, found.items(), strict=True):
        title = f"{goal} ({goal.kind}), {recipe.steps} steps, {number_of(seeds)}"
        plots.pareto(rows, ax).set_title(title, fontsize=10)
    draw(axes[0].figure, picture)


def number_of(seeds):
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def introduce(goal, known, world):
    """What the task is, and that the base does not do it yet. known: its accuracy on what it was pretrained on."""
    letters = isinstance(goal, Task)
    without = ", given without instruction words" if letters else ""
    console.print(Text.assemble((f"Task {goal}", "bold"), f": {goal.kind}{without}."))
    able = f" and {100 * evaluate(base(), goal).accuracy:.1f} % of these" if letters else ""
    console.print(f"The base {world.base} solves {100 * known:.1f} % of its pretraining examples{able}.")
    console.print("It stays frozen: Full trains a copy, the other methods train beside it.\n")


def lines_of(goal, tuned_methods):
    """Begin a list, one line for each method; returns the function that writes the line of a row of `compare`.

    Of letters it shows some answers as well.
    """
    letters = isinstance(goal, Task)
    model, (words, right) = base(), examples(goal) if letters else ([], [])
    width = max(len(str(c.method)) for c in tuned_methods)

    def line(method, trained, accuracy, retention, answers):
        answers = "  ".join(f"{said:7}" for said in answers).rstrip()
        tqdm.write(f"{method:{width}}  {trained:>8}  {accuracy:>8}  {retention:>9}  {answers}".rstrip())

    line("", "", "accuracy", "retention", ["answers to"] * letters)
    line("", "trained", "%", "%", [word.strip(": =") for word in words])
    if letters:
        line("(right answers)", "", "", "", right)
        line("(the base)", "", "", "", [answer(model, word) for word in words])

    def show(row):
        """Means over seeds; the answers are those of the first seed."""
        answers = ["(training diverged)"] if row["answers"][0] is None else row["answers"][0]
        means = [
            "–" if None in row[key] else f"{100 * sum(row[key]) / len(row[key]):.1f}"
            for key in ("accuracy", "retention")
        ]
        line(row["method"], f"{row['parameters']:,}", *means, answers)

    return show


def results(rows, goal, steps, seeds, few, known):
    """The rows of `compare` as a table.

    few: how many examples were trained on, None for new ones at every step. known: the base's own retention.
    """
    on = f" on {few} examples{'' if isinstance(goal, Task) else ' of each class'}" if few else ""
    table = Table(
        title=f"{goal} after {steps} steps{on}, " + ("" if seeds == 1 else "mean and range over ") + number_of(seeds),
        title_justify="left",
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    training = ("training\naccuracy\n%",) if few else ()
    for heading in ("trained", "% of\nbase", *training, "accuracy\n%", "retention\n%", "delta\nbytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["method"], f"{row['parameters']:,}", "–" if row["percent"] is None else f"{row['percent']:.2f}",
            *([share(row["training_accuracy"])] if few else []), share(row["accuracy"]),
            share(row["retention"]), "–" if row["bytes"] is None else f"{row['bytes']:,}",
        )  # fmt: skip
    changed = [row["method"] for row in rows if not all(row["restored"])]
    table.caption = (
        ("training accuracy: on the examples that were trained on. " if few else "")
        + "accuracy: exact match on unseen examples of the task. retention: accuracy on the pretraining task with "
        + f"the delta attached; the base alone has {100 * known:.1f} %; with a fresh head there is none. "
        + (f"NOT restored by detaching: {', '.join(changed)}." if changed else "Detaching gave the base back, bit for "
           "bit, in every run.")
    )  # fmt: skip
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
    steps: Steps = RECIPE.steps,
    lr: Annotated[float | None, typer.Option(min=0, help="Peak learning rate; by default what `tune` found.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the start and the data.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    force: Force = False,
):
    """Train one method on a task and save its delta. Started by torchrun, several processes share each batch."""
    processes.join()
    first = processes.rank() == 0
    console.quiet = not first
    goal, method = task(name), parse(method)
    lr = lab.learning_rate_of(method) if lr is None else lr
    torch.manual_seed(seed)
    model = method.attach(base())
    if isinstance(method, AdapterFusion):
        method.fill(model, [deltas.read(path, detach(model)) for path in fuse or ()])
    elif fuse:
        raise ValueError(f"--fuse is for AdapterFusion, not for {method}: leave it out")
    if first:
        place(out, "delta", force, inputs=fuse or (), room=delta_bytes(model) + 10_000)
    console.print(f"{method} on {goal} ({goal.kind})\n{summary(model)}")
    given = Few(goal, few, seed) if few else goal
    history = fit(model, given, steps=steps, lr=lr, seed=seed, device=device)
    if not first:
        return
    if history.sent:
        console.print(f"{processes.size()} processes; each step sent {history.sent:,} bytes to the others")
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
def tune(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TASK...", help="By default reverse+blue reverse+violet.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method, as in `train`; once for each. By default those of `compare`."),
    ] = None,
    steps: Steps = RECIPE.steps,
    workers: Workers = None,
    executor: Executor = "processes",
    out: Annotated[
        Path, typer.Option(help="Where each run is stored once it is made. Runs that it holds are not made again.")
    ] = Path("results/runs.jsonl"),
    force: Force = False,
):
    """Choose learning rates, alike for every method, with seeds and examples that `compare` does not report (about a
    minute a method)."""
    goals = [task(name) for name in dict.fromkeys(names or ["reverse+blue", "reverse+violet"])]
    chosen = [lab.tuned_method(parse(text)) for text in methods] if methods else lab.TUNED_METHODS
    place(out, "store", force)
    if out.exists() and not is_store(out):
        out.unlink()  # which --force allows
    recipe = replace(RECIPE, steps=steps)
    jobs = [{"method": c.method, "sources": c.sources, "recipe": recipe} for c in chosen]
    try:
        with lab.executor_from(executor, workers) as elsewhere, lab.Lab(out, workers, elsewhere) as pool:
            found = lab.tune(pool, lab.trial, jobs, over=[{"goal": goal} for goal in goals])
    except KeyboardInterrupt:
        said = f"Stopped. The runs made so far are in {out}; the same command goes on from there."
        complaints.print(said, soft_wrap=True)
        raise
    console.print(tunings([c.method for c in chosen], found, goals, steps))
    console.print(f"The runs are stored in {out}", soft_wrap=True)


def tunings(methods, found, goals, steps):
    """What `tune` found, as a table."""
    title = f"{', '.join(map(str, goals))}: learning rates for {steps} steps"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("method", overflow="fold")
    table.add_column("learning\nrate", justify="right")
    table.add_column("tried: score")
    for heading in ("interior", "runs"):
        table.add_column(heading, justify="right")
    for method, tuning in zip(methods, found, strict=True):
        tried = "   ".join(f"{lr:g}: {score:.2f}" for lr, score in tuning.scores.items())
        interior = "yes" if tuning.interior else "NO"
        table.add_row(str(method), f"{tuning.lr:g}", tried, interior, str(tuning.runs))
    table.caption = (
        "score: mean log of the validation loss over tasks and seeds; lower is better. interior: a lower and a higher "
        "learning rate were tried and are no better. If not, the learning rate is not tuned."
    )
    table.caption_justify = "left"
    return table


def main():
    """The entry point: what the user can mend is told in a line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):  # Δ and ‖ cannot be printed in every country's old encoding
        stream.reconfigure(encoding="utf-8")
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError, ModuleNotFoundError) as error:
        said = printable(" ".join(str(error).split()))
        said += f" (process {processes.rank()})" if processes.size() > 1 else ""
        complaints.print(Text.assemble((type(error).__name__, "red"), f": {said}"), soft_wrap=True)
        raise SystemExit(2) from None
