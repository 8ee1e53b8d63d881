"""The worlds that methods are compared in: of each its base, its tasks by name, and methods with learning rates.

The letters are the first world, and `comparison` has its methods. The learning rates of the pictures were chosen by
`tune` for their first task, with as many examples as `compare` takes by default. Of the pairs, those of Full, LoRA on
the encoder and the prompt were; the others are from a few runs, in which all but the prefixes in memory and decoder
learned the task.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from minipeft.lab.comparison import TUNED_METHODS, TunedMethod
from minipeft.lab.trial import started
from minipeft.methods import IA3, BitFit, Full, LinearProbe, LoRA, Pfeiffer, PrefixTuning, PromptTuning, PTuningV2
from minipeft.tasks import Mixture, task
from minipeft.training import RECIPE, Recipe, evaluate
from minipeft.worlds.memory import Sums
from minipeft.worlds.pairs import Pairs
from minipeft.worlds.pictures import Digits
from minipeft.worlds.scenes import Naming


@dataclass(frozen=True)
class World:
    """base: the name of a shipped base. goal: a function from a name to a task; first: the name of the usual one.

    methods: with learning rates. recipe: how they are trained. examples: so many of each class, None for new ones.
    """

    base: str
    goal: Callable
    first: str
    methods: tuple[TunedMethod, ...]
    recipe: Recipe = RECIPE
    examples: int | None = None


def one_of(goals):
    """A function from a name to a task. It raises ValueError, with what there is, for another name."""

    def goal(name):
        if name not in goals:
            raise ValueError(f"there is no task {name!r} in this world; there are: {', '.join(goals)}")
        return goals[name]

    return goal


def with_head(classes, head_lr, *pairs):
    """The methods (method, learning rate), each with a fresh head. Of a probe, which is a head, the rate is its own."""

    def fresh(method):
        return replace(method, classes=classes, head_lr=None if isinstance(method, LinearProbe) else head_lr)

    return tuple(TunedMethod(fresh(method), lr) for method, lr in pairs)


PICTURES = with_head(
    10, 1e-2, (LinearProbe(), 3e-2), (Full(), 1e-3), (LoRA(rank=4, targets="all-linear"), 1e-2),
    (Pfeiffer(size=8), 1e-2), (BitFit(), 3e-2), (IA3(), 1e-1), (PromptTuning(length=8), 1e-1),
    (PTuningV2(length=8), 1e-1), (PrefixTuning(length=8), 1e-1),
)  # fmt: skip
PLACES = ("encoder", "memory", "decoder")  # where something can stand in front
CROSS = ("cross.q", "cross.v")
PAIRS = tuple(TunedMethod(*pair) for pair in (
    (Full(), 1e-2), (LoRA(rank=4, places=("encoder",)), 3e-2), (LoRA(rank=4, targets=CROSS), 3e-2),
    (Pfeiffer(size=16), 1e-2), (BitFit(), 1e-2), (IA3(), 1e-1), (PromptTuning(length=4, places=("encoder",)), 10.0),
    *((PrefixTuning(length=4, places=(place,)), 3e-1) for place in PLACES),
    (PrefixTuning(length=4, places=PLACES), 1.0),
))  # fmt: skip
KERNELS, MATRICES = ("conv1", "conv2", "conv3"), ("rnn.weight_ih_l0", "rnn.weight_hh_l0")
CONVOLUTIONS = with_head(  # not by `tune`: LoRA of rank 8, the best of three with one seed, and BitFit
    10, 1e-2, (LinearProbe(), 1e-2), (Full(), 3e-3), (LoRA(rank=1, alpha=2, targets=KERNELS), 3e-2),
    (LoRA(rank=8, alpha=16, targets=KERNELS), 3e-2), (BitFit(), 3e-2),
)  # fmt: skip
RECURRENT = (
    TunedMethod(Full(), 1e-1), TunedMethod(LoRA(rank=1, alpha=2, targets=MATRICES), 1e-1),
    TunedMethod(LoRA(rank=2, alpha=4, targets=MATRICES), 1e-1), TunedMethod(LoRA(rank=4, targets=MATRICES), 3e-2),
    TunedMethod(LoRA(rank=8, alpha=16, targets=MATRICES), 3e-2),
    TunedMethod(LoRA(rank=8, alpha=16, targets=MATRICES[:1]), 1e-1),
    TunedMethod(LoRA(rank=8, alpha=16, targets=MATRICES[1:]), 3e-2), TunedMethod(BitFit(), 1.0),
)  # fmt: skip
SCENES = tuple(
    TunedMethod(method, lr)
    for method, lr in (
        (Full(), 1e-3), (LoRA(rank=4), 1e-2), (LoRA(rank=4, places=("image",)), 1e-2),
        (LoRA(rank=4, places=("text",)), 1e-2), (LoRA(rank=4, targets="all-linear", places=("image",)), 1e-2),
        (PromptTuning(length=4, places=("text",)), 1e-1), (PromptTuning(length=8, places=("image",)), 1e-1),
        (PTuningV2(length=8, places=("image",)), 1e-1),
    )
)  # fmt: skip
DIGITS = one_of({"paper": Digits(paper=True), "digits": Digits()})
SUMS = one_of({"violet": Sums("violet"), "blue": Sums("blue")})
SHIFTS = one_of({
    "dusk": Naming("dusk"), "wire": Naming("wire"), "north": Naming(dialect="north"), "south": Naming(dialect="south"),
})  # fmt: skip
WORLDS = {
    "letters-d64": World("letters-d64", task, "reverse+blue", TUNED_METHODS),
    "characters": World("characters", DIGITS, "paper", PICTURES, Recipe(steps=300), 50),
    "scenes": World("scenes", SHIFTS, "dusk", SCENES, Recipe(steps=300), 16),
    "letters-pairs": World("letters-pairs", lambda name: Pairs(task(name)), "reverse+blue", PAIRS),
    "characters-conv": World("characters-conv", DIGITS, "paper", CONVOLUTIONS, Recipe(steps=300), 50),
    "letters-lstm": World("letters-lstm", SUMS, "violet", RECURRENT),
}


def known(world):
    """The accuracy of a world's base on what it was pretrained on."""
    goal = world.goal(world.first)
    pretraining = goal.known() if hasattr(goal, "known") else Mixture()
    return evaluate(started(goal, world.base), pretraining).accuracy


def world(base):
    """The world of a base. Raises ValueError, with what there is, for a base that has none."""
    if base not in WORLDS:
        raise ValueError(f"there is no comparison on the base {base!r}; there is one on: {', '.join(WORLDS)}")
    return WORLDS[base]
