"""Prefix tuning: keys and values in the past, the positions they take, their start, the network that makes them."""

import torch

import minipeft.classroom.models as models
from minipeft import attach
from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import BOS, VOCAB, fill, fresh, numbers, rows
from minipeft.models.transformer import Attention, Embed, EmbedFromBOS, Past

exercise = Exercise(
    "prefix_tuning",
    "methods/prefix_tuning.py",
    holes=(
        "Prefix.__init__",
        "Prefix.forward",
        "Prefix.stored",
        "MLPPrefix.keys_values",
        "Trunk.forward",
        "AfterPrefix.forward",
        "activations",
        "PrefixTuning.start",
    ),
    title="Prefix tuning: keys and values that were learned instead of computed",
    minutes=50,
    difficulty=2,
    why="What a Transformer remembers of what it has read, and that this memory can be trained like any weight.",
    read="Li & Liang 2021, arXiv:2101.00190, sections 4.2 and 4.3; the cache: `Past` in minipeft/models/transformer.py",
    lesson="08",
)

N, DIM, WIDTH = 4, 6, 5  # n differs from d/H = 3, from the 2 heads, the 3 rows and their 5 tokens
PATHS = ["blocks.0.attn", "blocks.1.attn"]


def attention(heads=2, causal=True):
    return fresh(Attention, DIM, heads, causal).requires_grad_(False)


def prefix(impl, base, length=N, name="P"):
    return impl.Prefix(base, numbers(f"{name}_K", (length, DIM)), numbers(f"{name}_V", (length, DIM)))


def inputs():
    return numbers("x", (3, 5, DIM))


def network(impl, length=N):
    """The prefix of one layer, made by a network of width 5."""
    return fill(impl.MLPPrefix(attention(), impl.Trunk(length, DIM, WIDTH), DIM, WIDTH), "trainable")


def embed(impl, kind=Embed, *bos):
    return impl.AfterPrefix(fresh(kind, VOCAB, DIM, 16, *bos), N)


def named(start):
    """The start of every layer, {place: numbers}."""
    return {f"{path}, {which}": P for path, pair in start.items() for which, P in zip("KV", pair, strict=True)}


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


@exercise.observe("parameters", "The layer should train P_K (n, d) and P_V (n, d), and nothing else.")
def what_is_trained(impl):
    return shapes(attach.trainable(prefix(impl, attention())))


@exercise.observe("parameters", "A whole model: what is trained there should be a P_K and a P_V in every layer.")
def trained_in_a_model(impl):
    return shapes(attach.trainable(impl.PrefixTuning(length=N).attach(models.model())))


@exercise.observe("start", "The prefix should start from normal numbers of standard deviation 1.")
def size_of_the_start(impl):
    start = impl.PrefixTuning(length=1000).start(models.model(), PATHS)
    return {place: round(float(P.detach().std()), 1) for place, P in named(start).items()}


@exercise.observe("start", "Each P_K and P_V of each layer should start from numbers of its own.")
def who_shares_numbers(impl):
    start = impl.PrefixTuning(length=N).start(models.model(), PATHS)
    (K, V), (other, _) = (start[path] for path in PATHS)
    return {"keys are the values": torch.equal(K, V), "layer 1 has those of layer 2": torch.equal(K, other)}


@exercise.observe("start", "Started from words, a prefix is not the keys and values that the model computes from them.")
def start_from_words(impl):
    return named(impl.PrefixTuning(length=3, init=(5, 9, 4)).start(models.model(), PATHS))


@exercise.observe("start", "Fewer words than n should be repeated from the first on, more should be cut.")
def words_that_are_repeated_or_cut(impl):
    made = models.model(layers=1)
    return [
        impl.PrefixTuning(length=n, init=init).start(made, PATHS[:1])[PATHS[0]]
        for n, init in ((5, (5, 9)), (2, (5, 9, 4)))
    ]


class Fronted(Embed):
    """With two vectors in front, as prompt tuning has them."""

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):
        return super().forward(tokens, start, mask, numbers("front", (2, DIM)), skip)


@exercise.observe("start", "On a model that has a prompt in front, the prefix should come from the rows of the words.")
def words_behind_a_prompt(impl):
    made = models.model(layers=1)
    made.embed = fresh(Fronted, VOCAB, DIM, 16)
    return list(impl.activations(made, PATHS[:1], torch.tensor([5, 9, 4]))[PATHS[0]])


@exercise.observe("attention", "With a single head, the output is not softmax(q [P_K ; K]ᵀ/√d) [P_V ; V].")
def one_head(impl):
    return prefix(impl, attention(heads=1))(inputs(), None, Past())


@exercise.observe(
    "attention", "The share of attention that falls on the prefix, head by head, is not the expected one."
)
def attention_on_the_prefix(impl):
    base = attention()
    base.recording = True
    prefix(impl, base)(inputs(), None, Past())
    return base.weights[..., :N]


@exercise.observe("attention", "With several heads the output is not the expected one.")
def several_heads(impl):
    return [prefix(impl, attention(causal=causal))(inputs(), None, Past()) for causal in (True, False)]


@exercise.observe("attention", "In a batch with padding the real tokens do not get what they should.")
def padded(impl):
    masks = [rows(side)[1] for side in ("left", "right")]
    return [prefix(impl, attention())(inputs(), mask, Past())[mask] for mask in masks]


@exercise.observe("attention", "The gradients that reach the prefix are not the expected ones.")
def gradients(impl):
    made = prefix(impl, attention())
    made(inputs(), None, Past()).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters() if not name.startswith("base.")}


@exercise.observe("attention", "The same input, read once more from the beginning, should give the same output.")
def the_same_twice(impl):
    made = prefix(impl, attention())
    return made(inputs(), None, Past()) - made(inputs(), None, Past())


@exercise.observe("attention", "Where another prefix is in the past already, this one should come in addition.")
def a_prefix_on_a_prefix(impl):
    return prefix(impl, prefix(impl, attention()), 2, "outer")(inputs(), None, Past())


@exercise.observe(
    "generation", "Read 3 tokens, one more and one more, the past or the outputs are not the expected ones."
)
def piece_by_piece(impl):
    made, past, sizes, outputs = prefix(impl, attention()), Past(), [], []
    for x in inputs().split([3, 1, 1], dim=1):
        outputs.append(made(x, None, past))
        sizes.append(0 if past.k is None else past.k.shape[2])
    difference = torch.cat(outputs, dim=1) - made(inputs(), None, Past())
    return {"keys in the past": ", ".join(map(str, sizes)), "difference to reading all at once": difference}


@exercise.observe(
    "positions", "At the beginning of a sequence the positions of the real tokens are not the expected ones."
)
def positions(impl):
    return [out for side in (None, "left") for out in embed(impl)(rows(side)[0], None, rows(side)[1])]


@exercise.observe("positions", "Later in a sequence (start is given) the positions are not the expected ones.")
def positions_of_later_tokens(impl):
    tokens = rows()[0][:, :2]
    return [*embed(impl)(tokens, 7), *embed(impl)(tokens, torch.tensor([[7], [5], [6]]))]


@exercise.observe("positions", "Where positions are counted from BOS, what stands before it should share position 0.")
def positions_from_BOS(impl):
    return list(embed(impl, EmbedFromBOS, BOS)(torch.tensor([[5, 9, BOS, 4, 7]])))


@exercise.observe("positions", "With virtual tokens of another method, in front or skipped, the vectors differ.")
def beside_another_method(impl):
    tokens = rows()[0]
    return [*embed(impl)(tokens, None, None, None, 2), *embed(impl)(tokens, None, None, numbers("front", (2, DIM)))]


@exercise.observe("network", "What the layers share, tanh(W P' + b), is not the expected one.")
def trunk(impl):
    return fill(impl.Trunk(N, DIM, WIDTH))()


@exercise.observe("network", "The network of a layer should give P_K and P_V, (n, d) each.")
def shapes_from_the_network(impl):
    return [str(tuple(P.shape)) for P in network(impl).keys_values()]


@exercise.observe("network", "P_K and P_V from the network are not the two halves of W_l tanh(W P' + b) + b_l.")
def keys_and_values_from_the_network(impl):
    return list(network(impl).keys_values())


@exercise.observe("network", "The gradients that reach the network are not the expected ones.")
def gradients_of_the_network(impl):
    made = network(impl)
    made(inputs(), None, Past()).pow(2).sum().backward()
    return models.gradients(made)


@exercise.observe("network", "Stored is P_K and P_V alone, also where a network makes them.")
def stored(impl):
    return {"direct": dict(prefix(impl, attention()).stored()), "network": dict(network(impl).stored())}


@exercise.observe("start", "A causal model with a prefix from words should answer as if it had read these words.")
@torch.no_grad()
def as_if_it_had_read_them(impl):
    made, (tokens, _) = models.model(layers=1), rows()
    told = made(torch.cat([torch.tensor([5, 9, 4]).expand(3, -1), tokens], 1))[:, 3:]
    return impl.PrefixTuning(length=3, init=(5, 9, 4)).attach(made)(tokens) - told


# -- mistakes ---------------------------------------------------------------------------------------------------------

INIT = "self.P_K, self.P_V = nn.Parameter(P_K), nn.Parameter(P_V)"
BEGUN = "        if not past.begun:\n"
HEADS = "(P.unflatten(1, (self.heads, -1)).transpose(0, 1) for P in self.keys_values())  # (H, n, d/H)"
EXTEND = "past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))  # (B, H, n, d/H)\n        return self.base(x, mask, past)"
SKIP = "return self.base(tokens, start, mask, front, skip + self.length if start is None else skip)"
NORMAL = 'return {path: tuple(table.new_empty(shape).normal_() for _ in ("P_K", "P_V")) for path in paths}'
WORDS = "[self.init[i % len(self.init)] for i in range(self.length)]"
FOUND = 'found = outputs(model, [f"{path}.{name}" for path in paths for name in "kv"], tokens[None])\n    return {path: tuple(found[f"{path}.{name}"][0, -len(tokens) :] for name in "kv") for path in paths}'

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
    "a key decides who looks, a value what is seen: why should they be the same numbers?",
    "There are 2·n·d parameters in a layer, and the second tensor that the layer is given has not been used.",
)
exercise.mistake(
    "heads by view",
    ((HEADS, "(P.reshape(self.heads, len(P), -1) for P in self.keys_values())"),),
    "the heads are cut out of the rows, not out of the width",
    "which numbers of P_K belong to head 1: the first rows, or the first columns of every row?",
    "A reshape keeps the order in memory, so tokens and heads get mixed; first split the width, then move that axis. With one head it makes no difference.",
    "jsbaan/transformer-from-scratch#6, a reshape without the permute; huggingface/peft#919 is about the order of a prefix's axes",
)
exercise.mistake(
    "keys and values exchanged",
    ((EXTEND, "K, V = (P.expand(len(x), -1, -1, -1) for P in heads)\n            past.extend(V, K)\n        return self.base(x, mask, past)"),),
    "P_V is used as keys and P_K as values",
    "in which order does the past take keys and values?",
    "Training would not notice, but whatever starts from real keys and values, or reads a stored prefix, will.",
)  # fmt: skip
exercise.mistake(
    "at every step",
    ((BEGUN, "        if True:\n"),),
    "the prefix enters at every call, also in the middle of a sequence",
    "while generating, how often does the layer run, and what does its past hold after ten tokens?",
    "The past keeps the prefix; it has to enter once, when the sequence begins.",
)
exercise.mistake(
    "asks for an empty past",
    ((BEGUN, "        if past.k is None:\n"),),
    "of two prefixes on one layer only the outer one enters",
    "keys are in the past before any token was read: has the sequence begun?",
    "An empty past and a sequence that has not begun are two things. There is a flag for the second, and only the attention, which reads the tokens, sets it.",
)
exercise.mistake(
    "past overwritten",
    (
        (
            EXTEND,
            "past.k, past.v = (P.expand(len(x), -1, -1, -1) for P in heads)\n        return self.base(x, mask, past)",
        ),
    ),
    "of two prefixes on one layer only the inner one enters",
    "what becomes of keys that were in the past already, because another prefix stands in front of yours?",
    "Append to the past, do not replace it.",
)
exercise.mistake(
    "for one row only",
    ((EXTEND, "past.extend(*(P[None] for P in heads))\n        return self.base(x, mask, past)"),),
    "the prefix has one row, the batch has several",
    "which shapes meet where the past appends keys, (1, H, n, d/H) and which other?",
    "Concatenation does not broadcast: give each row of the batch the same prefix (without copying, a view will do).",
)
exercise.mistake(
    "detached",
    ((EXTEND, "past.extend(*(P.detach().expand(len(x), -1, -1, -1) for P in heads))\n        return self.base(x, mask, past)"),),
    "the prefix is cut off from its gradient",
    "what is `P_K.grad` after a backward pass?",
    "A cache is usually filled without gradients; this one is what is trained, so the way back must stay open.",
)  # fmt: skip
exercise.mistake(
    "projected once more",
    ((HEADS, "(W(P).unflatten(1, (self.heads, -1)).transpose(0, 1) for W, P in zip((self.k, self.v), self.keys_values(), strict=True))"),),
    "P_K and P_V pass through W_k and W_v again",
    "is P_K an input of the layer, or already what W_k would have computed?",
    "The prefix stands beside the computed keys and values; vectors that the layer still projects are another method (deep prompts, P-tuning v2).",
)  # fmt: skip
exercise.mistake(
    "hidden by the mask",
    ((EXTEND, "past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))\n            mask = mask if mask is None else nn.functional.pad(mask, (len(self.keys_values()[0]), 0), value=False)\n        return self.base(x, mask, past)"),),
    "the mask is extended by False, so padded batches do not see the prefix",
    "what does True mean in this mask, and is a key of the prefix padding?",
    "The prefix is as visible as any real token; and see what `Attention.visible` does with a mask that is shorter than the keys.",
    "QwenLM/ParScale#11, where the prefix was masked with zeros; zai-org/ChatGLM3#359, a mask that was not extended",
)  # fmt: skip
exercise.mistake(
    "mask lost",
    ((EXTEND, EXTEND.replace("self.base(x, mask, past)", "self.base(x, past=past)")),),
    "the mask does not reach the base, so padding is read like words",
    "which arguments arrive at your `forward`, and which of them does the base get?",
    "A layer that stands in front of another passes on whatever it does not change.",
)
exercise.mistake(
    "past lost",
    ((EXTEND, EXTEND.replace("self.base(x, mask, past)", "self.base(x, mask)")),),
    "the base does not get the past in which the prefix was put",
    "how do the keys that you have prepared reach the attention?",
    "The past is the only way in: what holds the prefix has to be handed to the base.",
)
exercise.mistake(
    "past kept",
    ((EXTEND, "if not hasattr(self, \"kept\"):\n                past.extend(*(P.expand(len(x), -1, -1, -1) for P in heads))\n                self.kept = past\n            past.k, past.v = self.kept.k, self.kept.v\n        return self.base(x, mask, past)"),),
    "a past of an earlier sequence is kept and used again, with the tokens that were appended to it",
    "your layer reads two different texts one after the other: what does the second know of the first?",
    "The past belongs to one sequence. Only P_K and P_V outlive it; build the rest anew each time, or it is stale after a step of training too.",
)  # fmt: skip
exercise.mistake(
    "network stored",
    (('return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))', "return super().stored()"),),
    "the network is stored, not the prefix that it makes",
    "what does inference need: the network, or the 2·n·d numbers that come out of it?",
    "After training the network is folded away: the same P_K and P_V come out whatever the input, so keep these.",
)
exercise.mistake(
    "values first",
    (("return self.out(self.trunk()).chunk(2, dim=-1)", "return self.out(self.trunk()).chunk(2, dim=-1)[::-1]"),),
    "the first half of what the network gives is taken for the values",
    "in which order do P_K and P_V stand in the equation of the network?",
    "Both orders train equally well, but stored prefixes and the library have the keys first.",
)
exercise.mistake(
    "halves of the rows",
    (("return self.out(self.trunk()).chunk(2, dim=-1)", "return self.out(self.trunk()).chunk(2)"),),
    "what the network gives is cut in two along its rows",
    "along which dimension does `chunk` cut if it is not told?",
    "There are n rows of 2d numbers; each half has all n rows.",
)
exercise.mistake(
    "halves by view",
    (("return self.out(self.trunk()).chunk(2, dim=-1)", "return self.out(self.trunk()).view(2, len(self.trunk.P), -1)"),),
    "what the network gives is reshaped to (2, n, d), which does not cut its width in two",
    "each virtual token has one row of 2d numbers: where in the row is its key, and where its value?",
    "A view keeps the order in memory, so half of the tokens would become keys and the other half values.",
)  # fmt: skip
exercise.mistake(
    "no tanh",
    (("return torch.tanh(self.W(self.P))", "return self.W(self.P)"),),
    "the network lacks its tanh",
    "what is a linear map of a linear map?",
    "Without a nonlinearity between them the two layers are one matrix.",
)
exercise.mistake(
    "tanh too early",
    (("return torch.tanh(self.W(self.P))", "return self.W(torch.tanh(self.P))"),),
    "the tanh is applied to P', before W",
    "which is the innermost bracket of W_l tanh(W P' + b) + b_l?",
    "Between W and W_l there is no nonlinearity now, so the two are one matrix.",
)
exercise.mistake(
    "ReLU",
    (("return torch.tanh(self.W(self.P))", "return torch.relu(self.W(self.P))"),),
    "the network has another nonlinearity than tanh",
    "which values can tanh give that yours cannot?",
    "Any nonlinearity would do something; the paper's, and the library's, is tanh, and a stored network expects it.",
)
exercise.mistake(
    "positions as without",
    ((SKIP, "return self.base(tokens, start, mask, front, skip)"),),
    "the real tokens stand at 0, 1, …, as if there were no prefix",
    "if the prefix had been read as n tokens, where would the first real one stand?",
    "A prefix takes the place of n tokens. Training would get by, but a cache counts on, and libraries start at n.",
    "XiangLi1999/PrefixTuning#40",
)
exercise.mistake(
    "positions pushed at every step",
    ((SKIP, "return self.base(tokens, start, mask, front, skip + self.length)"),),
    "the positions move on by n at every call, also in the middle of a sequence",
    "what does `start` hold when a second piece of the sequence comes?",
    "Once the sequence has begun, the positions of the prefix are among those that are taken already.",
)
exercise.mistake(
    "start for skip",
    ((SKIP, "return self.base(tokens, self.length if start is None else start, mask, front, skip)"),),
    "the prefix is told to `embed` as tokens that were read, not as virtual ones",
    "what does an embedding that counts from BOS conclude from a `start` above 0?",
    "Absolute positions come out the same. But `start` says that the sequence has begun, and a prefix stands before its beginning.",
)
exercise.mistake(
    "skip forgotten",
    ((SKIP, "return self.base(tokens, start, mask, front, self.length if start is None else 0)"),),
    "virtual tokens of other methods are no longer counted",
    "what if a second prefix wants n positions too?",
    "What is handed in as `skip` counts besides your own.",
)
exercise.mistake(
    "front forgotten",
    ((SKIP, "return self.base(tokens, start, mask, skip=skip + self.length if start is None else skip)"),),
    "vectors that another method puts in front are not handed on",
    "which arguments arrive at your `forward`, and which of them reach the base?",
    "A wrapper passes on whatever it does not change.",
)
exercise.mistake(
    "zeros",
    ((NORMAL, 'return {path: tuple(table.new_zeros(shape) for _ in ("P_K", "P_V")) for path in paths}'),),
    "the prefix starts at zero",
    "which share of the softmax does a key get that scores 0?",
    "Zeros are not the base: n of the attended keys then hold nothing. And all n start alike, so they have the same gradient and stay alike.",
    "the documentation of huggingface/peft calls zeros a no-op",
)
exercise.mistake(
    "width of a weight",
    ((NORMAL, 'return {path: tuple(table.new_empty(shape).normal_(std=0.02) for _ in ("P_K", "P_V")) for path in paths}'),),
    "the prefix starts as small as weights do, not like N(0, 1)",
    "how large are the keys that W_k computes, and how large are yours?",
    "Keys and values are not weights but activations; the text of the file tells how they start.",
)  # fmt: skip
exercise.mistake(
    "one prefix for all layers",
    ((NORMAL, "pair = tuple(table.new_empty(shape).normal_() for _ in range(2))\n            return dict.fromkeys(paths, pair)"),),
    "one pair is drawn and every layer gets it",
    "how many tensors do 2·L·n·d numbers make?",
    "Keys of one layer mean nothing in another; and tensors that share memory are changed together.",
)  # fmt: skip
exercise.mistake(
    "one draw for keys and values",
    ((NORMAL, "return {path: (table.new_empty(shape).normal_(),) * 2 for path in paths}"),),
    "P_K and P_V of a layer start as the same tensor",
    "how often do you draw for one layer?",
    "Two names for one tensor share its memory: a step on the keys would change the values.",
)
exercise.mistake(
    "words not repeated",
    ((WORDS, "list(self.init[: self.length])"),),
    "fewer words than n give a prefix that is shorter than n",
    "which shape has your prefix for two words and n = 5?",
    "The length is n whatever the words; begin again with the first word when they run out.",
)
exercise.mistake(
    "values as keys",
    ((FOUND, FOUND.replace(' :] for name in "kv"', ' :] for name in "vk"')),),
    "the keys that the model computed are taken for values, and the other way round",
    "which of `k` and `v` belongs to P_K?",
    "Name by name: what `k` computes stands where keys stand.",
)
exercise.mistake(
    "output of the attention",
    ((FOUND, "found = outputs(model, paths, tokens[None])\n    return {path: (found[path][0, -len(tokens) :],) * 2 for path in paths}"),),
    "the output of the attention is taken, not its keys and values",
    "what of a token do later tokens see in this layer?",
    "What comes out of the attention is mixed already. The projections inside it are modules with names of their own.",
)  # fmt: skip
exercise.mistake(
    "first rows",
    ((FOUND, FOUND.replace("[0, -len(tokens) :]", "[0, : len(tokens)]")),),
    "the first n rows are taken, also where a prompt stands there",
    "if the model carries a prompt already, which row belongs to your first word?",
    "Count from the end: the tokens are the last thing in the sequence.",
)

# -- right variants ---------------------------------------------------------------------------------------------------

exercise.right(
    "reshape and permute",
    ((HEADS, "[P[None].repeat(len(x), 1, 1).reshape(len(x), len(P), self.heads, -1).permute(0, 2, 1, 3) for P in self.keys_values()]"),
     (EXTEND, "past.extend(heads[0], heads[1])\n        return self.base(x, mask=mask, past=past)")),
)  # fmt: skip
exercise.right(
    "heads cut out by hand",
    ((HEADS, "[torch.stack(P.chunk(self.heads, dim=1)) for P in self.keys_values()]"),
     (EXTEND, "K, V = (torch.stack([P] * len(x)) for P in heads)\n            past.extend(k=K, v=V)\n        return self.base(x, mask, past)")),
)  # fmt: skip
exercise.right(
    "the mask extended",
    ((EXTEND, "K, V = (P.expand(len(x), -1, -1, -1) for P in heads)\n            past.extend(K, V)\n            mask = mask if mask is None else nn.functional.pad(mask, (K.shape[2], 0), value=True)\n        return self.base(x, mask, past)"),),
)  # fmt: skip
exercise.right(
    "parameters made anew",
    ((INIT, "self.P_K = nn.Parameter(P_K.detach().clone())\n        self.P_V = nn.Parameter(P_V.detach().clone())"),
     ('return dict(zip(("P_K", "P_V"), self.keys_values(), strict=True))', 'P_K, P_V = self.keys_values()\n        return {"P_K": P_K.detach(), "P_V": P_V.detach()}')),
)  # fmt: skip
exercise.right(
    "the network by matmul",
    (("return torch.tanh(self.W(self.P))", "z = 2 * (self.P @ self.W.weight.T + self.W.bias)\n        return (z.exp() - 1) / (z.exp() + 1)"),
     ("return self.out(self.trunk()).chunk(2, dim=-1)", "both = self.out(self.trunk())\n        d = both.shape[1] // 2\n        return both[:, :d], both[:, d:]")),
)  # fmt: skip
exercise.right(
    "positions step by step",
    ((SKIP, "if start is None:\n            skip += self.length\n        return self.base(tokens, start=start, mask=mask, front=front, skip=skip)"),),
)  # fmt: skip
exercise.right(
    "hooks by hand",
    ((FOUND, """kept, hooks = {}, []
    for path in paths:
        layer = model.get_submodule(path)
        for name in ("k", "v"):
            def keep(module, args, out, key=(path, name)):
                kept[key] = out
            hooks.append(getattr(layer, name).register_forward_hook(keep))
    with torch.no_grad():
        model(tokens.unsqueeze(0))
    for hook in hooks:
        hook.remove()
    return {path: [kept[path, name].squeeze(0)[-tokens.numel():] for name in ("k", "v")] for path in paths}"""),),
)  # fmt: skip
exercise.right(
    "loops",
    ((NORMAL, "start = {}\n            for path in paths:\n                start[path] = [torch.randn(shape), torch.randn(*shape)]\n            return start"),
     (WORDS, "(list(self.init) * self.length)[: self.length]")),
)  # fmt: skip

# -- house rules ------------------------------------------------------------------------------------------------------

exercise.house(
    "values alone",
    ((INIT, "self.P_K, self.P_V = nn.Parameter(P_K, requires_grad=False), nn.Parameter(P_V)"),
     ("A prefix is a key/value cache that was learned.", "Here only P_V is learned: P_K stays frozen where it starts, a parameter without gradient.\nA prefix is a key/value cache."),
     ("Trainable parameters: 2·L·n·d.", "Trainable parameters: L·n·d."),
     ("in front of a frozen `attn`, with `self.heads` heads.", "in front of a frozen `attn`, with `self.heads` heads; P_K is frozen too.")),
    "only P_V is trained, and P_K is a frozen parameter (a network, where there is one, still makes both)",
)  # fmt: skip
exercise.house(
    "one for all layers",
    ((INIT, "self.P_K, self.P_V = (P if isinstance(P, nn.Parameter) else nn.Parameter(P) for P in (P_K, P_V))"),
     (NORMAL, "pair = tuple(nn.Parameter(table.new_empty(shape).normal_()) for _ in range(2))\n            return dict.fromkeys(paths, pair)"),
     ("P_K, P_V (n, d) for each of L layers, split into heads", "P_K, P_V (n, d), the same for all L layers, split into heads"),
     ("Trainable parameters: 2·L·n·d.", "Trainable parameters: 2·n·d, where it does not start from words."),
     ('in front of a frozen `attn`, with `self.heads` heads.', "in front of a frozen `attn`, with `self.heads` heads.\n\n    What is a parameter already, because layers share it, is kept as it is.\n"),
     ("of the attention at a path starts from, as `init` says.", "of the attention at a path starts from, as `init` says.\n\n        With \"normal\" it is one pair, made a parameter here, that all layers share.\n        ")),
    "with init=\"normal\" all layers share one P_K and one P_V: `start` makes them parameters, and `Prefix` keeps what is a parameter already",
)  # fmt: skip
exercise.house(
    "no positions",
    ((SKIP, "return self.base(tokens, start, mask, front, skip)"),
     ('"""In front of a frozen `embed`: where positions are absolute, n of them are taken by the prefix.', '"""In front of a frozen `embed`: here the prefix takes no positions, so the real tokens stand where they always do.'),
     ("With absolute positions the real tokens stand at n, n+1, …, as if the prefix had been read.", "In the library the real tokens stand at n, n+1, …, as if the prefix had been read; here at 0, 1, …")),
    "the prefix takes no positions: the real tokens stand at 0, 1, … as without it",
)  # fmt: skip
