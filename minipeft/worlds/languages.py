"""Several languages: tasks that share something new, of which one has few examples.

A *language* is what differs from task to task. Each family has five members and one new part, which the base has never
seen and which all of them need:

    NEW_OPERATION   one operation, riffle, in five known symbol tables: the tables are the languages
    NEW_TABLE       one table, violet, under five known operations: the operations are the languages

`learn` trains one shared update for all of them and a private one for each (see `mixing`). The first of the names is
the language with few examples; the others have new examples at every step. `HELPERS_WITHOUT` is a control: its first
task is the same, and the four others lack the new operation.

Afterwards the parts can be taken apart. `detach(view, 1)` is the model with the shared update alone, `private_alone`
the bare model with the private part alone, and `Worded` puts the base's own words in place of a private part.
"""

from dataclasses import dataclass

import torch

from minipeft.arguments import a_task
from minipeft.attach import attachments, detach
from minipeft.methods import LoRA, PromptTuning
from minipeft.mixing import MultiTask
from minipeft.tasks import FIRST_LETTER, LENGTH, Few, Task, Together, encode, rows, task
from minipeft.training import Recipe, fit

NEW_OPERATION = ("riffle+blue", "riffle+red", "riffle+mirror", "riffle+next", "riffle+green")
NEW_TABLE = ("swap+violet", "reverse+violet", "left+violet", "halves+violet", "descend+violet")
HELPERS_WITHOUT = ("riffle+blue", "reverse+red", "sort+mirror", "left+next", "swap+green")
SHARED = LoRA(rank=4, targets=("q", "k", "v", "o", "up", "down"))
PRIVATE = {"LoRA": LoRA(rank=1, alpha=2), "prompt": PromptTuning(length=4)}
RECIPE = Recipe(steps=200, batch_size=40)  # a batch holds eight examples of each of five languages


def mixed(names, examples, seed=0):
    """Batches of all the tasks; the first has so many examples and no others, drawn with the seed."""
    goals = {name: task(name) for name in names}
    goals[names[0]] = Few(goals[names[0]], examples, seed)
    return Together(goals)


def learn(model, names, private, examples, lr, seed=0, recipe=RECIPE):
    """Train a shared update of the model and a private one for each task.

    private: the method of the private parts. examples: of the first task. seed: draws the start, the data and which
    examples there are.

    Returns the view with the shared update alone, and the MultiTask with a view for each task.
    """
    torch.manual_seed(seed)
    shared = SHARED.attach(model)
    several = MultiTask({name: private.attach(shared, together=True) for name in names})
    goal = mixed(names, examples, seed)
    fit(several, goal, lr=lr, seed=seed, device="cpu", progress=False, **recipe.settings())
    return shared, several


@torch.no_grad()
def private_alone(view):
    """The private part of a view, with what it has learned, on the bare model: the shared update is left out."""
    entry = attachments(view)[-1]
    made = entry.method.attach(detach(view))
    for path, layer in attachments(made)[-1].layers.items():
        learned = entry.layers[path].stored()
        for name, p in layer.stored().items():
            p.copy_(learned[name])
    return made


@dataclass(frozen=True)
class Worded:
    """A task whose examples begin with these instruction words, whether they tell all of it or not.

    `Worded(task("riffle+blue"), "blue")` names the table and says nothing of the operation, for which there is no word.
    """

    task: Task
    words: str

    def __post_init__(self):
        a_task("Worded", self.task)
        encode(self.words)  # which knows what words there are

    def __str__(self):
        return f"{self.task}, told {self.words!r}"

    def batch(self, size, generator):
        """`size` new examples, drawn with `generator`."""
        tokens = self.task.batch(size, generator).tokens
        x = tokens[:, 1 : 1 + LENGTH] - FIRST_LETTER  # behind BOS
        return rows(encode(self.words).expand(size, -1), x, self.task.answer(x))
