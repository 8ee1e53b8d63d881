"""A Llama's parts: which numbers RoPE turns and how far, who shares keys, what the cache holds, what the MLP does."""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

import minipeft.exercises.models as models
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import VOCAB, Learned, arrivals, copied, fill, numbers, rows, short, types
from minipeft.models.transformer import KVCache, attention_mask, recording

observe = Observations()

B, H, G, C, T = 3, 4, 2, 6, 5  # rows, heads, heads of keys, numbers in a head, tokens
D, FF, BASE = H * C, 7, 50.0
MASKS = {side: rows(side)[1] for side in ("left", "right")}


def heads(name, length=T, count=H, size=C):
    return numbers(name, (B, count, length, size), 1.0)


def places(*which):
    """Positions for all rows alike, (1, 1, T)."""
    return torch.tensor(which)[None, None]


def units(impl, position, size=8, base=10_000.0):
    """What becomes of each number of a head, alone and 1, at this position: (c, c), a row for each of them."""
    alone = torch.eye(size)[None, :, None]  # (1, c, 1, c): each in a head of its own
    return impl.rotate(alone, places(position), base)[0, :, 0]


def angles(impl, position, size=8, base=10_000.0):
    """By how much each of the c/2 pairs is turned."""
    turned = units(impl, position, size, base)
    half = size // 2
    return [math.atan2(turned[i, half + i], turned[i, i]) for i in range(half)]


def kept(impl, name, make):
    """One for all observations of a module: to make it takes longer than to use it."""
    known = vars(impl)
    if name not in known:
        known[name] = make()
    return known[name]


def fresh(impl):
    return fill(impl.RotaryAttention(D, H, G, BASE), scale=0.6).eval()


def layer(impl):
    return kept(impl, "layer of the bank", lambda: fresh(impl))


def mlp(impl):
    return kept(impl, "mlp of the bank", lambda: fill(impl.GatedMLP(D, FF)).eval())


def llama(impl):
    return kept(impl, "model of the bank", lambda: new_llama(impl))


def new_llama(impl):
    config = impl.LlamaConfig(VOCAB, dim=8, layers=2, heads=4, kv_heads=2, ff=6, context=32, tied=False)
    return fill(impl.Llama(config)).eval()


def x(length=T, name="x"):
    return numbers(name, (B, length, D), 1.0)


def cached(length=2, fixed=False):
    cache = KVCache()
    cache.k, cache.v, cache.fixed = heads("old k", length, G), heads("old v", length, G), fixed
    return cache


def after(n, queries, mask=None):
    """The mask for the last `queries` tokens, behind n cached keys. mask: padding among all of them."""
    return attention_mask(queries, n + queries, True, mask)


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
    with lengths_compared():
        return made(*args)


def recorded(made, *args):
    """The output inside `recording`, and the attention map."""
    with lengths_compared(), recording(nn.ModuleList([made])):
        y = made(*args)
    return y, made.weights


# ---- rotation -----------------------------------------------------------------------------------------------------


@observe("rotation", "What is rotated should keep its shape, (B, heads, T, c).")
def shape_of_what_is_rotated(impl):
    return list(impl.rotate(heads("q"), places(*range(T)), BASE).shape)


@observe("rotation", "At position 0 nothing should be turned.")
def at_position_0(impl):
    return impl.rotate(heads("q"), places(*[0] * T), BASE) - heads("q")


@observe("rotation", "The wrong numbers are turned together: in a head of 8, x_i belongs to x_{i+4}.")
def which_numbers_make_a_pair(impl):
    return {f"number {i}": row.abs().gt(1e-9).nonzero().flatten().tolist() for i, row in enumerate(units(impl, 1))}


@observe("rotation", "A rotation should leave the length of every vector as it is.")
def lengths(impl):
    return impl.rotate(heads("q"), places(*range(T)), BASE).norm(dim=-1)


@observe("rotation", "At position 1, the pairs of a head of 8 are not turned by the angles 1, 1/10, 1/100, 1/1000.")
def angles_at_position_1(impl):
    return angles(impl, 1)


@observe("rotation", "The angles should depend on the width of the head and on `base` as the docstring tells.")
def angles_of_other_heads(impl):
    return {"c = 2": angles(impl, 1, 2), "c = 6": angles(impl, 1, 6), "base 100": angles(impl, 1, 8, 100.0)}


@observe("rotation", "An angle should be proportional to the position.")
def angles_by_position(impl):
    return {f"position {n}": angles(impl, n, 4, 100.0) for n in (0, 1, 2, 3)}


@observe("rotation", "The score of a query and a key should depend only on how far apart they are.")
def scores_at_the_same_distance(impl):
    q, k = (heads(name, 1)[:1, :1] for name in "qk")

    def score(query, key):
        return float((impl.rotate(q, places(query), BASE) * impl.rotate(k, places(key), BASE)).sum())

    return {f"shifted by {n}": math.isclose(score(7 + n, 3 + n), score(7, 3), rel_tol=1e-3) for n in (1, 10, 100)}


@observe("rotation", "What is rotated is not the expected one.")
def rotated(impl):
    return impl.rotate(heads("q"), places(*range(T)), BASE)


@observe("rotation", "Where each row has positions of its own, (B, 1, T), some rows are turned by those of others.")
def positions_of_each_row(impl):
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [9, 8, 7, 6, 5]])[:, None]
    return impl.rotate(heads("q"), positions, BASE)


@observe("rotation", "The caller's numbers should not be changed.")
def what_is_left_alone(impl):
    q, positions = heads("q"), places(*range(T))
    impl.rotate(q, positions, BASE)
    return {"x": q - heads("q"), "positions": positions - places(*range(T))}


# ---- positions ----------------------------------------------------------------------------------------------------


@observe("positions", "Without padding, the S keys should have the positions 0 to S−1, in a tensor (1, 1, S).")
def positions_without_padding(impl):
    return {
        "no mask, 1 token, 5 keys": impl.key_positions(None, 1, 5),
        "causal, 4 tokens": impl.key_positions("causal", 4, 4),
        "3 tokens behind 2 keys": impl.key_positions(after(2, 3), 3, 5),
    }


@observe("positions", "Behind padding, the first real key should have position 0.")
def positions_of_real_keys(impl):
    found = {}
    for where, mask in (MASKS | {"left, of the first row too": MASKS["left"].flip(0)}).items():
        got = impl.key_positions(attention_mask(T, T, True, mask.clone()), T, T)
        found[f"padding on the {where}"] = got.expand(B, 1, T)[:, 0][mask]
    return found


@observe("positions", "For one new token, padding among the keys that came before should take no position either.")
def positions_of_the_last_token_alone(impl):
    got = impl.key_positions(attention_mask(1, T, True, MASKS["left"].clone()), 1, T)
    return got.expand(B, 1, T)[:, 0][MASKS["left"]]


@observe("positions", "Positions should be made on the `device` that is asked for; a GPU reads no other.")
def device_of_positions(impl):
    return impl.key_positions(None, 1, 5, torch.device("meta")).device.type


# ---- attention ----------------------------------------------------------------------------------------------------


@observe("attention", "The layer does not return the expected shape.")
def shape(impl):
    return list(layer(impl)(x(), "causal").shape)


@observe("attention", "Neighbouring query heads should share a key head: of 4 with 2, heads 0 and 1 read the first.")
def which_heads_share_keys(impl):
    made = fresh(impl)
    with torch.no_grad():
        made.k.weight[C:] = 0  # the second head of keys: all scores are 0, so whoever reads it looks everywhere alike
    weights = recorded(made, x(), None)[1]
    return {f"head {i}": bool((w - 1 / T).abs().max() < 1e-9) for i, w in enumerate(weights.transpose(0, 1))}


@observe("attention", "Neighbouring query heads should share a head of values, the one that belongs to their keys.")
def which_heads_share_values(impl):
    made = fresh(impl)
    with torch.no_grad():
        made.v.weight[C:] = 0
        made.o.weight.copy_(torch.eye(D))  # so the heads can be seen one by one in the output
    y = made(x(), "causal").unflatten(-1, (H, C))
    return {f"head {i}": bool(y[:, :, i].abs().max() < 1e-9) for i in range(H)}


@observe("attention", "Where all keys are visible, the attention map is not the expected one.")
def attention_map(impl):
    return recorded(layer(impl), x(), None)[1]


@observe("attention", "Without a mask, where all keys are visible, the output is not the expected one.")
def output_without_a_mask(impl):
    return layer(impl)(x(), None)


@observe("attention", 'With the mask "causal", the output is not the expected one.')
def output_of_a_causal_layer(impl):
    return layer(impl)(x(), "causal")


@observe("attention", "The output of a token changes when a later token does, so the future is not hidden.")
def a_later_token_changes(impl):
    other = x().clone()
    other[:, 3:] += numbers("later", (B, T - 3, D))
    return (layer(impl)(other, "causal") - layer(impl)(x(), "causal"))[:, :3]


@observe("attention", "Equal tokens have equal values: where all are equal, no position may change the output.")
def output_of_equal_tokens(impl):
    y = layer(impl)(x()[:, :1].expand(B, T, D), "causal")
    return y - y[:, :1]


@observe("attention", "With padding, the output of the real tokens is not the expected one.")
def output_with_padding(impl):
    found = {}
    for side, mask in MASKS.items():
        found[f"on the {side}"] = layer(impl)(x(), attention_mask(T, T, True, mask.clone()))[mask]
    return found


# ---- the cache ----------------------------------------------------------------------------------------------------


@observe("KV cache", "The cache should get the G heads of keys and values, and no copies of them: (B, G, S, c).")
def shape_of_what_the_cache_holds(impl):
    cache = KVCache()
    read(layer(impl), x(2), None, cache)
    return {name: None if t is None else list(t.shape) for name, t in (("keys", cache.k), ("values", cache.v))}


@observe("KV cache", "The cache should hold keys as W_k makes them: they are rotated when they are read.")
def what_the_cache_holds(impl):
    cache = cached()
    read(layer(impl), x(2), after(2, 2), cache)
    return {"keys": cache.k, "values": cache.v}


@observe("KV cache", "A row that is read in two pieces should give the same output as the whole row.")
def pieces_instead_of_the_whole(impl):
    made, cache, pieces = layer(impl), KVCache(), x().split((2, 3), 1)
    first, second = read(made, pieces[0], "causal", cache), read(made, pieces[1], after(2, 3), cache)
    return torch.cat([first, second], 1) - made(x(), "causal")


@observe("KV cache", "With keys in the cache, for a single new token, the output is not the expected one.")
def one_token_after_cached_keys(impl):
    return read(layer(impl), x(1), None, cached(4))


@observe("KV cache", "With keys in the cache, some of them padding, the output of the real tokens is not right.")
def padding_among_cached_keys(impl):
    earlier = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()
    mask = torch.cat([earlier, MASKS["right"]], 1)
    return read(layer(impl), x(), after(2, T, mask), cached())[MASKS["right"]]


@observe("KV cache", "Keys that belong to no row, (G, n, c), a learned prefix say, should be read by all rows.")
def a_prefix_in_the_cache(impl):
    cache = KVCache()
    cache.k, cache.v = heads("prefix k", 2, G)[0], heads("prefix v", 2, G)[0]
    return read(layer(impl), x(), after(2, T), cache)


@observe("KV cache", "A cache that is `fixed` should be read, but nothing should be written to it.")
def a_fixed_cache(impl):
    cache = cached(fixed=True)
    outputs = [read(layer(impl), x(2), after(2, 2), cache) for _ in range(2)]
    return {"keys": cache.k, "values": cache.v, "second pass": outputs[1] - outputs[0]}


# ---- recording ----------------------------------------------------------------------------------------------------


@observe("recording", "Inside `recording`, the layer should keep the map of all H heads, (B, H, T, S).")
def recorded_map(impl):
    return {
        "a whole row": recorded(layer(impl), x(), "causal")[1],
        "behind cached keys": recorded(layer(impl), x(1), None, cached())[1],
    }


@observe("recording", "Inside `recording`, the output should be the same as outside.")
def output_while_recording(impl):
    return recorded(layer(impl), x(), after(0, T, MASKS["left"]))[0] - layer(impl)(x(), after(0, T, MASKS["left"]))


@observe("recording", "The map should be kept only inside `recording`, and without the autograd graph behind it.")
def what_is_kept_of_the_map(impl):
    made = fresh(impl)
    made(x(2), "causal")
    outside = made.weights is not None
    weights = recorded(made, x(2), "causal")[1]
    return {"kept outside": outside, "holds a graph": weights is not None and weights.requires_grad}


# ---- the MLP ------------------------------------------------------------------------------------------------------


@observe("SwiGLU", "The MLP should return what is added to the residual stream, (B, T, d).")
def shape_of_the_mlp(impl):
    return list(mlp(impl)(x()).shape)


@observe("SwiGLU", "silu should be applied to what `gate` gives, and not to what `up` gives.")
def where_the_nonlinearity_stands(impl):
    found = {}
    for gate, up in ((1, 1), (2, 1), (1, 2), (-1, 1), (1, -1)):
        made = impl.GatedMLP(1, 1).eval()
        with torch.no_grad():
            for name, value in (("gate", gate), ("up", up), ("down", 1)):
                getattr(made, name).weight.fill_(value)
        found[f"gate {gate}, up {up}"] = made(torch.ones(1, 1, 1)).item()
    return found


@observe("SwiGLU", "The two branches should be multiplied: where one of them gives 0, the MLP gives 0.")
def where_one_branch_is_0(impl):
    found = {}
    for name in ("gate", "up", "down"):
        made = fill(impl.GatedMLP(D, FF)).eval()
        with torch.no_grad():
            getattr(made, name).weight.zero_()
        found[f"{name} gives 0"] = made(x()).abs().max()
    return found


@observe("SwiGLU", "The output of the MLP is not the expected one.")
def output_of_the_mlp(impl):
    return mlp(impl)(x())


# ---- the model ----------------------------------------------------------------------------------------------------


@observe("model", "In the whole model, the logits of a row without padding are not the expected ones.")
@torch.no_grad()
def logits(impl):
    return llama(impl)(rows()[0])


@observe("model", "Padding beside a row should change nothing in the logits of its real tokens.")
@torch.no_grad()
def rows_with_padding(impl):
    found = {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        together = llama(impl)(tokens, mask)
        alone = [llama(impl)(t[m][None])[0] for t, m in zip(tokens, mask, strict=True)]
        found[f"on the {side}"] = together[mask] - torch.cat(alone)
    return found


@observe("model", "Generation with the cache should give the tokens that generation without it gives, padding or not.")
@torch.no_grad()
def generation_with_a_cache(impl):
    found = {}
    for name, (tokens, mask) in {"alone": rows(), "padded": rows("left")}.items():
        with_cache, without = (llama(impl).generate(tokens, 6, mask, cache=cache) for cache in (True, False))
        found[name] = {"with": with_cache, "without": without}
    return found


@observe("model", "With learned keys and values in front, as of a prefix, the logits are not the expected ones.")
@torch.no_grad()
def logits_with_a_prefix(impl):
    made = copied(llama(impl))
    made.begin = Prefix()
    return made(rows("left")[0], rows("left")[1])[rows("left")[1]]


@observe("model", "After all weights have changed, the answer should follow. Is something kept from an earlier pass?")
@torch.no_grad()
def after_a_change(impl):
    return models.after_a_move(lambda: new_llama(impl), lambda made: made(rows()[0]))


@observe("model", "In training, the same input gives another output: nobody asked for a dropout.")
@torch.no_grad()
def training_is_like_evaluation(impl):
    made = {"attention": fresh(impl), "MLP": fill(impl.GatedMLP(D, FF))}
    return {name: bool(part.eval()(x()).allclose(part.train()(x()))) for name, part in made.items()}


class Prefix(Learned):
    """Two keys and values in each layer, of two heads of two numbers."""

    def forward(self, blocks):
        cache = super(Learned, self).forward(blocks)
        for i, each in enumerate(cache.layers):
            each.extend(*(numbers(f"learned {w} {i}", (2, 2, 2), 1.0) for w in "kv"))
        return cache


# ---- gradients and types ------------------------------------------------------------------------------------------


@observe("gradients", "A gradient should reach what is rotated; where does `detach`, `no_grad` or a copy cut it off?")
def gradient_through_the_rotation(impl):
    q = heads("q").requires_grad_()
    (impl.rotate(q, places(*range(T)), BASE) * heads("to")).sum().backward()
    return q.grad


@observe("gradients", "A gradient should reach the input and every weight; where is it cut off?")
def where_gradients_arrive(impl):
    found = {}
    for where in ("outside `recording`", "inside"):
        made, given, cache = fresh(impl), x(2).requires_grad_(), cached()
        y = recorded(made, given, after(2, 2), cache)[0] if found else read(made, given, after(2, 2), cache)
        found[where] = arrivals(made, y) | {"x": bool(given.grad is not None and given.grad.abs().max() > 0)}
    made, given = fill(impl.GatedMLP(D, FF)), x(2).requires_grad_()
    found["MLP"] = arrivals(made, made(given)) | {"x": bool(given.grad is not None and given.grad.abs().max() > 0)}
    return found


@observe("gradients", "Keys and values in the cache may be learned, as a prefix is, so a gradient should reach them.")
def where_gradients_arrive_in_the_cache(impl):
    cache = cached()
    old = {"keys": cache.k.requires_grad_(), "values": cache.v.requires_grad_()}
    read(layer(impl), x(2), after(2, 2), cache).pow(2).sum().backward()
    return {name: t.grad is not None and bool(t.grad.abs().max() > 0) for name, t in old.items()}


@observe("types", "With weights in bfloat16 or float64 the layer should work, and answer in their type.")
def types_of_numbers(impl):
    def run(made):
        given = x().to(made.q.weight.dtype)
        visible = attention_mask(T, T, True, MASKS["left"].clone())
        return made(given, "causal") + made(given, visible) + recorded(made, given, visible)[0]

    return types(lambda dtype: impl.RotaryAttention(D, H, G, BASE).to(dtype).eval(), run)


@observe("types", "With weights in bfloat16 or float64 the MLP should work, and answer in their type.")
def types_of_the_mlp(impl):
    return types(lambda dtype: impl.GatedMLP(D, FF).to(dtype).eval(), lambda made: made(x().to(made.up.weight.dtype)))


@observe("types", "Far from the beginning the angles are too coarse: bfloat16 cannot tell position 1001 from 1003.")
def far_positions_in_bfloat16(impl):
    q = torch.ones(1, 1, 2, 8)
    exact, turned = (impl.rotate(q.to(dtype), places(1001, 1003), 10_000.0) for dtype in (q.dtype, torch.bfloat16))
    return {"type": short(turned.dtype), "right": bool((turned.to(exact) - exact).abs().max() < 0.05)}
