"""Positions: where a token stands with padding, after a cache, behind vectors in front; and the vectors made of it."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import BOS, VOCAB, fill, numbers

observe = Observations()

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


@observe("absolute", "Without padding, the tokens of a row do not stand where they should.")
def positions_of_a_plain_row(impl):
    return at(impl)


@observe("absolute", "Tokens that come after cached keys do not stand where they should.")
def positions_after_cached_keys(impl):
    return at(impl, keys=3)


@observe("absolute", "In a padded row, the tokens should stand where they would stand alone.")
def positions_in_padded_rows(impl):
    return [at(impl, pad=pad) for pad in ("left", "right", "gap")]


@observe("absolute", "Where some of the cached keys are padding, the next tokens do not stand where they should.")
def positions_after_cached_padding(impl):
    return [at(impl, keys=3, earlier=EARLIER), at(impl, keys=3, earlier=EARLIER, pad="gap")]


@observe("absolute", "The table has no row for a negative position; padding needs one of 0 or more, too.")
def negative_positions(impl):
    return int((embed(impl).positions(TOKENS, 0, before(impl, pad="left")) < 0).sum())


@observe("absolute", "With n vectors in front, they or the tokens do not stand where they should.")
def positions_with_vectors_in_front(impl):
    return [at(impl, n=2), at(impl, n=2, pad="left"), at(impl, n=2, keys=3)]


@observe("from BOS", "Counted from BOS, the tokens do not stand where they should.")
def positions_from_bos(impl):
    return at(impl, BOS)


@observe("from BOS", "What continues after a BOS that was read before does not stand where it should.")
def positions_from_bos_after_an_offset(impl):
    return [at(impl, BOS, offset=3, keys=3), at(impl, BOS, offset=OFFSETS, keys=3)]


@observe("from BOS", "Counted from BOS, padding spoils the count: it takes no position, and it is never BOS.")
def positions_from_bos_in_padded_rows(impl):
    padded = [at(impl, BOS, pad=pad) for pad in ("left", "right", "gap")]
    return [*padded, at(impl, BOS, pad="left", keys=3, earlier=EARLIER)]


@observe("from BOS", "Vectors in front and keys alone, as of a prefix, should not move what follows BOS.")
def positions_from_bos_with_vectors_and_keys(impl):
    return [at(impl, BOS, n=2), at(impl, BOS, keys=3), at(impl, BOS, n=2, pad="left")]


@observe("from BOS", "What the cache keeps as `offset`, for the tokens that come next, is not right.")
def offset_that_is_kept(impl):
    pads = [offset(impl, pad=pad) for pad in (None, "left", "right")]
    return [*pads, offset(impl, offset=OFFSETS), offset(impl, n=2), offset(impl, tokens=TOKENS[:, :1])]


@observe("vectors", "A token's vector should be the sum of two: what it is, and where it stands.")
def vectors(impl):
    return embed(impl)(TOKENS)


@observe("vectors", "With a norm (BERT has one here), the vectors are not the expected ones.")
def vectors_with_a_norm(impl):
    return embed(impl, norm=True)(TOKENS)


@observe("vectors", "The real tokens of padded rows do not get the vectors they should.")
def vectors_of_padded_rows(impl):
    return [embed(impl, bos)(TOKENS, before(impl, pad="left"))[REAL["left"]] for bos in (None, BOS)]


@observe("vectors", "A padded row should get the same vectors as the row alone.")
def a_row_in_the_batch_and_alone(impl):
    made = embed(impl)
    return made(TOKENS, before(impl, pad="left"))[1, 2:] - made(TOKENS[1:2, 2:])[0]


@observe("vectors", "Tokens that continue what was read before do not get the vectors they should.")
def vectors_after_a_cache(impl):
    return [embed(impl)(TOKENS, before(impl, keys=3)), embed(impl, BOS)(TOKENS, before(impl, offset=OFFSETS))]


@observe("in front", "With n vectors in front there should be n + T vectors in each row.")
def shape_with_a_front(impl):
    return list(embed(impl)(TOKENS, before(impl, front=[numbers("front", (2, D))])).shape)


@observe("in front", "The vectors in front, or the tokens behind them, are not what they should be.")
def vectors_with_a_front(impl):
    front = [numbers("front", (2, D))]
    return [embed(impl, bos)(TOKENS, before(impl, front=front)) for bos in (None, BOS)]


@observe("in front", "Two prompts should stand one behind the other, in the order of the list.")
def two_fronts(impl):
    return embed(impl)(TOKENS, before(impl, front=[numbers("front", (2, D)), numbers("other", (1, D))]))


@observe("in front", "Where each row brings vectors of its own, (B, n, d), some rows get those of others.")
def a_front_for_each_row(impl):
    return embed(impl)(TOKENS, before(impl, front=[numbers("fronts", (3, 2, D))]))


@observe("in front", "A norm should be applied to the vectors in front too.")
def a_front_with_a_norm(impl):
    return embed(impl, norm=True)(TOKENS, before(impl, front=[numbers("front", (2, D))]))


@observe("in front", "Once they are put before the tokens, the vectors should be taken out of the cache.")
def what_is_left_in_front(impl):
    cache = before(impl, front=[numbers("front", (2, D))])
    embed(impl)(TOKENS, cache)
    return len(cache.front)


@observe("in front", "The gradient that reaches the vectors in front, a soft prompt, is not the expected one.")
def gradient_of_the_front(impl):
    front = numbers("front", (2, D)).requires_grad_()
    (embed(impl)(TOKENS, before(impl, front=[front])) * numbers("to", (3, 7, D))).sum().backward()
    return front.grad
