"""Networks that are no Transformers: LoRA on convolutions and on an LSTM, a planted rank, and where a table lies."""

import math
from dataclasses import dataclass

import torch

from claims.ledger import Measure, claim, told
from minipeft.bases import base
from minipeft.deltas import updates
from minipeft.lab.worlds import KERNELS, MATRICES
from minipeft.methods import BitFit, Full, LinearProbe, LoRA
from minipeft.models.torch_nets import ConvNet
from minipeft.training import RECIPE, VALIDATION, Recipe
from minipeft.worlds.memory import Sums, distance, imitate, planted
from minipeft.worlds.pictures import Digits

INPUT, STATE = MATRICES
NEW = Sums("violet")
HEAD = {"classes": 10, "head_lr": 1e-2}
ERROR = Measure("log10 of the error", lambda run: math.log10(max(run["error"], 1e-6)), -1, 0.3, "decades")
COLUMNS = "", "learning rate", "parameters", "accuracy"


def rows_of(runs):
    """A line of a table for each Entry."""
    said = {name: told(entry.column("accuracy"), 3) for name, entry in runs.items()}
    return [(name, f"{e.lr:g}", f"{e.runs[0]['parameters']:,}", said[name]) for name, e in runs.items()]


def lora(rank, targets, **settings):
    return LoRA(rank=rank, alpha=2 * rank, targets=targets, **settings)


@dataclass(frozen=True)
class Untrained:
    """Digits for the network as it was before its pretraining, the same for all seeds."""

    digits: Digits

    def __str__(self):
        return f"{self.digits}, from scratch"

    def start(self, model):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ConvNet(model.config).requires_grad_(False).eval()

    def sets(self, examples, seed):
        return self.digits.sets(examples, seed)

    def known(self):
        return self.digits.known()


@claim(
    "LoRA carries over to convolutions and to recurrent networks",
    source="Hu et al. 2022, LoRA, §4.2, arXiv:2106.09685; for convolutions: Yeh et al. 2023, LyCORIS, arXiv:2309.14859",
    quote="In principle, we can apply LoRA to any subset of weight matrices in a neural network",
    lesson=20,
)
def any_network(f):
    """A new symbol table for an LSTM, and 50 digits a class on paper for a ConvNet. LoRA stands beside full fine-tuning
    and a method that trains less: if that one were as good, the task could not tell. Full and LoRA are tuned; the fresh
    head, the biases and, as an aside, training from scratch have learning rates that were set."""
    biases = {"method": BitFit(), "lr": 1e-1}
    lstm = {"LSTM, full": Full(), "LSTM, LoRA": lora(4, MATRICES), "LSTM, biases": biases}
    runs = f.race(lstm, goal=NEW, base="letters-lstm")
    pictures = {
        "ConvNet, full": Full(**HEAD), "ConvNet, LoRA": lora(8, KERNELS, **HEAD),
        "ConvNet, head alone": {"method": LinearProbe(**HEAD), "lr": HEAD["head_lr"]},
    }  # fmt: skip
    digits, settings = Digits(paper=True), {"recipe": Recipe(steps=300), "base": "characters-conv", "examples": 50}
    runs |= f.race(pictures, goal=digits, **settings)
    scratch = {"method": Full(**HEAD), "goal": Untrained(digits), "lr": 3e-3}
    runs |= f.race({"ConvNet, from scratch": scratch}, seeds=5, **settings)
    accuracy = {name: entry.column("accuracy") for name, entry in runs.items()}
    pairs = list(zip(accuracy["LSTM, LoRA"], accuracy["LSTM, full"], strict=True))
    f.always("LSTM: LoRA is less than .05 behind full fine-tuning", [a > b - 0.05 for a, b in pairs])
    f.ahead("LSTM: LoRA is ahead of the biases", runs["LSTM, LoRA"], runs["LSTM, biases"], vary=False)
    kernels, full, head = (runs[f"ConvNet, {name}"] for name in ("LoRA", "full", "head alone"))
    f.not_behind("ConvNet: LoRA is less than .02 behind full fine-tuning", kernels, full, margin=0.02, vary=False)
    f.ahead("ConvNet: LoRA is ahead of a head alone", kernels, head, margin=0.02, vary=False)
    f.ahead("ConvNet: LoRA is ahead of training from scratch", kernels, runs["ConvNet, from scratch"], margin=0.02,
            aside=True, vary=False)  # fmt: skip
    f.table("Accuracy", COLUMNS, rows_of(runs))
    f.result = (
        f"On the LSTM, LoRA reaches {told(accuracy['LSTM, LoRA'])} and full fine-tuning "
        f"{told(accuracy['LSTM, full'])}; on the ConvNet, {told(accuracy['ConvNet, LoRA'], 3)} and "
        f"{told(accuracy['ConvNet, full'], 3)}."
    )


def imitation(method, lr, seed, recipe=RECIPE):
    """Train a student to give the logits of a teacher whose W_hh was changed by a random matrix of rank 4.

    error: on unseen examples, as a share of the bare base's; at most 100. validation: the same on other examples.
    knee: of the change of W_hh that was learned, the fifth singular value over the fourth.
    """
    model = base("letters-lstm")
    teacher = planted(model, 4, seed)
    torch.manual_seed(seed)
    student = method.attach(model)
    error = imitate(student, teacher, lr, seed, recipe.steps, recipe.batch_size)
    if not error < 100:  # nor is what is not a number
        return {"error": 100.0, "validation": None, "knee": None}
    left, whole = (distance(m, teacher, seed=VALIDATION) for m in (student, model))
    S = torch.linalg.svdvals(updates(student)[STATE][1])
    return {"error": error, "validation": left / whole, "knee": float(S[4] / S[3])}


@claim(
    "LoRA finds a change of low rank from its own rank on, and not below",
    source="The premise of Hu et al. 2022, LoRA, §1 and §7.2, arXiv:2106.09685, in a case where the rank is known",
    quote="the change in weights during model adaptation also has a low “intrinsic rank”",
    lesson=20,
)
def planted_in_lstm(f):
    """One matrix of an LSTM is changed by a random matrix of rank 4, another one with each seed, and the student learns
    the logits. Ranks 3 and 4 are tuned; the others have learning rates that were set."""
    entries = {f"rank {rank}": lora(rank, (STATE,)) for rank in (3, 4)}
    entries |= {f"rank {rank}": {"method": lora(rank, (STATE,)), "lr": 3e-2} for rank in (2, 8)}
    entries["full"] = {"method": Full(targets=(STATE,)), "lr": 1e-2}
    runs = f.race(entries, experiment=imitation)
    two, three, four, eight = (runs[f"rank {rank}"].column("error") for rank in (2, 3, 4, 8))

    def falls(x, y):
        return [b < 0.1 * a for a, b in zip(x, y, strict=True)]

    f.always("From rank 3 to rank 4, the error falls to less than a tenth", falls(three, four))
    f.always("From rank 2 to rank 3, it does not", [not yes for yes in falls(two, three)])
    f.always("From rank 4 to rank 8, it does not", [not yes for yes in falls(four, eight)])
    f.ahead("Rank 4 leaves less error than all of the matrix", runs["rank 4"], runs["full"], ERROR, aside=True,
            vary=False)  # fmt: skip
    f.always("In full, the fifth singular value is less than half of the fourth",
             [run["knee"] is not None and run["knee"] < 0.5 for run in runs["full"].runs], aside=True)  # fmt: skip
    rows = [(name, f"{entry.lr:g}", told(entry.column("error"), 5)) for name, entry in runs.items()]
    f.table("Error of the logits, as a share of the bare base's", ("", "learning rate", "error"), rows)
    f.result = f"The error that is left is {told(three, 3)} at rank 3 and {told(four, 5)} at rank 4."


@claim(
    "To learn a new table at low rank, an LSTM has to change both matrices, and that of the input more",
    source="Our own guess: the table acts on the letter, through W_ih, and on the one before, through W_hh",
    lesson=20,
)
def lstm_places(f):
    """About as many numbers in both matrices of an LSTM (3,584), in that of the input (3,328) or in that of the state
    (3,840). As asides, each matrix in full, with a learning rate that was set; and a known table at rank 1."""
    places = {"both": lora(4, MATRICES), "input": lora(8, (INPUT,)), "state": lora(8, (STATE,))}
    full = {f"{n}, full": {"method": Full(targets=(p,)), "lr": 3e-2} for n, p in (("input", INPUT), ("state", STATE))}
    runs = f.race(places, goal=NEW, base="letters-lstm") | f.race(full, goal=NEW, base="letters-lstm", seeds=5)
    f.ahead("Both matrices are ahead of the input's alone", runs["both"], runs["input"], by="loss", vary=False)
    f.ahead("Both matrices are ahead of the state's alone", runs["both"], runs["state"], vary=False)
    f.ahead("The input's matrix is ahead of the state's", runs["input"], runs["state"], vary=False)
    free = [runs[f"{name}, full"].column("accuracy") for name in ("input", "state")]
    f.always(
        "In full, either matrix alone reaches .9", [min(pair) > 0.9 for pair in zip(*free, strict=True)], aside=True
    )
    known = {name: {"method": lora(1, (place,)), "lr": 3e-2} for name, place in (("input", INPUT), ("state", STATE))}
    easy = f.race(known, goal=Sums("blue"), base="letters-lstm", seeds=5)
    both = zip(*(entry.column("accuracy") for entry in easy.values()), strict=True)
    f.always("A known table is selected with rank 1 in either", [min(pair) > 0.9 for pair in both], aside=True)
    f.table("Accuracy on the new table", COLUMNS, rows_of(runs))
    f.result = "; ".join(f"{name}: {told(entry.column('accuracy'))}" for name, entry in runs.items()) + "."
