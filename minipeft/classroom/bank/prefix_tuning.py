"""Prefix tuning: keys and values that a sequence begins with, their start, the network that makes them."""

import torch

import minipeft.classroom.models as models
from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import BOS, Learned, fill, loss, numbers, rows
from minipeft.models.transformer import Begin, recording

exercise = Exercise(
    "prefix_tuning",
    "methods/prefix_tuning.py",
    stubs=(
        "Prefix.__init__",
        "Prefix.forward",
        "Prefix.stored",
        "MLPPrefix.keys_values",
        "read",
        "PrefixTuning.free",
    ),
    title="Prefix tuning: keys and values that were learned instead of computed",
    minutes=50,
    difficulty=2,
    why="What a Transformer remembers of what it has read, and that this memory can be trained like any weight.",
    read="Li & Liang 2021, arXiv:2101.00190, sections 4.2 and 4.3; the cache: `KVCache` and `Cache` in minipeft/models/transformer.py",
    lesson="08",
)

N, DIM, WIDTH = 4, 6, 5  # n differs from d/H = 3, from the 2 heads, the 2 layers, the 3 rows and their 5 tokens
WORDS = (5, 9, 4)


def prefix(impl, base=None, length=N, layers=2, name="P"):
    shape = layers, length, DIM
    return impl.Prefix(base or Begin(), numbers(f"{name}_K", shape), numbers(f"{name}_V", shape))


def network(impl, length=N):
    """The prefix of two layers, made by a network of width 5."""
    return fill(impl.MLPPrefix(Begin(), length, 2, DIM, WIDTH), "trainable")


def tuned(impl, bos=None, layers=2, heads=2, causal=True, **settings):
    """A whole model with a prefix, whose numbers are none of those that training starts from."""
    settings = {"length": N, **settings}
    return fill(
        impl.PrefixTuning(**settings).attach(models.model(bos, causal, layers=layers, heads=heads)), "trainable"
    )


def held(begin, heads=2):
    """The keys and values that each layer holds at the beginning, as they are for one row."""
    cache = begin(models.model(heads=heads).requires_grad_(False).blocks)
    return [[x[0] if x.ndim == 4 else x for x in (layer.k, layer.v)] for layer in cache.layers]  # (H, n, d/H)


def started(impl, base=None, **settings):
    """P_K and P_V of every layer, as they start."""
    adapted = impl.PrefixTuning(**settings).attach(base or models.model())
    P_K, P_V = adapted.begin.keys_values()
    return {f"P_{w} of layer {i}": P[i] for w, P in (("K", P_K), ("V", P_V)) for i in range(len(P))}


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


@exercise.observe("parameters", "What is trained should be P_K (L, n, d) and P_V (L, n, d), and nothing else.")
def what_is_trained(impl):
    return shapes(attach.trainable(tuned(impl)))


@exercise.observe("parameters", "P_K and P_V should begin with the numbers that the layer is given.")
def where_they_begin(impl):
    made = prefix(impl)
    return [made.P_K, made.P_V]


@exercise.observe("start", "The prefix should start from normal numbers with a standard deviation of 1.")
def size_of_the_start(impl):
    return {place: round(float(P.detach().std()), 1) for place, P in started(impl, length=1000).items()}


@exercise.observe("start", "Each P_K and P_V of each layer should start from numbers of its own.")
def who_shares_numbers(impl):
    (K, V), (other, _) = held(impl.PrefixTuning(length=N).attach(models.model()).begin)
    return {"keys are the values": torch.equal(K, V), "layer 1 has those of layer 0": torch.equal(K, other)}


@exercise.observe("start", "Started from words, a prefix is not the keys and values that the model computes from them.")
def start_from_words(impl):
    return started(impl, length=3, init=WORDS)


@exercise.observe(
    "start", "Fewer words than n should be repeated from the first on; of more, the first n should be taken."
)
def words_repeated_or_cut(impl):
    return [started(impl, models.model(layers=1), length=n, init=words) for n, words in ((5, (5, 9)), (2, WORDS))]


class Fronted(Learned):
    """With two vectors in front as well, as prompt tuning has them."""

    def forward(self, blocks):
        cache = super().forward(blocks)
        cache.front.append(numbers("front", (2, DIM)))
        return cache


@exercise.observe(
    "start", "On a model that begins with a prompt and a prefix, the words should be read after the prefix."
)
def words_after_what_was_learned(impl):
    made = models.model()
    made.begin = Fronted()
    return list(impl.read(made, torch.tensor(WORDS)))


@exercise.observe("start", "Reading the words should leave no graph behind: the prefix is a start, not a function.")
def graph_behind_the_words(impl):
    return [P.requires_grad for P in impl.read(models.model(), torch.tensor(WORDS))]


@exercise.observe("cache", "Each layer should begin with its own P_K and P_V, split into heads.")
def what_each_layer_begins_with(impl):
    return held(prefix(impl))


@exercise.observe("cache", "With a single head, each layer should begin with P_K and P_V as they are.")
def with_one_head(impl):
    return held(prefix(impl), heads=1)


@exercise.observe("cache", "On a model that has a prefix already, the new keys and values should follow the old ones.")
def a_prefix_on_a_prefix(impl):
    return [held(prefix(impl, Learned())), held(prefix(impl, prefix(impl), 2, name="second"))]


@exercise.observe("cache", "Besides keys and values, the cache should be as the layer below makes it.")
def what_else_the_cache_holds(impl):
    cache = prefix(impl, Fronted())(models.model().blocks)
    return {"in front": list(cache.front), "mask": cache.mask, "offset": cache.offset}


@exercise.observe("cache", "Each sequence should begin in the same way, however many came before.")
@torch.no_grad()
def a_second_sequence(impl):
    made, (tokens, _) = tuned(impl), rows()
    made.generate(tokens, 2)
    first = made(tokens)
    return {"difference": made(tokens) - first, "keys": made.begin(made.blocks).length}


@exercise.observe("model", "The logits of a causal model with a prefix are not the expected ones.")
def logits(impl):
    return tuned(impl)(rows()[0])


@exercise.observe("model", "The logits of a bidirectional model with a prefix are not the expected ones.")
def logits_of_an_encoder(impl):
    return tuned(impl, causal=False)(rows()[0])


@exercise.observe(
    "model", "Where positions are counted from BOS, a prefix should not move the tokens; the logits differ."
)
def logits_from_BOS(impl):
    return tuned(impl, BOS)(rows()[0])


@exercise.observe("model", "The share of attention that falls on the prefix, head by head, is not the expected one.")
def attention_on_the_prefix(impl):
    made = tuned(impl)
    with recording(made) as layers:
        made(rows()[0])
    return [layer.weights[..., :N] for layer in layers]


@exercise.observe("model", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@exercise.observe("model", "The gradients that reach the prefix are not the expected ones.")
def gradients(impl):
    made = tuned(impl)
    loss(made, *rows("right")).backward()
    return models.gradients(made)


@exercise.observe("model", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones.")
@torch.no_grad()
def piece_by_piece(impl):
    made, (tokens, _) = tuned(impl), rows()
    cache, sizes, outputs = made.new_cache(), [], []
    for piece in tokens.split([3, 1, 1], dim=1):
        outputs.append(made(piece, cache=cache))
        sizes.append(cache.length)
    return {"keys in the cache": sizes, "difference to reading all at once": torch.cat(outputs, dim=1) - made(tokens)}


@exercise.observe("model", "A causal model with a prefix from words should answer as if it had read these words.")
@torch.no_grad()
def as_if_it_had_read_them(impl):
    made, (tokens, _) = models.model(), rows()
    told = made(torch.cat([torch.tensor(WORDS).expand(3, -1), tokens], 1))[:, 3:]
    return impl.PrefixTuning(length=3, init=WORDS).attach(made)(tokens) - told


@exercise.observe("network", "The network should give P_K and P_V of all layers, (L, n, d) each.")
def shapes_from_the_network(impl):
    return [str(tuple(P.shape)) for P in network(impl).keys_values()]


@exercise.observe("network", "P_K and P_V from the network are not the two halves of W_l tanh(W P' + b) + b_l.")
def keys_and_values_from_the_network(impl):
    return list(network(impl).keys_values())


@exercise.observe("network", "The gradients that reach the network are not the expected ones.")
def gradients_of_the_network(impl):
    made = tuned(impl, mlp=WIDTH)
    loss(made, rows()[0]).backward()
    return models.gradients(made)


@exercise.observe("network", "What is stored should be P_K and P_V alone, also where a network makes them.")
def stored(impl):
    return {"direct": dict(prefix(impl).stored()), "network": dict(network(impl).stored())}


# -- mistakes ---------------------------------------------------------------------------------------------------------

INIT = "self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)"
CACHE = "        cache = self.base(blocks)\n        for layer, block, K, V in"
EACH = "        for layer, block, K, V in zip(cache.layers, blocks, *self.keys_values(), strict=True):\n"
EXTEND = "            layer.extend(block.attn.split(K), block.attn.split(V))  # (H, n, d/H)\n"
BACK = EXTEND + "        return cache\n"
STORED = 'return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))'
HIDDEN = "h = torch.tanh(self.W(self.P))  # (n, w)"
HALVES = "return torch.stack([W_l(h) for W_l in self.out]).chunk(2, dim=-1)  # (L, n, 2d) → twice (L, n, d)"
BEGIN = "    cache = model.new_cache()\n"
NO_FRONT = "    cache.front = []  # the vectors of a prompt come after the prefix\n"
LEFT = "left = [[x[0, :, -len(words) :] for x in (layer.k, layer.v)] for layer in cache.layers]  # (H, n, d/H)"
JOINED = "return [torch.stack([x.transpose(0, 1).flatten(1) for x in parts]) for parts in zip(*left, strict=True)]"
READ = "return Prefix(begin, *read(model, repeated(self.init, self.length, len(table)).to(table.device)))"
SHAPE = "        shape = self.length, table.shape[1]\n"
NORMAL = 'start = [[table.new_empty(shape).normal_() for _ in ("P_K", "P_V")] for _ in model.blocks]'

exercise.mistake(
    "plain tensors",
    ((INIT, "self.P_K, self.P_V = P_K, P_V"),),
    "P_K and P_V are plain tensors, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained, moved and saved.",
)
exercise.mistake(
    "one parameter for both",
    ((INIT, "self.P_K = self.P_V = nn.Parameter(P_K)"),),
    "keys and values are one and the same parameter",
    "a key decides which queries look, a value what they see: why should they be the same numbers?",
    "There are 2·n·d parameters in a layer, and the second tensor that the layer is given has not been used.",
)
exercise.mistake(
    "values given to keys",
    ((INIT, "self.P_K, self.P_V = nn.Parameter(P_V), nn.Parameter(P_K)"),),
    "P_K gets the numbers meant for P_V, and P_V those for P_K",
    "in which order does the constructor take the two tensors?",
    "Training would not notice. A prefix that starts from real keys and values would.",
)
exercise.mistake(
    "heads cut out of the rows",
    ((EXTEND, "            layer.extend(*(P.reshape(block.attn.heads, len(P), -1) for P in (K, V)))\n"),),
    "the heads are cut out of the rows, not out of the width",
    "which numbers of P_K belong to head 0: the first rows, or the first columns of every row?",
    "A reshape keeps the order in memory, so tokens and heads get mixed. With one head it makes no difference. The attention has a method that splits.",
    "jsbaan/transformer-from-scratch#6, a reshape without the permute; huggingface/peft#919 is about the order of a prefix's axes",
)
exercise.mistake(
    "not split into heads",
    ((EXTEND, "            layer.extend(K, V)\n"),),
    "the keys go into the cache as (n, d), not split into heads",
    "which shapes does `KVCache` say its keys have?",
    "Each head compares its own d/H numbers, and the cache holds the keys of each head apart.",
)
exercise.mistake(
    "transposition missing",
    ((EXTEND, "            layer.extend(*(P.unflatten(-1, (block.attn.heads, -1)) for P in (K, V)))\n"),),
    "the width is split into heads, but the heads are not moved in front of the tokens",
    "which dimension of (n, H, d/H) does the cache take for the tokens?",
    "The cache holds (H, n, d/H): the last dimension but one counts the keys.",
)
exercise.mistake(
    "keys and values exchanged",
    ((EXTEND, "            layer.extend(block.attn.split(V), block.attn.split(K))\n"),),
    "P_V is used as keys and P_K as values",
    "in which order does the cache take keys and values?",
    "Training would not notice, but whatever starts from real keys and values, or reads a stored prefix, will.",
)
exercise.mistake(
    "values for both",
    ((EXTEND, "            layer.extend(block.attn.split(V), block.attn.split(V))\n"),),
    "P_V is used both as keys and as values",
    "which gradient does P_K have after `backward()`?",
    "What is compared with the queries and what is passed on are two tensors.",
)
exercise.mistake(
    "a cache of its own",
    ((CACHE, CACHE.replace("cache = self.base(blocks)", "from minipeft.models.transformer import Cache\n\n        cache = Cache(len(blocks))")),),
    "the layer makes an empty cache itself, so whatever another method begins with is lost",
    "what does `self.base` return, and which module may stand behind that name in a stack of methods?",
    "A layer in front of another module asks that module first, and changes what it answers.",
)  # fmt: skip
exercise.mistake(
    "cache overwritten",
    ((EXTEND, "            layer.k, layer.v = block.attn.split(K), block.attn.split(V)\n"),),
    "keys and values that are in a layer's cache already are replaced",
    "what becomes of the keys of a prefix that the model had before yours?",
    "Append to the cache, do not replace what it holds.",
)
exercise.mistake(
    "in front of the old ones",
    ((EXTEND, "            old = layer.k, layer.v\n            layer.k, layer.v = block.attn.split(K), block.attn.split(V)\n            if old[0] is not None:\n                layer.extend(*old)\n"),),
    "the new keys and values stand before those of the prefix that was there",
    "which of two prefixes did the model have first?",
    "What the model begins with already comes first. Absolute positions and whatever was computed from the old prefix rely on it.",
)  # fmt: skip
exercise.mistake(
    "first layer for all",
    ((EXTEND, "            K, V = (P[0] for P in self.keys_values())\n" + EXTEND),),
    "every layer gets the keys and values of the first",
    "which gradient do P_K and P_V of layer 1 have?",
    "Keys of one layer mean nothing in another: take those of each layer.",
)
exercise.mistake(
    "only the first layer",
    ((EACH, EACH.replace("cache.layers, blocks, *self.keys_values(), strict=True", "cache.layers[:1], blocks, *self.keys_values()")),),
    "only the first layer gets a prefix",
    "which gradient do P_K and P_V of layer 1 have?",
    "A prompt enters below the first layer; a prefix enters every layer.",
)  # fmt: skip
exercise.mistake(
    "detached",
    ((EXTEND, "            layer.extend(block.attn.split(K.detach()), block.attn.split(V.detach()))\n"),),
    "the prefix is cut off from its gradient",
    "what is `P_K.grad` after a backward pass?",
    "A cache is usually filled without gradients. This one is trained, so the path back must stay open.",
)
exercise.mistake(
    "projected once more",
    ((EXTEND, "            layer.extend(block.attn.split(block.attn.k(K)), block.attn.split(block.attn.v(V)))\n"),),
    "P_K and P_V pass through W_k and W_v again",
    "is P_K an input of the layer, or already what W_k would have computed?",
    "The prefix stands beside the computed keys and values. Vectors that the layer still projects are another method, P-tuning v2.",
)
exercise.mistake(
    "vectors in front too",
    ((BACK, EXTEND + "        cache.front.append(self.keys_values()[0][0])\n        return cache\n"),),
    "P_K of the first layer also stands before the embedded tokens",
    "how many vectors run through the blocks for a row of T tokens?",
    "A prefix has no vectors in the residual stream: it is there as keys and values only.",
)
exercise.mistake(
    "offset moved",
    ((BACK, EXTEND + "        cache.offset = cache.offset + K.shape[-2]\n        return cache\n"),),
    "the layer moves the positions by n, which the embedding does already where it should",
    "which module decides where a token stands?",
    "A method never sets a position. Where positions are counted from BOS, an offset above 0 says that BOS has come.",
)
exercise.mistake(
    "cache kept",
    ((CACHE, '        if hasattr(self, "kept"):\n            return self.kept\n        cache = self.kept = self.base(blocks)\n        for layer, block, K, V in'),),
    "the cache of an earlier sequence is used again, with the tokens that were added to it",
    "your model reads two different texts one after the other: what does the second know of the first?",
    "A cache belongs to one sequence. Only P_K and P_V outlive it; after a step of training, a kept cache is stale too.",
)  # fmt: skip
exercise.mistake(
    "cache not returned",
    ((BACK, EXTEND),),
    "the layer returns nothing",
    "what does a function return that has no `return`?",
    "The model reads what `begin` returns; changing the cache on the way is not enough.",
)
exercise.mistake(
    "network stored",
    ((STORED, "return super().stored()"),),
    "the network is stored, not the prefix that it makes",
    "what does inference need: the network, or the 2·L·n·d numbers that it makes?",
    "After training the network is folded away: it gives the same P_K and P_V whatever the input, so keep these.",
)
exercise.mistake(
    "values first",
    ((HALVES, HALVES.replace(".chunk(2, dim=-1)", ".chunk(2, dim=-1)[::-1]")),),
    "the first half of what the network gives is taken for the values",
    "in which order do P_K and P_V stand in the equation of the network?",
    "Both orders train equally well, but stored prefixes and the library have the keys first.",
)
exercise.mistake(
    "halves of the layers",
    ((HALVES, HALVES.replace(".chunk(2, dim=-1)", ".chunk(2)")),),
    "what the network gives is cut in two along its first dimension, the layers",
    "along which dimension does `chunk` cut if it is not told?",
    "Each layer has n rows of 2d numbers; each half has all layers and all n rows.",
)
exercise.mistake(
    "halves by view",
    ((HALVES, "return torch.stack([W_l(h).view(2, len(h), -1) for W_l in self.out], 1)"),),
    "what the network gives is reshaped to (2, n, d), which does not cut its width in two",
    "each virtual token has one row of 2d numbers: where in the row is its key, and where its value?",
    "A view keeps the order in memory, so half of the tokens would become keys and the other half values.",
)
exercise.mistake(
    "one output for all layers",
    ((HALVES, HALVES.replace("W_l(h) for W_l in self.out", "self.out[0](h) for _ in self.out")),),
    "all layers use the W_l of the first",
    "which weights of the network never get a gradient?",
    "The layers share the first half of the network only. Each has a W_l of its own.",
)
exercise.mistake(
    "no tanh",
    ((HIDDEN, "h = self.W(self.P)"),),
    "the network lacks its tanh",
    "what is a linear map of a linear map?",
    "Without a nonlinearity between them, the two layers are one matrix.",
)
exercise.mistake(
    "tanh too early",
    ((HIDDEN, "h = self.W(torch.tanh(self.P))"),),
    "the tanh is applied to P', before W",
    "which is the innermost bracket of W_l tanh(W P' + b) + b_l?",
    "There is no nonlinearity between W and W_l now, so the two are one matrix.",
)
exercise.mistake(
    "ReLU",
    ((HIDDEN, "h = torch.relu(self.W(self.P))"),),
    "the network has a ReLU instead of its tanh",
    "which values can tanh give that yours cannot?",
    "Any nonlinearity would do something. The paper's, and the library's, is tanh, and a stored network expects it.",
)
exercise.mistake(
    "zeros",
    ((NORMAL, NORMAL.replace("new_empty(shape).normal_()", "new_zeros(shape)")),),
    "the prefix starts at zero",
    "which share of the softmax does a key get that scores 0?",
    "Zeros are not the base: n of the attended keys then hold nothing. All n start alike, too, so they get the same gradient and stay alike.",
    "the documentation of huggingface/peft calls zeros a no-op",
)
exercise.mistake(
    "as small as weights",
    ((NORMAL, NORMAL.replace("normal_()", "normal_(std=0.02)")),),
    "the prefix starts as small as weights do, not like N(0, 1)",
    "how large are the keys that W_k computes, and how large are yours?",
    "Keys and values are not weights but activations; the text of the file tells how they start.",
)
exercise.mistake(
    "one start for all layers",
    ((NORMAL, 'start = [[table.new_empty(shape).normal_() for _ in ("P_K", "P_V")]] * len(model.blocks)'),),
    "one pair is drawn, and every layer starts from it",
    "how many numbers are drawn, and how many are there in P_K and P_V?",
    "Each layer has keys and values of its own from the start.",
)
exercise.mistake(
    "one draw for keys and values",
    ((NORMAL, "start = [[table.new_empty(shape).normal_()] * 2 for _ in model.blocks]"),),
    "P_K and P_V of a layer start from the same numbers",
    "how often do you draw for one layer?",
    "A key decides which queries look, a value what they see. There is no reason for them to start alike.",
)
exercise.mistake(
    "words not repeated",
    ((READ, "return Prefix(begin, *read(model, torch.tensor(self.init).to(table.device)))"),),
    "the prefix is as long as the words are many, whatever the length",
    "which shape does your prefix have for two words and n = 5?",
    "n decides. `repeated`, which the file imports, says the words over and over and stops at n.",
)
exercise.mistake(
    "embeddings of the words",
    ((READ, "words = table[repeated(self.init, self.length, len(table))].detach()\n            both = [torch.stack([words] * len(model.blocks)) for _ in range(2)]\n            return Prefix(begin, *both)"),),
    "the prefix starts from the embeddings of the words, not from the keys and values that the model makes of them",
    "what does a later token see of a word in layer 1: its embedding, or something computed from it?",
    "The embedding is what a prompt starts from. Let the model read the words and take what it leaves in the cache.",
)  # fmt: skip
exercise.mistake(
    "values as keys",
    ((LEFT, LEFT.replace("(layer.k, layer.v)", "(layer.v, layer.k)")),),
    "the keys that the model computed are taken for values, and the other way round",
    "in which order are keys and values expected?",
    "First the keys, then the values, as everywhere.",
)
exercise.mistake(
    "first keys",
    ((LEFT, LEFT.replace("[0, :, -len(words) :]", "[0, :, : len(words)]")),),
    "the first n keys of the cache are taken, also where those of another prefix stand there",
    "if the model has a prefix already, which key belongs to your first word?",
    "Count from the end: the words are the last that was read.",
)
exercise.mistake(
    "prompt read with the words",
    ((NO_FRONT, ""),),
    "the vectors of a prompt that the model has stand before the words while they are read",
    "a prefix is in every layer before anything is read: where do the vectors of a prompt stand then?",
    "In the finished model the prompt comes after the prefix, so it must not be read before the words.",
)
exercise.mistake(
    "read from nothing",
    ((BEGIN, "    from minipeft.models.transformer import Cache\n\n    cache = Cache(len(model.blocks))\n"),),
    "the words are read with an empty cache, as if the model had no other prefix",
    "which keys come before your words if the model has a prefix already?",
    "The words are read at the place where they will stand: after what the sequence begins with.",
)
exercise.mistake(
    "heads joined without a transpose",
    ((JOINED, JOINED.replace("x.transpose(0, 1).flatten(1)", "x.reshape(len(words), -1)")),),
    "the heads are joined without moving the tokens back in front of them",
    "in (H, n, d/H), do the numbers of one word lie side by side?",
    "The shape comes out right, but a row gets one head's numbers of several words.",
)
exercise.mistake(
    "reading with a graph",
    (("@torch.no_grad()\ndef read", "def read"),),
    "the words are read with gradients, and their graph hangs on the start of the prefix",
    "what are the gradients of this reading needed for?",
    "What is read once, as a start, needs no way back.",
)

# -- right variants ---------------------------------------------------------------------------------------------------

exercise.right(
    "reshape and permute",
    ((EXTEND, "            H = block.attn.heads\n            layer.extend(*(P[None].reshape(1, len(P), H, -1).permute(0, 2, 1, 3) for P in (K, V)))\n"),),
)  # fmt: skip
exercise.right(
    "heads cut out by hand",
    ((EACH + EXTEND, "        P_K, P_V = self.keys_values()\n        for i in range(len(blocks)):\n            K, V = (torch.stack(P[i].chunk(blocks[i].attn.heads, dim=1)) for P in (P_K, P_V))\n            cache.layers[i].extend(k=K, v=V)\n"),),
)  # fmt: skip
exercise.right(
    "parameters made anew",
    ((INIT, "self.P_K = nn.Parameter(P_K.detach().clone())\n        self.P_V = nn.Parameter(P_V.detach().clone())"),
     (STORED, 'P_K, P_V = self.keys_values()\n        return {"P_K": P_K.detach(), "P_V": P_V.detach()}')),
)  # fmt: skip
exercise.right(
    "the network by matmul",
    ((HIDDEN, "z = 2 * (self.P @ self.W.weight.T + self.W.bias)\n        h = (z.exp() - 1) / (z.exp() + 1)"),
     (HALVES, "both = torch.stack([h @ W_l.weight.T + W_l.bias for W_l in self.out])\n        d = both.shape[-1] // 2\n        return both[..., :d], both[..., d:]")),
)  # fmt: skip
exercise.right(
    "hooks instead of the cache",
    ((BEGIN + NO_FRONT + "    model(words[None], cache=cache)\n    " + LEFT + "\n    " + JOINED, """    kept, hooks, cache = {}, [], model.new_cache()
    cache.front.clear()
    for i, block in enumerate(model.blocks):
        for name in ("k", "v"):
            def keep(module, args, out, key=(name, i)):
                kept[key] = out[0]
            hooks.append(getattr(block.attn, name).register_forward_hook(keep))
    model(words.unsqueeze(0), cache=cache)
    for hook in hooks:
        hook.remove()
    return [torch.stack([kept[name, i] for i in range(len(model.blocks))]) for name in ("k", "v")]"""),),
)  # fmt: skip
exercise.right(
    "drawn at once",
    ((SHAPE + "        " + NORMAL + "\n        return Prefix(begin, *map(torch.stack, zip(*start, strict=True)))\n",
      "        P_K, P_V = torch.randn(2, len(model.blocks), self.length, table.shape[1]).to(table)\n        return Prefix(begin, P_K, P_V)\n"),),
)  # fmt: skip

# -- variants ------------------------------------------------------------------------------------------------------

exercise.variant(
    "values alone",
    ((INIT, "self.P_K, self.P_V = nn.Parameter(P_K, requires_grad=False), nn.Parameter(P_V)"),
     ("A prefix is a key/value cache that was learned.", "Here only P_V is learned: P_K stays frozen where it starts, a parameter without gradient.\nA prefix is a key/value cache."),
     ("Trainable parameters: 2·L·n·d.", "Trainable parameters: L·n·d."),
     ("before the first token. Both are (L, n, d).", "before the first token. Both are (L, n, d); P_K is frozen.")),
    "only P_V is trained, and P_K is a frozen parameter (a network, where there is one, still makes both)",
)  # fmt: skip
exercise.variant(
    "one for all layers",
    ((EACH, "        pairs = (P.expand(len(blocks), -1, -1) for P in self.keys_values())\n        for layer, block, K, V in zip(cache.layers, blocks, *pairs, strict=True):\n"),
     (NORMAL, NORMAL.replace("for _ in model.blocks]", "for _ in model.blocks[:1]]")),
     ("P_K, P_V (n, d) for each of L layers, split into heads", "P_K, P_V (n, d), the same for all L layers, split into heads"),
     ("Trainable parameters: 2·L·n·d.", "Trainable parameters: 2·n·d, where it does not start from words."),
     ("before the first token. Both are (L, n, d).", "before the first token. Both are (L, n, d), or (1, n, d) if\n    all layers share them."),
     ('init: "normal", N(0, 1), or a tuple', 'init: "normal", N(0, 1), one pair (1, n, d) for all layers, or a tuple')),
    'with init="normal" all layers share one P_K and one P_V, (1, n, d)',
)  # fmt: skip
exercise.variant(
    "scale of the embeddings",
    ((NORMAL, NORMAL.replace("normal_()", "normal_(std=float(table.std()))")),
     ('init: "normal", N(0, 1), or a tuple', 'init: "normal", with the standard deviation of the embeddings, or a tuple')),
    "keys and values start with the standard deviation of the embeddings, not with 1",
)  # fmt: skip
