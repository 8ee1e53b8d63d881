"""Encoder-decoders: at which of three places a prefix learns what, and what is left when it is taken away."""

import copy

import torch

from claims.ledger import claim, told
from minipeft.attach import trainable
from minipeft.bases import base as shipped
from minipeft.methods import LoRA, PrefixTuning
from minipeft.tasks import Mixture, task
from minipeft.training import Recipe, evaluate, fit
from minipeft.worlds.pairs import Pairs

PLACES = ("encoder", "memory", "decoder")
ORDER, LETTERS, BOTH = (Pairs(task(name)) for name in ("reverse+plain", "copy+blue", "reverse+blue"))
PAIRS = {"base": "letters-pairs"}
RATE = 0.3  # of a prefix that learns its task; one that does not is tuned


def prefix(*places, length=4):
    return PrefixTuning(length=length, places=places)


def without(view, *places):
    """A copy of the view in which the prefixes of these places are taken away again."""
    less = copy.deepcopy(view)
    for place in places:
        part = less.get_submodule(place)
        part.begin = part.begin.base
    return less


def taken_away(view, base, goal):
    """The accuracy when the prefix of one place is taken away after training, and when it alone is left."""
    found = {}
    for place in PLACES:
        others = [other for other in PLACES if other != place]
        found[f"without {place}"] = evaluate(without(view, place), goal, 500).accuracy
        found[f"{place} alone"] = evaluate(without(view, *others), goal, 500).accuracy
    return found


def all_places(f):
    """The Entry of a prefix at all three places, trained for order and letters."""
    job = {"method": prefix(*PLACES), "lr": RATE, "look": taken_away}
    return f.race({"all places": job}, goal=BOTH, **PAIRS)["all places"]


def in_parts(apart, seed, steps=300):
    """Prefixes in memory and decoder, trained for order and letters together, in three rounds of steps.

    apart: for two rounds, train the decoder's for the order and the memory's for the letters, each by itself.
    """
    torch.manual_seed(seed)
    base, settings = shipped("letters-pairs"), {"seed": seed, "device": "cpu", "progress": False}
    view = prefix("memory", "decoder").attach(base)
    for place, goal in (("decoder", ORDER), ("memory", LETTERS)) if apart else ():
        part = prefix(place).attach(base)
        fit(part, goal, lr=RATE, steps=steps, **settings)
        for name, p in trainable(part).items():
            view.get_parameter(name).data.copy_(p)
    fit(view, BOTH, lr=0.1, steps=steps if apart else 3 * steps, **settings)
    return {"accuracy": evaluate(view, BOTH).accuracy}


def solved(entry, level=0.9):
    return [accuracy >= level for accuracy in entry.column("accuracy")]


def failed(entry):
    return [not one for one in solved(entry)]


def scores(entries):
    """The accuracy of each entry, in words."""
    return "; ".join(f"{name} {told(entry.column('accuracy'))}" for name, entry in entries.items())


@claim(
    "In an encoder-decoder it is enough to put something in front of the source, and that is better than in front of "
    "the memory or the answer",
    source="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, §2, arXiv:2104.08691",
    quote="which then flows though the encoder-decoder as normal",
    lesson=19,
)
def before_the_source(f):
    """A prefix of four vectors at one place, for another order and other letters at once, given without an
    instruction. The paper's prompt stands in front of T5's source. Each place that fails is tuned; those that succeed
    have the learning rate 0.3. The control is a new duty, to stop after three letters while the instruction names all
    the rest."""
    runs = f.race({"encoder": {"method": prefix("encoder"), "lr": RATE}}, goal=BOTH, **PAIRS)
    runs |= f.race({place: prefix(place) for place in ("memory", "decoder")}, goal=BOTH, **PAIRS)
    every = all_places(f)
    f.always("The prefix in the encoder solves the task (90 %)", solved(runs["encoder"]))
    for place in ("memory", "decoder"):
        text = f"The prefix in the encoder solves it with more seeds than the one in the {place}"
        f.oftener(text, runs["encoder"], runs[place])
    text = "The prefix in the encoder reaches 90 % in as few steps as prefixes at all three places"
    f.not_behind(text, runs["encoder"], every, by="steps", margin=0.3, aside=True)
    entries = {place: prefix(place) for place in PLACES}
    duty = f.race(entries, goal=Pairs(Mixture(), 3), lr=RATE, seeds=6, recipe=Recipe(steps=200), **PAIRS)
    for place, entry in duty.items():
        f.always(f"The new duty: the prefix in the {place} learns it (90 %)", solved(entry), aside=True)
    apart, direct = f.repeat(in_parts, {"apart": True}, {"apart": False}, seeds=f.seeds[:6])
    text = "Memory and decoder together solve the task if they were first trained for the letters and the order alone"
    f.always(text, [run["accuracy"] >= 0.9 for run in apart], aside=True)
    text = "Memory and decoder together do not solve it in as many steps without that"
    f.always(text, [run["accuracy"] < 0.9 for run in direct], aside=True)
    f.note("So the memory and the decoder can do together what training does not find at either of them.")
    f.result = f"The accuracy of a prefix is: {scores(runs | {'all places': every})}."


@claim(
    "A prefix in front of the memory can add something to what is read, but not change where the answer reads; LoRA on "
    "cross-attention can",
    source="Petrov et al. 2024, When Do Prompting and Prefix-Tuning Work?, §4, arXiv:2310.19698",
    quote="context-based fine-tuning cannot change the relative attention pattern over the content and can only "
    "bias the outputs of an attention layer in a fixed direction",
    lesson=19,
)
def before_the_memory(f):
    """A prefix of four vectors in front of the memory, and LoRA of rank 2 on q and v of cross-attention, 1,024 numbers
    both. Other letters need no other attention; another order does. The prefix is tuned for each of the two."""
    letters = f.race({"letters": prefix("memory")}, goal=LETTERS, **PAIRS)["letters"]
    lora = LoRA(rank=2, alpha=4, targets=("cross.q", "cross.v"))
    entries = {"prefix": prefix("memory"), "LoRA": {"method": lora, "lr": 3e-2}}
    entries["16 vectors"] = {"method": prefix("memory", length=16), "lr": RATE}
    order = f.race(entries, goal=ORDER, **PAIRS)
    text = "The prefix is more accurate on other letters than on another order"
    f.ahead(text, letters, order["prefix"], vary=False)
    f.oftener("Another order is learned by LoRA with more seeds than by the prefix", order["LoRA"], order["prefix"])
    f.always("Another order: the prefix stays below 90 %", failed(order["prefix"]), aside=True)
    f.always("Another order: a prefix of 16 vectors stays below 90 %", failed(order["16 vectors"]), aside=True)
    f.note(
        "The theorem holds for one layer. What the prefix adds in the first layer changes the queries of the second, "
        "so with enough vectors the answer may read elsewhere there."
    )
    f.result = (
        f"The accuracy of the prefix is {told(letters.column('accuracy'))} on other letters. On another order the "
        f"accuracy is: {scores(order)}."
    )


@claim(
    "In front of the source a prefix guides what is read, and in front of the answer it steers what is written",
    source="Li and Liang 2021, Prefix-Tuning, §4.1, arXiv:2101.00190",
    lesson=19,
)
def before_the_answer(f):
    """The paper's intuition, put to the test on the answer's side. A prefix of four vectors in the decoder is trained
    for other letters, which means to write otherwise, and for another order, which means to read the source otherwise.
    If it steers what is written, it learns the letters with more seeds than the order. It is tuned for the letters."""
    letters = f.race({"letters": prefix("decoder")}, goal=LETTERS, **PAIRS)["letters"]
    order = f.race({"order": {"method": prefix("decoder"), "lr": RATE}}, goal=ORDER, **PAIRS)["order"]
    f.always("Other letters: the prefix in the decoder learns them (90 %)", solved(letters))
    f.oftener("Other letters are learned with more seeds than another order", letters, order)
    f.always("Another order: the prefix in the decoder learns it (90 %)", solved(order), aside=True)
    f.note("A prefix in the decoder changes the queries with which each place of the answer asks the source.")
    f.result = f"The accuracy is: {scores({'other letters': letters, 'another order': order})}."


@claim(
    "An encoder-decoder needs prefixes in front of the source and in front of the answer",
    source="Li and Liang 2021, Prefix-Tuning, §4.2, arXiv:2101.00190",
    lesson=19,
)
def prefix_taken_away(f):
    """The paper puts prefixes in front of both. Here all three places are trained together, for another order and other
    letters; then the prefix of one place is taken away, or all but one. If both do part of the work, the accuracy falls
    below 90 % without the encoder's and without the decoder's."""
    entry = all_places(f)
    for place in ("encoder", "decoder", "memory"):
        fallen = [a < 0.9 for a in entry.column(f"without {place}")]
        f.always(f"Without that of the {place} the accuracy falls below 90 %", fallen, aside=place == "memory")
    f.always("The encoder's alone has 90 %", [a >= 0.9 for a in entry.column("encoder alone")], aside=True)
    rows = [(place, *(told(entry.column(c)) for c in (f"without {place}", f"{place} alone"))) for place in PLACES]
    f.table("Accuracy after training at all places", ("", "taken away", "left alone"), rows)
    without_it, alone = (told(entry.column(name)) for name in ("without encoder", "encoder alone"))
    f.result = f"The accuracy is {without_it} without the encoder's prefix and {alone} with it alone."
