"""The frozen base, all of it: a Transformer written by hand, to be read from leaf to root.

It knows nothing about fine-tuning and freezes nothing, but it has three doors where a method can step in:
  a weight             every projection is a `nn.Linear` of its own: q k v o, up down
  a sublayer           `attn` and `mlp` return what is about to be added to the residual stream
  the beginning        `begin` makes the empty cache of a new sequence; a method may fill it (a prefix, a prompt)

One set of blocks serves a causal decoder (GPT-2: pre-norm) and a bidirectional encoder (BERT: post-norm).
Letters in shape comments: B rows, T tokens, n vectors before the tokens, S keys, d width, H heads, V vocabulary.

Sources: 1) Vaswani et al. 2017, arXiv:1706.03762. 2) GPT-2: Radford et al. 2019.
         3) BERT: Devlin et al. 2018, arXiv:1810.04805.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.inputs import check_embedded, check_generation, check_rows, keeping_the_cache


class KVCache:
    """Keys and values of one layer: (B, H, S, d/H), or (H, S, d/H) if all rows have the same; None if there are none.

    fixed: a pass reads it and writes nothing, so a block may run twice (gradient checkpointing).
    """

    def __init__(self):
        self.k = self.v = None
        self.fixed = False

    def extend(self, k, v):
        """The keys and values that are stored, followed by k and v; unless it is `fixed`, the cache stores them all."""
        if self.k is not None:
            before = (x.expand(*k.shape[:-2], -1, -1) for x in (self.k, self.v))
            k, v = (torch.cat(pair, dim=-2) for pair in zip(before, (k, v), strict=True))
        if not self.fixed:
            self.k, self.v = k, v
        return k, v


class Cache:
    """What comes before the next tokens: what the model has read, and what a method has learned to put there.

    layers: a `KVCache` for each layer.
    front: a list of vectors, (n, d) or (B, n, d) each, to put before the next tokens; `embed` empties it.
    mask: (B, S+n) booleans for the S keys of a layer and the n vectors in `front`, False at padding; None: no padding.
    offset: the last position that EmbedFromBOS has given, (B or 1, 1).
    """

    def __init__(self, layers):
        self.layers = [KVCache() for _ in range(layers)]
        self.front, self.mask, self.offset = [], None, 0

    @property
    def length(self):
        """S, the number of keys in each layer."""
        k = self.layers[0].k
        return 0 if k is None else k.shape[-2]

    def extend(self, tokens, mask=None):
        """Note which of the next tokens (B, T) are padding. mask: (B, T) booleans, False there; None if none is."""
        if mask is not None or self.mask is not None:
            mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
            n = self.length + sum(P.shape[-2] for P in self.front)
            before = mask.new_ones(len(mask), n) if self.mask is None else self.mask
            self.mask = torch.cat([before, mask], dim=1)


def attention_mask(T, S, causal, mask=None, device=None):
    """Which of S keys each of T tokens may see; the last T keys are the tokens' own.

    mask: (B, S) booleans, False at padding. Padding sees itself: a softmax over nothing would be NaN.

    Returns None for all keys, "causal" for a token's own key and those before it (S = T: the fused kernel needs no
    tensor for that), or booleans (B or 1, 1, T, S).
    """
    if mask is None and (T == 1 or not causal):
        return None
    if mask is None and T == S:
        return "causal"
    every = torch.ones(T, S, dtype=torch.bool, device=device)
    visible = every.tril(S - T) if causal else every
    if mask is None:
        return visible[None, None]
    itself = every.tril(S - T).triu(S - T)
    return (visible & mask[:, None, None]) | itself


def attend(q, k, v, mask=None):
    """softmax(QKᵀ/√(d/H)) V, written out. Returns the mixed values (B, H, T, d/H) and the weights (B, H, T, S)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if isinstance(mask, str):  # "causal"
        mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


class Attention(nn.Module):
    """Multi-head self-attention over the cached keys and its own: softmax(QKᵀ/√(d/H)) V, by PyTorch's fused kernel.

    Args of forward:
        mask: which keys each token may see, as `attention_mask` gives it.
        cache: a `KVCache`; None if nothing comes before.

    `weights` holds the attention map (B, H, T, S) of the last pass inside `recording(model)`.
    """

    def __init__(self, dim, heads):
        super().__init__()
        if dim % heads:
            raise ValueError(f"the width {dim} must be a multiple of the number of heads, got {heads} heads")
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.heads = heads
        self.recording, self.weights = False, None

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # (..., T, d) → (..., H, T, d/H)

    def forward(self, x, mask=None, cache=None):  # (B, T, d)
        q, k, v = (self.split(proj(x)) for proj in (self.q, self.k, self.v))  # (B, H, T, d/H)
        v = v.addcmul(q.detach(), k.detach(), value=0)  # v + 0·q·k: the fused kernel may answer 0 to NaN in q or k
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, H, S, d/H)
        if self.recording:
            y, weights = attend(q, k, v, mask)
            self.weights = weights.detach()
        elif isinstance(mask, str):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, d)


class MLP(nn.Module):
    """down(φ(up(x))), φ = GELU (GPT-2 uses its tanh approximation). The layers are `up` and `down`, φ is `act`."""

    def __init__(self, dim, ff, gelu):  # gelu: "none" or "tanh", how φ is approximated
        super().__init__()
        self.up, self.down = nn.Linear(dim, ff), nn.Linear(ff, dim)
        self.act = nn.GELU(approximate=gelu)

    def forward(self, x):  # (B, T, d)
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream; the norm comes before (GPT-2) or after (BERT).

    Others read its parts `attn`, `mlp`, `norm1` (for the first), `norm2` and `pre_norm`. mask, cache: for attention.
    """

    def __init__(self, config):
        super().__init__()
        self.attn = Attention(config.dim, config.heads)
        self.mlp = MLP(config.dim, config.ff, config.gelu)
        self.norm1, self.norm2 = (nn.LayerNorm(config.dim, eps=config.eps) for _ in range(2))
        self.pre_norm = config.pre_norm

    def forward(self, x, mask=None, cache=None):  # (B, T, d)
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), mask, cache)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x, mask, cache))
        return self.norm2(x + self.mlp(x))


class Embed(nn.Module):
    """Tokens to vectors. Where a token stands is decided here and nowhere else.

    Positions are absolute, as in GPT-2 and BERT: a token's position is the number of visible keys before it. So what
    stands in front, vectors or only keys in the cache, takes the first positions; padding takes none.

    Args of forward:
        tokens: (B, T) integers.
        cache: what comes before; it has been told which tokens are padding. The vectors in `front` are put before the
            tokens and taken out of the cache.

    Returns the vectors (B, n+T, d). Raises ValueError for a token or a position that it has no vector for.
    """

    def __init__(self, vocab, dim, context, norm=None):
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.norm = norm or nn.Identity()

    def forward(self, tokens, cache=None):
        cache = Cache(1) if cache is None else cache
        n = sum(P.shape[-2] for P in cache.front)
        positions = self.positions(tokens, n, cache)  # (B or 1, n+T)
        check_embedded(tokens, positions, self.token.num_embeddings, self.position.num_embeddings)
        front = [P.expand(len(tokens), -1, -1) for P in cache.front]
        x = torch.cat([*front, self.token(tokens)], dim=1)  # (B, n+T, d)
        cache.front = []
        return self.norm(x + self.position(positions))

    def positions(self, tokens, n, cache):
        """The positions of n vectors in front and of the tokens, (B or 1, n+T)."""
        new = n + tokens.shape[1]
        if cache.mask is None:
            return torch.arange(cache.length, cache.length + new, device=tokens.device)[None]
        return (cache.mask.cumsum(1) - 1).clamp(min=0)[:, -new:]  # padding before the first real key: -1, made 0


class EmbedFromBOS(Embed):
    """Counts positions from the token BOS, which has position 1.

    Whatever stands before it, instruction words or a prompt, is a preamble whose members share position 0.
    A soft prompt then simply stands where the instruction would stand.
    """

    def __init__(self, vocab, dim, context, bos, norm=None):
        super().__init__(vocab, dim, context, norm)
        self.bos = bos

    def positions(self, tokens, n, cache):
        real = torch.ones_like(tokens, dtype=torch.bool) if cache.mask is None else cache.mask[:, -tokens.shape[1] :]
        begun = ((tokens == self.bos) & real).cumsum(1) + cache.offset > 0
        positions = F.pad(cache.offset + (begun & real).cumsum(1), (n, 0))
        cache.offset = positions[:, -1:]
        return positions


@dataclass
class Config:
    """The shape of a Transformer. GPT-2 is `causal, pre_norm, gelu="tanh"`; BERT is neither causal nor pre-norm."""

    vocab: int
    dim: int = 64
    layers: int = 2
    heads: int = 4
    ff: int = 256
    context: int = 32
    causal: bool = True
    pre_norm: bool = True
    gelu: str = "none"
    eps: float = 1e-5
    bos: int | None = None  # count positions from this token (see EmbedFromBOS); None for absolute positions


class Begin(nn.Module):
    """Makes the cache that a sequence begins with: an empty one. A method may put in front what it has learned."""

    def forward(self, blocks):
        return Cache(len(blocks))


def choose(logits, temperature=0.0, generator=None):
    """The likeliest token of each row, (B, 1), or at a temperature one sampled from softmax(logits / temperature)."""
    if not math.isfinite(top := logits.max()):
        raise FloatingPointError(f"the largest logit is {top:g}: a weight is not finite, or numbers outgrew their type")
    if temperature:
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
    return logits.argmax(-1, keepdim=True)


class Transformer(nn.Module):
    """embed → blocks → norm → head. Another kind of model replaces `embed` and `head`, not the blocks.

    Args of forward:
        tokens: (B, T) integers.
        mask: (B, T) booleans, False at padding; None if there is none. Either side may be padded.
        cache: what comes before, from `new_cache()`; the pass adds the tokens to it. None: the sequence begins here.

    Returns logits (B, T, V): whatever `embed` puts in front is carried through the blocks and cut off before the head.
    Raises ValueError if tokens, mask or cache have another shape or type, or the sequence outgrows the context.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.begin = Begin()
        sizes = c.vocab, c.dim, c.context
        self.embed = Embed(*sizes) if c.bos is None else EmbedFromBOS(*sizes, c.bos)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, eps=c.eps) if c.pre_norm else nn.Identity()
        self.head = nn.Linear(c.dim, c.vocab)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, std=self.std(name))

    def std(self, name):
        """The standard deviation of this weight at the start: 1/√(2d).

        A sublayer's last weight adds to the residual stream: it is divided by √N as well, for N sublayers in all.
        """
        adds = name.endswith(("attn.o.weight", "mlp.down.weight"))
        return (2 * self.config.dim) ** -0.5 * ((2 * self.config.layers) ** -0.5 if adds else 1)

    def new_cache(self, fixed=False):
        """The cache that a sequence begins with, for any number of rows. fixed: its layers are only read."""
        cache = self.begin(self.blocks)
        for layer in cache.layers:
            layer.fixed = fixed
        return cache

    @keeping_the_cache
    def forward(self, tokens, mask=None, cache=None):
        check_rows(tokens, mask, cache)
        cache = self.new_cache(fixed=True) if cache is None else cache
        cache.extend(tokens, mask)
        x = self.embed(tokens, cache)  # (B, n+T, d)
        T = x.shape[1]
        mask = attention_mask(T, cache.length + T, self.config.causal, cache.mask, x.device)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, mask, layer)
        return self.head(self.norm(x[:, -tokens.shape[1] :]))  # (B, T, V)

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        """Continue each row by up to `new` tokens and return only those, (B, ≤ new).

        Args:
            tokens, mask: as in forward; rows of different length are padded on the left.
            temperature: 0 takes the likeliest token; above 0 samples from softmax(logits / temperature).
            stop: a token that ends a row; the row is then filled with it, and all rows ended ends the loop.
            cache: False computes the whole sequence again at every step. The answer is the same, only slower.

        Raises ValueError, before any work, for a bidirectional model, an empty input, or one that would outgrow the
        context; FloatingPointError if the largest logit is not finite.
        """
        check_generation(self, tokens, new, mask, temperature, stop, cache)
        memory = self.new_cache() if cache else None
        whole, step, made = tokens, tokens, []
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(new):
            next_token = choose(self(step, mask, memory)[:, -1], temperature, generator)  # (B, 1)
            if stop is not None:
                next_token[ended] = stop
                ended |= next_token[:, 0] == stop
            made.append(next_token)
            if ended.all():
                break
            whole = torch.cat([whole, next_token], dim=1)
            step = next_token if cache else whole
            if mask is not None:
                mask = None if cache else F.pad(mask, (0, 1), value=True)
        return torch.cat(made, dim=1)


@contextmanager
def recording(model):
    """Inside, every Attention below `model` writes its attention out by hand and keeps the map in `.weights`."""
    layers = [m for m in model.modules() if isinstance(m, Attention)]
    before = [layer.recording for layer in layers]
    for layer in layers:
        layer.recording = True
    try:
        yield layers
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.recording = was
