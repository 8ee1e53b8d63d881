"""Pictures: what pretraining gives, which methods reach far enough, deep prompts, full fine-tuning, and time."""

from dataclasses import replace
from statistics import mean

import torch

from claims.ledger import Asking, claim, told
from minipeft import plots
from minipeft.bases import base
from minipeft.costs import training_time
from minipeft.lab import trial, tune, world
from minipeft.models.vision import ViT
from minipeft.tasks import rows_of
from minipeft.training import RECIPE, evaluate, fit
from minipeft.worlds.pictures import CONFIG, Digits

WORLD = world("characters")
USUAL = {"base": WORLD.base, "recipe": WORLD.recipe}
NAMES = {
    "LinearProbe": "a linear probe", "Full": "full", "LoRA": "LoRA", "Pfeiffer": "an adapter", "BitFit": "BitFit",
    "IA3": "IA³", "PromptTuning": "shallow prompts", "PTuningV2": "deep prompts", "PrefixTuning": "a prefix",
}  # fmt: skip
METHODS = {NAMES[type(c.method).__name__]: c.method for c in WORLD.methods}
RATES = {NAMES[type(c.method).__name__]: c.lr for c in WORLD.methods}
METHODS["24 shallow prompts"] = replace(METHODS["shallow prompts"], length=24)  # as many numbers as 8 in each layer
RATES["24 shallow prompts"] = RATES["shallow prompts"]
PAPER, CLEAN = Digits(paper=True), Digits()
TIMED = ("full", "LoRA", "an adapter", "BitFit", "IA³", "shallow prompts", "deep prompts", "a linear probe")
LEVEL, SAVED = 0.75, 0.7  # the accuracy that the clock waits for; the share of the time that is said to be saved


def tunings(f, *names):
    """{name: Tuning} with 50 examples of each digit on paper; of all methods of the world's comparison, these are the
    learning rates that it should have."""
    jobs = [USUAL | {"method": METHODS[name], "goal": PAPER, "examples": WORLD.examples} for name in names]
    return dict(zip(names, tune(Asking(f), trial, jobs), strict=True))


def at(f, size, *names, seeds=None, **settings):
    """{name: Entry}: methods with so many examples of each digit on paper, at the learning rates that `tunings` finds.

    With another number of examples it is the same learning rate.
    """
    found = tunings(f, *names)
    jobs = {name: {"method": METHODS[name], "examples": size, "lr": found[name].lr} for name in names}
    entries = f.race(jobs, goal=PAPER, seeds=seeds, **USUAL, **settings)
    for name, entry in entries.items():
        entry.tuning = found[name]
    return entries


def beside(f, size, *names, **settings):
    """{name: Entry}: methods that are asides, at the learning rates of the world's comparison, with five seeds."""
    jobs = {name: {"method": METHODS[name], "examples": size, "lr": RATES[name]} for name in names}
    return f.race(jobs, goal=PAPER, seeds=5, **USUAL, **settings)


def from_scratch(goal, examples, lr, seed, recipe=RECIPE):
    """A ViT of the base's shape with random weights, all of it trained: what claims read of a trial."""
    torch.manual_seed(seed)
    model = ViT(replace(CONFIG, classes=10))
    training, choosing, reported = goal.sets(examples, seed)
    try:
        history = fit(model, training, lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
    except FloatingPointError:
        return {"accuracy": 0.0, "loss": None, "validation": None}
    final, validation = evaluate(model, reported), evaluate(model, choosing).loss
    return {"accuracy": final.accuracy, "loss": final.loss, "validation": validation, "area": mean(history.loss)}


def attention_to_ink(view, base, goal):
    """How much ink the patches have that the class token looks at in the last layer, over the mean of the picture.

    The same with the mean map of all digits, which follows none of them; and of the base, on paper and without.
    """
    paper, clean = (replace(goal, split="test", each=50, paper=p).every().tokens for p in (True, False))
    ink = clean.unflatten(2, (4, 7)).unflatten(1, (4, 7)).mean((2, 4))  # (B, 4, 4)
    found = {}
    for name, look in {"view": (view, paper), "base": (base, paper), "base, no paper": (base, clean)}.items():
        weights = plots.class_attention(*look)
        for which, w in {"own": weights, "mean": weights.mean(0, keepdim=True)}.items():
            found[f"{which} map, {name}"] = float(((w * ink).sum((1, 2)) / ink.mean((1, 2))).mean())
    return found


def validated(view, base, goal):
    return {"accuracy": evaluate(view, replace(goal, split="validation", each=None)).accuracy}


def step_times(batch, repeats, seed):
    """The median time of a training step as a multiple of full fine-tuning's, all methods taking turns; and that of a
    head alone, whose features were computed before."""
    torch.manual_seed(seed)
    model, every = base(WORLD.base), PAPER.every()
    some = rows_of(every, torch.randperm(len(every.tokens), generator=torch.Generator().manual_seed(seed))[:batch])
    views = {name: METHODS[name].attach(model) for name in TIMED} | {"full again": METHODS["full"].attach(model)}
    found = {name: median for name, (_, median, _) in training_time(views, some, repeats).items()}
    head = views["a linear probe"].head
    stored = replace(some, tokens=torch.randn(batch, 1, CONFIG.dim))
    found["a head on stored features"] = training_time({"head": head}, stored, repeats)["head"][1]
    return {name: median / found["full"] for name, median in found.items()}


def accuracies(entries):
    return ", ".join(f"{name} {told(entry.column('accuracy'))}" for name, entry in entries.items())


@claim(
    "With few pictures, a linear head on pretrained features beats a ViT that is trained from scratch",
    source="Dosovitskiy et al. 2020, An Image Is Worth 16x16 Words, §4, arXiv:2010.11929",
    lesson=17,
)
def pretraining_decides(f):
    """Ten examples of each handwritten digit, white on black like the printed characters that the base was pretrained
    on. Training from scratch is tuned for these; the probe, LoRA, BitFit and full fine-tuning have the learning rates
    that were tuned on paper, which cannot favour them."""
    runs = f.race({"from scratch": {"goal": CLEAN, "examples": 10, "recipe": WORLD.recipe}}, experiment=from_scratch)
    names = ("a linear probe", "LoRA", "BitFit", "full")
    rates = {name: tuning.lr for name, tuning in tunings(f, *names).items()}
    jobs = {name: {"method": METHODS[name], "lr": lr, "goal": CLEAN, "examples": 10} for name, lr in rates.items()}
    first = {"a linear probe": jobs.pop("a linear probe")}
    runs |= f.race(first, **USUAL) | f.race(jobs, seeds=5, **USUAL)
    probe = runs["a linear probe"]
    f.ahead("the probe is more accurate than a ViT from scratch", probe, runs["from scratch"], margin=0.1, vary=False)
    for name in ("full", "LoRA", "BitFit"):
        f.near(f"{name} and the probe are equally accurate", runs[name], probe, margin=0.03, aside=True)
    f.result = f"With ten examples of each digit the accuracy is: {accuracies(runs)}."


@claim(
    "Where pictures differ from those of pretraining, methods that reach inside beat a linear probe and prompts",
    source="Jia et al. 2022, Visual Prompt Tuning, table 1 (for the probe), arXiv:2203.12119",
    lesson=17,
)
def inside_of_a_vit(f):
    """Handwritten digits on paper, 10, 50 and 200 of each. Learning rates are tuned with 50 and kept. With 200,
    ten seeds decide, and the attention of the class token in the last layer is looked at: how much ink there is where
    it looks, over the mean of the picture. What stands beside that has five seeds; IA³, an adapter and a prefix have
    learning rates that were set."""
    main, few = ("a linear probe", "deep prompts", "LoRA", "full"), ("IA³", "an adapter", "a prefix")
    sizes = {size: at(f, size, *main, seeds=5) for size in (10, 50)}
    many = at(f, 200, *main, "BitFit", look=attention_to_ink) | beside(f, 200, *few, look=attention_to_ink)
    for name in ("LoRA", "BitFit"):
        for rival in ("a linear probe", "deep prompts"):
            f.ahead(f"200 examples: {name} is more accurate than {rival}", many[name], many[rival], vary=False)
    for name in few:
        text = f"200 examples: {name} is more accurate than deep prompts"
        f.ahead(text, many[name], many["deep prompts"], aside=True)
    f.near("200 examples: LoRA is as accurate as full", many["LoRA"], many["full"], margin=0.02, aside=True)
    text = "200 examples: with LoRA the class token looks more at the ink than with deep prompts"
    f.ahead(text, many["LoRA"], many["deep prompts"], by="own map, view", aside=True)
    found = {name: {s: by[name].column("accuracy") for s, by in (sizes | {200: many}).items()} for name in main}
    f.table("Accuracy, by examples of each digit", ("", 10, 50, 200),
            [(name, *(told(by[size]) for size in by)) for name, by in found.items()]
            + [(name, "", "", told(many[name].column("accuracy"))) for name in ("BitFit", *few)])  # fmt: skip
    rows = [(n, *(told(entry.column(f"{which} map, view")) for which in ("own", "mean"))) for n, entry in many.items()]
    bare = many["full"].runs[0]
    kinds = {"the base": "base", "the base, without paper": "base, no paper"}
    rows += [(title, *(f"{bare[f'{w} map, {kind}']:.2f}" for w in ("own", "mean"))) for title, kind in kinds.items()]
    f.table("Ink where the class token looks, over the mean of the picture (200 examples)",
            ("", "its own map", "the mean map of all digits"), rows)  # fmt: skip
    f.picture(
        "accuracy_by_digits",
        "Accuracy on digits on paper against the examples of each digit, 10, 50 and 200, for four methods, with the "
        "range over seeds; the numbers are in the table above",
        lambda: plots.accuracy_by_size({type(METHODS[name]).__name__: found[name] for name in main},
                                       xlabel="examples of each digit", ylabel="accuracy on other digits"),
    )  # fmt: skip
    f.result = f"With 200 examples of each digit the accuracy is: {accuracies(many)}."


@claim(
    "Visual prompts at every layer do better than prompts at the input alone",
    source="Jia et al. 2022, Visual Prompt Tuning, §4.2 and figure 7, arXiv:2203.12119",
    lesson=17,
)
def deep_visual_prompts(f):
    """Handwritten digits on paper, 50 of each: eight prompts at the input against eight in each of three layers. As an
    aside, 24 at the input, which are as many numbers, and 200 examples of each, at the same learning rates."""
    runs = at(f, 50, "deep prompts", "shallow prompts") | beside(f, 50, "24 shallow prompts")
    many = beside(f, 200, "deep prompts", "shallow prompts")
    text = "at equal length, deep prompts are more accurate than shallow ones"
    f.ahead(text, runs["deep prompts"], runs["shallow prompts"], margin=0.01, vary=False)
    text = "at equal size, deep prompts are more accurate than shallow ones"
    f.ahead(text, runs["deep prompts"], runs["24 shallow prompts"], margin=0.01, aside=True)
    text = "200 examples, at equal length: deep prompts are more accurate than shallow ones"
    f.ahead(text, many["deep prompts"], many["shallow prompts"], margin=0.01, aside=True)
    f.result = f"With 50 examples of each digit: {accuracies(runs)}; with 200: {accuracies(many)}."


@claim(
    "Parameter-efficient methods save 70 % of the time of training",
    source="surveys of parameter-efficient fine-tuning",
    lesson=17,
    alone=True,
)
def training_time_saved(f):
    """The median time of a training step, forward, backward and AdamW, on 32 digits on paper, on one thread of a CPU.
    The methods take turns, so each time is a multiple of full fine-tuning's in the same process; "full again" tells
    how well the clock can tell. Then the time to an accuracy of .75 on the validation digits with 50 examples of each:
    the steps to it, looked at every ten, times what a step costs. A method that does not arrive took all its steps."""
    (times,) = f.repeat(step_times, {"batch": 32, "repeats": 60})
    names = ("full", "LoRA", "an adapter", "IA³")
    runs = at(f, 50, *names, seeds=5, watch=validated, every=10)

    def steps(run):
        return next((p["step"] for p in run["path"] if p["accuracy"] >= LEVEL), run["steps"])

    cost = {name: mean(run[name] for run in times) for name in names}
    waited = {name: [cost[name] * steps(run) for run in runs[name].runs] for name in names}
    for name in ("LoRA", "an adapter", "IA³"):
        saved = [run[name] <= 1 - SAVED for run in times]
        f.always(f"a step of {name} takes at least 70 % less time than one of full", saved, of="processes")
    for name in names[1:]:
        saved = [mine <= (1 - SAVED) * its for mine, its in zip(waited[name], waited["full"], strict=True)]
        f.always(f"{name} takes at least 70 % less time than full to an accuracy of {LEVEL}", saved, aside=True)
    stored = [run["a head on stored features"] <= 1 - SAVED for run in times]
    f.always("a step of a head on stored features takes at least 70 % less time", stored, aside=True, of="processes")
    f.table("Time of a step, as a multiple of full's", ("", "time"),
            [(name, told([run[name] for run in times])) for name in times[0]])  # fmt: skip
    rows = [(n, told([steps(run) for run in runs[n].runs], 0), told(waited[n], 0)) for n in names]
    f.table(f"To an accuracy of {LEVEL}", ("", "steps", "time, in steps of full"), rows)
    others = (*TIMED[1:], "a head on stored features")
    each = ", ".join(f"{name} {mean(run[name] for run in times):.2f}" for name in others)
    f.result = f"A step takes, times that of full: {each}."
