"""Positions: where a token stands with padding, after a cache, behind vectors in front; and the vectors made of it."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import BOS, VOCAB, arrivals, fill, numbers, types

observe = Observations()

D = 6
TOKENS = torch.tensor([[7, BOS, 5, 6, 4], [BOS, 9, 3, BOS, 2], [3, 8, 6, BOS, 10]])
REAL = {
    "left": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool(),
    "right": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool(),
    "gap": torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 0, 1]]).bool(),
}
PADDED = {None: "no padding", "left": "padding on the left", "right": "padding on the right", "gap": "padding inside"}
EARLIER = torch.tensor(
    [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
).bool()  # three tokens that were read before, some of them padding


def rows():
    """The tokens, for a solution that might write to them."""
    return TOKENS.clone()


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
    """{row: {vector or token: its position}}, without padding, whose positions do not matter."""
    cache = before(impl, pad=pad, front=[numbers("front", (n, D))] * bool(n), **settings)
    positions = embed(impl, bos).positions(rows(), n, cache).expand(3, -1)
    real = REAL[pad] if pad else torch.ones_like(TOKENS, dtype=torch.bool)
    real = torch.cat([torch.ones(3, n, dtype=torch.bool), real], dim=1)
    return named(positions, n, real)


def named(positions, n=0, real=None):
    """{row: {vector in front or token: its position}} of those that are real, None for all."""
    names = [f"vector {i}" for i in range(1, n + 1)] + [f"token {i}" for i in range(1, positions.shape[1] - n + 1)]
    real = torch.ones_like(positions, dtype=torch.bool) if real is None else real
    return {
        f"row {i}": {name: p for name, p, there in zip(names, row, seen, strict=True) if there}
        for i, (row, seen) in enumerate(zip(positions.tolist(), real.tolist(), strict=True), 1)
    }


def offset(impl, tokens=None, n=0, **settings):
    """What the cache keeps for the next tokens, a number for each row."""
    cache = before(impl, **settings)
    embed(impl, BOS).positions(rows() if tokens is None else tokens, n, cache)
    return {f"row {i}": n for i, n in enumerate(torch.as_tensor(cache.offset).expand(3, 1)[:, 0].tolist(), 1)}


def in_pieces(impl, bos, *lengths):
    """The positions of tokens that are read piece by piece, with what the cache keeps."""
    cache, found = before(impl), []
    for piece in rows().split(lengths, 1):
        found.append(embed(impl, bos).positions(piece, 0, cache).expand(3, -1))
        cache.layers[0].k = numbers("cached", (3, 2, sum(f.shape[1] for f in found), 3))
    return named(torch.cat(found, 1))


OFFSETS = torch.tensor([[4], [0], [2]])


@observe("absolute", "A position is needed for each of the n vectors in front and the T tokens: (B or 1, n+T).")
def shape_of_positions(impl):
    found = {}
    for bos in (None, BOS):
        for pad in (None, "left"):
            front = [numbers("front", (2, D))]
            got = embed(impl, bos).positions(rows(), 2, before(impl, pad=pad, front=front))
            case = f"{'absolute' if bos is None else 'from BOS'}{', padded' if pad else ''}"
            found[case] = len(got) in (1, 3) and got.shape[1:] == (7,)
    return found


@observe("absolute", "Without padding, the tokens of a row do not stand where they should.")
def positions_of_a_plain_row(impl):
    return at(impl)


@observe("absolute", "Tokens that come after cached keys do not stand where they should.")
def positions_after_cached_keys(impl):
    return at(impl, keys=3)


@observe("absolute", "In a padded row, the tokens should stand where they would stand alone.")
def positions_in_padded_rows(impl):
    return {PADDED[pad]: at(impl, pad=pad) for pad in REAL}


@observe("absolute", "Where some of the cached keys are padding, the next tokens do not stand where they should.")
def positions_after_cached_padding(impl):
    return {
        "no padding in the new tokens": at(impl, keys=3, earlier=EARLIER),
        "padding there too": at(impl, keys=3, earlier=EARLIER, pad="gap"),
    }


@observe("absolute", "The table has no row for a negative position; padding needs one of 0 or more, too.")
def negative_positions(impl):
    return int((embed(impl).positions(rows(), 0, before(impl, pad="left")) < 0).sum())


@observe("absolute", "With n vectors in front, they or the tokens do not stand where they should.")
def positions_with_vectors_in_front(impl):
    return {
        "no padding": at(impl, n=2),
        PADDED["left"]: at(impl, n=2, pad="left"),
        "after cached keys": at(impl, n=2, keys=3),
    }


@observe("from BOS", "As long as no BOS has come, all of a row is preamble: it should stand at 0.")
def positions_before_any_bos(impl):
    tokens = rows().masked_fill(TOKENS == BOS, 2)
    return {
        PADDED[pad]: named(embed(impl, BOS).positions(tokens, 0, before(impl, pad=pad)).expand(3, -1))
        for pad in (None, "left")
    }


@observe("from BOS", "Counted from BOS, the tokens do not stand where they should.")
def positions_from_bos(impl):
    return at(impl, BOS)


@observe("from BOS", "What continues after a BOS that was read before does not stand where it should.")
def positions_from_bos_after_an_offset(impl):
    return {
        "the same offset for all rows": at(impl, BOS, offset=3, keys=3),
        "an offset for each row": at(impl, BOS, offset=OFFSETS.clone(), keys=3),
    }


@observe("from BOS", "Counted from BOS, padding spoils the count: it takes no position, and it is never BOS.")
def positions_from_bos_in_padded_rows(impl):
    padded = {PADDED[pad]: at(impl, BOS, pad=pad) for pad in REAL}
    return padded | {"after cached keys with padding": at(impl, BOS, pad="left", keys=3, earlier=EARLIER)}


@observe("from BOS", "Vectors in front and keys alone, as of a prefix, should not move what follows BOS.")
def positions_from_bos_with_vectors_and_keys(impl):
    return {
        "vectors in front": at(impl, BOS, n=2),
        "cached keys": at(impl, BOS, keys=3),
        "vectors in front of padding": at(impl, BOS, n=2, pad="left"),
    }


@observe("from BOS", "A second BOS should be counted as any token.")
def positions_after_a_second_bos(impl):
    return at(impl, BOS)["row 2"]


@observe("from BOS", "What the cache keeps as `offset`, for the tokens that come next, is not right.")
def offset_that_is_kept(impl):
    return {PADDED[pad]: offset(impl, pad=pad) for pad in (None, "left", "right")} | {
        "an offset from before": offset(impl, offset=OFFSETS.clone()),
        "vectors in front": offset(impl, n=2),
        "a single token": offset(impl, tokens=rows()[:, :1]),
    }


@observe("from BOS", "Read in pieces with one cache, the tokens should stand where they stand in the whole row.")
def positions_from_bos_in_pieces(impl):
    return {f"pieces of {lengths}": in_pieces(impl, BOS, *lengths) for lengths in ((2, 3), (3, 1, 1))}


@observe("what is left alone", "The caller's tokens, the mask of the cache or the vectors in front are changed.")
def what_is_left_alone(impl):
    found = {}
    for bos in (None, BOS):
        tokens, front = rows(), numbers("front", (2, D))
        cache = before(impl, pad="left", front=[front])
        mask = cache.mask.clone()
        embed(impl, bos)(tokens, cache)
        found["absolute" if bos is None else "from BOS"] = {
            "tokens": bool(tokens.equal(TOKENS)),
            "mask": cache.mask.dtype == torch.bool and bool(cache.mask.equal(mask)),
            "in front": bool(front.equal(numbers("front", (2, D)))),
        }
    return found


@observe("vectors", "A token's vector should be the sum of two: what it is, and where it stands.")
def vectors(impl):
    return embed(impl)(rows())


@observe("vectors", "With a norm (BERT has one here), the vectors are not the expected ones.")
def vectors_with_a_norm(impl):
    return embed(impl, norm=True)(rows())


@observe("vectors", "The real tokens of padded rows do not get the vectors they should.")
def vectors_of_padded_rows(impl):
    return {
        "absolute" if bos is None else "from BOS": embed(impl, bos)(rows(), before(impl, pad="left"))[REAL["left"]]
        for bos in (None, BOS)
    }


@observe("vectors", "A padded row should get the same vectors as the row alone.")
def a_row_in_the_batch_and_alone(impl):
    made = embed(impl)
    return made(rows(), before(impl, pad="left"))[1, 2:] - made(rows()[1:2, 2:])[0]


@observe("vectors", "Tokens that continue what was read before do not get the vectors they should.")
def vectors_after_a_cache(impl):
    return {
        "absolute": embed(impl)(rows(), before(impl, keys=3)),
        "from BOS": embed(impl, BOS)(rows(), before(impl, offset=OFFSETS.clone())),
    }


@observe("in front", "With n vectors in front there should be n + T vectors in each row.")
def shape_with_a_front(impl):
    return list(embed(impl)(rows(), before(impl, front=[numbers("front", (2, D))])).shape)


@observe("in front", "The vectors in front, or the tokens behind them, are not what they should be.")
def vectors_with_a_front(impl):
    front = [numbers("front", (2, D))]
    return {
        "absolute" if bos is None else "from BOS": embed(impl, bos)(rows(), before(impl, front=front))
        for bos in (None, BOS)
    }


@observe("in front", "Two prompts should stand one behind the other, in the order of the list.")
def two_fronts(impl):
    return embed(impl)(rows(), before(impl, front=[numbers("front", (2, D)), numbers("other", (1, D))]))


@observe("in front", "Where each row brings vectors of its own, (B, n, d), some rows get those of others.")
def a_front_for_each_row(impl):
    return embed(impl)(rows(), before(impl, front=[numbers("fronts", (3, 2, D))]))


@observe("in front", "A norm should be applied to the vectors in front too.")
def a_front_with_a_norm(impl):
    return embed(impl, norm=True)(rows(), before(impl, front=[numbers("front", (2, D))]))


@observe("in front", "Once they are put before the tokens, the vectors should be taken out of the cache.")
def what_is_left_in_front(impl):
    cache = before(impl, front=[numbers("front", (2, D))])
    embed(impl)(rows(), cache)
    return len(cache.front)


@observe("in front", "The gradient that reaches the vectors in front, a soft prompt, is not the expected one.")
def gradient_of_the_front(impl):
    front = numbers("front", (2, D)).requires_grad_()
    (embed(impl)(rows(), before(impl, front=[front])) * numbers("to", (3, 7, D))).sum().backward()
    return front.grad


@observe(
    "gradients",
    "A gradient should reach both tables, the norm and the vectors in front: where does `detach` or `no_grad` stop it?",
)
def where_gradients_arrive(impl):
    made = fill(impl.Embed(VOCAB, D, 16, norm=nn.LayerNorm(D)), scale=1.0)
    front = [numbers("front", (2, D)).requires_grad_(), numbers("fronts", (3, 1, D)).requires_grad_()]
    found = arrivals(made, made(rows(), before(impl, front=front)) * numbers("to", (3, 8, D)))
    return found | {
        f"in front, {n}": f.grad is not None and bool(f.grad.abs().max() > 0) for n, f in enumerate(front, 1)
    }


@observe("types", "With tables in bfloat16 or float64, the vectors should have the type of the tables.")
def types_of_numbers(impl):
    def run(made):
        front = [numbers("front", (2, D)).to(made.token.weight.dtype)]
        return made(rows(), before(impl, front=front))

    return types(lambda dtype: impl.Embed(VOCAB, D, 16).to(dtype), run)
