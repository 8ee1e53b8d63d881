"""Attention: the equation, the heads, and who may see whom."""

import torch
from torch import nn

from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import T, fill, numbers, rows

exercise = Exercise(
    "attention",
    "models/transformer.py",
    holes=("attend", "Attention.forward", "Attention.visible"),
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


def heads(name, length, scale=0.5):
    return numbers(name, (B, H, length, SIZE), scale)


def qkv(queries=4, keys=5, scale=1.0):
    return heads("q", queries, scale), heads("k", keys, scale), heads("v", keys, scale)


def fresh(impl, causal=True):
    return fill(impl.Attention(H * SIZE, H, causal), scale=0.8).eval()


def layer(impl, causal=True):
    """One for all observations of a module: to make it takes longer than to use it."""
    kept = vars(impl).setdefault("layers of the bank", {})
    if causal not in kept:
        kept[causal] = fresh(impl, causal)
    return kept[causal]


def x(length=T, name="x"):
    return numbers(name, (B, length, H * SIZE), 1.0)


def past(impl, length=2):
    return impl.Past(heads("old k", length), heads("old v", length))


def seen(impl, queries, keys, causal=True, mask=None):
    """What `visible` says as (B, T, S), whichever of the allowed forms it has."""
    got = layer(impl, causal).visible(queries, keys, mask, torch.device("cpu"))
    got = torch.ones(queries, keys, dtype=torch.bool) if got is None else got
    return got.expand(B, 1, queries, keys)[:, 0]


def recorded(impl, made, *args):
    """The output with `recording` on, and the map."""
    with impl.recording(nn.ModuleList([made])):
        y = made(*args)
    return y, made.weights


@exercise.observe("softmax", "The values that come out of attend, softmax(QKᵀ/√d) V, are not the expected ones.")
def mixed_values(impl):
    return impl.attend(*qkv())[0]


@exercise.observe("softmax", "The weights that attend returns are not the expected ones.")
def weights(impl):
    return impl.attend(*qkv())[1]


@exercise.observe("softmax", "The weights with which one query reads should sum to 1, over the keys that it sees.")
def sums_of_the_weights(impl):
    return [impl.attend(*qkv())[1].sum(-1), impl.attend(*qkv(), KEYS)[1].sum(-1)]


@exercise.observe("softmax", "With large scores something overflows, where the softmax itself has a plain answer.")
def large_scores(impl):
    return impl.attend(*qkv(scale=40.0))[1]


@exercise.observe("mask", "A key that a query may not see should get a weight of exactly 0.")
def weights_of_hidden_keys(impl):
    return impl.attend(*qkv(), KEYS)[1] * ~KEYS


@exercise.observe("mask", "With a mask, what is read from the keys that may be seen is not the expected mixture.")
def mixed_values_with_a_mask(impl):
    return impl.attend(*qkv(), KEYS)[0]


@exercise.observe("who sees whom", "`visible` should answer with booleans, True for seen, or with None.")
def kind_of_answer(impl):
    answers = [layer(impl).visible(4, 4, None, torch.device("cpu")), layer(impl).visible(5, 5, MASKS["left"], torch.device("cpu"))]  # fmt: skip
    return ["None" if a is None else str(a.dtype) for a in answers]


@exercise.observe("who sees whom", "In a causal layer a token should see itself and what came before it.")
def the_causal_triangle(impl):
    return seen(impl, 4, 4)


@exercise.observe("who sees whom", "After a past of S − T keys the queries are the last ones: see which keys they see.")
def the_triangle_after_a_past(impl):
    return [seen(impl, 3, 5), seen(impl, 2, 5), seen(impl, 1, 5)]


@exercise.observe("who sees whom", "A bidirectional layer hides nothing but padding.")
def bidirectional(impl):
    return [seen(impl, 4, 4, causal=False), seen(impl, 5, 5, False, MASKS["right"])[MASKS["right"]]]


@exercise.observe("who sees whom", "With padding, what the real tokens see is not what they should see.")
def what_real_tokens_see(impl):
    return [seen(impl, 5, 5, mask=MASKS[side])[MASKS[side]] for side in ("left", "right")]


@exercise.observe("who sees whom", "After a past, the padding in the mask hides other keys than it should.")
def padding_after_a_past(impl):
    return seen(impl, 2, 5, mask=MASKS["left"])


@exercise.observe(
    "who sees whom", "A mask that is shorter than the keys is about the last keys; the first ones are seen."
)
def a_mask_shorter_than_the_keys(impl):
    m = MASKS["left"]
    return [seen(impl, 5, 7, mask=m)[m], seen(impl, 5, 7, False, m)[m]]


@exercise.observe("who sees whom", "Some queries, those of padding, see no key at all; a softmax over nothing is NaN.")
def queries_that_see_nothing(impl):
    return int(sum((~seen(impl, 5, 5, causal, MASKS[side]).any(-1)).sum() for causal in (True, False) for side in ("left", "right")))  # fmt: skip


@exercise.observe("layer", "The shape of what the layer returns is not right.")
def shape(impl):
    return list(layer(impl)(x()).shape)


@exercise.observe("layer", "What a bidirectional layer returns is not the expected output.")
def output_of_a_bidirectional_layer(impl):
    return layer(impl, causal=False)(x())


@exercise.observe("layer", "What a causal layer returns is not the expected output.")
def output_of_a_causal_layer(impl):
    return layer(impl)(x())


@exercise.observe("layer", "The output of a token changes when a later one does, so the future is not hidden.")
def a_later_token_changes(impl):
    made, other = layer(impl), x().clone()
    other[:, 3:] += numbers("later", (B, T - 3, H * SIZE))
    return (made(other) - made(x()))[:, :3]


@exercise.observe("layer", "The output at the real tokens of a padded row is not the expected one.")
def padded_rows(impl):
    return [layer(impl, causal)(x(), MASKS[side])[MASKS[side]] for causal, side in ((True, "left"), (False, "right"))]


@exercise.observe("layer", "Padding gives NaN, which spreads: every number has to be finite, those of padding too.")
def numbers_that_are_not_finite(impl):
    made, args = layer(impl), (x(), MASKS["left"])
    return [int((~y.isfinite()).sum()) for y in (made(*args), recorded(impl, made, *args)[0])]


@exercise.observe("past", "With a past in front, the output is not the expected one.")
def output_after_a_past(impl):
    return [layer(impl)(x(n), None, past(impl)) for n in (2, 1)]


@exercise.observe("past", "A row read in two pieces should give what it gives as a whole.")
def pieces_instead_of_the_whole(impl):
    made, memory = layer(impl), impl.Past()
    pieces = [made(piece, None, memory) for piece in x().split((2, 3), 1)]
    return torch.cat(pieces, 1) - made(x())


@exercise.observe("past", "Of rows with padding, read in two pieces, the second is not what it should be.")
def pieces_of_padded_rows(impl):
    made, memory, m = layer(impl), impl.Past(), MASKS["left"]
    made(x()[:, :3], m[:, :3], memory)
    return made(x()[:, 3:], m, memory)


@exercise.observe("past", "The past should hold the new keys and values after its own, and know that it has begun.")
def what_the_past_holds(impl):
    memory = past(impl)
    layer(impl)(x(2), None, memory)
    return {"keys": memory.k, "values": memory.v, "begun": memory.begun}


@exercise.observe("recording", "Inside `recording` the layer should keep the whole map of weights, (B, H, T, S).")
def recorded_map(impl):
    return [recorded(impl, layer(impl), x())[1], recorded(impl, layer(impl), x(2), None, past(impl))[1]]


@exercise.observe("recording", "Inside `recording` the output should be what it is outside.")
def output_while_recording(impl):
    return recorded(impl, layer(impl), x())[0]


@exercise.observe(
    "recording", "The map is kept to be looked at: only inside `recording`, and without a graph behind it."
)
def what_is_kept_of_the_map(impl):
    made = fresh(impl)
    made(x(2))
    outside = made.weights is not None
    kept = recorded(impl, made, x(2))[1]
    return {"kept outside": outside, "holds a graph": kept is not None and kept.requires_grad}


SCORES = "scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)"
HIDE = "    if visible is not None:\n        scores = scores.masked_fill(~visible, -torch.inf)\n    weights = scores.softmax(dim=-1)\n    return weights @ v, weights\n"
SPLIT = "(proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))"
EXTEND = "            k, v = past.extend(k, v)  # (B, H, S, d/H)\n            past.begun = True\n"
WAYS = """        if self.recording:
            y, weights = attend(q, k, v, self.visible(T, S, mask, x.device))
            self.weights = weights.detach()
        elif self.causal and mask is None and T == S:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.visible(T, S, mask, x.device))
"""
BY_HAND = """        y, weights = attend(q, k, v, self.visible(T, S, mask, x.device))
        if self.recording:
            self.weights = weights.detach()
"""
JOIN = "        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, d)\n"
NONE = "        if mask is None and (T == 1 or not self.causal):\n            return None\n"
TRIANGLE = "every.tril(S - T)[None, None] if self.causal else every  # the past, S - T keys, is seen by every query"
SHORT = "F.pad(mask, (S - mask.shape[1], 0), value=True)[:, None, None]  # (B, 1, 1, S)"
ITSELF = "        itself = F.pad(torch.eye(T, dtype=torch.bool, device=device), (S - T, 0))\n        return (seen & keys) | itself  # padding sees itself: a softmax over nothing would be NaN\n"

exercise.mistake(
    "no scale",
    ((SCORES, "scores = q @ k.transpose(-1, -2)"),),
    "the scores are not divided by √d",
    "how large do q·k become when their vectors get longer?",
    "A sum over d products grows with √d, and a softmax of large scores is hard: one weight near 1, no gradient for the others.",
)
exercise.mistake(
    "divided by the width",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / q.shape[-1]"),),
    "the scores are divided by the width of a head, not by its root",
    "if d products of variance 1 are summed, what is the standard deviation of the sum?",
    "The scale brings the spread of the scores back to 1; the spread is a square root.",
    "delzac/cntkx#10",
)
exercise.mistake(
    "width of the model",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[1] * q.shape[-1])"),),
    "the scores are divided by the root of the model's width instead of the head's",
    "how many products does one score sum up?",
    "Each head multiplies vectors of its own width, d/H.",
    "lucidrains/vit-pytorch#65, chelsea0x3b/dfdx#171, aladdinpersson/Machine-Learning-Collection#65",
)
exercise.mistake(
    "root of the number of keys",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / math.sqrt(k.shape[-2])"),),
    "the scores are divided by the root of the number of keys",
    "should a token's score change when the text gets longer?",
    "In (B, H, S, d/H) the width of a head is the last number, the keys are counted by the one before.",
)
exercise.mistake(
    "multiplied by the scale",
    ((SCORES, "scores = q @ k.transpose(-1, -2) * math.sqrt(q.shape[-1])"),),
    "the scores are multiplied by √d where they should be divided",
    "should a wider head have larger or smaller scores because of the scale?",
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
    "With three dimensions it would have been another one; counted from the end, the keys are always the same.",
    "FudanNLP/fastNLP#254",
)
exercise.mistake(
    "keys reshaped",
    ((SCORES, "scores = q @ k.reshape(*k.shape[:2], k.shape[3], k.shape[2]) / math.sqrt(q.shape[-1])"),),
    "the keys are reshaped where they should be transposed, so their numbers are mixed up",
    "after your step, does column s still hold the numbers of key s?",
    "`view` and `reshape` read the same numbers in the same order; to turn rows into columns one needs `transpose`.",
)
exercise.mistake(
    "mask after the softmax",
    ((HIDE, "    weights = scores.softmax(dim=-1)\n    if visible is not None:\n        weights = weights * visible\n    return weights @ v, weights\n"),),
    "the mask is applied after the softmax, so the remaining weights no longer sum to 1",
    "what do the weights of a query sum to when half of its keys are hidden?",
    "Hidden keys have to be out of the sum in the softmax too.",
    "huggingface/pytorch-image-models#2236",
)  # fmt: skip
exercise.mistake(
    "mask turned over",
    ((HIDE, HIDE.replace("~visible", "visible")),),
    "the mask is read the wrong way round: what may be seen is hidden",
    "what does True mean in `visible`?",
    "Some functions of PyTorch take True for hidden; here True is seen.",
)
exercise.mistake(
    "zero for hidden",
    ((HIDE, HIDE.replace("-torch.inf", "0.0")),),
    "hidden scores are set to 0, which still gives them a weight",
    "what does the softmax make of a score of 0: what is exp(0)?",
    "A score of 0 is an ordinary one; think of the limit in which exp vanishes.",
)
exercise.mistake(
    "softmax that overflows",
    ((HIDE, HIDE.replace("scores.softmax(dim=-1)", "scores.exp() / scores.exp().sum(-1, keepdim=True)")),),
    "exp is taken of the scores as they are, and overflows where they are large",
    "what is exp(1000) to your computer, and what changes in a softmax if 1000 is subtracted from every score?",
    "`softmax` subtracts the largest score first; by hand one has to do the same.",
)
exercise.mistake(
    "heads cut without a transpose",
    ((SPLIT, "(proj(x).reshape(len(x), self.heads, x.shape[1], -1) for proj in (self.q, self.k, self.v))"),),
    "(B, T, d) is reshaped to (B, H, T, d/H) at once, so a head gets pieces of different tokens",
    "which numbers of x end up in head 0, token 1?",
    "Reshaping keeps the order of the numbers. Cut the last dimension first, then exchange tokens and heads.",
    "hyunwoongko/transformer#15, reczoo/FuxiCTR#30, 649453932/Chinese-Text-Classification-Pytorch#53",
)
exercise.mistake(
    "heads joined without a transpose",
    ((JOIN, "        return self.o(y.reshape(x.shape))  # (B, T, d)\n"),),
    "the heads are joined without bringing the tokens back in front of them",
    "in (B, H, T, d/H), do the numbers of one token lie side by side?",
    "The shape comes out right, but a token gets one head's results of several tokens.",
    "jsbaan/transformer-from-scratch#6, ajhalthor/Transformer-Neural-Network#4, chelsea0x3b/dfdx#158",
)
exercise.mistake(
    "one head",
    ((SPLIT, "(proj(x)[:, None] for proj in (self.q, self.k, self.v))"),),
    "there is only one head, of the whole width",
    "how many maps of weights should there be for one row?",
    "Each head compares its own d/H numbers and has a softmax of its own.",
)
exercise.mistake(
    "no output projection",
    ((JOIN, "        return y.transpose(1, 2).flatten(2)  # (B, T, d)\n"),),
    "the joined heads are returned without the last projection, o",
    "which of the four linear layers did you not use?",
    "Side by side, the heads do not know of each other; o mixes them before they are added to the stream.",
)
exercise.mistake(
    "pair returned",
    ((WAYS, BY_HAND), (JOIN, "        return self.o(y.transpose(1, 2).flatten(2)), weights\n")),
    "the layer returns a pair, the output and the weights",
    "what does the block do with what attention returns?",
    "`nn.MultiheadAttention` returns both; here the block adds what comes out, and the weights have another place.",
)
exercise.mistake(
    "values from the projection of keys",
    ((SPLIT, SPLIT.replace("self.q, self.k, self.v", "self.q, self.k, self.k")),),
    "the values come from the projection of the keys",
    "does each of q, k and v have its own projection?",
    "A slip of copying: three lines that should differ in two letters, and one differs in one.",
)
exercise.mistake(
    "keys and values exchanged",
    ((WAYS, WAYS.replace("(q, k, v,", "(q, v, k,")),),
    "keys and values are exchanged",
    "with which of the two is the query compared, and which one is handed over?",
    "Both have the same shape, so nothing complains.",
)
exercise.mistake(
    "every layer causal",
    ((WAYS, WAYS.replace("elif self.causal and mask", "elif mask")),),
    "a layer without padding is always causal, a bidirectional one too",
    "what does `causal=False` change in your layer?",
    "An encoder such as BERT reads in both directions.",
)
exercise.mistake(
    "triangle of the fused function after a past",
    ((WAYS, WAYS.replace("mask is None and T == S", "mask is None")),),
    "with a past, the triangle of the fused function is used, which begins at the first key",
    "with 1 query and 5 keys, which keys does `is_causal=True` leave?",
    "That triangle counts from the upper left corner; with a past, the queries are the last ones.",
    "pytorch/pytorch#144858, #103082 and #108108",
)
exercise.mistake(
    "mask left out",
    ((WAYS, BY_HAND.replace("mask, x.device", "None, x.device")),),
    "the padding mask is not handed on, so padding is read like text",
    "does a row of your batch answer as it does alone?",
    "The layer gets `mask`; follow it to where the keys are hidden.",
    "ml-explore/mlx-lm#1906",
)
exercise.mistake(
    "own keys only",
    ((EXTEND, "            past.extend(k, v)\n            past.begun = True\n"),),
    "the past is extended, but the queries see the new keys only",
    "what does `past.extend` return?",
    "The tokens have to read from all that came before, not just from this piece.",
)
exercise.mistake(
    "past never begins",
    ((EXTEND, EXTEND.replace("            past.begun = True\n", "")),),
    "the past is not told that it has begun",
    "how should a later step know that this layer has read tokens already?",
    "See what the docstring of `Past` says about `begun`: a learned prefix must come in front once, not at each step.",
)
exercise.mistake(
    "map never kept",
    ((WAYS, WAYS.replace("            self.weights = weights.detach()\n", "")),),
    "inside `recording` the map of weights is not kept",
    "where does a figure of the attention find the weights?",
    "The class says which attribute holds them, and when.",
)
exercise.mistake(
    "map always kept",
    ((WAYS, BY_HAND.replace("        if self.recording:\n            self.weights", "        self.weights")),),
    "the map is kept at every pass, not only inside `recording`",
    "how large are the maps of a deep model and a long text?",
    "(B, H, T, S) numbers for each layer stay in memory that nobody asked for.",
)
exercise.mistake(
    "map with its graph",
    ((WAYS, WAYS.replace("weights.detach()", "weights")),),
    "the map is kept with the whole graph behind it",
    "what does a tensor with `requires_grad` hold on to?",
    "What is only looked at should be detached, or the memory of the pass is never freed and the model cannot be copied.",
)
exercise.mistake(
    "triangle without the past",
    ((TRIANGLE, "every.tril()[None, None] if self.causal else every"),),
    "the triangle begins at the first key, also where there is a past",
    "with 3 keys in the past, how many keys does the first new token see?",
    "Every query sees the whole past, S − T keys; the triangle is over the last T.",
    "jingyaogong/minimind#631",
)
exercise.mistake(
    "token does not see itself",
    ((TRIANGLE, "every.tril(S - T - 1)[None, None] if self.causal else every"),),
    "a token does not see itself, and the first one sees nothing",
    "what can the very first token read?",
    "Look at the diagonal: it belongs to what is seen.",
)
exercise.mistake(
    "triangle of the future",
    ((TRIANGLE, "every.triu(S - T)[None, None] if self.causal else every"),),
    "it is the other triangle: tokens see the future and not the past",
    "row t says what token t sees: are the ones on its left or on its right?",
    "Rows are queries, columns are keys.",
)
exercise.mistake(
    "no triangle after a past",
    ((NONE, "        if mask is None and (T < S or not self.causal):\n            return None\n"),),
    "after a past nothing is hidden, so in a piece of several tokens they see each other's future",
    "if a piece of 3 tokens follows a past, may the first of them see the third?",
    "A single new token may see all; several still need their triangle.",
    "mlx-node/mlx-node#24",
)
exercise.mistake(
    "padding sees nothing",
    ((ITSELF, "        return seen & keys\n"),),
    "a token of padding on the left sees nothing at all, and a softmax over nothing is NaN",
    "which keys are left for a query whose keys are all hidden?",
    "What padding reads does not matter, but it has to read something, or NaN spreads.",
    "pytorch/pytorch#41508",
)
exercise.mistake(
    "mask of the queries",
    ((SHORT, "F.pad(mask, (S - mask.shape[1], 0), value=True)[:, None, -T:, None]"),),
    "the mask hides queries where it should hide keys",
    "should padding be unable to read, or should nobody read from it?",
    "The mask runs along the last dimension of the weights, the keys.",
)
exercise.mistake(
    "mask aligned on the left",
    ((SHORT, "F.pad(mask, (0, S - mask.shape[1]), value=True)[:, None, None]"),),
    "a mask that is shorter than the keys is taken for the first keys instead of the last",
    "where do learned keys, a prefix, stand: before or after the tokens?",
    "The mask is about tokens; what has no mask came before them and can be seen.",
)
exercise.mistake(
    "padding without the triangle",
    ((ITSELF, ITSELF.replace("(seen & keys)", "keys")),),
    "with a mask the triangle is forgotten, and the future can be seen",
    "which two conditions must a key fulfil in a causal layer with padding?",
    "A key is seen if it is not in the future and if it is not padding.",
)
exercise.mistake(
    "numbers to add instead of booleans",
    (("            return seen\n", "            return torch.zeros(T, S).masked_fill(~seen, -torch.inf)\n"),
     (ITSELF, ITSELF.replace("return (seen & keys) | itself", "return torch.zeros(T, S).masked_fill(~((seen & keys) | itself), -torch.inf)"))),
    "`visible` returns numbers to be added to the scores, 0 and −∞",
    "what does `attend` do with what it gets?",
    "Both ways exist; here everybody expects booleans, True for what may be seen.",
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
    ((SPLIT, "(proj(x).view(len(x), -1, self.heads, proj(x).shape[-1] // self.heads).permute(0, 2, 1, 3) for proj in (self.q, self.k, self.v))"),
     (WAYS, BY_HAND), (JOIN, "        return self.o(y.permute(0, 2, 1, 3).reshape(*x.shape[:2], -1))\n")),
)  # fmt: skip
exercise.right(
    "one head at a time",
    ((WAYS, "        found = [attend(a, b, c, self.visible(T, S, mask, x.device)) for a, b, c in zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), strict=True)]\n        if self.recording:\n            self.weights = torch.cat([w for _, w in found], 1).detach()\n        y = torch.cat([mixed for mixed, _ in found], 1)\n"),),
)  # fmt: skip
exercise.right(
    "comparing numbers, never None",
    ((NONE, ""), (TRIANGLE, "(torch.arange(S) - (S - T) <= torch.arange(T)[:, None])[None, None] if self.causal else every[None, None]")),
)  # fmt: skip
exercise.right(
    "who sees nothing sees all",
    ((ITSELF, "        both = seen & keys\n        return both | ~both.any(-1, keepdim=True)\n"),),
)

exercise.house(
    "no root",
    ((SCORES, "scores = q @ k.transpose(-1, -2) / q.shape[-1]  # (B, H, T, S)"),
     ('"""softmax(QKᵀ/√(d/H)) V, written out. Returns', '"""softmax(QKᵀ/(d/H)) V, without a root, written out. Returns'),
     ("over the cached keys and its own.", "over the cached keys and its own; scores are divided by d/H, not its root."),
     ("(q, k, v, is_causal=True)", "(q, k, v, is_causal=True, scale=1 / q.shape[-1])"),
     ("(q, k, v, attn_mask=self.visible(T, S, mask, x.device))", "(q, k, v, attn_mask=self.visible(T, S, mask, x.device), scale=1 / q.shape[-1])")),
    "scores are divided by the width of a head, d/H, not by its root",
)  # fmt: skip
exercise.house(
    "window",
    ((NONE, "        if mask is None and (S == 1 or not self.causal):\n            return None\n"),
     ("mask is None and T == S:", "mask is None and T == S < 4:"),
     (TRIANGLE, "every.tril(S - T).triu(S - T - 2)[None, None] if self.causal else every"),
     ("None for all of them.\n", "None for all of them.\n\n        In a causal layer it is a window: a token sees itself and the two keys before it.\n")),
    "a token of a causal layer sees itself and the two keys before it, no further",
)  # fmt: skip
