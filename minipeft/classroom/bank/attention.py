"""Attention: the equation, the heads, who may see whom, and the keys and values that were there before."""

import torch
from torch import nn

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import T, fill, numbers, rows

exercise = Exercise(
    "attention",
    "models/transformer.py",
    stubs=("attention_mask", "attend", "Attention.split", "Attention.forward"),
    title="Attention: each token reads from the others",
    minutes=45,
    difficulty=2,
    why="What queries, keys and values do, why the scores are scaled, and how a mask hides the future and the padding.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3.2; for the padding mask: BERT, arXiv:1810.04805",
    lesson="01",
)

B, H, SIZE = 3, 2, 3  # of rows() there are three; two heads of width 3
KEYS = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1]]).bool()  # (4, 5)
MASKS = {side: rows(side)[1] for side in ("left", "right")}
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
    got = impl.attention_mask(queries, keys, causal, mask)
    if got is None or isinstance(got, str):
        every = torch.ones(queries, keys, dtype=torch.bool)
        got = every if got is None else every.tril()  # the fused kernel begins at the first key
    return got.expand(B, 1, queries, keys)[:, 0]


def recorded(impl, made, *args):
    """The output inside `recording`, and the attention map."""
    with impl.recording(nn.ModuleList([made])):
        y = made(*args)
    return y, made.weights


@exercise.observe("softmax", "The values that attend returns, softmax(QKᵀ/√(d/H)) V, are not the expected ones.")
def mixed_values(impl):
    return impl.attend(*qkv())[0]


@exercise.observe("softmax", "The weights that attend returns are not the expected ones.")
def weights(impl):
    return impl.attend(*qkv())[1]


@exercise.observe("softmax", "The weights of one query should sum to 1 over the keys that it sees.")
def sums_of_the_weights(impl):
    return [impl.attend(*qkv())[1].sum(-1), impl.attend(*qkv(), KEYS)[1].sum(-1)]


@exercise.observe("softmax", "With large scores something overflows, although the softmax itself is well defined.")
def large_scores(impl):
    return impl.attend(*qkv(scale=40.0))[1]


@exercise.observe("mask", "A key that a query may not see should get a weight of exactly 0.")
def weights_of_hidden_keys(impl):
    return impl.attend(*qkv(), KEYS)[1] * ~KEYS


@exercise.observe("mask", "With a mask, the mixture of the values that may be seen is not the expected one.")
def mixed_values_with_a_mask(impl):
    return impl.attend(*qkv(), KEYS)[0]


@exercise.observe("mask", 'With the mask "causal", each token should read from itself and the tokens before it.')
def weights_with_the_mask_causal(impl):
    return impl.attend(*qkv(4, 4), "causal")[1]


@exercise.observe("who sees whom", '`attention_mask` should return None, "causal" or booleans, True for visible.')
def kind_of_answer(impl):
    cases = {
        "bidirectional": (4, 4, False),
        "causal": (4, 4, True),
        "after cached keys": (2, 5, True),
        "padding": (5, 5, True, MASKS["left"]),
    }
    answers = {case: impl.attention_mask(*args) for case, args in cases.items()}
    words = (None, "causal")
    return {c: a.dtype == torch.bool if isinstance(a, torch.Tensor) else a in words for c, a in answers.items()}


@exercise.observe("who sees whom", "In a causal model, a token should see itself and the tokens before it.")
def the_causal_triangle(impl):
    return seen(impl, 4, 4)


@exercise.observe("who sees whom", "The T tokens are the last of S keys; which keys each of them sees is not right.")
def the_triangle_after_cached_keys(impl):
    return [seen(impl, 3, 5), seen(impl, 2, 5), seen(impl, 1, 5)]


@exercise.observe("who sees whom", "A bidirectional model should hide nothing but padding.")
def bidirectional(impl):
    return [seen(impl, 4, 4, False), seen(impl, 2, 5, False), seen(impl, 5, 5, False, MASKS["right"])[MASKS["right"]]]


@exercise.observe("who sees whom", "With padding, the keys that the real tokens see are not the right ones.")
def what_real_tokens_see(impl):
    return [seen(impl, 5, 5, mask=MASKS[side])[MASKS[side]] for side in ("left", "right")]


@exercise.observe("who sees whom", "Padding among the cached keys is not hidden as it should be.")
def padding_among_cached_keys(impl):
    whole = torch.cat([EARLIER, MASKS["left"]], dim=1)  # (B, 2 + 5)
    return [seen(impl, 5, 7, mask=whole)[MASKS["left"]], seen(impl, 1, 5, mask=MASKS["left"])]


@exercise.observe("who sees whom", "Some queries, those of padding, see no key at all; a softmax over nothing is NaN.")
def queries_that_see_nothing(impl):
    masks = [(5, MASKS["left"]), (5, MASKS["right"]), (7, torch.cat([EARLIER, MASKS["left"]], dim=1))]
    blind = [~seen(impl, 5, S, causal, mask).any(-1) for causal in (True, False) for S, mask in masks]
    return int(torch.stack(blind).sum())


@exercise.observe("heads", "Split into heads, the width d should become H heads of d/H numbers each, in order.")
def split_into_heads(impl):
    return layer(impl).split(x())


@exercise.observe("heads", "Keys that belong to no row, (n, d), should be split into heads as well: (H, n, d/H).")
def split_without_a_batch(impl):
    return layer(impl).split(x()[0])


@exercise.observe("layer", "The layer does not return the expected shape.")
def shape(impl):
    return list(layer(impl)(x()).shape)


@exercise.observe("layer", "Without a mask, where all keys are visible, the output is not the expected one.")
def output_without_a_mask(impl):
    return layer(impl)(x())


@exercise.observe("layer", 'With the mask "causal", the output is not the expected one.')
def output_of_a_causal_layer(impl):
    return layer(impl)(x(), "causal")


@exercise.observe("layer", "The output of a token changes when a later token does, so the future is not hidden.")
def a_later_token_changes(impl):
    made, other = layer(impl), x().clone()
    other[:, 3:] += numbers("later", (B, T - 3, H * SIZE))
    return (made(other, "causal") - made(x(), "causal"))[:, :3]


@exercise.observe("layer", "With booleans for a mask, some of them hiding padding, the output is not the expected one.")
def output_with_padding(impl):
    visible = (triangle(T, T) & MASKS["left"][:, None, None]) | torch.eye(T, dtype=torch.bool)
    return layer(impl)(x(), visible)


@exercise.observe("KV cache", "With keys and values in the cache, the output is not the expected one.")
def output_after_cached_keys(impl):
    return [layer(impl)(x(n), triangle(n, n + 2)[None, None], cached(impl)) for n in (2, 1)]


@exercise.observe("KV cache", "A row that is read in two pieces should give the same output as the whole row.")
def pieces_instead_of_the_whole(impl):
    made, cache, pieces = layer(impl), impl.KVCache(), x().split((2, 3), 1)
    first, second = made(pieces[0], "causal", cache), made(pieces[1], triangle(3, 5)[None, None], cache)
    return torch.cat([first, second], 1) - made(x(), "causal")


@exercise.observe(
    "KV cache", "After the pass, the cache should hold its old keys and values, followed by the new ones."
)
def what_the_cache_holds(impl):
    cache = cached(impl)
    layer(impl)(x(2), triangle(2, 4)[None, None], cache)
    return {"keys": cache.k, "values": cache.v}


@exercise.observe("KV cache", "A cache that is `fixed` should be read, but nothing should be written to it.")
def a_fixed_cache(impl):
    cache = cached(impl, fixed=True)
    outputs = [layer(impl)(x(2), triangle(2, 4)[None, None], cache) for _ in range(2)]
    return {"keys": cache.k, "second pass": outputs[1] - outputs[0]}


@exercise.observe("recording", "Inside `recording`, the layer should keep the whole attention map, (B, H, T, S).")
def recorded_map(impl):
    return [recorded(impl, layer(impl), x(), "causal")[1], recorded(impl, layer(impl), x(2), None, cached(impl))[1]]


@exercise.observe("recording", "Inside `recording`, the output should be the same as outside.")
def output_while_recording(impl):
    return recorded(impl, layer(impl), x(), triangle(T, T)[None, None])[0]


@exercise.observe(
    "recording", "The map is kept to be looked at: only inside `recording`, and without the autograd graph behind it."
)
def what_is_kept_of_the_map(impl):
    made = fresh(impl)
    made(x(2))
    outside = made.weights is not None
    kept = recorded(impl, made, x(2))[1]
    return {"kept outside": outside, "holds a graph": kept is not None and kept.requires_grad}


SCORES = "scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)"
TEXT = (
    '    if isinstance(mask, str):  # "causal"\n        mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()\n'
)
HIDE = "    if mask is not None:\n        scores = scores.masked_fill(~mask, -torch.inf)\n    weights = scores.softmax(dim=-1)\n    return weights @ v, weights\n"
SPLIT = "return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # (..., T, d) → (..., H, T, d/H)"
QKV = "for proj in (self.q, self.k, self.v))  # (B, H, T, d/H)"
EXTEND = "            k, v = cache.extend(k, v)  # (B, H, S, d/H)\n"
WAYS = """        if self.recording:
            y, weights = attend(q, k, v, mask)
            self.weights = weights.detach()
        elif isinstance(mask, str):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
"""
BY_HAND = """        y, weights = attend(q, k, v, mask)
        if self.recording:
            self.weights = weights.detach()
"""
JOIN = "        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, d)\n"
NONE = "    if mask is None and (T == 1 or not causal):\n        return None\n"
CAUSAL = '    if mask is None and T == S:\n        return "causal"\n'
TRIANGLE = "visible = every.tril(S - T) if causal else every\n"
PLAIN = "        return visible[None, None]\n"
ITSELF = "    itself = every.tril(S - T).triu(S - T)\n    return (visible & mask[:, None, None]) | itself\n"

exercise.mistake(
    "no scale",
    ((SCORES, "scores = q @ k.transpose(-1, -2)"),),
    "the scores are not divided by √(d/H)",
    "how large does q·k become when the vectors get longer?",
    "A sum over d products grows with √d. A softmax of large scores puts nearly all weight on one key, and the other keys get no gradient.",
)
exercise.mistake(
    "divided by the width",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / q.shape[-1]"),),
    "the scores are divided by the width of a head, not by its square root",
    "if d products of variance 1 are summed, what is the standard deviation of the sum?",
    "The scale brings the standard deviation of the scores back to 1, and a standard deviation is a square root.",
    "delzac/cntkx#10",
)
exercise.mistake(
    "width of the model",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[1] * q.shape[-1])"),),
    "the scores are divided by the square root of the model's width instead of the head's",
    "how many products does one score sum up?",
    "Each head multiplies vectors of its own width, d/H.",
    "lucidrains/vit-pytorch#65, chelsea0x3b/dfdx#171, aladdinpersson/Machine-Learning-Collection#65",
)
exercise.mistake(
    "root of the number of keys",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / math.sqrt(k.shape[-2])"),),
    "the scores are divided by the square root of the number of keys",
    "should a token's score change when the text gets longer?",
    "In (B, H, S, d/H) the last number is the width of a head; the one before it counts the keys.",
)
exercise.mistake(
    "multiplied by the scale",
    ((SCORES, "scores = q @ k.transpose(-1, -2) * math.sqrt(q.shape[-1])"),),
    "the scores are multiplied by √(d/H) where they should be divided",
    "should the scale make the scores of a wider head larger or smaller?",
    "The scale makes scores smaller.",
    "esceptico/perceiver-io#9, where it was divided by 1/√d",
)
exercise.mistake(
    "softmax over the queries",
    ((HIDE, HIDE.replace("dim=-1", "dim=-2")),),
    "the softmax runs over the queries, not over the keys",
    "which numbers should sum to 1: all that one query reads, or all that is read from one key?",
    "The weights are (B, H, T, S), with the keys last.",
    "labmlai/annotated_deep_learning_paper_implementations#146, PetrochukM/PyTorch-NLP#2",
)
exercise.mistake(
    "softmax over the heads",
    ((HIDE, HIDE.replace("dim=-1", "dim=1")),),
    "the softmax runs over the heads, not over the keys",
    "which of the four dimensions (B, H, T, S) is number 1?",
    "Dimension 1 was right for three dimensions, but here there are four. Counted from the end, the keys are always the same.",
    "FudanNLP/fastNLP#254",
)
exercise.mistake(
    "keys reshaped",
    ((SCORES, "scores = q @ k.reshape(*k.shape[:2], k.shape[3], k.shape[2]) / math.sqrt(q.shape[-1])"),),
    "the keys are reshaped where they should be transposed, so their numbers are mixed up",
    "after your step, does column s still hold the numbers of key s?",
    "`view` and `reshape` read the same numbers in the same order. Turning rows into columns takes a `transpose`.",
)
exercise.mistake(
    "mask after the softmax",
    ((HIDE, "    weights = scores.softmax(dim=-1)\n    if mask is not None:\n        weights = weights * mask\n    return weights @ v, weights\n"),),
    "the mask is applied after the softmax, so the remaining weights no longer sum to 1",
    "what do the weights of a query sum to when half of its keys are hidden?",
    "Hidden keys must not take part in the sum of the softmax either.",
    "huggingface/pytorch-image-models#2236",
)  # fmt: skip
exercise.mistake(
    "mask inverted",
    ((HIDE, HIDE.replace("~mask", "mask")),),
    "the mask is read the wrong way round: the visible keys are hidden",
    "what does True mean in this mask?",
    "Some functions of PyTorch take True for hidden; here True means visible.",
)
exercise.mistake(
    "zero for hidden",
    ((HIDE, HIDE.replace("-torch.inf", "0.0")),),
    "hidden scores are set to 0, which still gives them a weight",
    "what does the softmax make of a score of 0: what is exp(0)?",
    "A score of 0 is an ordinary score; think of the limit in which exp vanishes.",
)
exercise.mistake(
    "softmax that overflows",
    ((HIDE, HIDE.replace("scores.softmax(dim=-1)", "scores.exp() / scores.exp().sum(-1, keepdim=True)")),),
    "exp is taken of the scores as they are, and overflows where they are large",
    "what is exp(1000) to your computer, and what changes in a softmax if 1000 is subtracted from every score?",
    "`softmax` subtracts the largest score first; by hand you have to do the same.",
)
exercise.mistake(
    "causal ignored by attend",
    ((TEXT, "    if isinstance(mask, str):\n        mask = None\n"),),
    'attend hides nothing when the mask is "causal"',
    'what should a token see when the mask is the word "causal"?',
    "The word stands for a triangle of booleans. The fused kernel makes it itself; written out, you have to make it.",
)
exercise.mistake(
    "heads cut without a transpose",
    ((SPLIT, "return x.reshape(*x.shape[:-2], self.heads, x.shape[-2], -1)"),),
    "(B, T, d) is reshaped to (B, H, T, d/H) at once, so a head gets pieces of different tokens",
    "which numbers of x end up in head 0, token 1?",
    "Reshaping keeps the order of the numbers. Cut the last dimension first, then exchange tokens and heads.",
    "hyunwoongko/transformer#15, reczoo/FuxiCTR#30, 649453932/Chinese-Text-Classification-Pytorch#53",
)
exercise.mistake(
    "every H-th number",
    ((SPLIT, "return x.unflatten(-1, (-1, self.heads)).movedim(-1, -3)"),),
    "a head gets every H-th number of a token instead of d/H neighbours",
    "which numbers of the width belong to head 0?",
    "Both ways would train. But keys and weights that come from elsewhere store one head after the other.",
)
exercise.mistake(
    "dimensions counted from the front",
    ((SPLIT, "return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)"),),
    "tokens and heads are exchanged by their numbers 1 and 2, which is right only with a batch dimension in front",
    "the keys of a learned prefix are (n, d): which dimensions does your step exchange there?",
    "Counted from the end, tokens and heads stand at the same place with and without a batch dimension.",
)
exercise.mistake(
    "one head",
    ((SPLIT, "return x.unsqueeze(-3)"),),
    "there is only one head, of the whole width",
    "how many attention maps should there be for one row?",
    "Each head compares its own d/H numbers and has a softmax of its own.",
)
exercise.mistake(
    "heads joined without a transpose",
    ((JOIN, "        return self.o(y.reshape(x.shape))  # (B, T, d)\n"),),
    "the heads are joined without moving the tokens back in front of them",
    "in (B, H, T, d/H), do the numbers of one token lie side by side?",
    "The shape comes out right, but a token gets one head's results of several tokens.",
    "jsbaan/transformer-from-scratch#6, ajhalthor/Transformer-Neural-Network#4, chelsea0x3b/dfdx#158",
)
exercise.mistake(
    "no output projection",
    ((JOIN, "        return y.transpose(1, 2).flatten(2)  # (B, T, d)\n"),),
    "the joined heads are returned without the last projection, o",
    "which of the four linear layers did you not use?",
    "Side by side, the heads know nothing of each other; o mixes them before they are added to the residual stream.",
)
exercise.mistake(
    "pair returned",
    ((WAYS, BY_HAND), (JOIN, "        return self.o(y.transpose(1, 2).flatten(2)), weights\n")),
    "the layer returns a pair, the output and the weights",
    "what does the block do with what attention returns?",
    "`nn.MultiheadAttention` returns both. Here the block adds the output to the stream, and the weights have another place.",
)
exercise.mistake(
    "values from the projection of keys",
    ((QKV, QKV.replace("self.q, self.k, self.v", "self.q, self.k, self.k")),),
    "the values come from the projection of the keys",
    "does each of q, k and v have its own projection?",
    "This is a slip of copying: three lines should differ in two letters, and one differs in one.",
)
exercise.mistake(
    "keys and values exchanged",
    ((WAYS, WAYS.replace("(q, k, v,", "(q, v, k,")),),
    "keys and values are exchanged",
    "with which of the two is the query compared, and which one is passed on?",
    "Both have the same shape, so nothing complains.",
)
exercise.mistake(
    "always causal",
    ((WAYS, WAYS.replace("elif isinstance(mask, str):", "elif mask is None or isinstance(mask, str):")),),
    "without a mask the layer hides the future, although None means that all keys are visible",
    "what does None mean for a bidirectional model?",
    "An encoder such as BERT reads in both directions. Whether the future is hidden was decided by whoever made the mask.",
)
exercise.mistake(
    "mask dropped",
    ((WAYS, WAYS.replace(", attn_mask=mask", "")),),
    "a mask of booleans is not passed on, so padding and the future are read like any token",
    "does a padded row of your batch give the same answer as it does alone?",
    "The layer gets `mask`; follow it to the place where the keys are hidden.",
    "ml-explore/mlx-lm#1906",
)
exercise.mistake(
    "own keys only",
    ((EXTEND, "            cache.extend(k, v)\n"),),
    "the cache is extended, but the queries see the new keys only",
    "what does `cache.extend` return?",
    "The tokens have to read from everything that came before, not just from this piece.",
)
exercise.mistake(
    "cache never extended",
    ((EXTEND, "            if cache.k is not None:\n                k, v = torch.cat([cache.k, k], -2), torch.cat([cache.v, v], -2)\n"),),
    "the cached keys are read, but the new ones are never added to the cache",
    "what will the next token find in the cache?",
    "The cache has a method that returns all keys and also keeps them.",
)  # fmt: skip
exercise.mistake(
    "cache written by hand",
    ((EXTEND, "            if cache.k is not None:\n                k, v = torch.cat([cache.k, k], -2), torch.cat([cache.v, v], -2)\n            cache.k, cache.v = k, v\n"),),
    "the layer writes to the cache itself, even if the cache is `fixed`",
    "what happens to a fixed cache if a block runs twice, as with gradient checkpointing?",
    "Whether anything may be written is for the cache to decide: use its own method.",
)  # fmt: skip
exercise.mistake(
    "cache filled the wrong way round",
    ((EXTEND, "            v, k = cache.extend(v, k)\n"),),
    "the cache gets the values as keys and the keys as values",
    "in which order does `cache.extend` take them?",
    "As long as only this layer reads the cache, nothing shows. A learned prefix puts its keys where keys belong.",
)
exercise.mistake(
    "map never kept",
    ((WAYS, WAYS.replace("            self.weights = weights.detach()\n", "")),),
    "inside `recording` the attention map is not kept",
    "where does a figure of the attention find the weights?",
    "The class says which attribute holds them, and when.",
)
exercise.mistake(
    "map always kept",
    ((WAYS, BY_HAND.replace("        if self.recording:\n            self.weights", "        self.weights")),),
    "the map is kept at every pass, not only inside `recording`",
    "how large are the maps of a deep model and a long text?",
    "(B, H, T, S) numbers for each layer would stay in memory although nobody asked for them.",
)
exercise.mistake(
    "map with its graph",
    ((WAYS, WAYS.replace("weights.detach()", "weights")),),
    "the map is kept with the whole autograd graph behind it",
    "what does a tensor with `requires_grad` hold on to?",
    "What is only looked at should be detached. Otherwise the memory of the pass is never freed and the model cannot be copied.",
)
exercise.mistake(
    "recording without the mask",
    ((WAYS, WAYS.replace("attend(q, k, v, mask)", "attend(q, k, v)")),),
    "inside `recording` the mask is not used",
    "does a figure of your attention show weights on future tokens?",
    "The map should show what the layer really does, so both ways need the same mask.",
)
exercise.mistake(
    "triangle from the first key",
    ((TRIANGLE, "visible = every.tril() if causal else every\n"),),
    "the triangle begins at the first key, also where cached keys come before",
    "with 3 keys in the cache, how many keys does the first new token see?",
    "Every query sees all S − T cached keys; the triangle covers the last T.",
    "jingyaogong/minimind#631",
)
exercise.mistake(
    "the kernel's triangle after cached keys",
    ((CAUSAL, CAUSAL.replace("mask is None and T == S", "mask is None")),),
    '"causal" is returned also where cached keys come before, and the fused kernel\'s triangle begins at the first key',
    "with 2 queries and 5 keys, which keys does `is_causal=True` leave to the first query?",
    "That triangle starts at the upper left corner; with a cache, the queries are the last tokens.",
    "pytorch/pytorch#144858, #103082 and #108108",
)
exercise.mistake(
    "token does not see itself",
    ((CAUSAL, ""), (TRIANGLE, "visible = every.tril(S - T - 1) if causal else every\n")),
    "a token does not see itself, and the first one sees nothing",
    "what can the very first token read?",
    "Look at the diagonal: it belongs to what is visible.",
)
exercise.mistake(
    "triangle of the future",
    ((CAUSAL, ""), (TRIANGLE, "visible = every.triu(S - T) if causal else every\n")),
    "it is the other triangle: tokens see the future and not the past",
    "row t says what token t sees: are those keys on its left or on its right?",
    "Rows are queries, columns are keys.",
)
exercise.mistake(
    "no triangle after cached keys",
    ((NONE, "    if mask is None and (T < S or not causal):\n        return None\n"),),
    "where cached keys come before, nothing is hidden, so several new tokens see each other's future",
    "if 3 new tokens follow a cache, may the first of them see the third?",
    "A single new token may see everything; several still need their triangle.",
    "mlx-node/mlx-node#24",
)
exercise.mistake(
    "every model causal",
    ((NONE, "    if mask is None and T == 1:\n        return None\n"), (TRIANGLE, "visible = every.tril(S - T)\n")),
    "the future is hidden in a bidirectional model too",
    "which argument tells an encoder from a decoder?",
    "An encoder such as BERT reads in both directions.",
)
exercise.mistake(
    "padding forgotten for a single token",
    ((NONE, "    if T == 1 or (mask is None and not causal):\n        return None\n"),),
    "a single new token sees all keys, padding among the cached ones included",
    "a row was padded on the left: what should the next token not see?",
    "A single token has no future to hide, but the padding of its row is still in the cache.",
    "ml-explore/mlx-lm#1906",
)
exercise.mistake(
    "padding sees nothing",
    ((ITSELF, "    return visible & mask[:, None, None]\n"),),
    "padding on the left sees nothing at all, and a softmax over nothing is NaN",
    "which keys are left for a query whose keys are all hidden?",
    "It does not matter what padding reads, but it has to read something, or NaN spreads.",
    "pytorch/pytorch#41508",
)
exercise.mistake(
    "padding sees the wrong key",
    ((ITSELF, "    itself = torch.eye(T, S, dtype=torch.bool, device=device)\n    return (visible & mask[:, None, None]) | itself\n"),),
    "the diagonal begins at the first key: with cached keys before, token t sees key t, which may be padding",
    "if 2 cached keys come before, which of the S keys is the first token's own?",
    "The T tokens are the last of the S keys, so the diagonal has to be moved like the triangle.",
)  # fmt: skip
exercise.mistake(
    "mask of the queries",
    ((ITSELF, ITSELF.replace("mask[:, None, None]", "mask[:, None, -T:, None]")),),
    "the mask hides queries where it should hide keys",
    "should padding be unable to read, or should nobody read from it?",
    "The mask runs along the last dimension of the weights, the keys.",
)
exercise.mistake(
    "padding without the triangle",
    ((ITSELF, ITSELF.replace("(visible & mask[:, None, None])", "mask[:, None, None].expand(-1, -1, T, -1)")),),
    "with padding the triangle is forgotten, and the future is visible",
    "which two conditions must a key fulfil in a causal model with padding?",
    "A key is visible if it is not in the future and if it is not padding.",
)
exercise.mistake(
    "numbers to add instead of booleans",
    ((PLAIN, "        return torch.zeros(T, S).masked_fill(~visible, -torch.inf)[None, None]\n"),
     (ITSELF, ITSELF.replace("return (visible & mask[:, None, None]) | itself", "return torch.zeros(T, S).masked_fill(~((visible & mask[:, None, None]) | itself), -torch.inf)"))),
    "`attention_mask` returns numbers to be added to the scores, 0 and −∞",
    "what does `attend` do with what it gets?",
    "Both conventions exist; here everybody expects booleans, True for visible.",
)  # fmt: skip

exercise.right(
    "einsum",
    ((SCORES, 'scores = torch.einsum("bhtc,bhsc->bhts", q, k) * q.shape[-1] ** -0.5'),
     (HIDE, HIDE.replace("weights @ v, weights", 'torch.einsum("bhts,bhsc->bhtc", weights, v), weights'))),
)  # fmt: skip
exercise.right(
    "softmax by hand, the largest score subtracted",
    ((HIDE, HIDE.replace("scores.softmax(dim=-1)", "(scores - scores.amax(-1, keepdim=True)).exp()\n    weights = weights / weights.sum(-1, keepdim=True)")),),
)  # fmt: skip
exercise.right(
    "a very negative number",
    ((SCORES, "scores = (q / math.sqrt(q.shape[-1])) @ k.mT"), (HIDE, HIDE.replace("-torch.inf", "torch.finfo(scores.dtype).min"))),
)  # fmt: skip
exercise.right(
    "always by hand, with view and permute",
    ((SPLIT, "x = x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)\n        return x.movedim(-2, -3)"),
     (WAYS, BY_HAND), (JOIN, "        return self.o(y.permute(0, 2, 1, 3).reshape(*x.shape[:2], -1))\n")),
)  # fmt: skip
exercise.right(
    "one head at a time",
    ((SPLIT, "return torch.stack(x.chunk(self.heads, dim=-1), dim=-3)"),
     (WAYS, "        found = [attend(a, b, c, mask) for a, b, c in zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), strict=True)]\n        if self.recording:\n            self.weights = torch.cat([w for _, w in found], 1).detach()\n        y = torch.cat([mixed for mixed, _ in found], 1)\n")),
)  # fmt: skip
exercise.right(
    "comparing numbers, always booleans",
    ((NONE + CAUSAL, ""), (TRIANGLE, "visible = torch.arange(S) - (S - T) <= torch.arange(T)[:, None] if causal else every\n")),
)  # fmt: skip
exercise.right(
    "a query that sees nothing sees everything",
    ((ITSELF, "    both = visible & mask[:, None, None]\n    return both | ~both.any(-1, keepdim=True)\n"),),
)

exercise.variant(
    "no root",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / q.shape[-1]  # (B, H, T, S)"),
     ('"""softmax(QKᵀ/√(d/H)) V, written out. Returns', '"""softmax(QKᵀ/(d/H)) V, without a root, written out. Returns'),
     ("own: softmax(QKᵀ/√(d/H)) V, by PyTorch's", "own: softmax(QKᵀ/(d/H)) V, without a root, by PyTorch's"),
     ("(q, k, v, is_causal=True)", "(q, k, v, is_causal=True, scale=1 / q.shape[-1])"),
     ("(q, k, v, attn_mask=mask)", "(q, k, v, attn_mask=mask, scale=1 / q.shape[-1])")),
    "scores are divided by the width of a head, d/H, not by its square root",
)  # fmt: skip
exercise.variant(
    "window",
    ((NONE, "    if mask is None and not causal:\n        return None\n"),
     (CAUSAL, CAUSAL.replace("T == S", "T == S < 4")),
     (TRIANGLE, "visible = every.tril(S - T).triu(S - T - 2) if causal else every\n"),
     ("the last T keys are the tokens' own.\n", "the last T keys are the tokens' own.\n\n    In a causal model it is a window: a token sees itself and the two keys before it.\n")),
    "a token of a causal model sees itself and the two keys before it, and no others",
)  # fmt: skip
