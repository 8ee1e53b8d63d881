"""Positions: where a token stands, with padding on either side, a cache, virtual tokens; and the vectors made of it."""

import torch
from torch import nn

from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import BOS, VOCAB, fill, numbers

exercise = Exercise(
    "positions",
    "models/transformer.py",
    holes=("Embed.forward", "Embed.positions", "EmbedFromBOS.positions"),
    title="Positions: where a token stands",
    minutes=30,
    difficulty=2,
    why="Why a padded row, a cached continuation and a soft prompt all go wrong at the same place, silently.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3.5; BERT: arXiv:1810.04805, figure 2; the class docstrings",
    lesson="01",
)

D = 6
TOKENS = torch.tensor([[7, BOS, 5, 6, 4], [BOS, 9, 3, BOS, 2], [3, 8, 6, BOS, 10]])
SEEN = {
    None: torch.ones(1, 5).bool(),
    "left": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool(),
    "right": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool(),
    "gap": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]]).bool(),
}


def embed(impl, bos=None, norm=None):
    """One for all observations of a module: to make it takes longer than to use it."""
    known = vars(impl).setdefault("embeds of the bank", {})
    if (bos, norm) not in known:
        args = VOCAB, D, 16, *(() if bos is None else (bos,))
        made = (impl.Embed if bos is None else impl.EmbedFromBOS)(*args, norm=norm and nn.LayerNorm(D))
        known[bos, norm] = fill(made, scale=1.0).eval()
    return known[bos, norm]


def at(impl, bos=None, start=0, pad=None, n=0, skip=0):
    """The positions of virtual tokens and of real ones, row by row; where padding stands does not matter."""
    positions, _ = embed(impl, bos).positions(TOKENS, start, SEEN[pad], n, skip)
    there = torch.cat([torch.ones(3, n, dtype=torch.bool), SEEN[pad].expand(3, -1)], 1)
    return [row[real].tolist() for row, real in zip(positions.expand(3, -1), there, strict=True)]


def taken(impl, bos=None, start=0, pad=None, n=0, skip=0, tokens=TOKENS, seen=None):
    """How many are taken then, a number for each row."""
    seen = SEEN[pad][:, : tokens.shape[1]] if seen is None else seen
    _, count = embed(impl, bos).positions(tokens, start, seen, n, skip)
    return torch.as_tensor(count).expand(3, 1)[:, 0].tolist()


STARTS = torch.tensor([[4], [0], [2]])
NOTHING = torch.tensor([[True, True], [False, False], [False, True]])  # a first piece that is padding alone in a row


@exercise.observe("absolute", "Without padding, the tokens of a row do not stand where they should.")
def positions_of_a_plain_row(impl):
    return at(impl)


@exercise.observe("absolute", "Where tokens continue what a cache holds, they do not stand where they should.")
def positions_after_a_start(impl):
    return [at(impl, start=3), at(impl, start=STARTS)]


@exercise.observe("absolute", "In a padded row the tokens should stand where they would stand alone.")
def positions_in_padded_rows(impl):
    return [at(impl, pad=pad) for pad in ("left", "right", "gap")]


@exercise.observe("absolute", "A position is no row of the table: all have to be 0 or more, those of padding too.")
def negative_positions(impl):
    return int((embed(impl).positions(TOKENS, 0, SEEN["left"], 0)[0] < 0).sum())


@exercise.observe("absolute", "With n virtual tokens in front, they or the tokens do not stand where they should.")
def positions_with_virtual_tokens(impl):
    return [at(impl, n=2), at(impl, n=2, pad="left")]


@exercise.observe(
    "absolute", "Virtual tokens that are only in the layers, `skip`, take positions as well: the first ones."
)
def positions_with_skip(impl):
    return [at(impl, skip=2), at(impl, n=1, skip=3, pad="right")]


@exercise.observe("absolute", "How many positions are taken afterwards is not right.")
def taken_by_a_plain_row(impl):
    return [taken(impl), taken(impl, start=3), taken(impl, n=2), taken(impl, n=1, skip=3)]


@exercise.observe(
    "absolute", "In padded rows, how many positions are taken afterwards is not right, and each row has its own number."
)
def taken_by_padded_rows(impl):
    return [taken(impl, pad=pad) for pad in ("left", "right", "gap")] + [taken(impl, start=STARTS, pad="left")]


@exercise.observe("absolute", "A piece that is padding alone should take nothing.")
def taken_by_padding_alone(impl):
    return taken(impl, tokens=TOKENS[:, :2], seen=NOTHING)


@exercise.observe("from BOS", "Counted from BOS, the tokens do not stand where they should.")
def positions_from_bos(impl):
    return at(impl, BOS)


@exercise.observe("from BOS", "What continues after a BOS that was read before does not stand where it should.")
def positions_from_bos_after_a_start(impl):
    return [at(impl, BOS, start=3), at(impl, BOS, start=STARTS)]


@exercise.observe("from BOS", "Counted from BOS, padding spoils the count: it takes no position, and it is never BOS.")
def positions_from_bos_in_padded_rows(impl):
    return [at(impl, BOS, pad=pad) for pad in ("left", "right", "gap")]


@exercise.observe("from BOS", "Virtual tokens are preamble: they share its position, and the tokens do not move.")
def positions_from_bos_with_virtual_tokens(impl):
    return [at(impl, BOS, n=2), at(impl, BOS, n=1, skip=3)]


@exercise.observe("from BOS", "How many positions are taken afterwards, counted from BOS, is not right.")
def taken_from_bos(impl):
    pads = [taken(impl, BOS, pad=pad) for pad in (None, "left", "right")]
    return [
        *pads,
        taken(impl, BOS, start=STARTS),
        taken(impl, BOS, n=2, skip=1),
        taken(impl, BOS, tokens=TOKENS[:, :2]),
    ]


@exercise.observe("vectors", "A token's vector should be what it is plus where it stands; yours is another one.")
def vectors(impl):
    return embed(impl)(TOKENS)[0]


@exercise.observe("vectors", "With a norm (BERT has one here), the vectors are not the expected ones.")
def vectors_with_a_norm(impl):
    return embed(impl, norm=True)(TOKENS)[0]


@exercise.observe("vectors", "The real tokens of padded rows do not get the vectors they should.")
def vectors_of_padded_rows(impl):
    return [embed(impl, bos)(TOKENS, None, SEEN["left"])[0][SEEN["left"]] for bos in (None, BOS)]


@exercise.observe("vectors", "A padded row should get what it would get alone.")
def a_row_in_the_batch_and_alone(impl):
    made = embed(impl)
    return made(TOKENS, mask=SEEN["left"])[0][1, 2:] - made(TOKENS[1:2, 2:])[0][0]


@exercise.observe("vectors", "Tokens that continue what was read before do not get the vectors they should.")
def vectors_after_a_start(impl):
    return [embed(impl)(TOKENS, STARTS)[0], embed(impl, BOS)(TOKENS, STARTS)[0]]


@exercise.observe("vectors", "The second value, how many positions are taken, is not right.")
def what_comes_with_the_vectors(impl):
    return [torch.as_tensor(embed(impl)(TOKENS, 3, mask)[1]).expand(3, 1) for mask in (None, SEEN["left"])]


@exercise.observe("virtual tokens", "With virtual tokens there should be n + T vectors in each row.")
def shape_with_a_front(impl):
    return list(embed(impl)(TOKENS, front=numbers("front", (2, D)))[0].shape)


@exercise.observe("virtual tokens", "The virtual tokens and the tokens after them do not get the vectors they should.")
def vectors_with_a_front(impl):
    front = numbers("front", (2, D))
    return [embed(impl)(TOKENS, front=front)[0], embed(impl, BOS)(TOKENS, front=front)[0]]


@exercise.observe(
    "virtual tokens", "Where each row brings virtual tokens of its own, (B, n, d), rows get those of others."
)
def a_front_for_each_row(impl):
    return embed(impl)(TOKENS, front=numbers("fronts", (3, 2, D)))[0]


@exercise.observe("virtual tokens", "`skip` virtual tokens have no vector here, but the tokens stand behind them.")
def vectors_with_skip(impl):
    return embed(impl)(TOKENS, skip=3)[0]


@exercise.observe(
    "virtual tokens", "The gradient that reaches the virtual tokens, a soft prompt, is not the expected one."
)
def gradient_of_the_front(impl):
    front = numbers("front", (2, D)).requires_grad_()
    (embed(impl)(TOKENS, front=front)[0] * numbers("to", (3, 7, D))).sum().backward()
    return front.grad


X = "        x = self.token(tokens)  # (B, T, d)\n"
FRONT = "            x = torch.cat([front.expand(len(tokens), -1, -1), x], dim=1)  # (B, n+T, d)\n"
VISIBLE = "visible = torch.ones_like(tokens[:1], dtype=torch.bool) if mask is None else mask"
ASKED = "self.positions(tokens, 0 if start is None else start, visible, n, skip)"
OUT = "        return self.norm(x + self.position(positions)), taken\n"
TAKEN = "        taken = start + skip + F.pad(visible, (n, 0), value=True).cumsum(1)\n"
BACK = "        return (taken - 1).clamp(min=0), taken[:, -1:]\n"
BEGUN = "        begun = (((tokens == self.bos) & visible).cumsum(1) + start) > 0\n"
COUNT = "        positions = F.pad(start + (begun & visible).cumsum(1), (n, 0))\n"
BACK_BOS = "        return positions, positions[:, -1:]\n"

exercise.mistake(
    "padding takes positions",
    (
        (
            TAKEN,
            "        taken = start + skip + torch.arange(1, n + tokens.shape[1] + 1)[None].expand(len(visible), -1)\n",
        ),
    ),
    "positions are counted through, padding included",
    "where does the first word of a row stand if there are two tokens of padding on its left?",
    "GPT-2 has learned that a text begins at position 0. Count what is visible, not what is there.",
    "huggingface/transformers#3021 and #21080, ndif-team/nnsight#673",
)
exercise.mistake(
    "always 0, 1, 2",
    ((TAKEN, "        taken = torch.arange(1, n + tokens.shape[1] + 1)[None]\n"),),
    "positions are 0, 1, 2, …, whatever came before and whatever is padding",
    "which of the arguments of `positions` have you used?",
    "Each of them moves a token in some case: a cache, a padded row, a prefix.",
    "huggingface/transformers#21080",
)
exercise.mistake(
    "start left out",
    ((TAKEN, "        taken = skip + F.pad(visible, (n, 0), value=True).cumsum(1)\n"),),
    "the positions that are taken already are not counted: each piece begins at 0",
    "with a cache the second piece is one token long; where does it stand?",
    "`start` says how many came before.",
    "huggingface/transformers#15751",
)
exercise.mistake(
    "begins at 1",
    ((BACK, "        return taken, taken[:, -1:]\n"),),
    "the first token stands at position 1, not 0",
    "if three tokens are taken, what is the position of the third?",
    "A position is one less than the count of tokens up to it.",
    "huggingface/transformers#11242, where it is RoBERTa's own way",
)
exercise.mistake(
    "last position instead of count",
    ((BACK, "        return (taken - 1).clamp(min=0), (taken - 1)[:, -1:]\n"),),
    "what is returned as taken is the last position, one too few",
    "after positions 0, 1 and 2, how many are taken?",
    "The next piece would put its first token where the last one stands.",
)
exercise.mistake(
    "one count for all rows",
    ((BACK, "        return (taken - 1).clamp(min=0), taken[:, -1:].max()[None, None]\n"),),
    "all rows get the count of the longest one",
    "do rows of different length continue at the same position?",
    "Each row has its own count of real tokens, (B, 1).",
    "unslothai/unsloth#3795 and #4078",
)
exercise.mistake(
    "padding counted at the end",
    ((BACK, "        return (taken - 1).clamp(min=0), (0 * taken + start + skip + n + tokens.shape[1])[:, -1:]\n"),),
    "taken counts the padding: it goes by the length of the row",
    "how many positions does a row of three tokens take if it is padded to five?",
    "Padding takes no position, so nor does it count afterwards.",
)
exercise.mistake(
    "count from a cut position",
    ((BACK, "        positions = (taken - 1).clamp(min=0)\n        return positions, positions[:, -1:] + 1\n"),),
    "where nothing but padding has come, one position counts as taken",
    "what does cutting at 0 do to a count of 0?",
    "The position of padding is cut off at 0, the count must not be.",
)
exercise.mistake(
    "negative positions",
    ((BACK, "        return taken - 1, taken[:, -1:]\n"),),
    "padding on the left gets position −1",
    "how many real tokens are there up to a token of padding on the left?",
    "Nobody looks at padding, but a table has no row −1.",
    "huggingface/transformers#3021, where −1 is set to 0 afterwards",
)
exercise.mistake(
    "virtual tokens not counted",
    ((TAKEN, "        taken = start + skip + F.pad(visible.cumsum(1), (n, 0))\n"),),
    "virtual tokens take no position: the tokens begin at 0",
    "what does the class say about virtual tokens and the first positions?",
    "They stand in front of the text, so the text moves back by n.",
)
exercise.mistake(
    "virtual tokens counted at the end",
    ((TAKEN, "        taken = start + skip + F.pad(visible, (0, n), value=True).cumsum(1)\n"),),
    "the places of the virtual tokens are counted behind the tokens",
    "at which end of the row do virtual tokens stand?",
    "With padding the two ends differ. The order is: what was before, virtual tokens, tokens.",
)
exercise.mistake(
    "skip left out",
    ((TAKEN, "        taken = start + F.pad(visible, (n, 0), value=True).cumsum(1)\n"),),
    "`skip` is not counted",
    "where does the text begin if five virtual tokens stand before it in every layer, but not here?",
    "A learned prefix has no vector in the stream, yet it takes the first positions.",
    "huggingface/peft#869",
)
exercise.mistake(
    "BOS at 0",
    ((COUNT, "        positions = F.pad((start + (begun & visible).cumsum(1) - 1).clamp(min=0), (n, 0))\n"),),
    "BOS stands at 0, where the preamble stands",
    "which position has BOS, according to the class?",
    "Position 0 is for all that comes before BOS.",
)
exercise.mistake(
    "preamble counted",
    ((COUNT, "        positions = F.pad(start + visible.cumsum(1).expand(begun.shape), (n, 0))\n"),),
    "the count begins at the first token, not at BOS",
    "what do all members of the preamble share?",
    "Count tokens of which it can be said: BOS has come.",
)
exercise.mistake(
    "BOS forgotten in the next piece",
    ((BEGUN, "        begun = ((tokens == self.bos) & visible).cumsum(1) > 0\n"),),
    "a piece without BOS counts as preamble, even if BOS came in an earlier piece",
    "with a cache, the next piece is one token; does it hold a BOS?",
    "`start` tells more than where to go on: above 0 it says that the count has begun.",
)
exercise.mistake(
    "padding that looks like BOS",
    ((BEGUN, "        begun = ((tokens == self.bos).cumsum(1) + start) > 0\n"),),
    "padding that happens to have the number of BOS starts the count",
    "which number does padding have?",
    "Padding may hold any token; only what is visible can be BOS.",
)
exercise.mistake(
    "padding counted after BOS",
    ((COUNT, "        positions = F.pad(start + begun.cumsum(1), (n, 0))\n"),),
    "after BOS padding is counted too",
    "does padding take a position?",
    "Two things must hold for a token to be counted.",
)
exercise.mistake(
    "BOS itself is counted",
    ((COUNT, "        positions = F.pad(start + ((tokens == self.bos) & visible).cumsum(1), (n, 0))\n"),),
    "it is the BOS tokens that are counted, so all tokens after one share a position",
    "what does a running sum of `tokens == bos` look like behind BOS?",
    "That sum says whether the count has begun; then a second sum counts.",
)
exercise.mistake(
    "BOS moved by virtual tokens",
    ((COUNT, "        positions = F.pad(start + n + (begun & visible).cumsum(1), (n, 0))\n"),),
    "virtual tokens move BOS and what follows",
    "would an instruction of n words before BOS move it?",
    "Counted from BOS, it does not matter how much stands before; that is the point of it.",
)
exercise.mistake(
    "BOS moved by skip",
    ((COUNT, "        positions = F.pad(start + skip + (begun & visible).cumsum(1), (n, 0))\n"),),
    "`skip` moves BOS and what follows",
    "would an instruction of that many words before BOS move it?",
    "Counted from BOS, it does not matter how much stands before, here or in the layers.",
)
exercise.mistake(
    "start not added after BOS",
    ((COUNT, "        positions = F.pad((begun & visible).cumsum(1), (n, 0))\n"),),
    "after an earlier piece, the count starts again at 1",
    "after three positions are taken, where does the next token stand?",
    "`start` says how many came before.",
)
exercise.mistake(
    "length taken, from BOS",
    ((BACK_BOS, "        return positions, (0 * positions + start + tokens.shape[1])[:, -1:]\n"),),
    "counted from BOS, taken goes by the length of the piece, preamble and padding included",
    "how many positions does a piece take that is preamble alone?",
    "What counts as taken are the tokens that have been counted.",
)
exercise.mistake(
    "tokens only",
    ((OUT, "        return self.norm(x), taken\n"),),
    "the vectors do not tell where a token stands",
    "can attention tell `dog bites man` from `man bites dog` in your model?",
    "Attention reads a set; the order has to be in the vectors.",
)
exercise.mistake(
    "scaled tokens",
    ((X, "        x = self.token(tokens) * self.token.embedding_dim**0.5\n"),),
    "the token vectors are multiplied by √d, as in the first Transformer",
    "does the docstring, or GPT-2, ask for a scale here?",
    "Vaswani et al. share this table with the head and scale it; GPT-2 and BERT do not.",
)
exercise.mistake(
    "norm left out",
    ((OUT, "        return x + self.position(positions), taken\n"),),
    "the norm of the embedding is not used",
    "what is `self.norm` in a BERT?",
    "In a GPT-2 it does nothing, so only another base shows it.",
)
exercise.mistake(
    "norm before the position",
    ((OUT, "        return self.norm(x) + self.position(positions), taken\n"),),
    "the norm is applied before the position is added",
    "which sum does BERT norm?",
    "First all parts are added, then comes the norm.",
)
exercise.mistake(
    "taken not returned",
    ((OUT, "        return self.norm(x + self.position(positions))\n"),),
    "only the vectors are returned, not how many positions are taken",
    "how will the next piece know where to go on?",
    "See what the docstring says about the two things that are returned.",
)
exercise.mistake(
    "front behind",
    ((FRONT, "            x = torch.cat([x, front.expand(len(tokens), -1, -1)], dim=1)  # (B, n+T, d)\n"),),
    "the virtual tokens stand behind the tokens",
    "in a causal model, who can read what stands at the end?",
    "Every token should be able to read the prompt, so it comes first.",
)
exercise.mistake(
    "front without positions",
    ((OUT, "        x = torch.cat([x[:, :n], x[:, n:] + self.position(positions)[:, n:]], dim=1)\n        return self.norm(x), taken\n"),),
    "virtual tokens get no position vector",
    "which positions do virtual tokens take?",
    "Once they stand in the stream they are treated as tokens: what they are, plus where they stand.",
)  # fmt: skip
exercise.mistake(
    "front of the first row",
    (
        (
            FRONT,
            "            x = torch.cat([front.reshape(-1, n, x.shape[-1])[:1].expand(len(tokens), -1, -1), x], dim=1)\n",
        ),
    ),
    "all rows get the virtual tokens of the first",
    "which shapes may `front` have?",
    "One prompt for all is (n, d), one for each row is (B, n, d).",
)
exercise.mistake(
    "front without gradient",
    ((FRONT, FRONT.replace("front.expand", "front.detach().expand")),),
    "the virtual tokens are cut off from the gradient",
    "who is to be trained if there are virtual tokens?",
    "`detach`, `.data` and `torch.tensor(...)` make copies of which the parameter knows nothing.",
)
exercise.mistake(
    "mask not handed on",
    ((VISIBLE, "visible = torch.ones_like(tokens, dtype=torch.bool)"),),
    "forward does not hand the mask on to the positions",
    "how do the positions learn where there is padding?",
    "The count is right if it is told what is visible.",
)
exercise.mistake(
    "start not handed on",
    ((ASKED, "self.positions(tokens, 0, visible, n, skip)"),),
    "forward does not hand `start` on to the positions",
    "how do the positions learn what a cache holds?",
    "None means the beginning; anything else is how many are taken.",
)
exercise.mistake(
    "skip not handed on",
    ((ASKED, "self.positions(tokens, 0 if start is None else start, visible, n)"),),
    "forward does not hand `skip` on to the positions",
    "how do the positions learn about virtual tokens that have no vector here?",
    "The last argument of `positions` has a default, so nothing complains.",
)

exercise.right(
    "concatenating instead of padding",
    ((TAKEN, "        there = torch.cat([visible.new_ones(len(visible), n), visible], dim=1).long()\n        taken = start + skip + there.cumsum(dim=-1)\n"),
     (BACK, "        return (taken - 1).masked_fill(there == 0, 1), taken[:, -1:]\n")),
)  # fmt: skip
exercise.right(
    "sum for what is taken",
    ((TAKEN, "        real = visible.expand(len(tokens), -1).long()\n        place = torch.cat([torch.arange(n).expand(len(tokens), -1), n + (real.cumsum(1) - 1) * real], 1)\n"),
     (BACK, "        return start + skip + place, start + skip + n + real.sum(1, keepdim=True)\n")),
)  # fmt: skip
exercise.right(
    "row by row from BOS",
    ((BEGUN + COUNT + BACK_BOS, """        starts = torch.as_tensor(start).expand(len(tokens), 1)[:, 0].tolist()
        rows = []
        for row, seen, count in zip(tokens.tolist(), visible.expand(tokens.shape).tolist(), starts):
            places = [0] * n
            for token, real in zip(row, seen):
                if real and (count or token == self.bos):
                    count += 1
                places.append(count)
            rows.append(places)
        positions = torch.tensor(rows)
        return positions, positions[:, -1:]
"""),),
)  # fmt: skip
exercise.right(
    "cummax",
    (
        (
            BEGUN,
            "        found = ((tokens == self.bos) & visible).long().cummax(1).values.bool()\n        begun = found | torch.as_tensor(start > 0)\n",
        ),
    ),
)
exercise.right(
    "embedding both, adding parts",
    ((X, "        x = nn.functional.embedding(tokens, self.token.weight)\n"),
     (FRONT, "            front = front if front.ndim == 3 else front[None].repeat(len(tokens), 1, 1)\n            x = torch.hstack([front, x])\n"),
     (VISIBLE, "visible = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask"),
     (OUT, "        return self.norm(self.position.weight[positions] + x), taken\n")),
)  # fmt: skip

exercise.house(
    "padding takes a position",
    ((TAKEN, "        taken = start + skip + torch.ones_like(F.pad(visible, (n, 0))).cumsum(1)\n"),
     ("padding\n    takes none, so a padded row gets what it would get alone.", "padding\n    takes one like any token.")),
    "padding takes a position like any token, where they are absolute",
)  # fmt: skip
exercise.house(
    "two are reserved",
    ((BACK, "        return (taken - 1).clamp(min=0) + 2, taken[:, -1:]\n"),
     ("Positions are absolute, as in GPT-2 and BERT: virtual", "Positions are absolute and begin at 2, as in RoBERTa (what is taken is counted as ever): virtual")),
    "absolute positions begin at 2, and how many are taken is counted as before",
)  # fmt: skip
exercise.house(
    "BOS at 0",
    ((COUNT, "        count = start + (begun & visible).cumsum(1)\n        positions = F.pad((count - 1).clamp(min=0), (n, 0))\n"),
     (BACK_BOS, "        return positions, count[:, -1:]\n"),
     ("Counts positions from the token BOS, which has position 1.", "Counts positions from the token BOS, which has position 0; taken is how many tokens have been counted.")),
    "BOS has position 0, like what stands before it",
)  # fmt: skip
