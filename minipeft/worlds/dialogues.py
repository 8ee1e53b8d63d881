"""Questions and answers for a real language model, and one style to teach it: everything is answered like a pirate.

PIRATE has two dozen pairs, which pirate.toml holds. Only the tokens of the answers are asked, and the token that ends
an answer is one of them; else the model would learn to write questions, and not when to stop.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from minipeft.published import smollm2
from minipeft.tasks import IGNORE, Batch, shuffled

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).parent / "pirate.toml"


def pairs_of(path):
    """((question, answer), ...) from a TOML file with pairs = [["How are you?", "Fine."], ...].

    Raises FileNotFoundError; ValueError, with what is wrong, if it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; write one like {FILE}")
    try:
        pairs = tomllib.loads(Path(path).read_text(encoding="utf-8"))["pairs"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{path} is no TOML file with pairs = [[question, answer], ...]: {error}") from None
    for i, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) and t.strip() for t in pair)):
            raise ValueError(f"{path}: pair {i + 1} must be two texts, [question, answer], got {pair!r}")
    if not pairs:
        raise ValueError(f"{path} has no pairs: write at least one, [question, answer]")
    return tuple(map(tuple, pairs))


STYLE = tomllib.loads(FILE.read_text(encoding="utf-8"))
PIRATE, UNSEEN = pairs_of(FILE), tuple(STYLE["unseen"])


@dataclass(frozen=True)
class Dialogues:
    """Pairs of a question and its answer, as a task.

    system: what the model is told before each of them.
    ends: whether the token that ends an answer is asked too. False is for answers that were cut off.
    """

    pairs: tuple[tuple[str, str], ...] = PIRATE
    system: str = smollm2.SYSTEM
    ends: bool = True

    def __str__(self):
        return f"{len(self.pairs)} questions and answers"

    def batch(self, size, generator):
        """`size` of the pairs, in an order drawn with `generator`, as wide as the longest of them."""
        drawn = shuffled(self.every(), size, generator)
        width = int(drawn.mask.sum(1).max())
        return Batch(drawn.tokens[:, :width], drawn.targets[:, :width], drawn.mask[:, :width])

    def every(self):
        """All pairs as one Batch, padded on the right."""
        words = smollm2.tokenizer()
        end = [words.end] if self.ends else []
        encoded = [
            (words.encode(smollm2.conversation(question, system=self.system)), words.encode(answer) + end)
            for question, answer in self.pairs
        ]
        return continued(encoded)


def continued(pairs, pad=0):
    """A Batch that asks for continuations. pairs: for each row the tokens that are given and those that are asked."""
    longest = max(len(given) + len(asked) for given, asked in pairs) - 1
    tokens = torch.full((len(pairs), longest), pad)
    targets, mask = torch.full_like(tokens, IGNORE), torch.zeros_like(tokens, dtype=torch.bool)
    for row, (given, asked) in enumerate(pairs):
        whole = torch.tensor([*given, *asked])
        end = len(whole) - 1  # the last token is asked, not read
        tokens[row, :end], mask[row, :end] = whole[:-1], True
        targets[row, len(given) - 1 : end] = whole[len(given) :]
    return Batch(tokens, targets, mask)


def pirate_words(answer):
    """The different words in an answer that mark a pirate. Two of them make one."""
    return set(re.findall(r"[a-z]+", answer.lower())) & {*STYLE["marks"]}
