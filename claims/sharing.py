"""Updates that tasks share: what the one with few examples gains, what a warm start does, what is private at best."""

from dataclasses import replace
from functools import cache
from statistics import mean

from claims.ledger import claim, told
from minipeft.attach import trainable
from minipeft.bases import base
from minipeft.deltas import delta_of, load
from minipeft.lab import adapt
from minipeft.lab.trial import SOURCE_LR
from minipeft.tasks import UNSEEN, Few, task
from minipeft.training import RECIPE as USUAL
from minipeft.training import VALIDATION, evaluate, fit
from minipeft.worlds.languages import HELPERS_WITHOUT, NEW_OPERATION, NEW_TABLE, PRIVATE, RECIPE, SHARED, Worded, learn

LONGER = replace(RECIPE, steps=300)  # for the new table, which takes longer to learn than the new operation
DIVERGED = {"accuracy": 0.0, "loss": None, "validation": None}


def scored(view, goal):
    """Accuracy and loss on unseen examples, and the loss on others, which chooses learning rates."""
    final, validation = evaluate(view, goal), evaluate(view, goal, seed=VALIDATION)
    return {"accuracy": final.accuracy, "loss": final.loss, "validation": validation.loss}


def sharing(names, private, examples, lr, seed, recipe=RECIPE):
    """The first task has so many examples, the four others new ones at every step; one update is shared by all.

    others: mean accuracy on the four. by word: accuracy on the first task with the shared update alone, the private
    part taken off, and the base's own word for the known half of the task, `blue`, in front of each example.
    """
    goal = task(names[0])
    try:
        shared, several = learn(base(), names, private, examples, lr, seed, recipe)
    except FloatingPointError:
        return DIVERGED | {"others": 0.0, "by word": 0.0}
    (word,) = set(names[0].split("+")) - set(UNSEEN)
    others = mean(evaluate(several.views[name], task(name), 200).accuracy for name in names[1:])
    by_word = evaluate(shared, Worded(goal, word)).accuracy
    return scored(several.views[names[0]], goal) | {"others": others, "by word": by_word}


@cache
def sibling(name, recipe, seed):
    """The LoRA of another task, from new examples at every step."""
    return delta_of(adapt(SHARED, task(name), SOURCE_LR, seed, recipe)[0])


def from_sibling(names, examples, lr, seed, recipe=RECIPE):
    """Go on with the LoRA of the second task, on so many examples of the first."""
    view, goal = load(sibling(names[1], recipe, seed), base()), task(names[0])
    try:
        fit(view, Few(goal, examples, seed), lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
    except FloatingPointError:
        return DIVERGED
    return scored(view, goal)


def alone(f, names, examples, recipe=RECIPE, **settings):
    """The Entry of a LoRA of its own, for the first task."""
    name = f"{names[0]}, {examples} examples, {recipe.steps} steps: alone"
    return f.race({name: SHARED}, goal=task(names[0]), examples=examples, recipe=recipe, **settings)[name]


def warm(f, names, examples, recipe=RECIPE, **settings):
    """The Entry of the sibling's LoRA, trained on."""
    name = f"{names[0]}, {examples} examples: from {names[1]}"
    jobs = {name: {"names": names, "examples": examples, "recipe": recipe}}
    return f.race(jobs, experiment=from_sibling, **settings)[name]


def together(f, names, private, recipe=RECIPE, **settings):
    """The Entry of eight examples beside four helpers, with this private part."""
    name = f"{names[0]}, 8 examples, with {names[1]} and others: private {private}"
    jobs = {name: {"names": names, "private": PRIVATE[private], "examples": 8, "recipe": recipe}}
    return f.race(jobs, experiment=sharing, **settings)[name]


def accuracy(entry, by="accuracy"):
    return told(entry.column(by))


def by_word(entry):
    """The runs of an entry, with the base's word in place of the private part."""
    return [run | {"accuracy": run["by word"]} for run in entry.runs]


@claim(
    "An update that several languages share helps the one that has few examples",
    source="Pfeiffer et al. 2020, MAD-X, arXiv:2005.00052",
    quote="enables high portability and parameter-efficient transfer to arbitrary tasks and languages by learning "
    "modular language and task representations",
    lesson=21,
)
def shared_update(f):
    """One new operation under five symbol tables, the languages. Blue has eight examples, the four others have new ones
    at every step. A LoRA of rank 4 is shared by all, and each language has a private part: a LoRA of rank 1, or a
    prompt of four vectors. Alone, blue has a LoRA of rank 4 of its own. Control: four helpers without the new
    operation, at the learning rate of the other helpers with prompts. (In the paper, the language's adapter is trained
    first, on unlabelled text, and is frozen when the task's adapter is trained.)"""
    own = alone(f, NEW_OPERATION, 8)
    lora, prompt = (together(f, NEW_OPERATION, private) for private in PRIVATE)
    without = together(f, HELPERS_WITHOUT, "prompt", lr=prompt.lr)
    f.ahead("sharing, with a private LoRA, is more accurate than a LoRA of its own", lora, own, vary=False)
    f.ahead("sharing, with a private prompt, is more accurate than a LoRA of its own", prompt, own, vary=False)
    f.ahead("helpers with the new operation help more than helpers without it", prompt, without, vary=False)
    longer = alone(f, NEW_OPERATION, 8, USUAL, lr=own.lr, seeds=5)
    f.ahead("a LoRA of its own does better with 500 steps of 32 than with 200 of 40", longer, own, aside=True)
    text = "without the private prompt, but told the base's word for the table, the shared update is ahead as well"
    f.ahead(text, by_word(prompt), own, aside=True)
    entries = {
        "a LoRA of its own": own, "shared, private LoRA": lora, "shared, private prompt": prompt,
        "shared, private prompt, helpers without it": without,
    }  # fmt: skip
    rows = [(name, accuracy(e), accuracy(e, "others") if "others" in e.runs[0] else "") for name, e in entries.items()]
    f.table("Accuracy on unseen examples", ("", NEW_OPERATION[0], "the four others"), rows)
    f.result = f"The accuracy on blue is: {'; '.join(f'{name} {accuracy(e)}' for name, e in entries.items())}."


@claim(
    "A warm start from a related task helps the one that has few examples",
    source="Vu et al. 2022, SPoT, arXiv:2110.07904",
    lesson=21,
)
def warm_start(f):
    """The LoRA of one sibling, which has new examples at every step, is trained on with eight examples of blue: both
    need the new operation. Aside: the same for a new table under another operation, with 64 examples and five seeds;
    there the sibling's LoRA is the worse start. In the paper it is prompts that start so."""
    start, own = warm(f, NEW_OPERATION, 8), alone(f, NEW_OPERATION, 8)
    f.ahead("new operation: a warm start is more accurate than a start from zero", start, own, vary=False)
    shared = together(f, NEW_OPERATION, "prompt")
    f.ahead("new operation: sharing with a private prompt is ahead of the warm start", shared, start, aside=True)
    many = {"examples": 64, "recipe": LONGER, "seeds": 5}
    table_start, table_own = warm(f, NEW_TABLE, **many), alone(f, NEW_TABLE, **many)
    f.ahead("new table: a start from zero is more accurate than the warm start", table_own, table_start, aside=True)
    rows = [(NEW_OPERATION[0], 8, accuracy(own), accuracy(start)),
            (NEW_TABLE[0], 64, accuracy(table_own), accuracy(table_start))]  # fmt: skip
    f.table("Accuracy on unseen examples", ("", "examples", "from zero", "from the sibling's LoRA"), rows)
    f.result = (
        f"From zero and from the sibling's LoRA, the accuracy is {accuracy(own)} and {accuracy(start)} for a new "
        f"operation with eight examples, {accuracy(table_own)} and {accuracy(table_start)} for a new table with 64."
    )


@claim(
    "A prompt is at least as good a private part as weights",
    source="Vykopal et al. 2025, Soft Language Prompts for Language Transfer, arXiv:2407.02317",
    quote="combining a soft language prompt with a task adapter outperforms most configurations in many cases",
    lesson=21,
)
def private_prompt(f):
    """A LoRA of rank 4 is shared by five languages, one of which has eight examples. Private is a LoRA of rank 1 on q
    and v, or a prompt of four vectors. First a new operation is shared, under five known tables; then a new table,
    under five known operations. Told by a word: the private part is taken off, and the base's own word for the table
    or operation stands in front of the examples instead."""
    old = {private: together(f, NEW_OPERATION, private) for private in PRIVATE}
    new = {private: together(f, NEW_TABLE, private, LONGER) for private in PRIVATE}
    f.not_behind("new operation: the prompt is not behind the LoRA", old["prompt"], old["LoRA"], vary=False)
    f.ahead("new table: the prompt is more accurate than the LoRA", new["prompt"], new["LoRA"], vary=False)
    text = "new table, told by a word: what is shared beside prompts is ahead of what is shared beside LoRAs"
    f.ahead(text, by_word(new["prompt"]), by_word(new["LoRA"]), aside=True)
    sizes = {p: sum(t.numel() for t in trainable(m.attach(base())).values()) for p, m in PRIVATE.items()}
    told_sizes = f"{sizes['prompt']} numbers for each language, against {sizes['LoRA']}"
    f.exact("the prompt stores fewer numbers", sizes["prompt"] < sizes["LoRA"], told_sizes, aside=True)
    rows = [(title, p, accuracy(e), accuracy(e, "by word"), accuracy(e, "others"))
            for title, runs in (("operation", old), ("table", new)) for p, e in runs.items()]  # fmt: skip
    columns = "new", "private", "eight examples", "the same, told by a word", "the four others"
    f.table("Accuracy on unseen examples", columns, rows)
    f.result = (
        f"With a private LoRA and with a private prompt, the accuracy is {accuracy(old['LoRA'])} and "
        f"{accuracy(old['prompt'])} for a new operation, {accuracy(new['LoRA'])} and {accuracy(new['prompt'])} for a "
        "new table."
    )
