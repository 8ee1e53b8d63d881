"""Prefix tuning: keys and values that a sequence begins with, their start, the network that makes them."""

import torch

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import BOS, Learned, fill, loss, numbers, rows
from minipeft.models.transformer import Begin, recording

observe = Observations()

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
    pairs = [{"keys": layer.k, "values": layer.v} for layer in cache.layers]
    return {
        f"layer {i}": {name: x[0] if x.ndim == 4 else x for name, x in pair.items()}  # (H, n, d/H)
        for i, pair in enumerate(pairs)
    }


def started(impl, base=None, **settings):
    """P_K and P_V of every layer, as they start."""
    adapted = impl.PrefixTuning(**settings).attach(base or models.model())
    P_K, P_V = adapted.begin.keys_values()
    return {f"P_{w} of layer {i}": P[i] for w, P in (("K", P_K), ("V", P_V)) for i in range(len(P))}


def sent_back(made, *given):
    """The gradients of a loss; None each if nothing in it is trained."""
    value = loss(made, *given)
    if value.requires_grad:
        value.backward()
    return models.gradients(made)


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


@observe("parameters", "What is trained should be P_K (L, n, d) and P_V (L, n, d), and nothing else.")
def what_is_trained(impl):
    return shapes(attach.trainable(tuned(impl)))


@observe("parameters", "P_K and P_V should begin with the numbers that the layer is given.")
def where_they_begin(impl):
    made = prefix(impl)
    return [made.P_K, made.P_V]


@observe("start", "The prefix should start from normal numbers with a standard deviation of 1.")
def size_of_the_start(impl):
    return {
        place: {
            "standard deviation": round(float(P.std()), 1),
            "mean": round(float(P.mean()) * 5) / 5,
            "part within one standard deviation": round(float((P.abs() < P.std()).double().mean()), 1),
        }
        for place, P in ((place, P.detach()) for place, P in started(impl, length=1000).items())
    }


@observe("start", "Each P_K and P_V of each layer should start from numbers of its own.")
def who_shares_numbers(impl):
    start = started(impl, length=N)
    K, V = start["P_K of layer 0"], start["P_V of layer 0"]
    other = start.get("P_K of layer 1")  # there is none if the layers share one
    return {
        "keys are the values": torch.equal(K, V),
        "layer 1 has those of layer 0": other is not None and torch.equal(K, other),
    }


@observe("start", "Each new prefix should draw numbers of its own, and set no seed.")
def two_prefixes_are_drawn(impl):
    def drawn(seed):
        torch.default_generator.manual_seed(seed)
        return started(impl, models.model(layers=1), length=N)["P_K of layer 0"], torch.rand(5)

    (one, then), (other, later), (again, _) = (drawn(seed) for seed in (1, 2, 1))
    return {
        "two starts are equal": torch.equal(one, other),
        "the seed of the caller decides": torch.equal(one, again),
        "what is drawn afterwards is always the same": torch.equal(then, later),
    }


@observe("start", "On a base of another type, bfloat16 for example, the prefix should have that type too.")
def types_of_the_prefix(impl):
    def made(dtype):
        return impl.PrefixTuning(length=N).attach(models.model(layers=1).to(dtype))

    half, network = models.model(layers=1).bfloat16(), impl.MLPPrefix(Begin(), N, 2, DIM, WIDTH).bfloat16()
    with models.usual_type():
        others = {"read": impl.read(half, torch.tensor(WORDS)), "the network": network.keys_values()}
    found = models.types(made, lambda tuned: tuned(rows()[0]))
    return found | {f"from {where}": [models.short(P.dtype) for P in both] for where, both in others.items()}


@observe("start", "Started from words, layer 0 does not have the keys and values that the model computes there.")
def start_from_words(impl):
    return first_layer(started(impl, length=3, init=WORDS))


@observe("start", "A layer computes its keys from what the layer below has made of the words; yours differ.")
def deeper_layers_from_words(impl):
    start = started(impl, length=3, init=WORDS)
    return {place: P for place, P in start.items() if place not in first_layer(start)}


@observe("start", "In a model whose position embeddings are zero, the start from words is not the expected one.")
def words_where_positions_are_zero(impl):
    made = models.model()
    with torch.no_grad():
        made.embed.position.weight.zero_()
    return started(impl, made, length=3, init=WORDS)


def first_layer(start):
    return {place: P for place, P in start.items() if place.endswith("layer 0")}


@observe(
    "start",
    "Fewer words than n should be repeated over and over, in their order; of more, the first n should be taken.",
)
def words_repeated_or_cut(impl):
    return {f"words {words}, n = {n}": told(impl, words, n) for n, words in ((5, (5, 9)), (2, WORDS))}


@torch.no_grad()
def told(impl, words, n):
    """Of which word each of the n keys of the first layer is."""
    K, made = started(impl, models.model(layers=1), length=n, init=words)["P_K of layer 0"], models.model(layers=1)
    if K.shape != (n, DIM):
        return list(K.shape)
    x = made.embed.token(torch.tensor(words))[:, None] + made.embed.position.weight[:n]
    which = torch.isclose(K, made.blocks[0].attn.k(made.blocks[0].norm1(x))).all(-1)  # (words, n)
    return " ".join(str(words[row.int().argmax()]) if row.any() else "none" for row in which.T)


class Fronted(Learned):
    """With two vectors in front as well, as prompt tuning has them."""

    def forward(self, blocks):
        cache = super().forward(blocks)
        cache.front.append(numbers("front", (2, DIM)))
        return cache


@observe("start", "On a model that begins with a prompt and a prefix, the words should be read after the prefix.")
def words_after_what_was_learned(impl):
    made = models.model()
    made.begin = Fronted()
    return list(impl.read(made, torch.tensor(WORDS)))


@observe("start", "Reading the words should leave no graph behind: the prefix is a start, not a function.")
def graph_behind_the_words(impl):
    return [P.requires_grad for P in impl.read(models.model(), torch.tensor(WORDS))]


@observe("cache", "Each layer should begin with its own P_K and P_V, split into heads.")
def what_each_layer_begins_with(impl):
    return held(prefix(impl))


@observe("cache", "With a single head, each layer should begin with P_K and P_V as they are.")
def with_one_head(impl):
    return held(prefix(impl), heads=1)


@observe("cache", "On a model that has a prefix already, the new keys and values should follow the old ones.")
def a_prefix_on_a_prefix(impl):
    return {
        "learned keys below": held(prefix(impl, Learned())),
        "another prefix below": held(prefix(impl, prefix(impl), 2, name="second")),
    }


@observe("cache", "Besides keys and values, the cache should be as the layer below makes it.")
def what_else_the_cache_holds(impl):
    cache = prefix(impl, Fronted())(models.model().blocks)
    return {"in front": list(cache.front), "mask": cache.mask, "offset": cache.offset}


@observe("cache", "Each sequence should begin in the same way, however many came before.")
@torch.no_grad()
def a_second_sequence(impl):
    made, (tokens, _) = tuned(impl), rows()
    made.generate(tokens, 2)
    first = made(tokens)
    return {"difference": made(tokens) - first, "keys": made.begin(made.blocks).length}


@observe("cache", "When P_K and P_V have moved, as in training, the next sequence should begin with the new ones.")
@torch.no_grad()
def after_training_has_moved_them(impl):
    made = prefix(impl)
    held(made)
    for P in (made.P_K, made.P_V):
        P.add_(1)
    return held(made)


@observe("model", "The logits of a causal model with a prefix are not the expected ones.")
def logits(impl):
    return tuned(impl)(rows()[0])


@observe("model", "The logits of a bidirectional model with a prefix are not the expected ones.")
def logits_of_an_encoder(impl):
    return tuned(impl, causal=False)(rows()[0])


@observe("model", "Where positions are counted from BOS, a prefix should not move the tokens; the logits differ.")
def logits_from_BOS(impl):
    return tuned(impl, BOS)(rows()[0])


@observe("model", "The share of attention that falls on the prefix, head by head, is not the expected one.")
def attention_on_the_prefix(impl):
    made = tuned(impl)
    with recording(made) as layers:
        made(rows()[0])
    return [layer.weights[..., :N] for layer in layers]


@observe("model", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@observe("model", "When the logits of a pass are sent back, a gradient should arrive at all that is trained.")
def where_gradients_arrive(impl):
    ways = {"trained directly": None, "with the network": WIDTH}
    return {way: models.arrivals_in_a_pass(tuned(impl, mlp=width)) for way, width in ways.items()}


@observe("model", "The gradients that reach the prefix are not the expected ones.")
def gradients(impl):
    return sent_back(tuned(impl), *rows("right"))


@observe("model", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones.")
@torch.no_grad()
def piece_by_piece(impl):
    made, (tokens, _) = tuned(impl), rows()
    cache, sizes, outputs = made.new_cache(), [], []
    for piece in tokens.split([3, 1, 1], dim=1):
        outputs.append(made(piece, cache=cache))
        sizes.append(cache.length)
    return {"keys in the cache": sizes, "difference to reading all at once": torch.cat(outputs, dim=1) - made(tokens)}


@observe("model", "A causal model with a prefix from words should answer as if it had read these words.")
@torch.no_grad()
def as_if_it_had_read_them(impl):
    made, (tokens, _) = models.model(), rows()
    told = made(torch.cat([torch.tensor(WORDS).expand(3, -1), tokens], 1))[:, 3:]
    return impl.PrefixTuning(length=3, init=WORDS).attach(made)(tokens) - told


@observe("network", "The network should give P_K and P_V of all layers, (L, n, d) each.")
def shapes_from_the_network(impl):
    return [str(tuple(P.shape)) for P in network(impl).keys_values()]


@observe("network", "P_K and P_V from the network are not the two halves of W_l tanh(W P' + b) + b_l.")
def keys_and_values_from_the_network(impl):
    return list(network(impl).keys_values())


@observe("network", "The nonlinearity of the network should be a tanh, which is odd and bounded.")
@torch.no_grad()
def nonlinearity_of_the_network(impl):
    made = network(impl)
    for layer in (made.W, *made.out):
        layer.bias.zero_()

    def keys(factor):
        made.P.copy_(factor * numbers("P'", (N, DIM)))
        return made.keys_values()[0]

    return {
        "the opposite P' makes the opposite keys": bool(torch.allclose(keys(-1), -keys(1))),
        "keys grow with P' without end": bool(keys(4000).abs().max() > 1.5 * keys(2000).abs().max()),
    }


@observe("network", "When P' has moved, as it does in training, the network should make new keys and values.")
@torch.no_grad()
def after_the_network_has_moved(impl):
    made = network(impl)
    made.keys_values()
    made.P.add_(1)
    return list(made.keys_values())


@observe("network", "The gradients that reach the network are not the expected ones.")
def gradients_of_the_network(impl):
    return sent_back(tuned(impl, mlp=WIDTH), rows()[0])


@observe("network", "What is stored should be P_K and P_V alone, also where a network makes them.")
def stored(impl):
    return {"direct": dict(prefix(impl).stored()), "network": dict(network(impl).stored())}
