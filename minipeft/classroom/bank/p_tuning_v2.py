"""P-tuning v2: prompts in front of every block, or keys and values in every attention, and a head that classifies."""

import torch
from torch import nn

import minipeft.classroom.models as models
from minipeft import attach
from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import VOCAB, fill, fresh, numbers, rows
from minipeft.models.transformer import Attention, Block, Config, Embed, Past

exercise = Exercise(
    "p_tuning_v2",
    "methods/p_tuning_v2.py",
    holes=(
        "DeepPrompt.forward",
        "DeepPrompt.keys_values",
        "DeepKeys.forward",
        "AfterPrompts.skipped",
        "ClassHead.__init__",
        "ClassHead.forward",
        "PTuningV2.start",
        "PTuningV2.place",
    ),
    title="P-tuning v2: prompts at every layer",
    minutes=50,
    difficulty=3,
    why="Why a prompt at every layer is stronger than one at the input, and that it is a prefix in disguise.",
    read="Liu et al. 2021, arXiv:2110.07602, section 3; the hidden form: Jia et al. 2022, arXiv:2203.12119, section 3.2",
    lesson="09",
)

N, DIM = 4, 6  # n differs from d/H = 3, from the 2 heads, the 3 rows and their 5 tokens
PATHS = ["blocks.0", "blocks.1"]


def plain_block(causal):
    return Block(Config(VOCAB, DIM, 2, 2, 8, 16, causal=causal, pre_norm=causal))


def block(causal=True):
    """A frozen block, as in GPT-2 if causal, else as in BERT."""
    return fresh(plain_block, causal).requires_grad_(False)


def deep(impl, causal=True, base=None, length=N):
    return impl.DeepPrompt(base or block(causal), numbers("P", (length, DIM)))


def keys(impl, base=None, length=N, name="P"):
    base = base or fresh(Attention, DIM, 2, True).requires_grad_(False)
    return impl.DeepKeys(base, numbers(f"{name}_K", (length, DIM)), numbers(f"{name}_V", (length, DIM)))


def inputs():
    return numbers("h", (3, 5, DIM))


def piecewise(layer):
    """Read in pieces of 3, 1 and 1 tokens: the keys in the past after each, and what is different to reading at once."""
    past, outputs, sizes = Past(), [], []
    for h in inputs().split([3, 1, 1], dim=1):
        outputs.append(layer(h, None, past))
        sizes.append(0 if past.k is None else past.k.shape[2])
    difference = torch.cat(outputs, dim=1) - layer(inputs(), None, Past())
    return {"keys in the past": ", ".join(map(str, sizes)), "difference to reading all at once": difference}


def gradients_of(layer):
    layer(inputs(), None, Past()).pow(2).sum().backward()
    return models.gradients(layer)


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


def start(impl, **settings):
    table = numbers("table", (VOCAB, DIM), 0.3)
    return impl.PTuningV2(**settings).start(nn.Parameter(table, requires_grad=False), PATHS)


@exercise.observe("parameters", "In a whole model, what is trained should be a P (n, d) for every block.")
def trained_with_prompts(impl):
    return shapes(attach.trainable(impl.PTuningV2(length=N).attach(models.model())))


@exercise.observe("parameters", "With key/value, what is trained should be a P_K and a P_V for every attention.")
def trained_with_keys_and_values(impl):
    return shapes(attach.trainable(impl.PTuningV2(length=N, form="key/value").attach(models.model())))


@exercise.observe("parameters", "A classification head should train its weight (classes, d) and its bias.")
def trained_in_the_head(impl):
    return shapes(attach.trainable(impl.ClassHead(nn.Linear(DIM, VOCAB).requires_grad_(False), DIM, 5, 0)))


@exercise.observe("start", "Deep prompts should start as large as the embeddings are, keys and values from N(0, 1).")
def size_of_the_start(impl):
    forms = {form: start(impl, length=1000, form=form) for form in ("hidden", "key/value")}
    return {
        f"{form}, {path}": ", ".join(f"{float(P.detach().std()):.1f}" for P in tensors)
        for form, made in forms.items()
        for path, tensors in made.items()
    }


@exercise.observe("start", "The numbers that prompts start from should be drawn for each layer, keys and values apart.")
def who_shares_numbers(impl):
    prompts, prefixes = ([*start(impl, form=form).values()] for form in ("hidden", "key/value"))
    return {
        "prompts of two layers are the same": torch.equal(prompts[0][0], prompts[-1][0]) and len(prompts) > 1,
        "keys are the values": torch.equal(*prefixes[0]),
    }


@exercise.observe(
    "prompts", "A block with prompts should give as many rows as it gets: what becomes of them is dropped."
)
def shape(impl):
    return str(tuple(deep(impl)(inputs(), None, Past()).shape))


@exercise.observe("prompts", "The output of a causal block is not Block([P ; h]) without its first n rows.")
def block_of_a_decoder(impl):
    return deep(impl)(inputs(), None, Past())


@exercise.observe("prompts", "The output of a bidirectional block is not Block([P ; h]) without its first n rows.")
def block_of_an_encoder(impl):
    return deep(impl, causal=False)(inputs(), None, Past())


@exercise.observe("prompts", "In a batch with padding the real tokens do not see what they should.")
def padded(impl):
    masks = [rows(side)[1] for side in ("left", "right")]
    return [deep(impl)(inputs(), mask, Past())[mask] for mask in masks]


@exercise.observe("prompts", "The gradient that reaches P is not the expected one.")
def gradient(impl):
    return gradients_of(deep(impl))


@exercise.observe("prompts", "The input of the block is changed in place, which whoever else uses it will notice.")
def input_is_left_alone(impl):
    h = inputs()
    deep(impl)(h, None, Past())
    return h - inputs()


@exercise.observe("prompts", "Read 3 tokens, one more and one more, the past or the outputs are not the expected ones.")
def piece_by_piece(impl):
    return piecewise(deep(impl))


@exercise.observe("as a prefix", "The keys and values that prompts amount to: W LN(P) + b where the norm comes first.")
def keys_and_values_of_a_decoder(impl):
    return list(deep(impl).keys_values())


@exercise.observe("as a prefix", "The keys and values that prompts amount to in a model whose norms come after.")
def keys_and_values_of_an_encoder(impl):
    return list(deep(impl, causal=False).keys_values())


@exercise.observe(
    "key/value", "The output is not Attn(q, [P_K ; K], [P_V ; V]) with n keys and values before the others."
)
def attention(impl):
    return keys(impl)(inputs(), None, Past())


@exercise.observe("key/value", "The share of attention that falls on P_K, head by head, is not the expected one.")
def attention_on_the_keys(impl):
    made = keys(impl)
    made.base.recording = True
    made(inputs(), None, Past())
    return made.base.weights[..., :N]


@exercise.observe("key/value", "The gradients that reach P_K and P_V are not the expected ones.")
def gradients_of_keys_and_values(impl):
    return gradients_of(keys(impl))


@exercise.observe(
    "key/value", "Read 3 tokens, one more and one more, the past or the outputs are not the expected ones."
)
def pieces_with_keys_and_values(impl):
    return piecewise(keys(impl))


@exercise.observe("key/value", "Where another prefix is in the past already, these keys should come in addition.")
def keys_on_keys(impl):
    return keys(impl, keys(impl), 2, "outer")(inputs(), None, Past())


@exercise.observe(
    "as a prefix", "With these keys and values in its attention, the block should answer as with prompts."
)
def both_forms_agree(impl):
    prompts, prefix = deep(impl), block()
    prefix.attn = impl.DeepKeys(prefix.attn, *prompts.keys_values())
    return prefix(inputs(), None, Past()) - prompts(inputs(), None, Past())


@exercise.observe("positions", "How many virtual tokens take positions is not right at the beginning of a sequence.")
def positions(impl):
    embed = impl.AfterPrompts(fresh(Embed, VOCAB, DIM, 16), N)
    return [*embed(rows()[0]), *embed(rows()[0], None, None, None, 2)]


@exercise.observe("positions", "Once the sequence has begun (start is given), the positions are not the expected ones.")
def positions_of_later_tokens(impl):
    embed, tokens = impl.AfterPrompts(fresh(Embed, VOCAB, DIM, 16), N), rows()[0][:, :2]
    return [*embed(tokens, 7), *embed(tokens, torch.tensor([[7], [5], [6]]))]


@exercise.observe("head", "Which token the head reads depends on the kind of model; without a head there is none.")
def place(impl):
    bases = {"decoder": models.model(layers=1), "encoder": models.model(layers=1, causal=False)}
    return {
        f"{kind}, {classes or 'no'} classes": impl.PTuningV2(classes=classes).place(base)
        for kind, base in bases.items()
        for classes in (5, None)
    }


def head(impl, place):
    return fill(impl.ClassHead(nn.Linear(DIM, VOCAB).requires_grad_(False), DIM, 5, place), "trainable")


@exercise.observe("head", "The head should give one row of numbers for each text, not for each token.")
def shape_of_the_classes(impl):
    return str(tuple(head(impl, 0)(inputs()).shape))


@exercise.observe("head", "The scores of the classes are not W h + b of the token at `place`.")
def classes(impl):
    return [head(impl, place)(inputs()) for place in (0, -1)]


@exercise.observe("whole model", "A model with prompts at every layer and a head does not answer as expected.")
def classified(impl):
    made, (tokens, mask) = models.model().requires_grad_(False), rows("left")
    for i, each in enumerate(made.blocks):
        made.blocks[i] = impl.DeepPrompt(each, numbers(f"P {i}", (N, DIM)))
    made.embed, made.head = impl.AfterPrompts(made.embed, N, -1), head(impl, -1)
    return made(tokens, mask)


# -- mistakes ---------------------------------------------------------------------------------------------------------

BEGUN = "        if past.begun:\n            return self.base(h, mask, past)\n"
MASK = "mask = mask if mask is None else F.pad(mask, (n, 0), value=True)"
CAT = "return self.base(torch.cat([self.P.expand(len(h), -1, -1), h], dim=1), mask, past)[:, n:]"
NORM = "x = self.norm1(self.P) if self.pre_norm else self.P"
KEYS = "return self.attn.k(x), self.attn.v(x)"
NOT_BEGUN = "        if not past.begun:\n"
HEADS = "(P.unflatten(1, (self.heads, -1)).transpose(0, 1) for P in (self.P_K, self.P_V))  # (H, n, d/H)"
EXTEND = "past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))  # (B, H, n, d/H)"
SKIP = "return skip + self.length if start is None else skip"
HEAD = "self.classify, self.place = nn.Linear(dim, classes), place"
CLASS = "return self.classify(h[:, self.place])"
NAMES = 'names, std = (("P",), float(table.std())) if self.form == "hidden" else (("P_K", "P_V"), 1.0)'
DRAW = "return {path: tuple(table.new_empty(shape).normal_(std=std) for _ in names) for path in paths}"
PLACE = (
    "        if self.classes is None:\n            return None\n        return -1 if bottom(model).config.causal else 0"
)

exercise.mistake(
    "prompts at the input alone",
    ((DRAW, "return {path: tuple(table.new_empty(shape).normal_(std=std) for _ in names) for path in paths[:1]}"),),
    "only the first layer gets prompts",
    "what does a later layer see of a prompt that stands before the first?",
    "A prompt at the input alone is prompt tuning; v2 puts new ones before every layer.",
    "THUDM/P-tuning-v2#40 and zai-org/ChatGLM-6B#1060 ask what makes it v2",
)
exercise.mistake(
    "the same for all layers",
    (
        (
            DRAW,
            "P = tuple(table.new_empty(shape).normal_(std=std) for _ in names)\n        return dict.fromkeys(paths, P)",
        ),
    ),
    "all layers start from the same numbers, in the same memory",
    "how many tensors do L layers need, and how many do you draw?",
    "Tensors that share memory are changed together: draw anew for every layer.",
)
exercise.mistake(
    "one draw for keys and values",
    ((DRAW, "return {path: (table.new_empty(shape).normal_(std=std),) * len(names) for path in paths}"),),
    "P_K and P_V of a layer start as the same tensor",
    "how often do you draw for one layer in the key/value form?",
    "Two names for one tensor share its memory: a step on the keys would change the values.",
)
exercise.mistake(
    "prompts from N(0, 1)",
    ((NAMES, 'names, std = (("P",), 1.0) if self.form == "hidden" else (("P_K", "P_V"), 1.0)'),),
    "prompts in front of hidden states start from N(0, 1), whatever the size of the embeddings",
    "what stands beside the prompts in the first layer, and how large is that?",
    "A vector that is to look like a token should start at the size of one.",
)
exercise.mistake(
    "zeros",
    ((DRAW, "return {path: tuple(table.new_zeros(shape) for _ in names) for path in paths}"),),
    "everything starts at zero",
    "n prompts start alike and get the same gradient: what tells them apart later?",
    "Zeros are not the base either: a key that scores 0 takes its share of the softmax. And n equal prompts stay n equal prompts.",
)
exercise.mistake(
    "keys as small as embeddings",
    ((NAMES, 'names, std = (("P",) if self.form == "hidden" else ("P_K", "P_V")), float(table.std())'),),
    "keys and values start at the size of the embeddings too",
    "are P_K and P_V vectors like those of tokens, or what a layer computes from such vectors?",
    "The two forms start differently: read again what the class says about its argument `form`.",
)
exercise.mistake(
    "prompts stay",
    ((CAT, CAT.replace("[:, n:]", "")),),
    "what becomes of the prompts is not dropped, so the next layer gets more and more rows",
    "how many rows come in, and how many should go out?",
    "The next layer brings prompts of its own. What this one made of its prompts has done its work once the tokens have seen it.",
)
exercise.mistake(
    "last rows dropped",
    ((CAT, CAT.replace("[:, n:]", "[:, :-n]")),),
    "the last n rows are dropped instead of the first n",
    "which rows of the output belong to the prompts?",
    "The prompts stand in front. The shape alone does not tell.",
)
exercise.mistake(
    "prompts behind",
    ((CAT, "return self.base(torch.cat([h, self.P.expand(len(h), -1, -1)], dim=1), mask, past)[:, :-n]"),),
    "the prompts stand behind the tokens",
    "in a causal model, which tokens see what stands at the end?",
    "In front they are seen by every token; behind them by none in a decoder.",
)
exercise.mistake(
    "added instead of put in front",
    ((CAT, "return self.base(torch.cat([h[:, :n] + self.P[: h.shape[1]], h[:, n:]], dim=1), mask if mask is None else mask[:, n:], past)"),),
    "the prompts are added to the first n tokens",
    "does the block read n rows more with prompts than without?",
    "New rows stand before the tokens, and what the tokens hold stays as it is.",
)  # fmt: skip
exercise.mistake(
    "written into the input",
    ((CAT, "h[:, :n] += self.P[: h.shape[1]]\n        return self.base(h, mask if mask is None else mask[:, n:], past)"),),
    "the prompts are written into the input itself, in place",
    "who else reads h after your layer?",
    "The tensor that comes in is not yours: make a new one, with rows of its own for the prompts.",
)  # fmt: skip
exercise.mistake(
    "at every step",
    ((BEGUN, ""),),
    "the prompts enter at every call, also in the middle of a sequence",
    "what does the past hold after the first call, and what is added at the second?",
    "Their keys and values are remembered like those of tokens; they have to be read once, when the sequence begins.",
)
exercise.mistake(
    "hidden by the mask",
    ((MASK, MASK.replace("True", "False")),),
    "the mask hides the prompts, but only in batches that have one",
    "what does True mean in this mask, and is a prompt padding?",
    "Every token may see the prompts: the n new places are as real as words.",
    "QwenLM/ParScale#11, where a prefix was masked with zeros",
)
exercise.mistake(
    "mask on the wrong side",
    ((MASK, MASK.replace("(n, 0)", "(0, n)")),),
    "the mask grows at its end, though the prompts stand in front",
    "which column of the mask belongs to the first word after n prompts?",
    "`F.pad` takes (left, right) for the last dimension.",
)
exercise.mistake(
    "mask lost",
    ((CAT, CAT.replace("mask, past", "past=past")),),
    "the mask does not reach the block, so padding is read like words",
    "which arguments arrive at your `forward`, and which of them does the base get?",
    "A layer that stands in front of another passes on whatever it does not change.",
)
exercise.mistake(
    "past lost",
    ((CAT, CAT.replace("mask, past)", "mask)")),),
    "the block does not get the past, so it remembers neither the prompts nor the tokens",
    "while generating, how does the second call know what the first has read?",
    "A layer that stands in front of another passes on whatever it does not change.",
)
exercise.mistake(
    "for one row only",
    ((CAT, CAT.replace("self.P.expand(len(h), -1, -1)", "self.P[None]")),),
    "the prompts have one row, the batch has several",
    "which shapes meet in your concatenation?",
    "`torch.cat` does not broadcast: give each row of the batch the same prompts (a view will do).",
)
exercise.mistake(
    "detached",
    ((CAT, CAT.replace("self.P.expand", "self.P.detach().expand")),),
    "the prompts are cut off from their gradient",
    "what is `P.grad` after a backward pass?",
    "`.detach()` and `.data` end the way back, and P is all that is trained here.",
)
exercise.mistake(
    "norm forgotten",
    ((NORM, "x = self.P"),),
    "the keys and values are computed from P itself, without the block's first norm",
    "through what does a row pass in a pre-norm block before W_k sees it?",
    "Prompts run through the block like any row, its first norm included.",
)
exercise.mistake(
    "norm everywhere",
    ((NORM, "x = self.norm1(self.P)"),),
    "the first norm is applied also where norms come after",
    "what does the attention of a post-norm block (BERT) read?",
    "Look where the block applies norm1 in each of the two kinds of model.",
)
exercise.mistake(
    "bias forgotten",
    ((KEYS, "return x @ self.attn.k.weight.T, x @ self.attn.v.weight.T"),),
    "the biases b_k and b_v are missing",
    "what does a Linear layer do besides multiplying?",
    "Let the projections of the attention compute it, bias included.",
)
exercise.mistake(
    "values before keys",
    ((KEYS, "return self.attn.v(x), self.attn.k(x)"),),
    "what the prompts amount to comes as (P_V, P_K)",
    "in which order do the keys and values stand in the equation?",
    "First what decides where to look, then what is seen there.",
)
exercise.mistake(
    "heads by view",
    ((HEADS, "(P.reshape(self.heads, len(P), -1) for P in (self.P_K, self.P_V))"),),
    "the heads are cut out of the rows, not out of the width",
    "which numbers of P_K belong to head 1: the first rows, or the first columns of every row?",
    "A reshape keeps the order in memory, so tokens and heads get mixed; first split the width, then move that axis.",
    "jsbaan/transformer-from-scratch#6, a reshape without the permute; huggingface/peft#919 is about the order of a prefix's axes",
)
exercise.mistake(
    "keys and values exchanged",
    ((EXTEND, "past.extend(*(P.expand(len(x), -1, -1, -1) for P in [*heads][::-1]))"),),
    "P_V is used as keys and P_K as values",
    "in which order does the past take keys and values?",
    "Training would not notice, but whatever is loaded from elsewhere will.",
)
exercise.mistake(
    "keys at every step",
    ((NOT_BEGUN, "        if True:\n"),),
    "P_K and P_V enter at every call, also in the middle of a sequence",
    "while generating, how often does the layer run, and what does its past hold after ten tokens?",
    "The past keeps them; they have to enter once, when the sequence begins.",
)
exercise.mistake(
    "asks for an empty past",
    ((NOT_BEGUN, "        if past.k is None:\n"),),
    "of two prefixes on one layer only the outer one enters",
    "keys are in the past before any token was read: has the sequence begun?",
    "An empty past and a sequence that has not begun are two things. There is a flag for the second, and only the attention, which reads the tokens, sets it.",
)
exercise.mistake(
    "keys detached",
    ((EXTEND, EXTEND.replace("P.expand", "P.detach().expand")),),
    "P_K and P_V are cut off from their gradients",
    "what is `P_K.grad` after a backward pass?",
    "A cache is usually filled without gradients; this one is what is trained, so the way back must stay open.",
)
exercise.mistake(
    "positions as without",
    ((SKIP, "return skip"),),
    "the real tokens stand at 0, 1, …, as if there were no prompts",
    "if the prompts had been read as n tokens, where would the first real one stand?",
    "Prompts take the place of n tokens. Training would get by, but a cache counts on, and libraries start at n.",
    "XiangLi1999/PrefixTuning#40, about a prefix",
)
exercise.mistake(
    "positions pushed at every step",
    ((SKIP, "return skip + self.length"),),
    "the positions move on by n at every call, also in the middle of a sequence",
    "what does `start` hold when a second piece of the sequence comes?",
    "Once the sequence has begun, the positions of the prompts are among those that are taken already.",
)
exercise.mistake(
    "skip forgotten",
    ((SKIP, "return self.length if start is None else 0"),),
    "virtual tokens of other methods are no longer counted",
    "what if another method has put virtual tokens there too?",
    "What is handed in as `skip` counts besides your own.",
)
exercise.mistake(
    "head frozen",
    ((HEAD, HEAD + "\n        self.classify.requires_grad_(False)"),),
    "the classification head is frozen",
    "who has ever trained the rows of this head?",
    "The base is frozen because it knows something. The head is new and knows nothing yet.",
    "THUDM/P-tuning-v2#9 asks whether prompts and head are both tuned",
)
exercise.mistake(
    "head without bias",
    ((HEAD, HEAD.replace("classes)", "classes, bias=False)")),),
    "the classification head has no bias",
    "how many parameters does the formula (d+1)·classes count?",
    "One number for each class is missing: the b of W h + b.",
)
exercise.mistake(
    "every token classified",
    ((CLASS, "return self.classify(h)"),),
    "the head classifies every token",
    "how many labels has one text?",
    "The class is read from one token; where it stands, the head was told.",
)
exercise.mistake(
    "mean of all tokens",
    ((CLASS, "return self.classify(h.mean(dim=1))"),),
    "the head reads the mean of all tokens, padding included",
    "which vector does the class come from, and what do rows of padding hold?",
    "One token has seen all the others; its vector is enough, and nothing else gets mixed in.",
)
exercise.mistake(
    "softmax in the head",
    ((CLASS, "return self.classify(h[:, self.place]).softmax(dim=-1)"),),
    "the head gives probabilities, not scores",
    "what does cross-entropy do first with what it gets?",
    "The loss takes scores and applies the softmax itself; twice is too often, and gradients fade.",
)
exercise.mistake(
    "always the first token",
    ((PLACE, PLACE.replace("-1 if bottom(model).config.causal else 0", "0")),),
    "the head reads the first token in a causal model too",
    "in a decoder, what has the first token seen of the text?",
    "The class depends on the whole text, so the head has to read a token that sees the whole text. That is why BERT has [CLS] in front, and why a decoder needs another place.",
    "THUDM/P-tuning-v2#15 and #18 are about a head that read a prompt",
)
exercise.mistake(
    "always the last token",
    ((PLACE, PLACE.replace("-1 if bottom(model).config.causal else 0", "-1")),),
    "the head reads the last token in a bidirectional model too",
    "which token was put into BERT's texts for this purpose, and where does it stand?",
    "Every token of an encoder sees the whole text, but one of them was trained to speak for all.",
)
exercise.mistake(
    "place without a head",
    ((PLACE, "        return -1 if bottom(model).config.causal else 0"),),
    "a place is told also where there is no classification head",
    "what does the check for padding do with a place in an ordinary language model?",
    "A place means that a head reads there, and such a token must not be padding. Without classes, no token is special.",
)

# -- right variants ---------------------------------------------------------------------------------------------------

exercise.right(
    "mask left to the attention",
    (
        (MASK, "B = h.shape[0]"),
        (CAT, "return self.base(torch.cat([self.P.repeat(B, 1, 1), h], 1), mask, past)[:, n:, :]"),
    ),
)
exercise.right(
    "a new tensor filled",
    ((CAT, "both = h.new_empty(len(h), n + h.shape[1], h.shape[2])\n        both[:, :n] = self.P\n        both[:, n:] = h\n        return self.base(both, mask=mask, past=past).split([n, h.shape[1]], dim=1)[1]"),
     (MASK, "if mask is not None:\n            mask = torch.cat([torch.ones(len(mask), n, dtype=torch.bool), mask], dim=1)")),
)  # fmt: skip
exercise.right(
    "projections by hand",
    ((NORM, "x = self.P\n        if self.pre_norm:\n            x = F.layer_norm(x, x.shape[-1:], self.norm1.weight, self.norm1.bias, self.norm1.eps)"),
     (KEYS, "return [x @ W.weight.T + W.bias for W in (self.attn.k, self.attn.v)]")),
)  # fmt: skip
exercise.right(
    "reshape and permute",
    ((HEADS, "[P[None].repeat(len(x), 1, 1).reshape(len(x), len(P), self.heads, -1).permute(0, 2, 1, 3) for P in (self.P_K, self.P_V)]"),
     (EXTEND, "past.extend(heads[0], heads[1])")),
)  # fmt: skip
exercise.right(
    "head by hand",
    ((HEAD, "self.place = place\n        self.classify = nn.Linear(in_features=dim, out_features=classes)"),
     (CLASS, "rows = h.select(1, self.place)\n        return rows @ self.classify.weight.T + self.classify.bias")),
)  # fmt: skip
exercise.right(
    "loops",
    ((NAMES, 'hidden = self.form == "hidden"'),
     (DRAW, "start = {}\n        for path in paths:\n            start[path] = [torch.randn(shape) * table.std()] if hidden else [torch.randn(shape) for _ in range(2)]\n        return start"),
     (PLACE, "        if self.classes:\n            return (0, -1)[model.config.causal]"),
     (SKIP, "if start is not None:\n            return skip\n        return self.length + skip")),
)  # fmt: skip

# -- house rules ------------------------------------------------------------------------------------------------------

exercise.house(
    "upper half",
    ((DRAW, DRAW.replace("for path in paths}", "for path in paths[len(paths) // 2 :]}")),
     ('"""Deep prompts.\n', '"""Deep prompts, here in the upper half of the layers only: with L layers, in all but the first L // 2.\n'),
     ("What the layer at each path starts from: {path: (P,)}", "What the layers of the upper half start from, those of the last paths: {path: (P,)}"),
     ("Trainable parameters: n·d·L, or 2·n·d·L,", "Here only the upper half of the layers has prompts.\nTrainable parameters: n·d for each such layer, or 2·n·d,")),
    "only the upper half of the layers gets prompts: with L layers, all but the first L // 2",
)  # fmt: skip
exercise.house(
    "no positions",
    ((SKIP, "return skip"),
     ("where positions are absolute, n of them are taken by the deep prompts.", "here the deep prompts take no positions."),
     ('"""How many virtual tokens without a vector take positions before these tokens.', '"""How many virtual tokens without a vector take positions before these tokens; here the deep prompts take none.')),
    "the prompts take no positions: the real tokens stand at 0, 1, … as without them",
)  # fmt: skip
exercise.house(
    "tanh before the head",
    ((CLASS, "return self.classify(torch.tanh(h[:, self.place]))"),
     ('"""W h + b of the token at', '"""W tanh(h) + b of the token at')),
    "the classification head is W tanh(h) + b",
)  # fmt: skip
