"""Pictures and captions: combinations never seen, which tower to adapt, prompts against LoRA, and what is kept."""

from dataclasses import dataclass, replace

import torch

from claims.ledger import claim, told
from minipeft import arithmetic, deltas, plots
from minipeft.bases import base as shipped
from minipeft.methods import LoRA, PromptTuning
from minipeft.training import Recipe, evaluate
from minipeft.worlds.scenes import Naming, encode

DUSK, NORTH, SOUTH = Naming("dusk"), Naming(dialect="north"), Naming(dialect="south")
IMAGE, TEXT = LoRA(rank=4, places=("image",)), LoRA(rank=4, places=("text",))
COOP = PromptTuning(length=4, places=("text",))
SHARES = (0.25, 0.5, 0.75)  # of an update
SHARED = {"base": "scenes", "recipe": Recipe(steps=300)}


@dataclass(frozen=True)
class InWords(Naming):
    """Captions that begin with a word for their dialect, if pretraining has one: what a person would write."""

    def every(self):
        batch = super().every()
        captions = batch.more["captions"]
        if self.dialect != "north":
            return batch
        word = encode("north").expand(len(captions), 1)
        return replace(batch, more={"captions": torch.cat([word, captions], dim=1)})


def beyond(view, base, goal):
    """Accuracy on the combinations that nobody was trained on, and that of the base with captions written by hand."""
    by_hand = InWords(goal.style, split="test", dialect=goal.dialect)
    return {
        "accuracy held out": evaluate(view, replace(goal, split="held-out")).accuracy,
        "accuracy by hand": evaluate(base, by_hand).accuracy,
    }


def frontier(view, base, goal):
    """The same, and the accuracy on new and on old pictures if the update of the weights is scaled down."""
    found, delta = beyond(view, base, goal), deltas.delta_of(view)
    found["retention without"] = evaluate(base, goal.known()).accuracy
    for share in SHARES:
        part = deltas.load(arithmetic.add(base, [delta], [share]), base)
        found[f"accuracy at {share:g}"] = evaluate(part, replace(goal, split="test")).accuracy
        found[f"retention at {share:g}"] = evaluate(part, goal.known()).accuracy
    return found


def zero_shot(seed):
    """The base's accuracy on plain pictures drawn with the seed, among the captions of all 36 combinations."""
    model, splits = shipped("scenes"), {"accuracy": "test", "accuracy held out": "held-out"}
    return {name: evaluate(model, Naming(seed=1000 + seed, split=split)).accuracy for name, split in splits.items()}


def learned(f, goal, examples=16, lr=None, seeds=None, **methods):
    """{name: Entry}: methods on pictures of a style and captions of a dialect, so many pictures of each class."""
    looks = {name: frontier if (method, goal) == (IMAGE, DUSK) else beyond for name, method in methods.items()}
    entries = {name: {"method": method, "look": looks[name]} for name, method in methods.items()}
    return f.race(entries, goal=goal, examples=examples, lr=lr, seeds=seeds, **SHARED)


def both(entry):
    """Accuracy on seen and on held-out combinations, as two cells of a table."""
    return told(entry.column("accuracy")), told(entry.column("accuracy held out"))


@claim(
    "A dual encoder classifies what it was never trained on, if words describe it",
    source="Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, "
    "arXiv:2103.00020",
    quote="natural language is used to reference learned visual concepts (or describe new ones) enabling zero-shot "
    "transfer",
    lesson=18,
)
def new_combinations(f):
    """Six of 36 combinations of shape and colour are in no picture and no caption of pretraining. The base classifies
    pictures of these and of the others among all 36 captions. There is one base; each seed draws other pictures."""
    (runs,) = f.repeat(zero_shot, {})
    found = [run["accuracy held out"] for run in runs]
    f.always("at least 90 % of pictures of held-out combinations are recognised", [a >= 0.9 for a in found])
    f.near(
        "held-out combinations are recognised as well as seen ones", runs, runs, ("accuracy held out", "accuracy"), 0.05
    )
    seen = [run["accuracy"] for run in runs]
    f.note("Guessing gives .03; knowing the colour alone, or the shape alone, gives .17.")
    f.result = f"The accuracy is {told(found)} on held-out combinations and {told(seen)} on seen ones."


@claim(
    "Which part of a model should be adapted depends on the shift: the one whose input has changed",
    source="Lee et al. 2023, Surgical Fine-Tuning Improves Adaptation to Distribution Shifts, arXiv:2210.11466",
    quote="the type of distribution shift influences which subset is more effective to tune",
    lesson=18,
)
def which_tower(f):
    """LoRA of rank 4 on q and v of one tower, 2,048 numbers, with 16 pictures of each class. The pictures change, to
    little light, or the words: a dialect that the base has never read."""
    pictures = learned(f, DUSK, image=IMAGE, text=TEXT)
    words = learned(f, SOUTH, image=IMAGE, text=TEXT)
    text = "dark pictures: LoRA on the image tower is more accurate than on the text tower"
    f.ahead(text, pictures["image"], pictures["text"], vary=False)
    text = "new words: LoRA on the text tower is more accurate than on the image tower"
    f.ahead(text, words["text"], words["image"], vary=False)
    text = "new words, held-out combinations: LoRA on the text tower is more accurate"
    f.ahead(text, words["text"], words["image"], by="accuracy held out", aside=True, vary=False, margin=0.05)
    shifts = {"dark pictures": pictures, "new words": words}
    rows = [(f"{what}, {tower} tower", *both(runs[tower])) for what, runs in shifts.items() for tower in runs]
    f.table("Accuracy by shift and tower", ("", "seen combinations", "held-out combinations"), rows)
    each = "; ".join(f"{name} {seen}" for name, seen, _ in rows)
    f.result = f"The accuracy of LoRA is: {each}."


@claim(
    "LoRA adapts a dual encoder better than a learned prompt does",
    source="Zanella and Ben Ayed 2024, Low-Rank Few-Shot Adaptation of Vision-Language Models, arXiv:2405.18541",
    quote="our simple CLIP-LoRA method exhibits substantial improvements",
    lesson=18,
)
def lora_or_coop(f):
    """CoOp, a prompt of 4 vectors before the captions (256 numbers), against LoRA on the tower whose input changed.
    They have 16 pictures of each class: dark ones, or with words of a dialect that the base has never read. In a
    dialect that it has read they have one picture of each class, five seeds, and the other dialect's learning rates."""
    pictures = learned(f, DUSK, LoRA=IMAGE, CoOp=COOP)
    words = learned(f, SOUTH, LoRA=TEXT, CoOp=COOP)
    f.ahead("dark pictures: LoRA is more accurate than CoOp", pictures["LoRA"], pictures["CoOp"], vary=False)
    f.ahead("new words: LoRA is more accurate than CoOp", words["LoRA"], words["CoOp"], vary=False)
    known = {}
    for name, method in {"LoRA": TEXT, "CoOp": COOP}.items():
        known |= learned(f, NORTH, 1, words[name].lr, 5, **{name: method})
    f.not_behind(
        "known words, one picture: CoOp is not behind LoRA", known["CoOp"], known["LoRA"], aside=True, vary=False
    )
    text = "known words, one picture: CoOp is as good as a word for the dialect, written by hand"
    f.near(text, known["CoOp"], known["CoOp"], ("accuracy", "accuracy by hand"), aside=True, vary=False)
    shifts = {"dark pictures": pictures, "new words": words, "known words, one picture": known}
    rows = [(f"{what}, {name}", *both(runs[name])) for what, runs in shifts.items() for name in runs]
    f.table("Accuracy by shift and method", ("", "seen combinations", "held-out combinations"), rows)
    each = "; ".join(f"{name} {seen}" for name, seen, _ in rows)
    f.result = f"The accuracy is: {each}."


@claim(
    "A part of the update keeps most of what is gained and loses less of what was known",
    source="Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, arXiv:2109.01903",
    quote="WiSE-FT provides large accuracy improvements under distribution shift, while preserving high accuracy on "
    "the target distribution",
    lesson=18,
)
def part_of_the_update(f):
    """LoRA on the image tower is trained on dark pictures, 16 of each class. Its ΔW is then added in parts: ×¼, ×½, ×¾.
    What was known are the plain pictures of pretraining. The paper interpolates full fine-tuning."""
    entry = learned(f, DUSK, image=IMAGE)["image"]
    f.ahead("×¾ keeps more of the old style", entry, entry, ("retention at 0.75", "retention"), 0.05, vary=False)
    text = "×¾ is as accurate on dark pictures, within .05"
    f.near(text, entry, entry, ("accuracy at 0.75", "accuracy"), 0.05, vary=False)
    lost = [run["retention without"] - run["retention"] for run in entry.runs]
    f.always("attached, the whole update costs more than .05 on the old style", [d > 0.05 for d in lost], aside=True)
    f.exact("detached, the base is the same bit for bit", all(entry.column("restored")), "every run", aside=True)
    names = {f"{share:g}": (f"accuracy at {share:g}", f"retention at {share:g}") for share in SHARES}
    names |= {"1": ("accuracy", "retention")}
    found = {part: [entry.column(name) for name in pair] for part, pair in names.items()}
    rows = [(f"×{part}", told(new), told(old)) for part, (new, old) in found.items()]
    f.table("Accuracy with a part of the update", ("", "dark pictures", "plain pictures"), rows)
    f.picture(
        "update_in_parts",
        "Accuracy on dark and on plain pictures against the share of LoRA's update; the numbers are in the table above",
        lambda: plots.frontier({float(part): pair for part, pair in found.items()}),
    )
    (_, new, old), (_, all_new, all_old) = rows[-2:]
    f.result = f"×¾: {new} on dark and {old} on plain pictures; the whole update: {all_new} and {all_old}."
