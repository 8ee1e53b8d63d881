"""The encoder-decoder: what is remembered of a source, who reads it, in which order, and what can stand in front."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import VOCAB, T, after_a_move, arrivals, fill, numbers, rows, types
from minipeft.models.transformer import Begin, Cache, KVCache, attention_mask, recording

observe = Observations()

B, H, SIZE, START, N = 3, 2, 3, 2, 2  # of rows() there are three; two heads of width 3
U, DIM = 4, H * SIZE  # an answer has 4 tokens, a source T = 5
SEEN = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]).bool()[:, None, None]  # (B, 1, 1, S)
PADDED, MASK = rows("left")


def config(impl, pre_norm=True, layers=2):
    return impl.EncoderDecoderConfig(
        VOCAB, START, DIM, encoder_layers=1, decoder_layers=layers, heads=H, ff=8, context=12, pre_norm=pre_norm
    )


def known(impl, name, make):
    """What `make` makes, once for all observations of a module: to make it takes longer than to use it."""
    kept = vars(impl).setdefault("made for the bank", {})
    if name not in kept:
        kept[name] = make().requires_grad_(False).eval()
    return kept[name]


def layer(impl):
    return known(impl, "layer", lambda: fill(impl.CrossAttention(DIM, H), scale=0.8))


def block(impl, pre_norm=True):
    return known(impl, f"block {pre_norm}", lambda: fill(impl.DecoderBlock(config(impl, pre_norm)), scale=0.8))


def model(impl, pre_norm=True):
    return known(impl, f"model {pre_norm}", lambda: fill(impl.EncoderDecoder(config(impl, pre_norm))))


def x(name="x", length=U):
    return numbers(name, (B, length, DIM), 1.0)


def heads(name, length):
    return numbers(name, (B, H, length, SIZE))


def memory(fixed=False):
    """The keys and values of a source, as a layer's cache holds them."""
    cache = KVCache()
    cache.k, cache.v, cache.fixed = heads("memory k", T), heads("memory v", T), fixed
    return cache


def learned(name="learned", fixed=False):
    """A cache that begins with N keys and values which are the same for all rows, (H, N, d/H)."""
    cache = KVCache()
    cache.k, cache.v, cache.fixed = numbers(f"{name} k", (H, N, SIZE)), numbers(f"{name} v", (H, N, SIZE)), fixed
    return cache


def held(cache):
    return {"keys": cache.k, "values": cache.v}


class Fronted(Begin):
    """A beginning as methods make it: keys and values in every layer (`keys`), vectors in front (`vectors`)."""

    def __init__(self, keys=False, vectors=False):
        super().__init__()
        self.keys, self.vectors = keys, vectors

    def forward(self, blocks):
        cache = Cache(len(blocks))
        if self.keys:
            cache.layers = [learned(f"learned {i}") for i in range(len(blocks))]
        if self.vectors:
            cache.front.append(numbers("front", (N, DIM), 1.0))
        return cache


class Prompt(nn.Module):
    """A beginning that is trained: vectors in front, and a key and a value in every layer."""

    def __init__(self):
        super().__init__()
        self.front = nn.Parameter(torch.empty(N, DIM))
        self.k, self.v = nn.Parameter(torch.empty(H, 1, SIZE)), nn.Parameter(torch.empty(H, 1, SIZE))

    def forward(self, blocks):
        cache = Cache(len(blocks))
        cache.front.append(self.front * 1.0)  # computed, as by a network
        for layer in cache.layers:
            layer.k, layer.v = self.k * 1.0, self.v * 1.0
        return cache


def remembering(impl, begin=None, mask=None, name="source"):
    """The cache that a Memory makes of what the encoder gave."""
    made = impl.Memory(model(impl).decoder)
    made.begin = begin or Begin()
    return made(x(name, T), None if mask is None else mask.clone())


def read(impl, given=None, begin=None, mask=None, pre_norm=True):
    """What the decoder makes of an embedded answer, from the memory of a source."""
    decoder = model(impl, pre_norm).decoder
    cache = (begin or Begin())(decoder.blocks)
    for each in cache.layers:
        each.fixed = True
    return decoder(x() if given is None else given, cache, two_layers(mask))


def two_layers(mask=None):
    """The memory of a source for two layers, made without the Memory that is being looked at."""
    cache = Cache(2)
    for i, each in enumerate(cache.layers):
        each.k, each.v = heads(f"source k {i}", T), heads(f"source v {i}", T)
    cache.mask = None if mask is None else mask.clone()
    return cache


def answers():
    return torch.tensor([[START, 4, 9, 6], [START, 7, 3, 11], [START, 5, 5, 8]])


def triangle(queries=U):
    return torch.ones(queries, queries, dtype=torch.bool).tril()[None, None]


def applied(impl, pre_norm, mask="causal", seen=None):
    """A block on x, with learned keys in the cache of its attention and a memory for its cross-attention."""
    own = attention_mask(U, N + U, causal=True) if mask == "causal" else mask
    return block(impl, pre_norm)(x(), own, learned(fixed=True), seen, memory(fixed=True))


# -- what is remembered ------------------------------------------------------------------------------------------------


@observe("memory", "For each vector of the encoder, the cache should hold a key and a value, split into heads.")
def keys_and_values_of_a_source(impl):
    cache = KVCache()
    layer(impl).remember(x("source", T), cache)
    return held(cache)


@observe("memory", "Keys and values that a method has put into the cache should stay, in front of the source's.")
def keys_that_were_there_before(impl):
    cache = learned()
    layer(impl).remember(x("source", T), cache)
    return held(cache)


# -- cross-attention ---------------------------------------------------------------------------------------------------


@observe("cross-attention", "The output of cross-attention should have a row for each token of the answer.")
def shape_of_cross_attention(impl):
    return list(layer(impl)(x(), None, memory()).shape)


@observe("cross-attention", "The output is not that of queries from the answer, keys and values from the memory.")
def output_of_cross_attention(impl):
    return layer(impl)(x(), None, memory())


@observe("cross-attention", "With a mask over the keys of the memory, the output is not the expected one.")
def output_with_a_mask(impl):
    return layer(impl)(x(), SEEN.clone(), memory())


@observe("cross-attention", "A token of the answer should not see the other tokens of the answer here.")
def another_answer_token_changes(impl):
    other = x().clone()
    other[:, 1:] += 1
    return (layer(impl)(other, None, memory()) - layer(impl)(x(), None, memory()))[:, :1]


@observe("cross-attention", "With a learned key and value in front, the same for all rows, the output is not right.")
def output_with_what_was_learned(impl):
    return layer(impl)(x(), None, learned())


@observe("cross-attention", "The memory should only be read: nothing may be added to it while answers are written.")
def memory_after_a_pass(impl):
    cache = memory()
    layer(impl)(x(), None, cache)
    return held(cache)


@observe("cross-attention", "Inside `recording`, the layer should keep its map, (B, H, U, S), without a graph.")
def recorded_map(impl):
    made = fill(impl.CrossAttention(DIM, H), scale=0.8)
    made(x(), None, memory())
    outside = made.weights is not None
    with recording(nn.ModuleList([made])):
        made(x(), None, memory())
    kept = made.weights
    graph = kept is not None and kept.requires_grad
    return {"kept outside": outside, "the map": kept, "holds a graph": graph}


# -- the block of the decoder ------------------------------------------------------------------------------------------


@observe("block", "Where norms come before, attention, cross-attention and MLP are not added as they should be.")
def output_of_a_pre_norm_block(impl):
    return applied(impl, True)


@observe("block", "Where norms come after, attention, cross-attention and MLP are not added as they should be.")
def output_of_a_post_norm_block(impl):
    return applied(impl, False)


@observe("block", "Each attention should get a mask and a cache of its own: `mask, cache` and `seen, memory`.")
def output_with_both_masks(impl):
    hidden = attention_mask(U, N + U, True, torch.ones(B, N + U).bool().index_fill(1, torch.tensor([1]), False))
    return {f"pre_norm={pre}": applied(impl, pre, hidden, SEEN.clone()) for pre in (True, False)}


@observe("block", "Whose keys and values are where: the answer's should go into `cache`, none into the memory.")
def what_the_caches_hold_after_a_block(impl):
    own, source = learned(), memory()
    block(impl)(x(), None, own, None, source)
    return {"keys of the answer": own.k, "keys of the memory": source.k}


@observe("block", "The block changes the x that it was given; the caller still needs it.")
def x_after_a_block(impl):
    found = {}
    for pre in (True, False):
        given = x()
        block(impl, pre)(given, triangle(), None, None, memory())
        found[f"pre_norm={pre}"] = given - x()
    return found


# -- the beginning of the memory ---------------------------------------------------------------------------------------


@observe("beginning", "Each layer of the decoder should get keys and values of its own, made by its own `cross`.")
def what_each_layer_remembers(impl):
    return [held(layer) for layer in remembering(impl).layers]


@observe("beginning", "The memory should begin with the cache that `begin` makes: a method may have put keys there.")
def memory_behind_learned_keys(impl):
    return [held(layer) for layer in remembering(impl, Fronted(keys=True)).layers]


@observe("beginning", "Vectors in `front` should stand before the source's, in every layer's keys and values.")
def memory_behind_vectors(impl):
    return [held(layer) for layer in remembering(impl, Fronted(vectors=True)).layers]


@observe("beginning", "Vectors that were put in front should be gone from `front`: they are in the memory now.")
def front_afterwards(impl):
    return len(remembering(impl, Fronted(vectors=True)).front)


@observe("beginning", "The memory's mask should hide the padding of the source, and be None where there is none.")
def mask_of_the_memory(impl):
    found = {"padding": remembering(impl, mask=MASK), "no padding": remembering(impl)}
    return {which: cache.mask for which, cache in found.items()}


@observe("beginning", "What stands in front is real: the mask should have a column for each of it, and hide none.")
def mask_of_what_stands_in_front(impl):
    ways = {"keys": {"keys": True}, "vectors": {"vectors": True}, "both": {"keys": True, "vectors": True}}
    return {way: remembering(impl, Fronted(**what), MASK).mask for way, what in ways.items()}


@observe("beginning", "Each source should get a memory of its own.")
def memories_of_two_sources(impl):
    made = impl.Memory(model(impl).decoder)
    one, other = made(x("source", T)), made(x("another", T))
    return {"the same": one is other, "keys of the first": one.layers[0].k, "keys of the second": other.layers[0].k}


@observe("beginning", "What the encoder gave is changed in place; whoever holds it does not expect that.")
def vectors_of_the_encoder_afterwards(impl):
    made, given = impl.Memory(model(impl).decoder), x("source", T)
    made(given, MASK.clone())
    return given - x("source", T)


# -- the decoder -------------------------------------------------------------------------------------------------------


@observe("decoder", "What the decoder gives for an answer and a memory is not the expected one.")
def output_of_the_decoder(impl):
    return read(impl)


@observe("decoder", "The output of a token changes when a later token of the answer does.")
def a_later_answer_token_changes(impl):
    other = x().clone()
    other[:, 2:] += 1
    return (read(impl, other) - read(impl))[:, :2]


@observe("decoder", "Padding in the source should be hidden from every token of the answer.")
def padding_of_the_source(impl):
    return read(impl, mask=MASK)


@observe("decoder", "Where norms come after, the decoder's output is not the expected one.")
def output_of_a_post_norm_decoder(impl):
    return read(impl, pre_norm=False)


@observe("decoder", "Written token by token, with a cache, the answer should get the output of the whole.")
def output_token_by_token(impl):
    cache, decoder, source = Cache(2), model(impl).decoder, two_layers()
    pieces = [decoder(piece, cache, source) for piece in x().split((2, 1, 1), 1)]
    return {"difference": torch.cat(pieces, 1) - read(impl), "keys": [layer.k.shape[-2] for layer in cache.layers]}


@observe("decoder", "With learned keys in front of the answer, the output is not the expected one.")
def output_behind_learned_keys(impl):
    return read(impl, begin=Fronted(keys=True))


# -- the whole model ---------------------------------------------------------------------------------------------------


@observe("model", "The logits of the whole model are not the expected ones.")
def logits(impl):
    return {f"pre_norm={pre}": model(impl, pre)(rows()[0], answers()) for pre in (True, False)}


@observe("model", "A padded source should get the logits that it gets alone.")
def padded_sources(impl):
    made, given = model(impl), answers()
    alone = [made(row[real][None], given[i][None]) for i, (row, real) in enumerate(zip(PADDED, MASK, strict=True))]
    return made(PADDED.clone(), given, MASK.clone()) - torch.cat(alone)


@observe("model", "After all weights have changed, the answer should follow. Is something kept from an earlier pass?")
@torch.no_grad()
def after_a_change(impl):
    def make():
        return fill(impl.EncoderDecoder(config(impl, layers=1)).eval())

    return after_a_move(make, lambda made: made(rows()[0], answers()))


@observe("model", "In training, the same input gives another output: nobody asked for a dropout.")
@torch.no_grad()
def training_is_like_evaluation(impl):
    made = fill(impl.EncoderDecoder(config(impl, layers=1)))
    return bool(made.eval()(rows()[0], answers()).allclose(made.train()(rows()[0], answers())))


@observe("model", "A gradient should reach every weight and all that was learned; where is it cut off?")
def where_gradients_arrive(impl):
    made = impl.EncoderDecoder(config(impl))
    for part in (made.encoder, made.memory, made.decoder):
        part.begin = Prompt()
    fill(made)
    return arrivals(made, made(rows()[0], answers()))


@observe("model", "With weights in bfloat16 or float64 the model should work, and answer in their type.")
def types_of_numbers(impl):
    def run(made):
        with recording(made):
            kept = made(PADDED.clone(), answers(), MASK.clone())
        return kept + made(rows()[0], answers())

    return types(lambda dtype: impl.EncoderDecoder(config(impl, layers=1)).to(dtype).eval(), run)
