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
from minipeft.worlds.pairs import Pairs
from minipeft.worlds.pictures import Digits


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
    """The methods (method, learning rate), each with a fresh head."""
    return tuple(TunedMethod(replace(method, classes=classes, head_lr=head_lr), lr) for method, lr in pairs)


PICTURES = with_head(
    10, 1e-2, (LinearProbe(), 1e-2), (Full(), 1e-3), (LoRA(rank=4, targets="all-linear"), 1e-2),
    (Pfeiffer(size=8), 1e-2), (BitFit(), 1e-2), (IA3(), 1e-1), (PromptTuning(length=8), 1e-1),
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
WORLDS = {
    "letters-d64": World("letters-d64", task, "reverse+blue", TUNED_METHODS),
    "characters": World(
        "characters", one_of({"paper": Digits(paper=True), "digits": Digits()}), "paper", PICTURES,
        Recipe(steps=300), 50,
    ),
    "letters-pairs": World("letters-pairs", lambda name: Pairs(task(name)), "reverse+blue", PAIRS),
}  # fmt: skip


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
