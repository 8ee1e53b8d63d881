"""P-tuning v2: prompts at every layer, the keys and values that they amount to, and a head that classifies."""

import torch
from torch import nn

import minipeft.classroom.models as models
from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import VOCAB, Learned, fill, loss, numbers, rows
from minipeft.models.transformer import Begin, Cache

exercise = Exercise(
    "p_tuning_v2",
    "methods/p_tuning_v2.py",
    stubs=(
        "DeepPrompts.keys_values",
        "DeepPrompts.forward",
        "DeepKeys.forward",
        "ClassHead.__init__",
        "ClassHead.forward",
        "Unpadded.forward",
        "PTuningV2.insert",
        "PTuningV2.start",
    ),
    title="P-tuning v2: prompts at every layer",
    minutes=50,
    difficulty=3,
    why="Why a prompt at every layer is stronger than one at the input, and that it is a prefix in disguise.",
    read="Liu et al. 2021, arXiv:2110.07602, section 3; the hidden form: Jia et al. 2022, arXiv:2203.12119, section 3.2",
    lesson="09",
)

N, DIM, CLASSES = 4, 6, 5  # n differs from d/H = 3, from the 2 heads, the 2 layers, the 3 rows and their 5 tokens


def prompts(impl, base=None, length=N, name="P"):
    return impl.DeepPrompts(base or Begin(), numbers(name, (2, length, DIM)))


def keys(impl, base=None, length=N, name="P"):
    shape = 2, length, DIM
    return impl.DeepKeys(base or Begin(), numbers(f"{name}_K", shape), numbers(f"{name}_V", shape))


def tuned(impl, causal=True, **settings):
    """A whole model with deep prompts, whose numbers are none of those that training starts from."""
    return fill(impl.PTuningV2(**{"length": N, **settings}).attach(models.model(causal=causal)), "trainable")


def held(begin, causal=True):
    """The keys and values that each layer holds at the beginning, as they are for one row."""
    cache = begin(models.model(causal=causal).requires_grad_(False).blocks)
    return [[x[0] if x.ndim == 4 else x for x in (layer.k, layer.v)] for layer in cache.layers]  # (H, n, d/H)


def gradients_of(made):
    loss(made, *rows("left")).backward()
    return models.gradients(made)


@torch.no_grad()
def piecewise(made):
    """Read in pieces of 3, 1 and 1 tokens: the keys in the cache after each, and the difference to reading at once."""
    (tokens, _), cache, outputs, sizes = rows(), made.new_cache(), [], []
    for piece in tokens.split([3, 1, 1], dim=1):
        outputs.append(made(piece, cache=cache))
        sizes.append(cache.length)
    return {"keys in the cache": sizes, "difference to reading all at once": torch.cat(outputs, dim=1) - made(tokens)}


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


def start(impl, **settings):
    table = numbers("table", (VOCAB, DIM), 0.3)
    return impl.PTuningV2(**settings).start(nn.Parameter(table, requires_grad=False), 2)


@exercise.observe("parameters", "With prompts, what is trained should be P (L, n, d), and nothing else.")
def trained_with_prompts(impl):
    return shapes(attach.trainable(tuned(impl)))


@exercise.observe("parameters", "With key/value, what is trained should be P_K and P_V, (L, n, d) both.")
def trained_with_keys_and_values(impl):
    return shapes(attach.trainable(tuned(impl, form="key/value")))


@exercise.observe("parameters", "A classification head should train its weight (classes, d) and its bias.")
def trained_in_the_head(impl):
    return shapes(attach.trainable(impl.ClassHead(nn.Linear(DIM, VOCAB).requires_grad_(False), DIM, CLASSES, 0)))


@exercise.observe("start", "Deep prompts should start as large as the embeddings are, keys and values from N(0, 1).")
def size_of_the_start(impl):
    forms = {form: start(impl, length=1000, form=form) for form in ("hidden", "key/value")}
    return {
        form: [[round(float(layer.detach().std()), 1) for layer in P] for P in tensors]
        for form, tensors in forms.items()
    }


@exercise.observe("start", "The numbers that prompts start from should be drawn for each layer, keys and values apart.")
def who_shares_numbers(impl):
    (P,), (P_K, P_V) = (start(impl, form=form) for form in ("hidden", "key/value"))
    return {"prompts of two layers are the same": torch.equal(P[0], P[1]), "keys are the values": torch.equal(P_K, P_V)}


@exercise.observe(
    "as a prefix", "Where the norm comes first, prompts amount to the keys W_k LN(P) + b_k, values alike."
)
def keys_and_values_of_a_decoder(impl):
    return list(prompts(impl).keys_values(models.model().blocks[0], numbers("P", (N, DIM))))


@exercise.observe("as a prefix", "Where norms come after, prompts amount to other keys and values than yours.")
def keys_and_values_of_an_encoder(impl):
    return list(prompts(impl).keys_values(models.model(causal=False).blocks[0], numbers("P", (N, DIM))))


@exercise.observe("prompts", "Each layer should begin with the keys and values of its own P, split into heads.")
def what_each_layer_begins_with(impl):
    return [held(prompts(impl), causal) for causal in (True, False)]


@exercise.observe("prompts", "On a model that has a prefix already, the keys and values of P should follow its own.")
def prompts_on_a_prefix(impl):
    return held(prompts(impl, Learned()))


class Fronted(Begin):
    """In place of prompt tuning: two vectors in front."""

    def forward(self, blocks):
        cache = super().forward(blocks)
        cache.front.append(numbers("front", (2, DIM)))
        return cache


@exercise.observe("prompts", "Besides keys and values, the cache should be as the layer below makes it.")
def what_else_the_cache_holds(impl):
    caches = [made(models.model().blocks) for made in (prompts(impl, Fronted()), keys(impl, Fronted()))]
    return [{"in front": list(cache.front), "mask": cache.mask, "offset": cache.offset} for cache in caches]


@exercise.observe(
    "prompts", "Every block should give Block([P ; h]) without its first n rows; the logits differ from that."
)
@torch.no_grad()
def the_equation(impl):
    found = []
    for causal in (True, False):
        made, base, (tokens, _) = tuned(impl, causal), models.model(causal=causal), rows()
        h = base.embed.token(tokens) + base.embed.position.weight[N : N + tokens.shape[1]]
        for block, P in zip(base.blocks, made.begin.P, strict=True):
            h = block(torch.cat([P.expand(len(h), -1, -1), h], dim=1), "causal" if causal else None)[:, N:]
        found.append(made(tokens) - base.head(base.norm(h)))
    return found


@exercise.observe("prompts", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@exercise.observe("prompts", "The gradient that reaches P is not the expected one.")
def gradient(impl):
    return gradients_of(tuned(impl))


@exercise.observe("prompts", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones.")
def piece_by_piece(impl):
    return piecewise(tuned(impl))


@exercise.observe("key/value", "Each layer should begin with its own P_K and P_V, split into heads.")
def keys_and_values_of_each_layer(impl):
    return held(keys(impl))


@exercise.observe("key/value", "On a model that has a prefix already, P_K and P_V should follow its keys and values.")
def keys_on_a_prefix(impl):
    return held(keys(impl, Learned()))


@exercise.observe("key/value", "The logits with P_K and P_V in every layer are not the expected ones.")
def logits_with_keys_and_values(impl):
    return tuned(impl, form="key/value")(rows()[0])


@exercise.observe("key/value", "The gradients that reach P_K and P_V are not the expected ones.")
def gradients_of_keys_and_values(impl):
    return gradients_of(tuned(impl, form="key/value"))


@exercise.observe(
    "key/value", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones."
)
def pieces_with_keys_and_values(impl):
    return piecewise(tuned(impl, form="key/value"))


@exercise.observe(
    "as a prefix", "With the keys and values of its prompts in place of the prompts, a model should answer the same."
)
@torch.no_grad()
def both_forms_agree(impl):
    made, (tokens, _) = tuned(impl), rows()
    pairs = [made.begin.keys_values(block, P) for block, P in zip(made.blocks, made.begin.P, strict=True)]
    twin = impl.PTuningV2(length=N, form="key/value").attach(models.model())
    for P, new in zip((twin.begin.P_K, twin.begin.P_V), zip(*pairs, strict=True), strict=True):
        P.copy_(torch.stack(new))
    return twin(tokens) - made(tokens)


def head(impl, place):
    return fill(impl.ClassHead(nn.Linear(DIM, VOCAB).requires_grad_(False), DIM, CLASSES, place), "trainable")


@exercise.observe("head", "The head should give one row of numbers for each text, not for each token.")
def shape_of_the_classes(impl):
    return list(head(impl, 0)(numbers("h", (3, 5, DIM))).shape)


@exercise.observe("head", "The scores of the classes are not W h + b of the token at `place`.")
def classes(impl):
    return [head(impl, place)(numbers("h", (3, 5, DIM))) for place in (0, -1)]


def refused(made, tokens, mask):
    """Is a batch with this padding refused, by a ValueError?"""
    try:
        made(tokens, mask)
    except ValueError:
        return "refused"
    return "read"


@exercise.observe("head", "Which rows are refused, because there is padding where the head reads, is not right.")
@torch.no_grad()
def padding_where_the_head_reads(impl):
    found = {}
    for kind, causal in (("decoder", True), ("encoder", False)):
        made = tuned(impl, causal, classes=CLASSES)
        for side in ("left", "right"):
            tokens, mask = rows(side)
            found[f"{kind}, some rows padded on the {side}"] = refused(made, tokens, mask)
            found[f"{kind}, all rows padded on the {side}"] = refused(made, tokens[1:], mask[1:])
    return found


@exercise.observe("head", "In a cached pass, only padding among the new tokens concerns the head.")
@torch.no_grad()
def padding_that_was_read_before(impl):
    tokens, mask = rows("left")
    cache, embed = Cache(1), impl.Unpadded(models.model().embed, -1)
    cache.extend(tokens, mask.flip(1))
    cache.layers[0].k = cache.layers[0].v = numbers("read", (3, 2, 5, 3))
    cache.extend(tokens, mask)
    return embed(tokens, cache)


@exercise.observe("whole model", "With a head, the decoder or the encoder reads another token than it should.")
@torch.no_grad()
def classified(impl):
    return [tuned(impl, causal, classes=CLASSES)(rows()[0]) for causal in (True, False)]


@exercise.observe("whole model", "With a head, what is trained should be the prompts and the head.")
def trained_with_a_head(impl):
    return shapes(attach.trainable(tuned(impl, classes=CLASSES)))


@exercise.observe("whole model", "Without classes, the model should keep its head and refuse no padding.")
@torch.no_grad()
def without_a_head(impl):
    made, (tokens, mask) = tuned(impl), rows("right")
    return [list(made(tokens, mask).shape), type(made.head).__name__]


# -- mistakes ---------------------------------------------------------------------------------------------------------

NORM = "x = block.norm1(P) if block.pre_norm else P"
KEYS = "return block.attn.k(x), block.attn.v(x)"
PROMPTS = "        cache = self.base(blocks)\n        for layer, block, P in zip(cache.layers, blocks, self.P, strict=True):\n            layer.extend(*map(block.attn.split, self.keys_values(block, P)))  # (H, n, d/H)\n        return cache\n"
OF_P = "            layer.extend(*map(block.attn.split, self.keys_values(block, P)))  # (H, n, d/H)\n"
PAIRS = "        cache = self.base(blocks)\n        for layer, block, K, V in zip(cache.layers, blocks, self.P_K, self.P_V, strict=True):\n            layer.extend(block.attn.split(K), block.attn.split(V))  # (H, n, d/H)\n        return cache\n"
OF_KV = "            layer.extend(block.attn.split(K), block.attn.split(V))  # (H, n, d/H)\n"
HEAD = "self.classify, self.place = nn.Linear(dim, classes), place"
CLASS = "return self.classify(h[:, self.place])"
CHECK = "if cache.mask is not None and not cache.mask[:, -tokens.shape[1] :][:, self.place].all():"
FORM = 'layer = DeepPrompts if self.form == "hidden" else DeepKeys'
PLACE = "dim, place = table.shape[1], -1 if bottom(model).config.causal else 0"
REFUSE = '            wrap(model, (".embed",), lambda embed, path: Unpadded(embed, place), nn.Module)\n'
NAMES = 'names, std = (("P",), float(table.std())) if self.form == "hidden" else (("P_K", "P_V"), 1.0)'
SHAPE = "        shape = self.length, table.shape[1]\n"
DRAW = "drawn = [[table.new_empty(shape).normal_(std=std) for _ in names] for _ in range(layers)]"

exercise.mistake(
    "prompts at the input alone",
    ((PROMPTS, "        cache = self.base(blocks)\n        cache.front.append(self.P[0])\n        return cache\n"),),
    "the prompt of the first layer stands before the embedded tokens, and the other layers get none",
    "what does a later layer see of a prompt that stands before the first?",
    "A prompt at the input alone is prompt tuning. v2 puts new ones before every layer and drops what becomes of them.",
    "THUDM/P-tuning-v2#40 and zai-org/ChatGLM-6B#1060 ask what makes it v2",
)
exercise.mistake(
    "only the first layer",
    ((PROMPTS, PROMPTS.replace("cache.layers, blocks, self.P, strict=True", "cache.layers[:1], blocks, self.P")),),
    "only the first layer gets prompts",
    "which gradient does P of layer 1 have?",
    "The prompts of one layer end with it, so every layer needs its own.",
)
exercise.mistake(
    "first prompts for all",
    ((OF_P, OF_P.replace("(block, P)", "(block, self.P[0])")),),
    "every layer gets the prompts of the first",
    "which gradient does P of layer 1 have?",
    "P is (L, n, d): n vectors for each layer.",
)
exercise.mistake(
    "prompts without projections",
    ((OF_P, "            layer.extend(block.attn.split(P), block.attn.split(P))\n"),),
    "P itself is used as keys and values, without the block's projections",
    "through what does a row of the hidden states pass before it becomes a key?",
    "The prompts stand among the hidden states. Vectors that are keys already belong to the other form.",
)
exercise.mistake(
    "transposition missing",
    ((OF_P, "            both = self.keys_values(block, P)\n            layer.extend(*(x.unflatten(-1, (block.attn.heads, -1)) for x in both))\n"),),
    "the keys and values of the prompts are split into heads, but the heads are not moved in front",
    "which dimension of (n, H, d/H) does the cache take for the tokens?",
    "The cache holds (H, n, d/H): the last dimension but one counts the keys.",
)  # fmt: skip
exercise.mistake(
    "prompts detached",
    ((OF_P, OF_P.replace("(block, P)", "(block, P.detach())")),),
    "the prompts are cut off from their gradient",
    "what is `P.grad` after a backward pass?",
    "`.detach()` and `.data` end the path back, and P is all that is trained here.",
)
exercise.mistake(
    "prompts in a cache of their own",
    ((PROMPTS, PROMPTS.replace("cache = self.base(blocks)", "from minipeft.models.transformer import Cache\n\n        cache = Cache(len(blocks))")),),
    "the layer of the prompts makes an empty cache itself, so whatever another method begins with is lost",
    "what does `self.base` return, and which module may stand behind that name in a stack of methods?",
    "A layer in front of another module asks that module first, and changes what it answers.",
)  # fmt: skip
exercise.mistake(
    "prompts instead of a prefix",
    ((OF_P, "            layer.k, layer.v = map(block.attn.split, self.keys_values(block, P))\n"),),
    "the keys of the prompts replace those that are in a layer's cache already",
    "what becomes of the keys of a prefix that the model had before?",
    "Append to the cache, do not replace what it holds.",
)
exercise.mistake(
    "norm forgotten",
    ((NORM, "x = P"),),
    "the keys and values are computed from P itself, without the block's first norm",
    "what does a row pass through in a pre-norm block before W_k sees it?",
    "Prompts run through the block like any row, its first norm included.",
)
exercise.mistake(
    "norm everywhere",
    ((NORM, "x = block.norm1(P)"),),
    "the first norm is applied also where norms come after",
    "what does the attention of a post-norm block (BERT) read?",
    "Look where the block applies norm1 in each of the two kinds of model.",
)
exercise.mistake(
    "second norm",
    ((NORM, "x = block.norm2(P) if block.pre_norm else P"),),
    "the prompts pass through norm2, which belongs to the MLP",
    "which norm stands before attention?",
    "The first sublayer has the first norm.",
)
exercise.mistake(
    "bias forgotten",
    ((KEYS, "return x @ block.attn.k.weight.T, x @ block.attn.v.weight.T"),),
    "the biases b_k and b_v are missing",
    "what does a Linear layer do besides multiplying?",
    "Let the projections of the attention do it, bias included.",
)
exercise.mistake(
    "values before keys",
    ((KEYS, "return block.attn.v(x), block.attn.k(x)"),),
    "the keys and values of the prompts come as (P_V, P_K)",
    "in which order do the keys and values stand in the equation?",
    "First comes what decides where to look, then what is seen there.",
)
exercise.mistake(
    "keys for both",
    ((KEYS, "return block.attn.k(x), block.attn.k(x)"),),
    "the values of the prompts come from the projection of the keys",
    "which of the block's projections did you not use?",
    "Keys and values have a projection each.",
)
exercise.mistake(
    "heads cut out of the rows",
    ((OF_KV, "            layer.extend(*(P.reshape(block.attn.heads, len(P), -1) for P in (K, V)))\n"),),
    "the heads are cut out of the rows, not out of the width",
    "which numbers of P_K belong to head 0: the first rows, or the first columns of every row?",
    "A reshape keeps the order in memory, so tokens and heads get mixed. The attention has a method that splits.",
    "jsbaan/transformer-from-scratch#6, a reshape without the permute; huggingface/peft#919 is about the order of a prefix's axes",
)
exercise.mistake(
    "keys and values exchanged",
    ((OF_KV, "            layer.extend(block.attn.split(V), block.attn.split(K))\n"),),
    "P_V is used as keys and P_K as values",
    "in which order does the cache take keys and values?",
    "Training would not notice, but whatever is loaded from elsewhere will.",
)
exercise.mistake(
    "values for both",
    ((OF_KV, "            layer.extend(block.attn.split(V), block.attn.split(V))\n"),),
    "P_V is used both as keys and as values",
    "which gradient does P_K have after `backward()`?",
    "What is compared with the queries and what is passed on are two tensors.",
)
exercise.mistake(
    "keys projected",
    ((OF_KV, "            layer.extend(block.attn.split(block.attn.k(K)), block.attn.split(block.attn.v(V)))\n"),),
    "P_K and P_V pass through W_k and W_v, as prompts do",
    "is P_K an input of the block, or already what W_k would have computed?",
    "In this form the keys and values themselves are learned.",
)
exercise.mistake(
    "keys detached",
    ((OF_KV, "            layer.extend(block.attn.split(K.detach()), block.attn.split(V.detach()))\n"),),
    "P_K and P_V are cut off from their gradients",
    "what is `P_K.grad` after a backward pass?",
    "A cache is usually filled without gradients. This one is trained, so the path back must stay open.",
)
exercise.mistake(
    "keys in a cache of their own",
    ((PAIRS, PAIRS.replace("cache = self.base(blocks)", "from minipeft.models.transformer import Cache\n\n        cache = Cache(len(blocks))")),),
    "the layer of P_K and P_V makes an empty cache itself, so whatever another method begins with is lost",
    "what does `self.base` return, and which module may stand behind that name in a stack of methods?",
    "A layer in front of another module asks that module first, and changes what it answers.",
)  # fmt: skip
exercise.mistake(
    "keys instead of a prefix",
    ((OF_KV, "            layer.k, layer.v = block.attn.split(K), block.attn.split(V)\n"),),
    "P_K and P_V replace the keys and values that are in a layer's cache already",
    "what becomes of the keys of a prefix that the model had before?",
    "Append to the cache, do not replace what it holds.",
)
exercise.mistake(
    "offset moved",
    ((OF_P, OF_P + "        cache.offset = cache.offset + self.P.shape[1]\n"), (OF_KV, OF_KV + "        cache.offset = cache.offset + self.P_K.shape[1]\n")),
    "the layer moves the positions by n, which the embedding does already where it should",
    "which module decides where a token stands?",
    "A method never sets a position. Where positions are counted from BOS, an offset above 0 says that BOS has come.",
)  # fmt: skip
exercise.mistake(
    "cache not returned",
    ((PROMPTS, PROMPTS.replace("        return cache\n", "")), (PAIRS, PAIRS.replace("        return cache\n", ""))),
    "the layer returns nothing",
    "what does a function return that has no `return`?",
    "The model reads what `begin` returns; changing the cache on the way is not enough.",
)
exercise.mistake(
    "one prompt for each layer",
    ((SHAPE, "        shape = 1, table.shape[1]\n"),),
    "each layer gets a single prompt, or a single key and value, whatever the length",
    "which shape should P have for n = 4 and 2 layers?",
    "There are n prompts in each of the L layers.",
)
exercise.mistake(
    "the same for all layers",
    ((DRAW, "drawn = [[table.new_empty(shape).normal_(std=std) for _ in names]] * layers"),),
    "all layers start from the same numbers",
    "how many numbers do L layers need, and how many do you draw?",
    "Draw anew for every layer.",
)
exercise.mistake(
    "one draw for keys and values",
    ((DRAW, "drawn = [[table.new_empty(shape).normal_(std=std)] * len(names) for _ in range(layers)]"),),
    "P_K and P_V of a layer start from the same numbers",
    "how often do you draw for one layer in the key/value form?",
    "A key decides which queries look, a value what they see. There is no reason for them to start alike.",
)
exercise.mistake(
    "prompts from N(0, 1)",
    ((NAMES, 'names, std = (("P",), 1.0) if self.form == "hidden" else (("P_K", "P_V"), 1.0)'),),
    "prompts in front of hidden states start from N(0, 1), whatever the size of the embeddings",
    "what stands beside the prompts in the first layer, and how large is that?",
    "A vector that is to look like a token should start at the size of one.",
)
exercise.mistake(
    "keys as small as embeddings",
    ((NAMES, 'names, std = (("P",) if self.form == "hidden" else ("P_K", "P_V")), float(table.std())'),),
    "keys and values start at the size of the embeddings too",
    "are P_K and P_V vectors like those of tokens, or what a layer computes from such vectors?",
    "The two forms start differently: read again what the class says about its argument `form`.",
)
exercise.mistake(
    "zeros",
    ((DRAW, DRAW.replace("new_empty(shape).normal_(std=std)", "new_zeros(shape)")),),
    "everything starts at zero",
    "n prompts start alike and get the same gradient: what tells them apart later?",
    "Zeros are not the base either: a key that scores 0 takes its share of the softmax. And n equal prompts stay n equal prompts.",
)
exercise.mistake(
    "head frozen",
    ((HEAD, HEAD + "\n        self.classify.requires_grad_(False)"),),
    "the classification head is frozen",
    "what have the rows of this head learned so far?",
    "The base is frozen because it has learned something. The head is new and has learned nothing yet.",
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
    "how many labels does one text have?",
    "The class is read from one token, and the head was told which.",
)
exercise.mistake(
    "mean of all tokens",
    ((CLASS, "return self.classify(h.mean(dim=1))"),),
    "the head reads the mean of all tokens, padding included",
    "which vector does the class come from, and what do rows of padding hold?",
    "One token has seen all the others. Its vector is enough, and nothing else gets mixed in.",
)
exercise.mistake(
    "softmax in the head",
    ((CLASS, CLASS + ".softmax(dim=-1)"),),
    "the head gives probabilities, not scores",
    "what does cross-entropy do first with its input?",
    "The loss takes scores and applies the softmax itself. A second softmax makes the gradients vanish.",
)
exercise.mistake(
    "mask of the wrong tokens",
    ((CHECK, CHECK.replace("cache.mask[:, -tokens.shape[1] :][:, self.place]", "cache.mask[:, self.place]")),),
    "the padding is looked up in the whole mask, which begins with the prompts",
    "which column of the mask belongs to the first token, if n keys come before it?",
    "Cut the part of the new tokens out of the mask first.",
)
exercise.mistake(
    "all padding refused",
    ((CHECK, CHECK.replace("[:, self.place]", "")),),
    "any padding among the tokens is refused",
    "does padding disturb the head if it stands where the head does not read?",
    "Rows of different length need padding. It only has to stand on the other side.",
)
exercise.mistake(
    "one good row is enough",
    ((CHECK, CHECK.replace(".all()", ".any()")),),
    "padding is refused only if every row has it where the head reads",
    "what does the head read in the one row that is padded there?",
    "Every row gets a class, so none of them may have padding at that place.",
)
exercise.mistake(
    "padding not refused",
    ((REFUSE, ""),),
    "nothing stands before `embed`, so the head may read padding",
    "what does the head read in a row that is padded on the wrong side?",
    "The answer would be a number like any other. The file has a layer that refuses such rows.",
)
exercise.mistake(
    "always the first token",
    ((PLACE, "dim, place = table.shape[1], 0"),),
    "the head reads the first token in a causal model too",
    "in a decoder, what has the first token seen of the text?",
    "The class depends on the whole text, so the head has to read a token that sees the whole text.",
    "THUDM/P-tuning-v2#15 and #18 are about a head that read a prompt",
)
exercise.mistake(
    "always the last token",
    ((PLACE, "dim, place = table.shape[1], -1"),),
    "the head reads the last token in a bidirectional model too",
    "which token was put into BERT's texts for this purpose, and where does it stand?",
    "Every token of an encoder sees the whole text, but one of them was trained to speak for all.",
)
exercise.mistake(
    "form ignored",
    ((FORM, "start, layer = start[:1], DeepPrompts"),),
    "the model gets prompts in both forms",
    "which layer belongs to the official form, key/value?",
    "The file has two layers for the two forms, and a setting that chooses.",
)

# -- right variants ---------------------------------------------------------------------------------------------------

exercise.right(
    "projections by hand",
    ((NORM, "x = P\n        if block.pre_norm:\n            x = nn.functional.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, block.norm1.eps)"),
     (KEYS, "return [x @ W.weight.T + W.bias for W in (block.attn.k, block.attn.v)]")),
)  # fmt: skip
exercise.right(
    "reshape and permute",
    ((OF_KV, "            H = block.attn.heads\n            layer.extend(*(P[None].reshape(1, len(P), H, -1).permute(0, 2, 1, 3) for P in (K, V)))\n"),
     (OF_P, "            K, V = self.keys_values(block, P[None])  # (1, n, d)\n            layer.extend(block.attn.split(K), block.attn.split(V))\n")),
)  # fmt: skip
exercise.right(
    "index instead of zip",
    ((PROMPTS, "        cache = self.base(blocks)\n        for i, block in enumerate(blocks):\n            K, V = self.keys_values(block, self.P[i])\n            cache.layers[i].extend(k=block.attn.split(K), v=block.attn.split(V))\n        return cache\n"),
     (PAIRS, "        cache = self.base(blocks)\n        for i in range(len(blocks)):\n            split = blocks[i].attn.split\n            cache.layers[i].extend(split(self.P_K[i]), split(self.P_V[i]))\n        return cache\n")),
)  # fmt: skip
exercise.right(
    "head by hand",
    ((HEAD, "self.place = place\n        self.classify = nn.Linear(in_features=dim, out_features=classes)"),
     (CLASS, "rows = h.select(1, self.place)\n        return rows @ self.classify.weight.T + self.classify.bias")),
)  # fmt: skip
exercise.right(
    "drawn at once",
    ((NAMES, 'hidden = self.form == "hidden"'),
     (DRAW, "drawn = [[torch.randn(shape).to(table) * (table.std() if hidden else 1) for _ in range(1 if hidden else 2)] for _ in range(layers)]"),
     (PLACE, "causal, dim = bottom(model).config.causal, table.shape[1]\n            place = (0, -1)[causal]")),
)  # fmt: skip

# -- variants ------------------------------------------------------------------------------------------------------

exercise.variant(
    "without the norm",
    ((NORM, "x = P"),
     ("P_K = W_k LN(P_l) + b_k,    P_V = W_v LN(P_l) + b_v", "P_K = W_k P_l + b_k,    P_V = W_v P_l + b_v        without a norm"),
     ("(LN is the block's first norm, or none where norms come after)", "(P passes through no norm, not even in a pre-norm block)"),
     ("the keys and values that the block makes of P (L, n, d).", "the keys and values that the block makes of P (L, n, d),\n    which passes through no norm.\n    ")),
    "the keys and values are made of P itself: it passes through no norm, not even in a pre-norm block",
)  # fmt: skip
exercise.variant(
    "half the size",
    ((NAMES, NAMES.replace("float(table.std())", "float(table.std()) / 2")),
     ("which start at the scale of the embeddings; or", "which start at half the scale of the embeddings; or")),
    "deep prompts start with half the standard deviation of the embeddings",
)  # fmt: skip
exercise.variant(
    "tanh before the head",
    ((CLASS, "return self.classify(torch.tanh(h[:, self.place]))"),
     ('"""W h + b of the token at', '"""W tanh(h) + b of the token at')),
    "the classification head is W tanh(h) + b",
)  # fmt: skip
