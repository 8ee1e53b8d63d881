"""The KV cache: keys and values that were computed already, the mask that grows with them, and generation from them."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import BOS, VOCAB, arrivals, fill, numbers, rows, types

observe = Observations()

D, N, MORE, STOP = 6, 2, 3, 12
TOKENS, (LEFT, MASK) = rows()[0], rows("left")


def plain_rows():
    """The rows without padding, for a solution that might write to them."""
    return TOKENS.clone()


def padded_rows():
    """The rows padded on the left and their mask, for a solution that might write to them."""
    return LEFT.clone(), MASK.clone()


def keys(name, length):
    return numbers(name, (3, 2, length, 3))


def kv(impl, k=None, v=None, fixed=False):
    cache = impl.KVCache()
    cache.k, cache.v, cache.fixed = k, v, fixed
    return cache


def model(impl, bos=None, front=False, layers=2):
    """A model with every weight random. All are put together from the parts of the first: to make one takes a while."""
    known = vars(impl).setdefault("models of the bank", {})
    if (bos, front, layers) not in known:
        made = impl.Transformer.__new__(impl.Transformer)
        nn.Module.__init__(made)
        made.config = impl.Config(VOCAB, D, layers=layers, heads=2, ff=8, context=12, bos=bos)
        first = known["parts"] if "parts" in known else known.setdefault("parts", parts(impl))
        made.begin = Learned(impl, front)
        made.embed, made.norm, made.head = first[bos], first["norm"], first["head"]
        made.blocks = nn.ModuleList(first["blocks"][:layers])
        known[bos, front, layers] = made.eval()
    return known[bos, front, layers]


def another(impl, causal=True, head=None, begin=None, pre_norm=True):
    """The model of one layer, with another Config, head or beginning."""
    made, first = impl.Transformer.__new__(impl.Transformer), model(impl, layers=1)
    nn.Module.__init__(made)
    made.config = impl.Config(VOCAB, D, layers=1, heads=2, ff=8, context=12, causal=causal, pre_norm=pre_norm)
    made.embed, made.blocks, made.norm = first.embed, first.blocks, first.norm
    made.begin, made.head = begin or Learned(impl, False), head or first.head
    return made.eval()


def parts(impl):
    made = impl.Transformer(impl.Config(VOCAB, D, layers=2, heads=2, ff=8, context=12))
    fill(made).requires_grad_(False)
    for name, p in made.named_parameters():  # so that it makes more than two different tokens
        p.mul_(0.3 if name.endswith("bias") else 2 if "attn" in name or "embed" in name else 1)
    from_bos = impl.EmbedFromBOS(VOCAB, D, 12, BOS).requires_grad_(False)
    from_bos.token, from_bos.position = made.embed.token, made.embed.position
    return {None: made.embed, BOS: from_bos, "blocks": made.blocks, "norm": made.norm, "head": made.head}


class Learned(nn.Module):
    """What a method puts in front: nothing; "vectors", N of them; or "keys", N keys and values in every layer.

    It keeps the caches that it has made.
    """

    def __init__(self, impl, front):
        super().__init__()
        self.impl, self.front, self.made = impl, front, []

    def forward(self, blocks):
        cache = self.impl.Cache(len(blocks))
        if self.front == "vectors":
            cache.front.append(numbers("front", (N, D), 1.0))
        for i, layer in enumerate(cache.layers if self.front == "keys" else []):
            layer.k, layer.v = (numbers(f"learned {w} {i}", (2, N, 3)) for w in "kv")
        self.made.append(cache)
        return cache


class Prompt(nn.Module):
    """A beginning that is trained: vectors in front, and a key and a value in every layer."""

    def __init__(self, impl):
        super().__init__()
        self.impl, self.front = impl, nn.Parameter(torch.empty(N, D))
        self.k, self.v = nn.Parameter(torch.empty(2, 1, 3)), nn.Parameter(torch.empty(2, 1, 3))

    def forward(self, blocks):
        cache = self.impl.Cache(len(blocks))
        cache.front.append(self.front * 1.0)  # computed, as by a network
        for layer in cache.layers:
            layer.k, layer.v = self.k * 1.0, self.v * 1.0
        return cache


def trained(impl, dtype=None):
    """A model of its own, all of it trained, with a prompt."""
    made = impl.Transformer(impl.Config(VOCAB, D, layers=1, heads=2, ff=8, context=12))
    made.begin = Prompt(impl)
    return fill(made.to(dtype))


def read(impl, padded=False, bos=None, front=False):
    """The logits of the real tokens, read in two pieces with one cache; and the cache."""
    tokens, mask = padded_rows() if padded else (plain_rows(), None)
    known = vars(impl).setdefault("read for the bank", {})
    if (mask is None, bos, front) not in known:
        made = model(impl, bos, front, 2 if bos is None else 1)
        cache = made.begin(made.blocks)
        masks = (None, None) if mask is None else mask.clone().split((3, 2), 1)
        logits = torch.cat([made(t, m, cache) for t, m in zip(tokens.split((3, 2), 1), masks, strict=True)], 1)
        known[mask is None, bos, front] = (logits if mask is None else logits[mask]), cache
    return known[mask is None, bos, front]


def told(impl, *pieces, keys_before=0, front=()):
    """The mask of a cache that was told these pieces, each a length or a mask; None stands for a mask of ones."""
    cache = impl.Cache(1)
    cache.front = [*front]
    for piece in pieces:
        cache.layers[0].k = keys("cached", keys_before) if keys_before else None
        n = sum(P.shape[-2] for P in cache.front)
        length = piece if isinstance(piece, int) else piece.shape[1]
        cache.extend(plain_rows()[:, [0] * length], None if isinstance(piece, int) else piece.clone())
        cache.front, keys_before = [], keys_before + n + length  # as `embed` and the blocks do
    return torch.ones(3, keys_before, dtype=torch.bool) if cache.mask is None else cache.mask


def generated(impl, cache, pad=False, front=False):
    """The tokens that are made without sampling, and how many tokens each step read."""
    known = vars(impl).setdefault("generated for the bank", {})
    if (cache, pad, front) not in known:
        made, lengths = model(impl, None, front, layers=1), []
        hook = made.blocks[0].register_forward_pre_hook(lambda block, args: lengths.append(args[0].shape[1]))
        try:
            given, mask = padded_rows() if pad else (plain_rows(), None)
            tokens = made.generate(given, MORE, mask, cache=cache)
        finally:
            hook.remove()
        known[cache, pad, front] = tokens, lengths
    return known[cache, pad, front]


@observe("one layer", "The first keys and values should be returned and kept as they are.")
def first_piece(impl):
    cache = kv(impl)
    return [*cache.extend(keys("k", 2), keys("v", 2)), cache.k, cache.v]


@observe("one layer", "For the next tokens, the old keys and values should be returned, followed by the new.")
def next_piece(impl):
    return list(kv(impl, keys("old k", 2), keys("old v", 2)).extend(keys("k", 1), keys("v", 1)))


@observe("one layer", "After three pieces, the cache should hold the keys and values of all three, in order.")
def kept_after_three_pieces(impl):
    cache = kv(impl)
    for i, length in enumerate((2, 1, 3)):
        cache.extend(keys(f"k{i}", length), keys(f"v{i}", length))
    return [cache.k, cache.v]


@observe("one layer", "A cache that is `fixed` should return all keys and values, but keep only what it had.")
def a_fixed_cache(impl):
    found = {}
    for name, old in (("empty", (None, None)), ("with keys", (keys("old k", 2), keys("old v", 2)))):
        cache = kv(impl, *old, fixed=True)
        found[f"{name}, returned"] = [*cache.extend(keys("k", 1), keys("v", 1))]
        found[f"{name}, kept"] = [cache.k, cache.v]
    return found


@observe("one layer", "Learned keys, (H, S, d/H), are the same for every row: each row should get them in front.")
def keys_for_every_row(impl):
    cache = kv(impl, keys("learned k", 2)[0], keys("learned v", 2)[0])
    return [*cache.extend(keys("k", 1), keys("v", 1)), cache.k]


@observe("one layer", "Tensors that were passed in, or kept before, are changed in place.")
def tensors_are_left_alone(impl):
    cache, k, v = kv(impl), keys("k", 2), keys("v", 2)
    cache.extend(k, v)
    before = cache.k
    cache.extend(keys("more k", 1), keys("more v", 1))
    return [k - keys("k", 2), v - keys("v", 2), before - keys("k", 2)]


@observe("one layer", "Keys and values may be learned, as a prefix is: the gradient has to come through.")
def gradient_of_learned_keys(impl):
    k, v = (keys(f"learned {w}", 2).requires_grad_() for w in "kv")
    all_k, all_v = kv(impl, k, v).extend(keys("k", 1), keys("v", 1))
    (all_k.pow(2).sum() + all_v.pow(3).sum()).backward()
    return [k.grad, v.grad]


@observe("one layer", "A later piece may be trained through an earlier one: what is kept should keep its graph.")
def gradient_of_an_earlier_piece(impl):
    cache, k, v = kv(impl), *(keys(f"learned {w}", 2).requires_grad_() for w in "kv")
    cache.extend(k, v)
    all_k, all_v = cache.extend(keys("k", 1), keys("v", 1))
    (all_k.pow(2).sum() + all_v.pow(3).sum()).backward()
    return [k.grad, v.grad]


@observe("one layer", "Keys and values should keep their type: bfloat16 stays bfloat16, float32 stays float32.")
def types_of_keys(impl):
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        cache = kv(impl, keys("old k", 2).to(dtype), keys("old v", 2).to(dtype))
        k, v = cache.extend(keys("k", 1).to(dtype), keys("v", 1).to(dtype))
        found[str(dtype)] = [str(t.dtype) for t in (k, v, cache.k, cache.v)]
    return found


@observe("mask", "Where nothing is padded, nothing should be hidden.")
def mask_without_padding(impl):
    return [told(impl, 4), told(impl, 4, 1, 2), told(impl, 2, keys_before=3)]


@observe("mask", "Padding in an earlier piece has to stay hidden, and new tokens have to be visible.")
def mask_after_padding(impl):
    return [told(impl, MASK, 1), told(impl, MASK, 1, 2)]


@observe("mask", "Of two padded pieces, the mask over both is not the expected one.")
def mask_of_padded_pieces(impl):
    return [told(impl, MASK[:, :3], MASK[:, 3:]), told(impl, 2, MASK)]


@observe("mask", "Learned keys and vectors in front are real: the mask should cover them, and hide none.")
def mask_of_what_stands_in_front(impl):
    front = [numbers("front", (N, D)), numbers("fronts", (3, 1, D))]
    both = told(impl, MASK, 1, keys_before=2, front=front)
    return [told(impl, MASK, keys_before=2), told(impl, MASK, front=front), both]


@observe("beginning", "A new cache should be the one that `begin` makes: a method may have put something there.")
def what_a_new_cache_holds(impl):
    caches = [model(impl, front=front).new_cache() for front in (False, "vectors", "keys")]
    return [{"length": c.length, "in front": len(c.front), "layers": len(c.layers)} for c in caches]


@observe("beginning", "Each sequence should begin with a cache of its own, and each layer with one of its own in it.")
def caches_of_two_sequences(impl):
    made = model(impl)
    one, other = made.new_cache(), made.new_cache()
    return {
        "the same cache": one is other,
        "the same layers": one.layers[0] is other.layers[0],
        "one layer for all": one.layers[0] is one.layers[1],
    }


@observe("beginning", "Whether a new cache is only read, `fixed`, should hold for all of its layers.")
def who_is_fixed(impl):
    return [[layer.fixed for layer in model(impl).new_cache(*args).layers] for args in ((), (True,))]


@observe("forward", "The logits of whole rows, without a cache, are not the expected ones.")
def logits(impl):
    return model(impl)(plain_rows())


@observe("forward", "In a bidirectional model, where the Config says so, tokens should see those behind them.")
def logits_of_a_bidirectional_model(impl):
    return another(impl, causal=False)(plain_rows())


@observe("forward", "Where the norms stand, `pre_norm` in the Config, says nothing about who sees whom.")
def logits_whatever_the_Config_says_of_norms(impl):
    made = {causal: another(impl, causal=causal, pre_norm=not causal) for causal in (True, False)}
    return {f"causal={c}, pre_norm={not c}": model(plain_rows()) for c, model in made.items()}


@observe("forward", "The logits of padded rows, at their real tokens, are not the expected ones.")
def logits_of_padded_rows(impl):
    return model(impl)(*padded_rows())[MASK]


@observe("forward", "Read in pieces with a cache, the rows do not get the logits of the whole.")
def logits_in_pieces(impl):
    return read(impl)[0]


@observe("forward", "Counted from BOS and read in pieces, the rows do not get the logits of the whole.")
def logits_in_pieces_from_bos(impl):
    return read(impl, bos=BOS)[0]


@observe("forward", "Padded rows that are read in pieces do not get the logits of the whole.")
def logits_of_padded_rows_in_pieces(impl):
    return read(impl, True)[0]


@observe("forward", "After reading, each layer of the cache should hold its own keys, one for each token.")
def what_each_layer_holds(impl):
    return [layer.k for layer in read(impl)[1].layers]


@observe("forward", "Without a user's cache, a pass should write nothing down: a block may have to run twice.")
def what_is_written_without_a_cache(impl):
    made = model(impl, front="keys")
    made.begin.made.clear()
    made(plain_rows())
    return [[cache.length for cache in made.begin.made], [layer.fixed for c in made.begin.made for layer in c.layers]]


@observe(
    "gradients",
    "A gradient should reach every weight and what was learned for the beginning; where does `no_grad` cut it off?",
)
def where_gradients_arrive(impl):
    whole, pieces = trained(impl), trained(impl)
    found = {"whole rows": arrivals(whole, whole(plain_rows()))}
    cache = pieces.new_cache()
    logits = [pieces(piece, None, cache) for piece in plain_rows().split((3, 2), 1)]
    return found | {"in pieces": arrivals(pieces, torch.cat(logits, 1))}


@observe("types", "With weights in bfloat16 or float64 the model should work, and answer in their type.")
def types_of_numbers(impl):
    def run(made):
        cache = made.new_cache()
        return torch.cat([made(piece, None, cache) for piece in plain_rows().split((3, 2), 1)], 1)

    return types(lambda dtype: trained(impl, dtype), run)


@observe("in front", "With learned vectors in front, the logits of the tokens are not the expected ones.")
def logits_with_vectors_in_front(impl):
    return model(impl, front="vectors")(plain_rows())


@observe("in front", "With learned keys in every layer, the logits of the tokens are not the expected ones.")
def logits_with_learned_keys(impl):
    return [model(impl, front="keys")(plain_rows()), read(impl, front="keys")[0]]


@observe("in front", "With vectors or keys in front, padded rows do not get the expected logits.")
def padded_rows_with_something_in_front(impl):
    return [read(impl, True, front=front)[0] for front in ("vectors", "keys")]


@observe("generate", "With the cache, the tokens that are made are not the expected ones.")
def with_the_cache(impl):
    return generated(impl, True)[0]


@observe("generate", "Rows padded on the left do not go on as they should, with the cache.")
def padded_rows_with_the_cache(impl):
    return generated(impl, True, pad=True)[0]


@observe("generate", "Without the cache, rows do not go on as they should; some here are padded on the left.")
def padded_rows_without_the_cache(impl):
    return generated(impl, False, pad=True)[0]


@observe("generate", "With learned vectors or keys in front, the tokens that are made are not the expected ones.")
def behind_what_was_learned(impl):
    return [generated(impl, True, front=front)[0] for front in ("vectors", "keys")]


@observe("generate", "With the cache, the first step should read all tokens, and each later step only the new one.")
def tokens_read_at_each_step(impl):
    return {"with the cache": generated(impl, True)[1], "without": generated(impl, False, pad=True)[1]}


@observe("generate", "A row that has made its stop should be filled with it; when all have, the loop should end.")
def rows_that_stop(impl):
    return model(impl, layers=1).generate(LEFT[:2].clone(), 6, MASK[:2].clone(), stop=STOP)  # they stop after 2 and 4


@observe("generate", "Token 0 is a token like any other; a row should also stop at it, if it is the stop.")
def a_stop_that_is_token_0(impl):
    return another(impl, head=Zero()).generate(plain_rows(), 4, stop=0)


class Zero(nn.Module):
    """A head that finds token 0 the likeliest."""

    def forward(self, x):
        return torch.zeros(*x.shape[:2], VOCAB).index_fill(2, torch.tensor([0]), 1.0)


@observe("generate", "The temperature should decide how the next token is chosen: the higher, the more evenly.")
def temperature(impl):
    dice = torch.Generator().manual_seed(0)
    hot = model(impl, layers=1).generate(TOKENS[[0] * 30], 1, temperature=50.0, generator=dice)
    return {"many different tokens at a high temperature": bool(len(hot.unique()) > 4)}


@observe("generate", "The tokens should be drawn from softmax(logits / temperature), but are drawn otherwise.")
def how_often_tokens_are_drawn(impl):
    made, found = another(impl, head=Uneven()), {}
    for heat in (1.0, 0.5, 3.0):
        dice = torch.Generator().manual_seed(0)
        drawn = made.generate(torch.full((600, 1), BOS), 1, temperature=heat, generator=dice)
        share = torch.bincount(drawn[:, 0], minlength=VOCAB) / 600
        found[f"temperature {heat:g}"] = float((share - (Uneven.logits / heat).softmax(0)).abs().sum()) < 0.25
    return found


class Uneven(nn.Module):
    """A head whose logits are the same for all."""

    logits = torch.arange(VOCAB) / 4.0

    def forward(self, x):
        return self.logits.to(x.dtype).expand(*x.shape[:2], VOCAB)


@observe("generate", "The same generator should draw the same tokens, and no other random numbers should be used.")
def what_the_generator_decides(impl):
    made = another(impl, head=Uneven())
    before, drawn = torch.random.get_rng_state(), []
    for seed in (1, 1, 2):
        dice = torch.Generator().manual_seed(seed)
        drawn.append(made.generate(plain_rows(), MORE, temperature=3.0, generator=dice))
    return {
        "the same seed, the same tokens": bool(drawn[0].equal(drawn[1])),
        "another seed, other tokens": not drawn[0].equal(drawn[2]),
        "other random numbers": not before.equal(torch.random.get_rng_state()),
    }


@observe("what is left alone", "The caller's tokens or mask are changed; somebody else may still need them.")
def what_is_left_alone(impl):
    found, made = {}, model(impl, layers=1)
    for name, run in (("forward", made), ("generate", lambda *rows: made.generate(rows[0], 2, rows[1]))):
        tokens, mask = LEFT.masked_fill(~MASK, 5), MASK.clone()  # padding may be any token
        run(tokens, mask)
        found[name] = {"tokens": bool(tokens.equal(LEFT.masked_fill(~MASK, 5))), "mask": bool(mask.equal(MASK))}
    return found
