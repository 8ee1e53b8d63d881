"""A domain for a real language model: the language reference of Python, which every Python brings along as text.

The model reads windows of 64 tokens and says after each token what comes next. Every fifth topic is kept for testing
and another fifth for choosing learning rates. Some topics quote others, so a paragraph of a topic that is kept is taken
out of the rest. The text differs a little between versions of Python.
"""

from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics
from typing import Literal

import torch

from minipeft.published import smollm2
from minipeft.tasks import Batch, shuffled
from minipeft.worlds.dialogues import continued

LENGTH = 64  # tokens of a window
EACH, WINDOWS = 2, {"validation": 12, "test": 24}  # windows of a topic that is kept, and of all of them
QUESTIONS = (
    "Tell me about your day.", "Write a short story about a dog.", "How does a bicycle work?", "What is love?",
    "Describe a city at night.", "Give me a recipe for soup.", "Why do people dream?", "Explain the seasons.",
    "What makes music sound sad?", "Write a letter to a friend.", "How do I plan a trip?", "What is a good breakfast?",
)  # fmt: skip


def parts():
    """{part: {topic: paragraphs}} for "training", "validation" and "test"; no paragraph is in two parts."""
    found, taken = {"test": {}, "validation": {}, "training": {}}, set()
    names = sorted(topics)
    kept = {"test": names[0::5], "validation": names[2::5]}
    kept["training"] = [name for name in names if name not in kept["test"] + kept["validation"]]
    for part in found:
        split = {name: topics[name].split("\n\n") for name in kept[part]}
        found[part] = {name: [p for p in paragraphs if p not in taken] for name, paragraphs in split.items()}
        taken |= {p for paragraphs in split.values() for p in paragraphs}
    return found


@cache
def windows(part):
    """(n, 65): tokens of whole windows, one more than the model reads; of topics that are kept, the first windows."""
    found = []
    for paragraphs in parts()[part].values():
        tokens = smollm2.tokenizer().encode("\n\n".join(paragraphs))
        whole = [tokens[i : i + LENGTH + 1] for i in range(0, len(tokens) - LENGTH, LENGTH)]
        found += whole if part == "training" else whole[:EACH]
    return torch.tensor(found[: WINDOWS.get(part)])


@dataclass(frozen=True)
class Reference:
    """Windows of the language reference; each token but the first is asked."""

    part: Literal["training", "validation", "test"] = "training"

    def __str__(self):
        return f"language reference ({self.part})"

    def batch(self, size, generator):
        """`size` windows of this part, in an order drawn with `generator`."""
        return shuffled(self.every(), size, generator)

    def every(self):
        """All windows of this part, as one Batch."""
        text = windows(self.part)
        return Batch(text[:, :-1], text[:, 1:])

    def sets(self, examples, seed):
        """What to train on, what to choose by and what to report, for `lab.trial`."""
        return Reference("training"), Reference("validation"), Reference("test")


@dataclass(frozen=True)
class OwnWords:
    """What the base itself answers to a dozen questions, sampled once: text from just where it was before.

    A model's loss there tells what it has forgotten: it is least, on average, for the base that wrote the text.
    """

    def __str__(self):
        return "the base's own words"

    def batch(self, size, generator):
        return shuffled(self.every(), size, generator)

    def every(self):
        """A row for each question, padded on the right; only the tokens that the base has sampled are asked."""
        return written()


@cache
def written():
    model, words = smollm2.smollm2()
    generator = torch.Generator().manual_seed(0)
    said = []
    for question in QUESTIONS:
        tokens = torch.tensor([words.encode(smollm2.conversation(question))])
        made = smollm2.stream(model, tokens, LENGTH, 1.0, words.end, generator)
        said.append((tokens[0].tolist(), list(made)))
    return continued(said)
