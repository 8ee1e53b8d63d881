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
    return [[x[0] if x.ndim == 4 else x for x in (layer.k, layer.v)] for layer in cache.layers]  # (H, n, d/H)


def started(impl, base=None, **settings):
    """P_K and P_V of every layer, as they start."""
    adapted = impl.PrefixTuning(**settings).attach(base or models.model())
    P_K, P_V = adapted.begin.keys_values()
    return {f"P_{w} of layer {i}": P[i] for w, P in (("K", P_K), ("V", P_V)) for i in range(len(P))}


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
    return {place: round(float(P.detach().std()), 1) for place, P in started(impl, length=1000).items()}


@observe("start", "Each P_K and P_V of each layer should start from numbers of its own.")
def who_shares_numbers(impl):
    (K, V), (other, _) = held(impl.PrefixTuning(length=N).attach(models.model()).begin)
    return {"keys are the values": torch.equal(K, V), "layer 1 has those of layer 0": torch.equal(K, other)}


@observe("start", "Started from words, a prefix is not the keys and values that the model computes from them.")
def start_from_words(impl):
    return started(impl, length=3, init=WORDS)


@observe("start", "Fewer words than n should be repeated from the first on; of more, the first n should be taken.")
def words_repeated_or_cut(impl):
    return [started(impl, models.model(layers=1), length=n, init=words) for n, words in ((5, (5, 9)), (2, WORDS))]


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
    return [held(prefix(impl, Learned())), held(prefix(impl, prefix(impl), 2, name="second"))]


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


@observe("model", "The gradients that reach the prefix are not the expected ones.")
def gradients(impl):
    made = tuned(impl)
    loss(made, *rows("right")).backward()
    return models.gradients(made)


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


@observe("network", "The gradients that reach the network are not the expected ones.")
def gradients_of_the_network(impl):
    made = tuned(impl, mlp=WIDTH)
    loss(made, rows()[0]).backward()
    return models.gradients(made)


@observe("network", "What is stored should be P_K and P_V alone, also where a network makes them.")
def stored(impl):
    return {"direct": dict(prefix(impl).stored()), "network": dict(network(impl).stored())}
