"""The cache: keys and values of the past, the mask that grows with it, and generation that reads each token once."""

import torch
from torch import nn

from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import BOS, VOCAB, fill, numbers, rows

exercise = Exercise(
    "cache",
    "models/transformer.py",
    holes=("Past.extend", "Cache.extend", "Transformer.forward", "Transformer.generate"),
    title="The key/value cache: generate without reading everything again",
    minutes=45,
    difficulty=3,
    why="Why a causal model may remember keys and values, and what has to grow with them: the mask and the positions.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; GPT-2: Radford et al. 2019; Shazeer 2019, arXiv:1911.02150, section 2.4, on decoding step by step",
    lesson="01",
)

D, N, MORE, STOP = 6, 2, 3, 12
TOKENS, (LEFT, MASK) = rows()[0], rows("left")
TAKEN = torch.tensor([[5], [3], [4]])


def keys(name, length):
    return numbers(name, (3, 2, length, 3))


def model(impl, bos=None, front=False, layers=2):
    """A model with every weight random. To make one takes a while, so all are put together from the parts of the first."""
    known = vars(impl).setdefault("models of the bank", {})
    if (bos, front, layers) not in known:
        made = impl.Transformer.__new__(impl.Transformer)
        nn.Module.__init__(made)
        made.config = impl.Config(VOCAB, D, layers=layers, heads=2, ff=8, context=12, bos=bos)
        first = known["parts"] if "parts" in known else known.setdefault("parts", parts(impl))
        made.embed = Prompt(first[bos]) if front else first[bos]
        made.blocks, made.norm, made.head = nn.ModuleList(first["blocks"][:layers]), first["norm"], first["head"]
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


class Prompt(nn.Module):
    """Virtual tokens in front of a sequence, at its beginning only, as a soft prompt does it."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, tokens, start=None, mask=None):
        return self.base(tokens, start, mask, front=numbers("front", (N, D), 1.0) if start is None else None)


def read(impl, tokens=TOKENS, mask=None, bos=None, front=False):
    """The logits of the real tokens, read in two pieces with one cache; and the cache."""
    known = vars(impl).setdefault("read for the bank", {})
    if (mask is None, bos, front) not in known:
        layers = 2 if bos is None else 1
        made, memory = model(impl, bos, front, layers), impl.Cache(layers)
        masks = (None, None) if mask is None else mask.split((3, 2), 1)
        logits = torch.cat([made(t, m, memory) for t, m in zip(tokens.split((3, 2), 1), masks, strict=True)], 1)
        known[mask is None, bos, front] = (logits if mask is None else logits[mask]), memory
    return known[mask is None, bos, front]


def meant(mask, length):
    """A mask over `length` keys as it is meant: None hides nothing, a shorter one is about the last keys."""
    mask = torch.ones(3, length, dtype=torch.bool) if mask is None else mask.bool()
    return nn.functional.pad(mask, (max(0, length - mask.shape[1]), 0), value=True)


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
    past = impl.Past()
    return [*past.extend(keys("k", 2), keys("v", 2)), past.k, past.v]


@exercise.observe("one layer", "What is returned for the next tokens should be the old keys and values, then the new.")
def next_piece(impl):
    past = impl.Past(keys("old k", 2), keys("old v", 2))
    return list(past.extend(keys("k", 1), keys("v", 1)))


@exercise.observe("one layer", "After three pieces, what is kept is not the keys and values of all of them, in order.")
def kept_after_three_pieces(impl):
    past = impl.Past()
    for i, length in enumerate((2, 1, 3)):
        past.extend(keys(f"k{i}", length), keys(f"v{i}", length))
    return [past.k, past.v]


@exercise.observe("one layer", "Tensors that were handed in, or kept before, are changed in place.")
def tensors_are_left_alone(impl):
    past, k, v = impl.Past(), keys("k", 2), keys("v", 2)
    past.extend(k, v)
    before = past.k
    past.extend(keys("more k", 1), keys("more v", 1))
    return [k - keys("k", 2), v - keys("v", 2), before - keys("k", 2)]


@exercise.observe("one layer", "The past may have been learned, as a prefix is: the gradient has to come through.")
def gradient_of_a_learned_past(impl):
    k, v = (keys(f"learned {w}", 2).requires_grad_() for w in "kv")
    all_k, all_v = impl.Past(k, v).extend(keys("k", 1), keys("v", 1))
    (all_k.pow(2).sum() + all_v.pow(3).sum()).backward()
    return [k.grad, v.grad]


@exercise.observe("mask", "Where nothing is padded, nothing should be hidden.")
def mask_without_padding(impl):
    memory = impl.Cache(1)
    return [meant(memory.extend(None, (3, n), TAKEN), length) for n, length in ((4, 4), (1, 5), (2, 7))]


@exercise.observe("mask", "Padding in an earlier piece has to stay hidden, and new tokens have to be seen.")
def mask_after_padding(impl):
    memory = impl.Cache(1)
    return [meant(memory.extend(m, (3, n), TAKEN), length) for m, n, length in ((MASK, 5, 5), (None, 1, 6), (None, 2, 8))]  # fmt: skip


@exercise.observe("mask", "Of two padded pieces, the mask over both is not the expected one.")
def mask_of_padded_pieces(impl):
    memory = impl.Cache(1)
    memory.extend(MASK[:, :3], (3, 3), TAKEN)
    return meant(memory.extend(MASK[:, 3:], (3, 2), TAKEN), 5)


@exercise.observe("mask", "What the cache keeps for the next piece, the mask and the positions taken, is not right.")
def what_the_cache_keeps(impl):
    memory = impl.Cache(1)
    memory.extend(MASK, (3, 5), TAKEN)
    memory.extend(None, (3, 1), TAKEN + 1)
    return {"mask": meant(memory.mask, 6), "start": memory.start}


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
    return [past.k for past in read(impl)[1].layers]


@exercise.observe("virtual tokens", "With virtual tokens in front, the logits of the tokens are not the expected ones.")
def logits_with_virtual_tokens(impl):
    return model(impl, front=True)(TOKENS)


@exercise.observe(
    "virtual tokens", "With virtual tokens and padding, the mask hides what it should not, or the reverse."
)
def padded_rows_with_virtual_tokens(impl):
    return read(impl, LEFT, MASK, front=True)[0]


@exercise.observe("generate", "With the cache, the tokens that are made are not the expected ones.")
def with_the_cache(impl):
    return generated(impl, True)[0]


@exercise.observe("generate", "Rows padded on the left do not go on as they should, with the cache.")
def padded_rows_with_the_cache(impl):
    return generated(impl, True, pad=True)[0]


@exercise.observe("generate", "Without the cache, rows do not go on as they should; some here are padded on the left.")
def padded_rows_without_the_cache(impl):
    return generated(impl, False, pad=True)[0]


@exercise.observe("generate", "With virtual tokens in front, generation is not what it should be.")
def behind_virtual_tokens(impl):
    return generated(impl, True, front=True)[0]


@exercise.observe(
    "generate", "How many tokens the steps read: all of them at first, and then, with the cache, only the new one."
)
def tokens_read_at_each_step(impl):
    return {"with the cache": generated(impl, True)[1], "without": generated(impl, False, pad=True)[1]}


@exercise.observe(
    "generate", "A row that has made its stop should be filled with it; when all have, the loop should end."
)
def rows_that_stop(impl):
    return model(impl, layers=1).generate(LEFT[:2], 6, MASK[:2], stop=STOP)  # they stop after 2 and 4


@exercise.observe(
    "generate", "The temperature should decide how the next token is chosen: the hotter, the more evenly."
)
def temperature(impl):
    dice = torch.Generator().manual_seed(0)
    hot = model(impl, layers=1).generate(TOKENS[[0] * 30], 1, temperature=50.0, generator=dice)
    return {"hot makes many different tokens": bool(len(hot.unique()) > 4)}


PAST = "        if self.k is not None:\n            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)\n        self.k, self.v = k, v\n        return k, v\n"
START = "        self.start = taken\n"
OLD = "            new = torch.ones(shape, dtype=torch.bool, device=self.mask.device) if mask is None else mask\n            mask = torch.cat([self.mask, new], dim=1)\n"
KEPT = "        self.mask = mask\n        return mask\n"
CACHE = "        cache = cache or Cache(len(self.blocks))\n"
ASKED = "        x, taken = self.embed(tokens, cache.start, mask)  # (B, n+T, d)\n"
WIDER = "            mask = F.pad(mask, (n, 0), value=True)\n"
GROWN = "        mask = cache.extend(mask, x.shape[:2], taken)\n"
EACH = "            x = block(x, mask, past)\n"
LOGITS = "        return self.head(self.norm(x[:, n:]))  # (B, T, V)\n"
MEMORY = "        memory = Cache(len(self.blocks)) if cache else None\n"
CHOSEN = "            following = choose(self(step, mask, memory)[:, -1], temperature, generator)  # (B, 1)\n"
FILL = "                following[ended] = stop\n"
END = "            if ended.all():\n                break\n"
STEP = "            step = following if cache else whole\n"
MASKED = "                mask = None if cache else F.pad(mask, (0, 1), value=True)\n"
BACK = "        return torch.cat(made, dim=1)\n"

exercise.mistake(
    "along the heads",
    ((PAST, PAST.replace("dim=2", "dim=1")),),
    "new keys and values are appended along the heads",
    "which dimension of (B, H, S, d/H) counts the tokens?",
    "The number of heads stays as it is; the number of keys grows.",
)
exercise.mistake(
    "new before old",
    ((PAST, PAST.replace("[self.k, k]", "[k, self.k]").replace("[self.v, v]", "[v, self.v]")),),
    "new keys and values are put before the old ones",
    "which end of the row do new tokens belong to?",
    "The triangle takes the last T keys for those of the queries.",
)
exercise.mistake(
    "nothing kept",
    ((PAST, PAST.replace("        self.k, self.v = k, v\n", "")),),
    "the keys and values are returned, but not kept",
    "what will the next call find in `self.k`?",
    "A memory has to be written as well as read.",
)
exercise.mistake(
    "first piece only",
    (
        (
            PAST,
            "        if self.k is None:\n            self.k, self.v = k, v\n            return k, v\n        return torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)\n",
        ),
    ),
    "after the first piece nothing more is kept",
    "what does the third piece find of the second?",
    "What is returned and what is kept are the same.",
)
exercise.mistake(
    "last piece only",
    ((PAST, PAST.replace("        self.k, self.v = k, v\n        return k, v\n", "        kept = k, v\n        self.k, self.v = k[:, :, -1:], v[:, :, -1:]\n        return kept\n")),),
    "only the newest key and value are kept",
    "how many keys does the tenth token see?",
    "All that came before stays in the memory.",
)  # fmt: skip
exercise.mistake(
    "only the new ones returned",
    (
        (
            PAST,
            "        old = self.k is not None\n        self.k = torch.cat([self.k, k], dim=2) if old else k\n        self.v = torch.cat([self.v, v], dim=2) if old else v\n        return k, v\n",
        ),
    ),
    "all is kept, but only the new keys and values are returned",
    "what should the queries of the new token be compared with?",
    "Attention works on what is returned.",
)
exercise.mistake(
    "values of keys",
    ((PAST, PAST.replace("[self.v, v]", "[self.k, v]")),),
    "the old keys are put before the new values",
    "from which of the two memories do the old values come?",
    "A slip of copying that no shape betrays.",
)
exercise.mistake(
    "cut off from the gradient",
    ((PAST, PAST.replace("[self.k, k]", "[self.k.detach(), k]").replace("[self.v, v]", "[self.v.detach(), v]")),),
    "the past is detached, so a learned prefix never gets a gradient",
    "who else fills a past, besides generation?",
    "Prefix tuning learns keys and values; they reach the loss through here.",
)
exercise.mistake(
    "in place",
    (
        (
            PAST,
            "        if self.k is None:\n            self.k, self.v = k, v\n        else:\n            self.k.data, self.v.data = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)\n        return self.k, self.v\n",
        ),
    ),
    "the old tensors are changed in place",
    "who else holds the tensor that was handed in?",
    "Put a new tensor in the place of the old one; whoever kept the old one keeps it as it was.",
)
exercise.mistake(
    "start not kept",
    ((START, ""),),
    "the cache does not keep how many positions are taken",
    "at which position does the next piece begin?",
    "A piece of one token does not know where it stands; the cache has to tell.",
    "huggingface/transformers#15736, fixed in #15751",
)
exercise.mistake(
    "start summed up",
    ((START, "        self.start = taken if self.start is None else self.start + taken\n"),),
    "the positions taken are added to those taken before, which they hold already",
    "does `taken` count from the beginning of the row, or of the piece?",
    "The embedding was told `start` and has counted on from there.",
)
exercise.mistake(
    "mask not kept",
    ((KEPT, "        return mask\n"),),
    "the mask is returned, but not kept for the next piece",
    "how does the next piece know which old keys are padding?",
    "Keys of padding stay in the past, so their mask has to stay as well.",
)
exercise.mistake(
    "mask of the new tokens alone",
    (
        (
            KEPT,
            "        new = mask if mask is None else mask[:, -shape[1] :]\n        self.mask = mask\n        return new\n",
        ),
    ),
    "the mask of the new tokens is returned, not that of all keys",
    "how long is the mask, and how many keys are there?",
    "A token reads from the whole past: the mask is as long as the keys.",
    "huggingface/transformers#16811",
)
exercise.mistake(
    "new tokens hidden",
    (
        (
            "        if self.mask is not None:\n" + OLD,
            OLD.replace("            new = torch.ones", "        mask = torch.zeros")
            .replace(
                "mask is None else mask\n            mask =",
                "mask is None else mask\n        if self.mask is not None:\n            mask =",
            )
            .replace("self.mask.device", "taken.device")
            .replace(", new]", ", mask]"),
        ),
    ),
    "without a mask, new tokens are marked as padding",
    "what does None say about the new tokens?",
    "No mask means that all of them are real.",
)
exercise.mistake(
    "mask in the wrong order",
    ((OLD, OLD.replace("[self.mask, new]", "[new, self.mask]")),),
    "the mask of the new tokens is put before the old one",
    "in which order do the keys stand?",
    "Mask and keys have to grow at the same end.",
)
exercise.mistake(
    "padding forgotten",
    (
        (
            OLD,
            OLD.replace(
                "            new = torch",
                "            if mask is None:\n                return None\n            new = torch",
            ),
        ),
    ),
    "as soon as a piece has no mask, the padding of the earlier ones is forgotten",
    "the first piece had padding, the next has none: what should its tokens not see?",
    "None is about the new tokens only; padding in the past stays padding.",
    "ml-explore/mlx-lm#1906",
)
exercise.mistake(
    "position of each piece from 0",
    ((ASKED, "        x, taken = self.embed(tokens, None, mask)  # (B, n+T, d)\n"),),
    "the embedding is not told where the piece begins",
    "what does `embed` take for the position of a single new token?",
    "The cache knows how many positions are taken.",
    "huggingface/transformers#15736, fixed in #15751",
)
exercise.mistake(
    "embedding without the mask",
    ((ASKED, "        x, taken = self.embed(tokens, cache.start)  # (B, n+T, d)\n"),),
    "the embedding does not get the mask, so padding takes positions",
    "who has to know about padding besides attention?",
    "Where a token stands is decided in `embed`; it counts what is visible.",
)
exercise.mistake(
    "cache not used",
    ((CACHE, "        cache = Cache(len(self.blocks))\n"),),
    "the cache that was given is not used: each call begins with a new one",
    "what does the caller find in its cache afterwards?",
    "Make a new one only where none was given.",
)
exercise.mistake(
    "past not handed on",
    ((EACH, "            x = block(x, mask)\n"),),
    "the blocks do not get their past",
    "who fills the keys of the cache?",
    "Each block has a past of its own; the loop goes over both.",
)
exercise.mistake(
    "one past for all layers",
    ((EACH, "            x = block(x, mask, cache.layers[0])\n"),),
    "all layers write into the past of the first",
    "how many keys does the second layer find there when the first has just written its own?",
    "Each layer compares with its own keys.",
)
exercise.mistake(
    "mask not handed on",
    ((EACH, "            x = block(x, None, past)\n"),),
    "the blocks do not get the mask",
    "who hides the padding?",
    "Follow the mask to the place where keys are hidden.",
)
exercise.mistake(
    "grown mask not used",
    ((GROWN, "        cache.extend(mask, x.shape[:2], taken)\n"),),
    "the mask of the new tokens goes to the blocks, not the one that has grown",
    "what does `cache.extend` return?",
    "The blocks see old keys too, and some of those are padding.",
)
exercise.mistake(
    "virtual tokens hidden",
    ((WIDER, "            mask = F.pad(mask, (n, 0), value=False)\n"),),
    "the mask is widened with False, which hides the virtual tokens",
    "are the virtual tokens to be read?",
    "They are real in all but name.",
    "sentence-transformers#3000, a mask widened with zeros",
)
exercise.mistake(
    "mask widened at the end",
    ((WIDER, "            mask = F.pad(mask, (0, n), value=True)\n"),),
    "the mask is widened behind the tokens, so it is shifted against the keys",
    "where do the virtual tokens stand?",
    "Mask and vectors must be in the same order.",
)
exercise.mistake(
    "logits of virtual tokens",
    ((LOGITS, "        return self.head(self.norm(x))  # (B, T, V)\n"),),
    "virtual tokens get logits too: there are n + T rows",
    "how many tokens did the caller give?",
    "What stands in front is read by the tokens, but nobody asks what follows it.",
    "EleutherAI/lm-evaluation-harness#533",
)
exercise.mistake(
    "cut at the wrong end",
    ((LOGITS, "        return self.head(self.norm(x[:, : tokens.shape[1]]))  # (B, T, V)\n"),),
    "the last n logits are cut off, not those of the virtual tokens",
    "which end do the virtual tokens stand at?",
    "The shape is right; every logit is n places late.",
)
exercise.mistake(
    "no last norm",
    ((LOGITS, "        return self.head(x[:, n:])  # (B, T, V)\n"),),
    "the norm before the head is left out",
    "which part of the model did your forward not use?",
    "In a pre-norm model nobody has normed the stream before it reaches the head.",
)
exercise.mistake(
    "all again, with the cache",
    ((STEP, "            step = whole\n"),),
    "with the cache, the whole row is read again at each step, and all of it is added to the past",
    "how many keys should there be after the second step, and how many are there?",
    "What is in the cache must not be read again.",
)
exercise.mistake(
    "new token alone, without a cache",
    ((STEP, "            step = following\n"),),
    "without the cache, only the new token is read, and the model has forgotten the rest",
    "what does a model see without a cache?",
    "Without a memory, the whole row has to be read at every step.",
)
exercise.mistake(
    "never a cache",
    ((MEMORY, "        cache, memory = False, None\n"),),
    "the cache is never used; the answer is right, but each step reads everything again",
    "how many tokens does the last step read?",
    "With a cache, the work for a step does not grow with the row.",
    "karpathy/nanoGPT#76",
)
exercise.mistake(
    "cache made at each step",
    ((CHOSEN, "            memory = Cache(len(self.blocks)) if cache else None\n" + CHOSEN),),
    "a new cache is made at each step, so the second one has forgotten the row",
    "how long does a cache have to live?",
    "One cache for the whole loop.",
)
exercise.mistake(
    "logits of the first token",
    ((CHOSEN, CHOSEN.replace("[:, -1]", "[:, 0]")),),
    "the next token is chosen by the logits at the first place",
    "which place of the logits tells what follows the row?",
    "Each place tells what comes after it.",
)
exercise.mistake(
    "new token masked",
    ((MASKED, "                mask = None if cache else F.pad(mask, (0, 1), value=False)\n"),),
    "without the cache, the new token is marked as padding",
    "is what the model has made part of the row?",
    "The mask grows with True: a new token is a real one.",
)
exercise.mistake(
    "mask never used",
    ((CHOSEN, CHOSEN.replace("self(step, mask, memory)", "self(step, None, memory)")),),
    "generation does not hand the mask on, so padding is read like text",
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
    "In the cache the mask of the past is there already; a mask goes with the tokens of its piece.",
)
exercise.mistake(
    "prompt returned too",
    ((BACK, "        return torch.cat([tokens, *made], dim=1)\n"),),
    "what was given is returned along with what was made",
    "what does the docstring say about what is returned?",
    "Many libraries return both; here it is the new tokens alone.",
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
    "a row that has ended goes on being filled with new tokens",
    "what stands in a row after its stop?",
    "The others may go on; this row has ended.",
)
exercise.mistake(
    "no end",
    ((END, ""),),
    "the loop goes on when all rows have ended",
    "how many tokens are returned if every row stops at the second?",
    "When nobody writes any more, there is nothing to compute.",
)
exercise.mistake(
    "ended for one step",
    (
        (
            FILL + "                ended |= following[:, 0] == stop\n",
            FILL + "                ended = whole[:, -1] == stop\n",
        ),
    ),
    "whether a row has ended is asked of the row before the new token was appended",
    "when a row makes its stop, from which step on is it filled?",
    "The step that makes the stop is the one that ends the row.",
)
exercise.mistake(
    "no temperature",
    ((CHOSEN, CHOSEN.replace(", temperature, generator", "")),),
    "the temperature is not used: it is always the likeliest token",
    "what do your arguments do besides being there?",
    "Somebody has to tell `choose`.",
)

exercise.right(
    "lists, and the last dimension but one",
    ((PAST, "        self.k = k if self.k is None else torch.cat((self.k, k), -2)\n        self.v = v if self.v is None else torch.cat((self.v, v), -2)\n        return self.k, self.v\n"),),
)  # fmt: skip
exercise.right(
    "always a mask",
    (("        if self.mask is not None:\n" + OLD + KEPT, "        new = torch.ones(shape, dtype=torch.bool) if mask is None else mask\n        self.mask = new if self.mask is None else torch.hstack([self.mask, new])\n        return self.mask\n"),),
)  # fmt: skip
exercise.right(
    "not widened, for attention takes a short mask; norm first, cut then",
    (("        if mask is not None:\n" + WIDER, ""), (LOGITS, "        return self.head(self.norm(x))[:, n:]\n")),
)  # fmt: skip
exercise.right(
    "index instead of zip",
    (("        for block, past in zip(self.blocks, cache.layers, strict=True):\n" + EACH, "        for i in range(len(self.blocks)):\n            x = self.blocks[i](x, mask=mask, past=cache.layers[i])\n"),
     (CACHE, "        if cache is None:\n            cache = Cache(self.config.layers)\n")),
)  # fmt: skip
exercise.right(
    "cut from what has grown",
    ((STEP, "            step = whole[:, -1:] if memory is not None else whole\n"),
     (FILL, "                following = torch.where(ended[:, None], stop, following)\n"),
     (BACK, "        return torch.stack([m[:, 0] for m in made], dim=1)\n")),
)  # fmt: skip

exercise.house(
    "prompt first",
    ((BACK, "        return torch.cat([tokens, *made], dim=1)\n"),
     ("Continue each row by up to `new` tokens and return only those, (B, ≤ new).", "Continue each row by up to `new` tokens and return the whole rows, what was given first, (B, ≤ T + new).")),
    "`generate` returns the whole rows, what was given first",
)  # fmt: skip
exercise.house(
    "filled with 0",
    ((FILL, "                following[ended] = 0\n"),
     ("a token that ends a row; the row is then filled with it, and", "a token that ends a row; the row is then filled with 0, and")),
    "after its stop a row is filled with 0",
)  # fmt: skip
