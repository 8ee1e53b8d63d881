"""Attention: the equation, the heads, who may see whom, and the keys and values that were there before."""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import T, after_a_move, arrivals, fill, numbers, rows, types

observe = Observations()

B, H, SIZE = 3, 2, 3  # of rows() there are three; two heads of width 3
KEYS = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1]]).bool()  # (4, 5)
MASKS = {side: rows(side)[1] for side in ("left", "right")}
PIECES = ("two tokens", 2), ("one token", 1)
EARLIER = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()  # two keys that were there before, some of them padding


def heads(name, length, scale=0.5):
    return numbers(name, (B, H, length, SIZE), scale)


def qkv(queries=4, keys=5, scale=1.0):
    return heads("q", queries, scale), heads("k", keys, scale), heads("v", keys, scale)


def fresh(impl):
    return fill(impl.Attention(H * SIZE, H), scale=0.8).eval()


def layer(impl):
    """One for all observations of a module: to make it takes longer than to use it."""
    known = vars(impl)
    if "layer of the bank" not in known:
        known["layer of the bank"] = fresh(impl)
    return known["layer of the bank"]


def x(length=T, name="x"):
    return numbers(name, (B, length, H * SIZE), 1.0)


def cached(impl, length=2, fixed=False):
    cache = impl.KVCache()
    cache.k, cache.v, cache.fixed = heads("old k", length), heads("old v", length), fixed
    return cache


def triangle(queries, keys):
    """Each query sees its own key and those before it; the queries are the last ones."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def seen(impl, queries, keys, causal=True, mask=None):
    """What `attention_mask` says as (B, T, S), whichever of the allowed forms it has."""
    got = impl.attention_mask(queries, keys, causal, None if mask is None else mask.clone())  # it may be written to
    if got is None or isinstance(got, str):
        every = torch.ones(queries, keys, dtype=torch.bool)
        got = every if got is None else every.tril()  # the fused kernel begins at the first key
    if not covers(got, queries, keys):
        got = torch.zeros(queries, keys, dtype=torch.bool)
    return got.expand(B, 1, queries, keys)[:, 0]


def covers(mask, queries, keys):
    """Can this mask be laid over scores (B, 1, T, S)?"""
    return all(have in (1, want) for have, want in zip(mask.shape[-2:], (queries, keys), strict=True))


def divisor(impl, width, count=H, keys=3):
    """By what attend divides q·k: q is 1, the keys are 0, 1/2, 1, …, so the weights tell the scores."""
    q, k = torch.zeros(1, count, 2, width), torch.zeros(1, count, keys, width)
    q[..., 0], k[..., 0] = 1, torch.arange(keys) / 2
    weights = impl.attend(q, k, k)[1][0, 0, 0]
    return 0.5 / float((weights[1] / weights[0]).log())


@contextmanager
def lengths_compared():
    """Inside, the fused kernel raises an error if there are more keys than values: it would read what is not there."""
    kernel = F.scaled_dot_product_attention

    def compared(q, k, v, *args, **settings):
        if k.shape[-2] != v.shape[-2]:
            raise RuntimeError(f"there are {k.shape[-2]} keys, but {v.shape[-2]} values")
        return kernel(q, k, v, *args, **settings)

    F.scaled_dot_product_attention = compared
    try:
        yield
    finally:
        F.scaled_dot_product_attention = kernel


def read(made, *args):
    """The output, where a cache is read without a mask."""
    with lengths_compared():
        return made(*args)


def recorded(impl, made, *args):
    """The output inside `recording`, and the attention map."""
    with lengths_compared(), impl.recording(nn.ModuleList([made])):
        y = made(*args)
    return y, made.weights


@observe("softmax", "attend should return two things: the mixed values (B, H, T, d/H), then the weights (B, H, T, S).")
def what_attend_returns(impl):
    found = impl.attend(*qkv())
    return [list(part.shape) for part in found] if isinstance(found, tuple | list) else "one thing"


@observe("softmax", "The weights of one query should sum to 1 over the keys that it sees.")
def sums_of_the_weights(impl):
    weights = {"no mask": impl.attend(*qkv())[1], "a mask of booleans": impl.attend(*qkv(), KEYS.clone())[1]}
    return {mask: α.sum(-1) for mask, α in weights.items()}


@observe("softmax", "The scale of the scores should follow the width of a head, d/H, and nothing else.")
def what_the_scale_follows(impl):
    least = divisor(impl, 4)
    others = {"width of a head": (16,), "number of heads": (4, 4), "number of keys": (4, H, 12)}
    return {what: not math.isclose(least, divisor(impl, *sizes)) for what, sizes in others.items()}


@observe(
    "softmax", "In heads of width 1, the scores should be the products q·k themselves: such a head has a scale of 1."
)
def scale_of_heads_of_width_1(impl):
    return divisor(impl, 1)


@observe("softmax", "In heads of width 4 and 16, q·k is divided by another number than the docstring of attend tells.")
def scale_of_wider_heads(impl):
    return {f"width {width}": divisor(impl, width) for width in (4, 16)}


@observe("softmax", "The weights that attend returns are not the softmax of the scaled scores over the keys.")
def weights(impl):
    return impl.attend(*qkv())[1]


@observe("softmax", "With large scores something overflows, although the softmax itself is well defined.")
def large_scores(impl):
    return impl.attend(*qkv(scale=40.0))[1]


@observe("softmax", "The values that attend returns are not the sums of V, each value times its weight.")
def mixed_values(impl):
    return impl.attend(*qkv())[0]


@observe("mask", "A key that a query may not see should get a weight of exactly 0.")
def weights_of_hidden_keys(impl):
    return impl.attend(*qkv(), KEYS.clone())[1] * ~KEYS


@observe("mask", "With a mask, the mixture of the values that may be seen is not the expected one.")
def mixed_values_with_a_mask(impl):
    return impl.attend(*qkv(), KEYS.clone())[0]


@observe("mask", 'With the mask "causal", each token should read from itself and the tokens before it.')
def weights_with_the_mask_causal(impl):
    return impl.attend(*qkv(4, 4), "causal")[1]


@observe("who sees whom", '`attention_mask` should return None, "causal" or booleans, True for visible.')
def kind_of_answer(impl):
    cases = {
        "bidirectional": (4, 4, False),
        "causal": (4, 4, True),
        "after cached keys": (2, 5, True),
        "padding": (5, 5, True, MASKS["left"].clone()),
    }
    answers = {case: impl.attention_mask(*args) for case, args in cases.items()}
    words = (None, "causal")
    return {c: a.dtype == torch.bool if isinstance(a, torch.Tensor) else a in words for c, a in answers.items()}


@observe(
    "who sees whom",
    "A mask needs a row for each of the T tokens and a column for each of the S keys: (B or 1, 1, T, S).",
)
def shape_of_a_mask(impl):
    found = {}
    for tokens, keys, mask in ((4, 4, None), (3, 5, None), (5, 5, MASKS["left"]), (3, 5, MASKS["left"])):
        got = impl.attention_mask(tokens, keys, True, None if mask is None else mask.clone())
        found[f"{tokens} tokens, {keys} keys{', padding' if mask is not None else ''}"] = not isinstance(
            got, torch.Tensor
        ) or covers(got, tokens, keys)
    return found


@observe("who sees whom", "A mask should be made on the `device` that is asked for; a GPU reads no other.")
def device_of_a_mask(impl):
    return impl.attention_mask(3, 5, True, None, torch.device("meta")).device.type


@observe("who sees whom", "In a causal model, a token should see itself and the tokens before it.")
def the_causal_triangle(impl):
    return seen(impl, 4, 4)


@observe("who sees whom", "The T tokens are the last of S keys; which keys each of them sees is not right.")
def the_triangle_after_cached_keys(impl):
    return {f"{tokens} tokens, 5 keys": seen(impl, tokens, 5) for tokens in (3, 2, 1)}


@observe("who sees whom", "A bidirectional model should hide nothing but padding.")
def bidirectional(impl):
    return {
        "no cached keys": seen(impl, 4, 4, False),
        "after cached keys": seen(impl, 2, 5, False),
        "real tokens beside padding": seen(impl, 5, 5, False, MASKS["right"])[MASKS["right"]],
    }


@observe("who sees whom", "With padding, the keys that the real tokens see are not the right ones.")
def what_real_tokens_see(impl):
    return {f"padding on the {side}": seen(impl, 5, 5, mask=MASKS[side])[MASKS[side]] for side in ("left", "right")}


@observe("who sees whom", "Padding among the cached keys is not hidden as it should be.")
def padding_among_cached_keys(impl):
    whole = torch.cat([EARLIER, MASKS["left"]], dim=1)  # (B, 2 + 5)
    return {
        "several new tokens": seen(impl, 5, 7, mask=whole)[MASKS["left"]],
        "a single new token": seen(impl, 1, 5, mask=MASKS["left"]),
    }


@observe("who sees whom", "Some queries, those of padding, see no key at all; a softmax over nothing is NaN.")
def queries_that_see_nothing(impl):
    masks = [(5, MASKS["left"]), (5, MASKS["right"]), (7, torch.cat([EARLIER, MASKS["left"]], dim=1))]
    blind = [~seen(impl, 5, S, causal, mask).any(-1) for causal in (True, False) for S, mask in masks]
    return int(torch.stack(blind).sum())


@observe("heads", "Split into heads, the width d should become H heads of d/H numbers each, in order.")
def split_into_heads(impl):
    return layer(impl).split(x())


@observe("heads", "Keys that belong to no row, (n, d), should be split into heads as well: (H, n, d/H).")
def split_without_a_batch(impl):
    return layer(impl).split(x()[0])


@observe("layer", "The layer does not return the expected shape.")
def shape(impl):
    return list(layer(impl)(x()).shape)


@observe("layer", "Without a mask, where all keys are visible, the output is not the expected one.")
def output_without_a_mask(impl):
    return layer(impl)(x())


@observe("layer", 'With the mask "causal", the output is not the expected one.')
def output_of_a_causal_layer(impl):
    return layer(impl)(x(), "causal")


@observe("layer", "The output of a token changes when a later token does, so the future is not hidden.")
def a_later_token_changes(impl):
    made, other = layer(impl), x().clone()
    other[:, 3:] += numbers("later", (B, T - 3, H * SIZE))
    return (made(other, "causal") - made(x(), "causal"))[:, :3]


@observe("layer", "With booleans for a mask, some of them hiding padding, the output is not the expected one.")
def output_with_padding(impl):
    visible = (triangle(T, T) & MASKS["left"][:, None, None]) | torch.eye(T, dtype=torch.bool)
    return layer(impl)(x(), visible)


@observe("KV cache", "Where everything is visible, the output with keys and values in the cache is not right.")
def output_with_a_cache_and_no_mask(impl):
    return {tokens: read(layer(impl), x(n), None, cached(impl)) for tokens, n in PIECES}


@observe("KV cache", "With keys and values in the cache, and a mask over all keys, the output is not right.")
def output_after_cached_keys(impl):
    return {tokens: layer(impl)(x(n), triangle(n, n + 2)[None, None], cached(impl)) for tokens, n in PIECES}


@observe("KV cache", "A cache that was empty should hold a key and a value for each token that was read.")
def what_an_empty_cache_holds_after_a_pass(impl):
    cache = impl.KVCache()
    read(layer(impl), x(2), None, cache)
    return {name: 0 if t is None else t.shape[-2] for name, t in (("keys", cache.k), ("values", cache.v))}


@observe("KV cache", "A row that is read in two pieces should give the same output as the whole row.")
def pieces_instead_of_the_whole(impl):
    made, cache, pieces = layer(impl), impl.KVCache(), x().split((2, 3), 1)
    first, second = made(pieces[0], "causal", cache), made(pieces[1], triangle(3, 5)[None, None], cache)
    return torch.cat([first, second], 1) - made(x(), "causal")


@observe("KV cache", "After the pass, the cache should hold its old keys and values, followed by the new ones.")
def what_the_cache_holds(impl):
    cache = cached(impl)
    read(layer(impl), x(2), None, cache)
    return {"keys": cache.k, "values": cache.v}


@observe("KV cache", "A cache that is `fixed` should be read, but nothing should be written to it.")
def a_fixed_cache(impl):
    cache = cached(impl, fixed=True)
    outputs = [read(layer(impl), x(2), None, cache) for _ in range(2)]
    return {"keys": cache.k, "second pass": outputs[1] - outputs[0]}


@observe("recording", "Inside `recording`, the layer should keep the whole attention map, (B, H, T, S).")
def recorded_map(impl):
    return {
        "a whole row": recorded(impl, layer(impl), x(), "causal")[1],
        "after cached keys": recorded(impl, layer(impl), x(2), None, cached(impl))[1],
    }


@observe("recording", "Inside `recording`, the output should be the same as outside.")
def output_while_recording(impl):
    return recorded(impl, layer(impl), x(), triangle(T, T)[None, None])[0]


@observe(
    "recording", "The map is kept to be looked at: only inside `recording`, and without the autograd graph behind it."
)
def what_is_kept_of_the_map(impl):
    made = fresh(impl)
    made(x(2))
    outside = made.weights is not None
    kept = recorded(impl, made, x(2))[1]
    return {"kept outside": outside, "holds a graph": kept is not None and kept.requires_grad}


@observe("layer", "After all weights have changed, the answer should follow. Is something kept from an earlier pass?")
def after_a_change(impl):
    return after_a_move(lambda: fresh(impl), lambda made: made(x()))


@observe("layer", "In training, the same input gives another output: nobody asked for a dropout.")
def training_is_like_evaluation(impl):
    made = fresh(impl)
    return bool(made.eval()(x()).allclose(made.train()(x())))


@observe(
    "gradients",
    "A gradient should reach the input and every weight; where does `detach`, `no_grad` or a copy cut it off?",
)
def where_gradients_arrive(impl):
    found = {}
    for where in ("outside `recording`", "inside"):
        made, given, cache = fresh(impl), x(2).requires_grad_(), cached(impl)  # with no cache, the bias of k gets none
        y = read(made, given, None, cache) if not found else recorded(impl, made, given, None, cache)[0]
        found[where] = arrivals(made, y) | {"x": bool(given.grad is not None and given.grad.abs().max() > 0)}
    return found


@observe("gradients", "Keys and values in the cache may be learned, as a prefix is, so a gradient should reach them.")
def where_gradients_arrive_in_the_cache(impl):
    cache = cached(impl)
    old = {"keys": cache.k.requires_grad_(), "values": cache.v.requires_grad_()}
    read(fresh(impl), x(2), None, cache).pow(2).sum().backward()
    return {name: t.grad is not None and bool(t.grad.abs().max() > 0) for name, t in old.items()}


@observe(
    "types",
    "With weights in bfloat16 or float64 the layer should work, and answer in their type, inside `recording` too.",
)
def types_of_numbers(impl):
    def run(made):
        given, visible = x().to(made.q.weight.dtype), triangle(T, T)[None, None]
        return made(given, visible) + recorded(impl, made, given, visible)[0] + recorded(impl, made, given, "causal")[0]

    return types(lambda dtype: impl.Attention(H * SIZE, H).to(dtype).eval(), run)
