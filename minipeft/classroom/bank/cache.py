"""The KV cache: keys and values that were computed already, the mask that grows with them, and generation from them."""

import torch
from torch import nn

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import BOS, VOCAB, fill, numbers, rows

exercise = Exercise(
    "cache",
    "models/transformer.py",
    stubs=(
        "KVCache.extend",
        "Cache.extend",
        "Transformer.new_cache",
        "Transformer.forward",
        "Transformer.generate",
    ),
    title="The KV cache: generate without reading everything again",
    minutes=45,
    difficulty=3,
    why="Why a causal model may keep its keys and values, and what has to grow with them: the mask and the positions.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; GPT-2: Radford et al. 2019; Shazeer 2019, arXiv:1911.02150, section 2.4, on decoding step by step",
    lesson="01",
)

D, N, MORE, STOP = 6, 2, 3, 12
TOKENS, (LEFT, MASK) = rows()[0], rows("left")


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


def read(impl, tokens=TOKENS, mask=None, bos=None, front=False):
    """The logits of the real tokens, read in two pieces with one cache; and the cache."""
    known = vars(impl).setdefault("read for the bank", {})
    if (mask is None, bos, front) not in known:
        made = model(impl, bos, front, 2 if bos is None else 1)
        cache = made.begin(made.blocks)
        masks = (None, None) if mask is None else mask.split((3, 2), 1)
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
        cache.extend(TOKENS[:, :1].expand(3, length), None if isinstance(piece, int) else piece)
        cache.front, keys_before = [], keys_before + n + length  # as `embed` and the blocks do
    return torch.ones(3, keys_before, dtype=torch.bool) if cache.mask is None else cache.mask


def generated(impl, cache, pad=False, front=False):
    """The tokens that are made without sampling, and how many tokens each step read."""
    known = vars(impl).setdefault("generated for the bank", {})
    if (cache, pad, front) not in known:
        made, lengths = model(impl, None, front, layers=1), []
        hook = made.blocks[0].register_forward_pre_hook(lambda block, args: lengths.append(args[0].shape[1]))
        try:
            tokens = made.generate(LEFT if pad else TOKENS, MORE, MASK if pad else None, cache=cache)
        finally:
            hook.remove()
        known[cache, pad, front] = tokens, lengths
    return known[cache, pad, front]


@exercise.observe("one layer", "The first keys and values should be returned and kept as they are.")
def first_piece(impl):
    cache = kv(impl)
    return [*cache.extend(keys("k", 2), keys("v", 2)), cache.k, cache.v]


@exercise.observe("one layer", "For the next tokens, the old keys and values should be returned, followed by the new.")
def next_piece(impl):
    return list(kv(impl, keys("old k", 2), keys("old v", 2)).extend(keys("k", 1), keys("v", 1)))


@exercise.observe("one layer", "After three pieces, the cache should hold the keys and values of all three, in order.")
def kept_after_three_pieces(impl):
    cache = kv(impl)
    for i, length in enumerate((2, 1, 3)):
        cache.extend(keys(f"k{i}", length), keys(f"v{i}", length))
    return [cache.k, cache.v]


@exercise.observe("one layer", "A cache that is `fixed` should return all keys and values, but keep only what it had.")
def a_fixed_cache(impl):
    found = {}
    for name, old in (("empty", (None, None)), ("with keys", (keys("old k", 2), keys("old v", 2)))):
        cache = kv(impl, *old, fixed=True)
        found[f"{name}, returned"] = [*cache.extend(keys("k", 1), keys("v", 1))]
        found[f"{name}, kept"] = [cache.k, cache.v]
    return found


@exercise.observe(
    "one layer", "Learned keys, (H, S, d/H), are the same for every row: each row should get them in front."
)
def keys_for_every_row(impl):
    cache = kv(impl, keys("learned k", 2)[0], keys("learned v", 2)[0])
    return [*cache.extend(keys("k", 1), keys("v", 1)), cache.k]


@exercise.observe("one layer", "Tensors that were passed in, or kept before, are changed in place.")
def tensors_are_left_alone(impl):
    cache, k, v = kv(impl), keys("k", 2), keys("v", 2)
    cache.extend(k, v)
    before = cache.k
    cache.extend(keys("more k", 1), keys("more v", 1))
    return [k - keys("k", 2), v - keys("v", 2), before - keys("k", 2)]


@exercise.observe("one layer", "Keys and values may be learned, as a prefix is: the gradient has to come through.")
def gradient_of_learned_keys(impl):
    k, v = (keys(f"learned {w}", 2).requires_grad_() for w in "kv")
    all_k, all_v = kv(impl, k, v).extend(keys("k", 1), keys("v", 1))
    (all_k.pow(2).sum() + all_v.pow(3).sum()).backward()
    return [k.grad, v.grad]


@exercise.observe("mask", "Where nothing is padded, nothing should be hidden.")
def mask_without_padding(impl):
    return [told(impl, 4), told(impl, 4, 1, 2), told(impl, 2, keys_before=3)]


@exercise.observe("mask", "Padding in an earlier piece has to stay hidden, and new tokens have to be visible.")
def mask_after_padding(impl):
    return [told(impl, MASK, 1), told(impl, MASK, 1, 2)]


@exercise.observe("mask", "Of two padded pieces, the mask over both is not the expected one.")
def mask_of_padded_pieces(impl):
    return [told(impl, MASK[:, :3], MASK[:, 3:]), told(impl, 2, MASK)]


@exercise.observe("mask", "Learned keys and vectors in front are real: the mask should cover them, and hide none.")
def mask_of_what_stands_in_front(impl):
    front = [numbers("front", (N, D)), numbers("fronts", (3, 1, D))]
    return [told(impl, MASK, keys_before=2), told(impl, MASK, front=front), told(impl, MASK, 1, keys_before=2, front=front)]  # fmt: skip


@exercise.observe(
    "beginning", "A new cache should be the one that `begin` makes: a method may have put something there."
)
def what_a_new_cache_holds(impl):
    caches = [model(impl, front=front).new_cache() for front in (False, "vectors", "keys")]
    return [{"length": c.length, "in front": len(c.front), "layers": len(c.layers)} for c in caches]


@exercise.observe("beginning", "Whether a new cache is only read, `fixed`, should hold for all of its layers.")
def who_is_fixed(impl):
    return [[layer.fixed for layer in model(impl).new_cache(*args).layers] for args in ((), (True,))]


@exercise.observe("forward", "The logits of whole rows, without a cache, are not the expected ones.")
def logits(impl):
    return model(impl)(TOKENS)


@exercise.observe("forward", "The logits of padded rows, at their real tokens, are not the expected ones.")
def logits_of_padded_rows(impl):
    return model(impl)(LEFT, MASK)[MASK]


@exercise.observe("forward", "Read in pieces with a cache, the rows do not get the logits of the whole.")
def logits_in_pieces(impl):
    return read(impl)[0]


@exercise.observe("forward", "Counted from BOS and read in pieces, the rows do not get the logits of the whole.")
def logits_in_pieces_from_bos(impl):
    return read(impl, bos=BOS)[0]


@exercise.observe("forward", "Padded rows that are read in pieces do not get the logits of the whole.")
def logits_of_padded_rows_in_pieces(impl):
    return read(impl, LEFT, MASK)[0]


@exercise.observe("forward", "After reading, each layer of the cache should hold its own keys, one for each token.")
def what_each_layer_holds(impl):
    return [layer.k for layer in read(impl)[1].layers]


@exercise.observe("forward", "Without a user's cache, a pass should write nothing down: a block may have to run twice.")
def what_is_written_without_a_cache(impl):
    made = model(impl, front="keys")
    made.begin.made.clear()
    made(TOKENS)
    return [[cache.length for cache in made.begin.made], [layer.fixed for c in made.begin.made for layer in c.layers]]


@exercise.observe("in front", "With learned vectors in front, the logits of the tokens are not the expected ones.")
def logits_with_vectors_in_front(impl):
    return model(impl, front="vectors")(TOKENS)


@exercise.observe("in front", "With learned keys in every layer, the logits of the tokens are not the expected ones.")
def logits_with_learned_keys(impl):
    return [model(impl, front="keys")(TOKENS), read(impl, front="keys")[0]]


@exercise.observe("in front", "With vectors or keys in front, padded rows do not get the expected logits.")
def padded_rows_with_something_in_front(impl):
    return [read(impl, LEFT, MASK, front=front)[0] for front in ("vectors", "keys")]


@exercise.observe("generate", "With the cache, the tokens that are made are not the expected ones.")
def with_the_cache(impl):
    return generated(impl, True)[0]


@exercise.observe("generate", "Rows padded on the left do not go on as they should, with the cache.")
def padded_rows_with_the_cache(impl):
    return generated(impl, True, pad=True)[0]


@exercise.observe("generate", "Without the cache, rows do not go on as they should; some here are padded on the left.")
def padded_rows_without_the_cache(impl):
    return generated(impl, False, pad=True)[0]


@exercise.observe(
    "generate", "With learned vectors or keys in front, the tokens that are made are not the expected ones."
)
def behind_what_was_learned(impl):
    return [generated(impl, True, front=front)[0] for front in ("vectors", "keys")]


@exercise.observe(
    "generate", "With the cache, the first step should read all tokens, and each later step only the new one."
)
def tokens_read_at_each_step(impl):
    return {"with the cache": generated(impl, True)[1], "without": generated(impl, False, pad=True)[1]}


@exercise.observe(
    "generate", "A row that has made its stop should be filled with it; when all have, the loop should end."
)
def rows_that_stop(impl):
    return model(impl, layers=1).generate(LEFT[:2], 6, MASK[:2], stop=STOP)  # they stop after 2 and 4


@exercise.observe(
    "generate", "The temperature should decide how the next token is chosen: the higher, the more evenly."
)
def temperature(impl):
    dice = torch.Generator().manual_seed(0)
    hot = model(impl, layers=1).generate(TOKENS[[0] * 30], 1, temperature=50.0, generator=dice)
    return {"many different tokens at a high temperature": bool(len(hot.unique()) > 4)}


OLD = "            before = (x.expand(*k.shape[:-2], -1, -1) for x in (self.k, self.v))\n"
JOIN = "            k, v = (torch.cat(pair, dim=-2) for pair in zip(before, (k, v), strict=True))\n"
WRITE = "        if not self.fixed:\n            self.k, self.v = k, v\n        return k, v\n"
IF = "        if mask is not None or self.mask is not None:\n"
NEW = "            mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()\n"
N_BEFORE = "            n = self.length + sum(P.shape[-2] for P in self.front)\n"
BEFORE = "            before = mask.new_ones(len(mask), n) if self.mask is None else self.mask\n"
GROWN = "            self.mask = torch.cat([before, mask], dim=1)\n"
BEGIN = "        cache = self.begin(self.blocks)\n"
FIXED = "        for layer in cache.layers:\n            layer.fixed = fixed\n"
CACHE = "        cache = self.new_cache(fixed=True) if cache is None else cache\n"
TOLD = "        cache.extend(tokens, mask)\n        x = self.embed(tokens, cache)  # (B, n+T, d)\n"
VISIBLE = "        mask = attention_mask(T, cache.length + T, self.config.causal, cache.mask, x.device)\n"
EACH = "            x = block(x, mask, layer)\n"
LOGITS = "        return self.head(self.norm(x[:, -tokens.shape[1] :]))  # (B, T, V)\n"
MEMORY = "        memory = self.new_cache() if cache else None\n"
CHOSEN = "            next_token = choose(self(step, mask, memory)[:, -1], temperature, generator)  # (B, 1)\n"
FILL = "                next_token[ended] = stop\n"
END = "            if ended.all():\n                break\n"
STEP = "            step = next_token if cache else whole\n"
MASKED = "                mask = None if cache else F.pad(mask, (0, 1), value=True)\n"
BACK = "        return torch.cat(made, dim=1)\n"

exercise.mistake(
    "along the heads",
    ((JOIN, JOIN.replace("dim=-2", "dim=-3")),),
    "new keys and values are appended along the heads",
    "which dimension of (B, H, S, d/H) counts the tokens?",
    "The number of heads stays as it is; the number of keys grows.",
)
exercise.mistake(
    "new before old",
    ((JOIN, JOIN.replace("zip(before, (k, v), strict=True)", "zip((k, v), before, strict=True)")),),
    "new keys and values are put before the old ones",
    "at which end of the row do new tokens stand?",
    "The causal triangle takes the last T keys for those of the new tokens.",
)
exercise.mistake(
    "nothing kept",
    ((WRITE, "        return k, v\n"),),
    "the keys and values are returned, but not kept",
    "what will the next call find in `self.k`?",
    "A cache has to be written as well as read.",
)
exercise.mistake(
    "first piece only",
    ((WRITE, WRITE.replace("not self.fixed", "not self.fixed and self.k is None")),),
    "after the first piece nothing more is kept",
    "what does the third piece find of the second?",
    "What is returned and what is kept are the same.",
)
exercise.mistake(
    "last piece only",
    ((OLD, "            new = k, v\n" + OLD), (WRITE, "        if not self.fixed:\n            self.k, self.v = (k, v) if self.k is None else new\n        return k, v\n")),
    "only the keys and values of the newest piece are kept",
    "how many keys should the tenth token see?",
    "Everything that came before stays in the cache.",
)  # fmt: skip
exercise.mistake(
    "only the new ones returned",
    ((OLD + JOIN, OLD + JOIN.replace("k, v = (", "new = (k, v)\n            k, v = (")), (WRITE, "        new = new if self.k is not None else (k, v)\n        if not self.fixed:\n            self.k, self.v = k, v\n        return new\n")),
    "everything is kept, but only the new keys and values are returned",
    "which keys should the query of a new token be compared with?",
    "Attention works on what is returned.",
)  # fmt: skip
exercise.mistake(
    "keys for values",
    ((OLD, OLD.replace("(self.k, self.v)", "(self.k, self.k)")),),
    "the old keys are put before the new values",
    "where do the old values come from in your code?",
    "This is a slip of copying that no shape betrays.",
)
exercise.mistake(
    "cut off from the gradient",
    ((OLD, OLD.replace("x.expand", "x.detach().expand")),),
    "the cached keys and values are detached, so a learned prefix never gets a gradient",
    "what else fills a cache, besides generation?",
    "Prefix tuning learns keys and values, and they reach the loss through the cache.",
)
exercise.mistake(
    "in place",
    ((WRITE, "        if not self.fixed and self.k is not None:\n            self.k.data, self.v.data = k, v\n        elif not self.fixed:\n            self.k, self.v = k, v\n        return k, v\n"),),
    "the old tensors are changed in place",
    "who else holds the tensor that was passed in?",
    "Put a new tensor in the place of the old one; whoever holds the old one keeps it as it was.",
)  # fmt: skip
exercise.mistake(
    "not repeated for the rows",
    ((OLD, "            before = self.k, self.v\n"),),
    "keys without a batch dimension are not repeated for the rows",
    "which shapes meet where keys (H, S, d/H) are put before keys (B, H, T, d/H)?",
    "Concatenation does not broadcast. `expand` gives each row the same keys without a copy.",
)
exercise.mistake(
    "fixed is ignored",
    ((WRITE, "        self.k, self.v = k, v\n        return k, v\n"),),
    "a cache that is `fixed` is written as well",
    "what happens if a block runs twice on a fixed cache?",
    "With gradient checkpointing each block runs again in the backward pass, and must find the cache as it was.",
)
exercise.mistake(
    "fixed the wrong way round",
    ((WRITE, WRITE.replace("not self.fixed", "self.fixed")),),
    "only a cache that is `fixed` is written",
    "what does the class say about `fixed`?",
    "Fixed means that the cache is read only.",
)
exercise.mistake(
    "fixed returns the new ones alone",
    (("        if self.k is not None:\n" + OLD, "        if self.k is not None and not self.fixed:\n" + OLD),),
    "a cache that is `fixed` returns the new keys and values without the old ones",
    "does a fixed cache still have to be read?",
    "Only the writing depends on `fixed`.",
)
exercise.mistake(
    "mask not kept",
    ((GROWN, ""),),
    "the padding of the new tokens is not kept",
    "how does the next piece know which cached keys are padding?",
    "The keys of padding stay in the cache, so their mask has to stay as well.",
)
exercise.mistake(
    "mask of the new tokens alone",
    ((GROWN, "            self.mask = mask\n"),),
    "the mask covers the new tokens only, not all keys",
    "how long is the mask, and how many keys are there?",
    "A token reads from everything in the cache, so the mask must be as long as the keys.",
    "huggingface/transformers#16811",
)
exercise.mistake(
    "new tokens hidden",
    ((IF + NEW, "        if True:\n" + NEW.replace("ones_like", "zeros_like")),),
    "without a mask, new tokens are marked as padding",
    "what does None say about the new tokens?",
    "No mask means that all of them are real.",
)
exercise.mistake(
    "mask in the wrong order",
    ((GROWN, GROWN.replace("[before, mask]", "[mask, before]")),),
    "the mask of the new tokens is put before the old one",
    "in which order do the keys stand?",
    "Mask and keys have to grow at the same end.",
)
exercise.mistake(
    "padding forgotten",
    ((IF, "        self.mask = None if mask is None else self.mask\n        if mask is not None:\n"),),
    "as soon as a piece has no mask, the padding of the earlier ones is forgotten",
    "the first piece had padding, the next has none: what should its tokens not see?",
    "None is about the new tokens only; padding in the cache stays padding.",
    "ml-explore/mlx-lm#1906",
)
exercise.mistake(
    "vectors in front not in the mask",
    ((N_BEFORE, "            n = self.length\n"),),
    "the mask leaves out the vectors in front",
    "how many keys will each layer have when n vectors stand before the tokens?",
    "The vectors in front become keys like the tokens do, so each needs its place in the mask.",
)
exercise.mistake(
    "cached keys not in the mask",
    ((N_BEFORE, "            n = sum(P.shape[-2] for P in self.front)\n"),),
    "the mask leaves out the keys that were in the cache before there was any padding",
    "the cache holds a prefix, and the first rows are padded: how long must the mask be?",
    "The mask is over all keys of a layer. Those that came before the first mask are real.",
)
exercise.mistake(
    "what stands in front hidden",
    ((BEFORE, BEFORE.replace("new_ones", "new_zeros")),),
    "what stands before the first padded rows is marked as padding, learned vectors and keys included",
    "should the tokens read what was learned for them?",
    "What a method puts in front is as real as words.",
    "UKPLab/sentence-transformers#3000, a mask widened with zeros",
)
exercise.mistake(
    "begin not asked",
    ((BEGIN, "        cache = Cache(len(self.blocks))\n"),),
    "a new cache is always empty: what a method has learned is not in it",
    "how do learned vectors and keys get into the model?",
    "The module `begin` makes the cache, and a method may stand in front of it.",
)
exercise.mistake(
    "never fixed",
    ((FIXED, ""),),
    "`fixed` is not passed on to the layers",
    "where is `fixed` read?",
    "Each layer has a cache of its own, and each decides by its own `fixed` whether to write.",
)
exercise.mistake(
    "first layer fixed",
    ((FIXED, "        cache.layers[0].fixed = fixed\n"),),
    "only the first layer is told whether it is fixed",
    "how many caches are there, if there are L layers?",
    "Each layer has a cache of its own, and each decides by its own `fixed` whether to write.",
)
exercise.mistake(
    "written without a cache",
    ((CACHE, "        cache = self.new_cache() if cache is None else cache\n"),),
    "a pass without a user's cache fills one that nobody will read",
    "when are the keys of this pass read again, if the user gave no cache?",
    "What nobody reads need not be written; and a block that runs twice would find its own keys there.",
)
exercise.mistake(
    "cache not used",
    ((CACHE, "        cache = self.new_cache(fixed=True)\n"),),
    "the cache that was given is not used: each call begins with a new one",
    "what does the caller find in its cache afterwards?",
    "Make a new one only where none was given.",
)
exercise.mistake(
    "embedding without the cache",
    ((TOLD, TOLD.replace("self.embed(tokens, cache)", "self.embed(tokens)")),),
    "the embedding does not get the cache, so it knows nothing of what comes before, nor of padding",
    "at which position does a single new token stand?",
    "Where a token stands is decided in `embed`, which asks the cache.",
    "huggingface/transformers#15736, fixed in #15751",
)
exercise.mistake(
    "padding told too late",
    ((TOLD, "        x = self.embed(tokens, cache)  # (B, n+T, d)\n        cache.extend(tokens, mask)\n"),),
    "the cache is told of the padding only after the tokens have got their positions",
    "what does `embed` find in `cache.mask` when it counts positions?",
    "Padding takes no position, and vectors in front are part of the mask: both must be known before `embed` runs.",
)
exercise.mistake(
    "blocks without the cache",
    ((EACH, "            x = block(x, mask)\n"),),
    "the blocks do not get their part of the cache",
    "where do the keys in the cache come from?",
    "Each block has a cache of its own; the loop goes over both.",
)
exercise.mistake(
    "one cache for all layers",
    ((EACH, "            x = block(x, mask, cache.layers[0])\n"),),
    "all layers write to the cache of the first",
    "how many keys does the second layer find there after the first has written its own?",
    "Each layer compares queries with its own keys.",
)
exercise.mistake(
    "blocks without the mask",
    ((EACH, "            x = block(x, None, layer)\n"),),
    "the blocks do not get the attention mask, so tokens see the future and the padding",
    "where is the future hidden?",
    "Follow the mask to the place where keys are hidden.",
)
exercise.mistake(
    "padding visible",
    ((VISIBLE, VISIBLE.replace("cache.mask, x.device", "None, x.device")),),
    "the attention mask does not know of any padding",
    "which argument of `attention_mask` is about padding?",
    "The cache was told which tokens are padding, and has kept it for all keys.",
)
exercise.mistake(
    "new keys only in the mask",
    ((VISIBLE, VISIBLE.replace("cache.length + T", "T")),),
    "the attention mask is made for the new tokens alone, without the cached keys",
    "how many keys does a token see when 3 are cached and 2 are new?",
    "S counts all keys: those in the cache and those of the new tokens.",
)
exercise.mistake(
    "causal in every case",
    ((VISIBLE, VISIBLE.replace("self.config.causal", "False")),),
    "the attention mask hides padding, but never the future",
    "may a token of a causal model see the next one?",
    "The Config says whether the model is causal.",
)
exercise.mistake(
    "logits of what stands in front",
    ((LOGITS, "        return self.head(self.norm(x))  # (B, T, V)\n"),),
    "the vectors in front get logits too: there are n + T rows",
    "how many tokens did the caller give?",
    "The tokens read what stands in front, but nobody asks which token follows it.",
    "EleutherAI/lm-evaluation-harness#533",
)
exercise.mistake(
    "cut at the wrong end",
    ((LOGITS, "        return self.head(self.norm(x[:, : tokens.shape[1]]))  # (B, T, V)\n"),),
    "the last n logits are cut off, not those of the vectors in front",
    "at which end do the vectors in front stand?",
    "The shape is right, but every logit is n places late.",
)
exercise.mistake(
    "no last norm",
    ((LOGITS, "        return self.head(x[:, -tokens.shape[1] :])  # (B, T, V)\n"),),
    "the norm before the head is left out",
    "which part of the model did your forward not use?",
    "In a pre-norm model, nothing has normalized the stream before it reaches the head.",
)
exercise.mistake(
    "everything again, with the cache",
    ((STEP, "            step = whole\n"),),
    "with the cache, the whole row is read again at each step, and all of it is added to the cache",
    "how many keys should there be after the second step, and how many are there?",
    "What is in the cache must not be read again.",
)
exercise.mistake(
    "new token alone, without a cache",
    ((STEP, "            step = next_token\n"),),
    "without the cache, only the new token is read, and the model has forgotten the rest",
    "what does a model see without a cache?",
    "Without a cache, the whole row has to be read at every step.",
)
exercise.mistake(
    "never a cache",
    ((MEMORY, "        cache, memory = False, None\n"),),
    "the cache is never used; the answer is right, but each step reads everything again",
    "how many tokens does the last step read?",
    "With a cache, a step reads one token, however long the row is.",
    "karpathy/nanoGPT#76",
)
exercise.mistake(
    "cache that cannot be written",
    ((MEMORY, "        memory = self.new_cache(fixed=True) if cache else None\n"),),
    "generation uses a cache that is only read, so the second step has forgotten the row",
    "what does the second step find in the cache?",
    "This cache has to grow by every token that is read.",
)
exercise.mistake(
    "empty cache for generation",
    ((MEMORY, "        memory = Cache(len(self.blocks)) if cache else None\n"),),
    "generation begins with an empty cache, without what a method has learned",
    "where does a learned prefix enter the model during generation?",
    "A sequence begins in the same way here as in a plain pass.",
)
exercise.mistake(
    "cache made at each step",
    ((CHOSEN, "            memory = self.new_cache() if cache else None\n" + CHOSEN),),
    "a new cache is made at each step, so the second one has forgotten the row",
    "how long does a cache have to live?",
    "The whole loop needs one cache.",
)
exercise.mistake(
    "logits of the first token",
    ((CHOSEN, CHOSEN.replace("[:, -1]", "[:, 0]")),),
    "the next token is chosen by the logits of the first token",
    "which of the logits tell what follows the row?",
    "Each token's logits tell what comes after it.",
)
exercise.mistake(
    "new token masked",
    ((MASKED, "                mask = None if cache else F.pad(mask, (0, 1), value=False)\n"),),
    "without the cache, the new token is marked as padding",
    "is the token that the model has made part of the row?",
    "The mask grows by True: a new token is a real one.",
)
exercise.mistake(
    "mask never used",
    ((CHOSEN, CHOSEN.replace("self(step, mask, memory)", "self(step, None, memory)")),),
    "generation does not pass the mask on, so padding is read like text",
    "does a padded row go on as it does alone?",
    "The first pass needs the mask; what follows depends on whether there is a cache.",
)
exercise.mistake(
    "mask does not grow",
    ((MASKED, "                mask = None if cache else mask\n"),),
    "without the cache, the mask does not grow with the row",
    "how long is the row at the second step, and how long is the mask?",
    "Every new token needs its place in the mask.",
)
exercise.mistake(
    "mask given again",
    ((MASKED, "                mask = F.pad(mask, (0, 1), value=True)\n"),),
    "with the cache, the mask of the whole row is given again with a single token",
    "what does the cache do with the mask that it gets?",
    "The cache has kept the mask of what it holds; a mask goes with the tokens of its piece.",
)
exercise.mistake(
    "prompt returned too",
    ((BACK, "        return torch.cat([tokens, *made], dim=1)\n"),),
    "the given tokens are returned along with the new ones",
    "what does the docstring say about what is returned?",
    "Many libraries return both; here only the new tokens are returned.",
)
exercise.mistake(
    "one token more",
    ((BACK, "        made.append(choose(self(step, mask, memory)[:, -1], temperature, generator))\n" + BACK),),
    "one token too many is made",
    "how many tokens are made if new is 1?",
    "Count the calls of `choose`.",
)
exercise.mistake(
    "rows go on after their stop",
    ((FILL, ""),),
    "a row that has ended goes on getting new tokens",
    "what should stand in a row after its stop?",
    "The other rows may go on; this row has ended.",
)
exercise.mistake(
    "no end",
    ((END, ""),),
    "the loop goes on when all rows have ended",
    "how many tokens are returned if every row stops at the second?",
    "When every row has ended, there is nothing left to compute.",
)
exercise.mistake(
    "ended one step late",
    ((FILL + "                ended |= next_token[:, 0] == stop\n", FILL + "                ended = whole[:, -1] == stop\n"),),
    "whether a row has ended is read from the row before the new token was appended",
    "when a row makes its stop, from which step on is it filled?",
    "The step that makes the stop is the one that ends the row.",
)  # fmt: skip
exercise.mistake(
    "no temperature",
    ((CHOSEN, CHOSEN.replace(", temperature, generator", "")),),
    "the temperature is not used: the likeliest token is always taken",
    "which of the arguments of `generate` does your code never use?",
    "`choose` has to be told.",
)

exercise.right(
    "lists, and the dimension counted from the front",
    ((OLD + JOIN + WRITE, "            k = torch.cat((self.k.expand(*k.shape[:2], *self.k.shape[-2:]), k), 2)\n            v = torch.cat((self.v.expand(*v.shape[:2], *self.v.shape[-2:]), v), 2)\n        if self.fixed:\n            return k, v\n        self.k, self.v = k, v\n        return self.k, self.v\n"),),
)  # fmt: skip
exercise.right(
    "always a mask",
    ((IF + NEW + N_BEFORE + BEFORE + GROWN, "        old = self.mask\n        if old is None:\n            old = torch.ones(len(tokens), self.length + sum(P.shape[-2] for P in self.front), dtype=torch.bool)\n        new = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask\n        self.mask = torch.hstack([old, new])\n"),),
)  # fmt: skip
exercise.right(
    "norm first, cut then",
    ((LOGITS, "        n = x.shape[1] - tokens.shape[1]\n        return self.head(self.norm(x))[:, n:]\n"),),
)
exercise.right(
    "index instead of zip",
    (("        for block, layer in zip(self.blocks, cache.layers, strict=True):\n" + EACH, "        for i in range(len(self.blocks)):\n            x = self.blocks[i](x, mask=mask, cache=cache.layers[i])\n"),
     (CACHE, "        if cache is None:\n            cache = self.begin(self.blocks)\n            for each in cache.layers:\n                each.fixed = True\n"),
     (VISIBLE, "        S = T + (0 if cache.layers[0].k is None else cache.layers[0].k.shape[-2])\n        mask = attention_mask(T, S, self.config.causal, cache.mask)\n")),
)  # fmt: skip
exercise.right(
    "cut from what has grown",
    ((STEP, "            step = whole[:, -1:] if memory is not None else whole\n"),
     (FILL, "                next_token = torch.where(ended[:, None], stop, next_token)\n"),
     (BACK, "        return torch.stack([m[:, 0] for m in made], dim=1)\n")),
)  # fmt: skip

exercise.variant(
    "prompt first",
    ((BACK, "        return torch.cat([tokens, *made], dim=1)\n"),
     ("Continue each row by up to `new` tokens and return only those, (B, ≤ new).", "Continue each row by up to `new` tokens and return the whole rows, given tokens first, (B, ≤ T + new).")),
    "`generate` returns the whole rows, the given tokens first",
)  # fmt: skip
exercise.variant(
    "filled with 0",
    ((FILL, "                next_token[ended] = 0\n"),
     ("a token that ends a row; the row is then filled with it, and", "a token that ends a row; the row is then filled with 0, and")),
    "after its stop, a row is filled with 0",
)  # fmt: skip
