"""Positions: where a token stands with padding, after a cache, behind vectors in front; and the vectors made of it."""

import torch
from torch import nn

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import BOS, VOCAB, fill, numbers

exercise = Exercise(
    "positions",
    "models/transformer.py",
    stubs=("Embed.forward", "Embed.positions", "EmbedFromBOS.positions"),
    title="Positions: where a token stands",
    minutes=30,
    difficulty=2,
    why="Why a padded row, a cached continuation and a soft prompt all go wrong at the same place, silently.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3.5; BERT: arXiv:1810.04805, figure 2; the class docstrings",
    lesson="01",
)

D = 6
TOKENS = torch.tensor([[7, BOS, 5, 6, 4], [BOS, 9, 3, BOS, 2], [3, 8, 6, BOS, 10]])
REAL = {
    "left": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool(),
    "right": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool(),
    "gap": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]]).bool(),
}
EARLIER = torch.tensor(
    [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
).bool()  # three tokens that were read before, some of them padding


def embed(impl, bos=None, norm=None):
    """One for all observations of a module: to make it takes longer than to use it."""
    known = vars(impl).setdefault("embeds of the bank", {})
    if (bos, norm) not in known:
        args = VOCAB, D, 16, *(() if bos is None else (bos,))
        made = (impl.Embed if bos is None else impl.EmbedFromBOS)(*args, norm=norm and nn.LayerNorm(D))
        known[bos, norm] = fill(made, scale=1.0).eval()
    return known[bos, norm]


def before(impl, keys=0, pad=None, front=(), earlier=None, offset=0):
    """A cache that has been told of the tokens already.

    keys: how many keys it holds, with `earlier` as their mask. pad: which of TOKENS are padding, a key of REAL.
    """
    cache = impl.Cache(1)
    if keys:
        cache.layers[0].k = cache.layers[0].v = numbers("cached", (3, 2, keys, 3))
    cache.front, cache.offset = [*front], offset
    if pad or earlier is not None:
        n = sum(P.shape[-2] for P in front)
        known = torch.ones(3, keys, dtype=torch.bool) if earlier is None else earlier
        real = REAL[pad] if pad else torch.ones_like(TOKENS, dtype=torch.bool)
        cache.mask = torch.cat([known, torch.ones(3, n, dtype=torch.bool), real], dim=1)
    return cache


def at(impl, bos=None, n=0, pad=None, **settings):
    """The positions of n vectors in front and of the real tokens, row by row; those of padding do not matter."""
    cache = before(impl, pad=pad, front=[numbers("front", (n, D))] * bool(n), **settings)
    positions = embed(impl, bos).positions(TOKENS, n, cache).expand(3, -1)
    real = REAL[pad] if pad else torch.ones_like(TOKENS, dtype=torch.bool)
    real = torch.cat([torch.ones(3, n, dtype=torch.bool), real], dim=1)
    return [row[there].tolist() for row, there in zip(positions, real, strict=True)]


def offset(impl, tokens=TOKENS, n=0, **settings):
    """What the cache keeps for the next tokens, a number for each row."""
    cache = before(impl, **settings)
    embed(impl, BOS).positions(tokens, n, cache)
    return torch.as_tensor(cache.offset).expand(3, 1)[:, 0].tolist()


OFFSETS = torch.tensor([[4], [0], [2]])


@exercise.observe("absolute", "Without padding, the tokens of a row do not stand where they should.")
def positions_of_a_plain_row(impl):
    return at(impl)


@exercise.observe("absolute", "Tokens that come after cached keys do not stand where they should.")
def positions_after_cached_keys(impl):
    return at(impl, keys=3)


@exercise.observe("absolute", "In a padded row, the tokens should stand where they would stand alone.")
def positions_in_padded_rows(impl):
    return [at(impl, pad=pad) for pad in ("left", "right", "gap")]


@exercise.observe(
    "absolute", "Where some of the cached keys are padding, the next tokens do not stand where they should."
)
def positions_after_cached_padding(impl):
    return [at(impl, keys=3, earlier=EARLIER), at(impl, keys=3, earlier=EARLIER, pad="gap")]


@exercise.observe("absolute", "The table has no row for a negative position; padding needs one of 0 or more, too.")
def negative_positions(impl):
    return int((embed(impl).positions(TOKENS, 0, before(impl, pad="left")) < 0).sum())


@exercise.observe("absolute", "With n vectors in front, they or the tokens do not stand where they should.")
def positions_with_vectors_in_front(impl):
    return [at(impl, n=2), at(impl, n=2, pad="left"), at(impl, n=2, keys=3)]


@exercise.observe("from BOS", "Counted from BOS, the tokens do not stand where they should.")
def positions_from_bos(impl):
    return at(impl, BOS)


@exercise.observe("from BOS", "What continues after a BOS that was read before does not stand where it should.")
def positions_from_bos_after_an_offset(impl):
    return [at(impl, BOS, offset=3, keys=3), at(impl, BOS, offset=OFFSETS, keys=3)]


@exercise.observe("from BOS", "Counted from BOS, padding spoils the count: it takes no position, and it is never BOS.")
def positions_from_bos_in_padded_rows(impl):
    padded = [at(impl, BOS, pad=pad) for pad in ("left", "right", "gap")]
    return [*padded, at(impl, BOS, pad="left", keys=3, earlier=EARLIER)]


@exercise.observe("from BOS", "Vectors in front and keys alone, as of a prefix, should not move what follows BOS.")
def positions_from_bos_with_vectors_and_keys(impl):
    return [at(impl, BOS, n=2), at(impl, BOS, keys=3), at(impl, BOS, n=2, pad="left")]


@exercise.observe("from BOS", "What the cache keeps as `offset`, for the tokens that come next, is not right.")
def offset_that_is_kept(impl):
    pads = [offset(impl, pad=pad) for pad in (None, "left", "right")]
    return [*pads, offset(impl, offset=OFFSETS), offset(impl, n=2), offset(impl, tokens=TOKENS[:, :1])]


@exercise.observe("vectors", "A token's vector should be the sum of two: what it is, and where it stands.")
def vectors(impl):
    return embed(impl)(TOKENS)


@exercise.observe("vectors", "With a norm (BERT has one here), the vectors are not the expected ones.")
def vectors_with_a_norm(impl):
    return embed(impl, norm=True)(TOKENS)


@exercise.observe("vectors", "The real tokens of padded rows do not get the vectors they should.")
def vectors_of_padded_rows(impl):
    return [embed(impl, bos)(TOKENS, before(impl, pad="left"))[REAL["left"]] for bos in (None, BOS)]


@exercise.observe("vectors", "A padded row should get the same vectors as the row alone.")
def a_row_in_the_batch_and_alone(impl):
    made = embed(impl)
    return made(TOKENS, before(impl, pad="left"))[1, 2:] - made(TOKENS[1:2, 2:])[0]


@exercise.observe("vectors", "Tokens that continue what was read before do not get the vectors they should.")
def vectors_after_a_cache(impl):
    return [embed(impl)(TOKENS, before(impl, keys=3)), embed(impl, BOS)(TOKENS, before(impl, offset=OFFSETS))]


@exercise.observe("in front", "With n vectors in front there should be n + T vectors in each row.")
def shape_with_a_front(impl):
    return list(embed(impl)(TOKENS, before(impl, front=[numbers("front", (2, D))])).shape)


@exercise.observe("in front", "The vectors in front, or the tokens behind them, are not what they should be.")
def vectors_with_a_front(impl):
    front = [numbers("front", (2, D))]
    return [embed(impl, bos)(TOKENS, before(impl, front=front)) for bos in (None, BOS)]


@exercise.observe("in front", "Two prompts should stand one behind the other, in the order of the list.")
def two_fronts(impl):
    return embed(impl)(TOKENS, before(impl, front=[numbers("front", (2, D)), numbers("other", (1, D))]))


@exercise.observe("in front", "Where each row brings vectors of its own, (B, n, d), some rows get those of others.")
def a_front_for_each_row(impl):
    return embed(impl)(TOKENS, before(impl, front=[numbers("fronts", (3, 2, D))]))


@exercise.observe("in front", "A norm should be applied to the vectors in front too.")
def a_front_with_a_norm(impl):
    return embed(impl, norm=True)(TOKENS, before(impl, front=[numbers("front", (2, D))]))


@exercise.observe("in front", "Once they are put before the tokens, the vectors should be taken out of the cache.")
def what_is_left_in_front(impl):
    cache = before(impl, front=[numbers("front", (2, D))])
    embed(impl)(TOKENS, cache)
    return len(cache.front)


@exercise.observe("in front", "The gradient that reaches the vectors in front, a soft prompt, is not the expected one.")
def gradient_of_the_front(impl):
    front = numbers("front", (2, D)).requires_grad_()
    (embed(impl)(TOKENS, before(impl, front=[front])) * numbers("to", (3, 7, D))).sum().backward()
    return front.grad


LENGTH = "        n = sum(P.shape[-2] for P in cache.front)\n        positions ="
ASKED = "positions = self.positions(tokens, n, cache)  # (B or 1, n+T)\n"
FRONT = "        front = [P.expand(len(tokens), -1, -1) for P in cache.front]\n"
X = "        x = torch.cat([*front, self.token(tokens)], dim=1)  # (B, n+T, d)\n"
TAKEN = "        cache.front = []\n"
OUT = "        return self.norm(x + self.position(positions))\n"
NEW = "        new = n + tokens.shape[1]\n"
ALL = "        if cache.mask is None:\n            return torch.arange(cache.length, cache.length + new, device=tokens.device)[None]\n"
COUNTED = "        return (cache.mask.cumsum(1) - 1).clamp(min=0)[:, -new:]  # padding before the first real key: -1, made 0\n"
BEGUN = "        begun = ((tokens == self.bos) & real).cumsum(1) + cache.offset > 0\n"
COUNT = "        positions = F.pad(cache.offset + (begun & real).cumsum(1), (n, 0))\n"
KEPT = "        cache.offset = positions[:, -1:]\n        return positions\n"

exercise.mistake(
    "padding takes positions",
    ((ALL, ALL.replace("cache.mask is None", "True")), (COUNTED, "")),
    "positions are counted through, padding included",
    "where does the first word of a row stand if there are two tokens of padding on its left?",
    "GPT-2 has learned that a text begins at position 0. Count the tokens that are visible, not all that are there.",
    "huggingface/transformers#3021 and #21080, ndif-team/nnsight#673",
)
exercise.mistake(
    "always 0, 1, 2",
    ((ALL, "        if True:\n            return torch.arange(new)[None]\n"), (COUNTED, "")),
    "positions are 0, 1, 2, …, whatever came before and whatever is padding",
    "which of the arguments of `positions` did you use?",
    "The cache tells two things that move a token: how many keys came before it, and what is padding.",
    "huggingface/transformers#21080",
)
exercise.mistake(
    "cached keys not counted",
    ((ALL, ALL.replace("cache.length, cache.length + new", "new")),),
    "the cached keys are not counted, so each piece begins at 0",
    "with a cache the second piece is one token long; where does it stand?",
    "The cache knows how many keys came before.",
    "huggingface/transformers#15751",
)
exercise.mistake(
    "count of the new tokens alone",
    ((COUNTED, "        return (cache.mask[:, -new:].cumsum(1) - 1).clamp(min=0)\n"),),
    "with a mask, only the new tokens are counted, so a padded row starts again at 0 with each piece",
    "how many visible keys come before the first of the new tokens?",
    "Count over the whole mask first and take the part of the new tokens afterwards.",
)
exercise.mistake(
    "cached padding counted",
    ((COUNTED, "        return cache.length + (cache.mask[:, -new:].cumsum(1) - 1).clamp(min=0)\n"),),
    "padding among the cached keys takes positions",
    "if three keys are cached and two of them are padding, where does the next token stand?",
    "Padding takes no position, no matter in which piece it was read.",
)
exercise.mistake(
    "begins at 1",
    ((ALL, ALL.replace("cache.length, cache.length + new", "cache.length + 1, cache.length + new + 1")),
     (COUNTED, "        return cache.mask.cumsum(1)[:, -new:]\n")),
    "the first token stands at position 1, not 0",
    "how many visible keys come before the first token?",
    "A position is one less than the number of tokens up to and including this one.",
    "huggingface/transformers#11242, where it is RoBERTa's own way",
)  # fmt: skip
exercise.mistake(
    "one count for all rows",
    ((COUNTED, COUNTED.replace("[:, -new:]", ".amax(0, keepdim=True)[:, -new:]")),),
    "all rows get the positions of the longest one",
    "do the tokens of a short row, padded on the left, stand as far on as those of a long one?",
    "Each row has its own count of real tokens, so the result is (B, n+T).",
    "unslothai/unsloth#3795 and #4078",
)
exercise.mistake(
    "negative positions",
    ((COUNTED, COUNTED.replace(".clamp(min=0)", "")),),
    "padding on the left gets position −1",
    "how many real tokens are there up to a token of padding on the left?",
    "Nobody looks at padding, but a table has no row −1.",
    "huggingface/transformers#3021, where −1 is set to 0 afterwards",
)
exercise.mistake(
    "vectors in front not counted",
    ((ALL, "        if cache.mask is None:\n            return F.pad(torch.arange(cache.length, cache.length + tokens.shape[1]), (n, 0))[None]\n"),),
    "the vectors in front take no position, so the tokens begin at 0",
    "where would the first token stand if the n vectors were words?",
    "The vectors stand in front of the text, so the text moves back by n.",
)  # fmt: skip
exercise.mistake(
    "vectors in front shifted only with padding",
    ((COUNTED, "        return F.pad((cache.mask[:, -tokens.shape[1] :].cumsum(1) - 1).clamp(min=0), (n, 0))\n"),),
    "with a mask, what stands in front of the tokens is not counted",
    "which columns of the mask belong to the new tokens, and which come before them?",
    "The mask covers the cached keys and the vectors in front as well; all of them come before the tokens.",
)
exercise.mistake(
    "BOS at 0",
    ((COUNT, "        positions = F.pad((cache.offset + (begun & real).cumsum(1) - 1).clamp(min=0), (n, 0))\n"),),
    "BOS stands at 0, where the preamble stands",
    "which position does BOS have, according to the class?",
    "Position 0 is for everything that comes before BOS.",
)
exercise.mistake(
    "preamble counted",
    ((COUNT, "        positions = F.pad(cache.offset + real.cumsum(1), (n, 0))\n"),),
    "the count begins at the first token, not at BOS",
    "which position do all members of the preamble share?",
    "Count only the tokens that come after BOS, and BOS itself.",
)
exercise.mistake(
    "BOS forgotten in the next piece",
    ((BEGUN, "        begun = ((tokens == self.bos) & real).cumsum(1) > 0\n"),),
    "a piece without BOS counts as preamble, even if BOS came in an earlier piece",
    "with a cache, the next piece is one token; does it hold a BOS?",
    "The offset tells more than where to go on: above 0, it says that the count has begun.",
)
exercise.mistake(
    "padding that looks like BOS",
    ((BEGUN, "        begun = (tokens == self.bos).cumsum(1) + cache.offset > 0\n"),),
    "padding that happens to be the token BOS starts the count",
    "which token stands at a place of padding?",
    "Padding may hold any token; only a real token can be BOS.",
)
exercise.mistake(
    "padding counted after BOS",
    ((COUNT, "        positions = F.pad(cache.offset + begun.cumsum(1), (n, 0))\n"),),
    "after BOS, padding is counted too",
    "does padding take a position?",
    "Two conditions must hold for a token to be counted.",
)
exercise.mistake(
    "only BOS counted",
    ((COUNT, "        positions = F.pad(cache.offset + ((tokens == self.bos) & real).cumsum(1), (n, 0))\n"),),
    "only the BOS tokens are counted, so all tokens after one share a position",
    "what does a running sum of `tokens == bos` look like after BOS?",
    "That sum says whether the count has begun; a second sum does the counting.",
)
exercise.mistake(
    "BOS moved by vectors in front",
    ((COUNT, "        positions = F.pad(n + cache.offset + (begun & real).cumsum(1), (n, 0))\n"),),
    "vectors in front move BOS and what follows",
    "would an instruction of n words before BOS move it?",
    "When positions are counted from BOS, it does not matter how much stands before it.",
)
exercise.mistake(
    "BOS moved by cached keys",
    ((COUNT, "        positions = F.pad(cache.length + (begun & real).cumsum(1), (n, 0))\n"),),
    "the number of cached keys is taken for the offset, so a prefix or a preamble moves what follows",
    "if the cache holds the keys of a prefix only, where does BOS stand?",
    "Keys count only from BOS on; the cache keeps that count apart, as `offset`.",
)
exercise.mistake(
    "offset not added",
    ((COUNT, "        positions = F.pad((begun & real).cumsum(1), (n, 0))\n"),),
    "after an earlier piece, the count starts again at 1",
    "if the last token stood at 3, where does the next one stand?",
    "The cache keeps the last position as `offset`.",
)
exercise.mistake(
    "offset not kept",
    ((KEPT, "        return positions\n"),),
    "the cache is not told the last position",
    "how will the next piece know where to go on?",
    "`offset` is for you to write as well as to read.",
)
exercise.mistake(
    "offset by length",
    ((KEPT, "        cache.offset = cache.offset + tokens.shape[1]\n        return positions\n"),),
    "the offset grows by the length of the piece, preamble and padding included",
    "what is the last position in a piece that is preamble alone?",
    "The offset is a position: the last one that was given, row by row.",
)
exercise.mistake(
    "largest offset for all rows",
    ((KEPT, "        cache.offset = int(positions.max())\n        return positions\n"),),
    "all rows get the offset of the longest one",
    "do rows of different length continue at the same position?",
    "Each row has an offset of its own, (B, 1).",
)
exercise.mistake(
    "tokens only",
    ((OUT, "        return self.norm(x)\n"),),
    "the vectors do not tell where a token stands",
    "can attention tell `dog bites man` from `man bites dog` in your model?",
    "Attention reads a set; the order has to be in the vectors.",
)
exercise.mistake(
    "scaled tokens",
    ((X, X.replace("self.token(tokens)", "self.token(tokens) * self.token.embedding_dim**0.5")),),
    "the token vectors are multiplied by √d, as in the first Transformer",
    "does the docstring, or GPT-2, ask for a scale here?",
    "Vaswani et al. share this table with the head and scale it; GPT-2 and BERT do not.",
)
exercise.mistake(
    "norm left out",
    ((OUT, "        return x + self.position(positions)\n"),),
    "the norm of the embedding is not used",
    "what is `self.norm` in a BERT?",
    "In GPT-2 it does nothing, so only another model shows that it is missing.",
)
exercise.mistake(
    "norm before the position",
    ((OUT, "        return self.norm(x) + self.position(positions)\n"),),
    "the norm is applied before the position is added",
    "which sum does BERT normalize?",
    "All parts are added first; the norm comes last.",
)
exercise.mistake(
    "front never read",
    ((LENGTH, "        n = 0\n        positions ="), (X, "        x = self.token(tokens)\n")),
    "the vectors that belong in front are left out",
    "how many vectors should each row have if n stand in front of T tokens?",
    "Whatever a method has put into `cache.front` belongs before the tokens.",
)
exercise.mistake(
    "front behind",
    ((X, X.replace("[*front, self.token(tokens)]", "[self.token(tokens), *front]")),),
    "the vectors that belong in front stand behind the tokens",
    "in a causal model, which tokens can read what stands at the end?",
    "Every token should be able to read the prompt, so the prompt comes first.",
)
exercise.mistake(
    "fronts in the wrong order",
    ((FRONT, FRONT.replace("cache.front]", "reversed(cache.front)]")),),
    "of two prompts, the second stands before the first",
    "in which order are two vectors of the list to be read?",
    "A prompt that is attached later appends its vectors: they come after those that are there.",
)
exercise.mistake(
    "last front only",
    ((FRONT, "        front = [P.expand(len(tokens), -1, -1) for P in cache.front[-1:]]\n"),
     (LENGTH, "        n = sum(P.shape[-2] for P in cache.front[-1:])\n        positions =")),
    "of several prompts, only the last one stands in front",
    "what if two methods each put vectors there?",
    "`front` is a list, and everything in it goes before the tokens.",
)  # fmt: skip
exercise.mistake(
    "front without positions",
    ((OUT, "        x = torch.cat([x[:, :n], x[:, n:] + self.position(positions)[:, n:]], dim=1)\n        return self.norm(x)\n"),),
    "the vectors in front get no position vector",
    "which positions do the vectors in front take?",
    "Once they stand in the stream they are treated as tokens: what they are, plus where they stand.",
)  # fmt: skip
exercise.mistake(
    "front without norm",
    (
        (
            OUT,
            "        x = x + self.position(positions)\n        return torch.cat([x[:, :n], self.norm(x[:, n:])], dim=1)\n",
        ),
    ),
    "the norm leaves out the vectors in front",
    "what does the first layer of a BERT expect of every vector it reads?",
    "Once they stand in the stream, the vectors in front are treated as tokens.",
)
exercise.mistake(
    "front of the first row",
    ((FRONT, "        front = [P.reshape(-1, *P.shape[-2:])[:1].expand(len(tokens), -1, -1) for P in cache.front]\n"),),
    "all rows get the vectors of the first row",
    "which shapes may the vectors in `front` have?",
    "One prompt for all rows is (n, d); one for each row is (B, n, d).",
)
exercise.mistake(
    "front without gradient",
    ((FRONT, FRONT.replace("P.expand", "P.detach().expand")),),
    "the vectors in front are cut off from the gradient",
    "what is to be trained in prompt tuning?",
    "`detach`, `.data` and `torch.tensor(...)` make copies that the parameter knows nothing of.",
)
exercise.mistake(
    "front left in the cache",
    ((TAKEN, ""),),
    "the vectors stay in the cache, so the next piece puts them in front again",
    "what does the next piece of the sequence find in `cache.front`?",
    "A sequence begins only once. The docstring says what becomes of the vectors.",
)
exercise.mistake(
    "positions without the cache",
    ((ASKED, "positions = self.positions(tokens, n, Cache(1))  # (B or 1, n+T)\n"),),
    "forward does not pass the cache on to the positions",
    "how do the positions learn about padding and about what came before?",
    "The count is right if it is told what is in the cache.",
)
exercise.right(
    "always a mask",
    ((ALL, ""), (COUNTED, "        mask = torch.ones(1, cache.length + new) if cache.mask is None else cache.mask\n        real = mask.long()\n        return ((real.cumsum(dim=-1) - 1) * real)[:, -new:]\n")),
)  # fmt: skip
exercise.right(
    "what came before, and then the new ones",
    ((COUNTED, "        old, here = cache.mask[:, :-new], cache.mask[:, -new:]\n        return (old.sum(1, keepdim=True) + here.cumsum(1) - 1).clamp(min=0)\n"),
     (NEW, "        new = len(tokens[0]) + n\n")),
)  # fmt: skip
exercise.right(
    "row by row from BOS",
    ((BEGUN + COUNT + KEPT, """        counts = torch.as_tensor(cache.offset).expand(len(tokens), 1)[:, 0].tolist()
        rows = []
        for row, seen, count in zip(tokens.tolist(), real.tolist(), counts):
            places = [0] * n
            for token, there in zip(row, seen):
                if there and (count or token == self.bos):
                    count += 1
                places.append(count)
            rows.append(places)
        cache.offset = torch.tensor(rows)[:, -1:]
        return torch.tensor(rows)
"""),),
)  # fmt: skip
exercise.right(
    "cummax",
    ((BEGUN, "        found = ((tokens == self.bos) & real).long().cummax(1).values.bool()\n        begun = found | torch.as_tensor(cache.offset > 0)\n"),),
)  # fmt: skip
exercise.right(
    "parts put together one after the other",
    ((FRONT + X, "        x = nn.functional.embedding(tokens, self.token.weight)\n        for P in reversed(cache.front):\n            x = torch.hstack([P if P.ndim == 3 else P[None].repeat(len(tokens), 1, 1), x])\n"),
     (TAKEN, "        cache.front.clear()\n"),
     (OUT, "        return self.norm(self.position.weight[positions] + x)\n")),
)  # fmt: skip

exercise.variant(
    "padding takes a position",
    ((ALL, ALL.replace("cache.mask is None", "True")), (COUNTED, ""),
     ("a token's position is the number of visible keys before it. So what", "a token's position is the number of keys before it. So what"),
     ("takes the first positions; padding takes none.", "takes the first positions; here padding takes one as well.")),
    "where positions are absolute, padding takes a position like any token",
)  # fmt: skip
exercise.variant(
    "two are reserved",
    ((ALL, ALL.replace("cache.length, cache.length + new", "cache.length + 2, cache.length + new + 2")),
     (COUNTED, "        return (cache.mask.cumsum(1) - 1).clamp(min=0)[:, -new:] + 2\n"),
     ("as in GPT-2 and BERT: a token's position is the number of visible keys before it. So what", "and begin at 2, as in RoBERTa: a token's position is 2 more than the number of visible keys before it. So what")),
    "absolute positions begin at 2",
)  # fmt: skip
exercise.variant(
    "BOS at 0",
    ((COUNT, "        count = cache.offset + (begun & real).cumsum(1)\n        positions = F.pad((count - 1).clamp(min=0), (n, 0))\n"),
     (KEPT, "        cache.offset = count[:, -1:]\n        return positions\n"),
     ("offset: the last position that EmbedFromBOS has given, (B or 1, 1).", "offset: how many tokens EmbedFromBOS has counted, (B or 1, 1)."),
     ("Counts positions from the token BOS, which has position 1.", "Counts positions from the token BOS, which has position 0. `cache.offset` is the number of tokens counted.")),
    "BOS has position 0, like what stands before it, and the offset is the number of tokens counted",
)  # fmt: skip
