"""The frozen base, all of it: a Transformer written by hand, to be read from leaf to root.

It knows nothing about fine-tuning, but it has three doors where a method can step in:
  a weight             every projection is a `nn.Linear` of its own: q k v o, up down
  a sublayer           `attn` and `mlp` return what is about to be added to the residual stream
  the token stream     `embed` makes the vectors, a key/value cache carries the past

One set of blocks serves a causal decoder (GPT-2: pre-norm) and a bidirectional encoder (BERT: post-norm).
Letters at the margin: B rows, T tokens, n virtual tokens, S keys (past and own), d width, H heads, V vocabulary.

Sources: 1) Vaswani et al. 2017, arXiv:1706.03762. 2) GPT-2: Radford et al. 2019.
         3) BERT: Devlin et al. 2018, arXiv:1810.04805.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Past:
    """What one attention layer remembers: keys and values of shape (B, H, S, d/H), or nothing yet.

    begun: the layer has read tokens; what was learned instead of read (a prefix) comes before.
    """

    k: Tensor | None = None
    v: Tensor | None = None
    begun: bool = False

    def extend(self, k, v):
        """Append the keys and values of new tokens; return all of them. Nothing is changed in place."""
        if self.k is not None:
            k, v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        self.k, self.v = k, v
        return k, v


def attend(q, k, v, visible=None):
    """softmax(QKᵀ/√(d/H)) V, written out. Returns the mixed values (B, H, T, d/H) and the weights (B, H, T, S)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


class Attention(nn.Module):
    """Multi-head self-attention over the cached keys and its own.

    Args of forward:
        mask: booleans, False at padding, as in `visible`.
        past: a `Past`; it takes the new keys and values, and from then on it is `begun`.

    `weights` holds the attention map (B, H, T, S) of the last pass inside `recording(model)`.
    """

    def __init__(self, dim, heads, causal):
        super().__init__()
        if dim % heads:
            raise ValueError(f"the width {dim} must be a multiple of the number of heads, got {heads} heads")
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.heads, self.causal = heads, causal
        self.recording, self.weights = False, None

    def forward(self, x, mask=None, past=None):  # (B, T, d)
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        if past is not None:
            k, v = past.extend(k, v)  # (B, H, S, d/H)
            past.begun = True
        T, S = q.shape[2], k.shape[2]
        if self.recording:
            y, weights = attend(q, k, v, self.visible(T, S, mask, x.device))
            self.weights = weights.detach()
        elif self.causal and mask is None and T == S:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.visible(T, S, mask, x.device))
        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, d)

    def visible(self, T, S, mask, device):
        """Which key each query may see: a boolean (1 or B, 1, T, S), for `attend` too, or None for all of them.

        The T queries belong to the last of the S keys. mask: (B, ≤ S); if it is shorter, it is about the last keys, and
        the first ones can be seen.
        """
        if mask is None and (T == 1 or not self.causal):
            return None
        every = torch.ones(T, S, dtype=torch.bool, device=device)
        seen = every.tril(S - T)[None, None] if self.causal else every  # the past, S - T keys, is seen by every query
        if mask is None:
            return seen
        keys = F.pad(mask, (S - mask.shape[1], 0), value=True)[:, None, None]  # (B, 1, 1, S)
        itself = F.pad(torch.eye(T, dtype=torch.bool, device=device), (S - T, 0))
        return (seen & keys) | itself  # padding sees itself: a softmax over nothing would be NaN


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

    The parts are `attn`, `mlp`, `norm1` for the first and `norm2` for the second. mask and past are for attention.
    """

    def __init__(self, config):
        super().__init__()
        self.attn = Attention(config.dim, config.heads, config.causal)
        self.mlp = MLP(config.dim, config.ff, config.gelu)
        self.norm1, self.norm2 = (nn.LayerNorm(config.dim, eps=config.eps) for _ in range(2))
        self.pre_norm = config.pre_norm

    def forward(self, x, mask=None, past=None):  # (B, T, d)
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), mask, past)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x, mask, past))
        return self.norm2(x + self.mlp(x))


class Embed(nn.Module):
    """Tokens to vectors. Where a token stands is decided here and nowhere else.

    Positions are absolute, as in GPT-2 and BERT: virtual tokens take the first ones and the tokens follow; padding
    takes none, so a padded row gets what it would get alone.

    Args of forward:
        tokens: (B, T) integers.
        start: how many positions are taken already, a number or (B, 1); None at the beginning of the sequence.
        mask: (B, T) booleans, False at padding.
        front: (n, d) or (B, n, d) vectors to stand before the tokens (virtual tokens).
        skip: how many virtual tokens stand before all that without a vector here, because they are in the layers only.

    Returns the vectors (B, n+T, d) and how many positions are taken now (B or 1, 1).
    Raises ValueError if a position lies beyond the context: see `check`.
    """

    def __init__(self, vocab, dim, context, norm=None):
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.norm = norm or nn.Identity()

    def forward(self, tokens, start=None, mask=None, front=None, skip=0):
        x = self.token(tokens)  # (B, T, d)
        n = 0
        if front is not None:
            n = front.shape[-2]
            x = torch.cat([front.expand(len(tokens), -1, -1), x], dim=1)  # (B, n+T, d)
        visible = torch.ones_like(tokens[:1], dtype=torch.bool) if mask is None else mask
        positions, taken = self.positions(tokens, 0 if start is None else start, visible, n, skip)  # (B or 1, n+T)
        self.check(tokens, positions, n + skip)
        return self.norm(x + self.position(positions)), taken

    def check(self, tokens, positions, virtual):
        """Raises ValueError if there are no tokens, or if a position lies beyond the context."""
        if not tokens.numel():
            raise ValueError(f"there are no tokens: the input has shape {tuple(tokens.shape)}")
        last, context = int(positions.max()), self.position.num_embeddings
        if last >= context:
            virtual = f"{virtual} virtual and " if virtual else ""
            raise ValueError(
                f"the sequence needs {last + 1} positions but the context has {context}: "
                f"{virtual}{tokens.shape[1]} tokens were given; shorten the input or the prompt"
            )

    def positions(self, tokens, start, visible, n, skip=0):
        """The positions of n virtual tokens and the tokens (B or 1, n+T), and how many are taken then (B or 1, 1).

        start: how many are taken already. visible: (B or 1, T) booleans, False at padding.
        """
        taken = start + skip + F.pad(visible, (n, 0), value=True).cumsum(1)
        return (taken - 1).clamp(min=0), taken[:, -1:]


class EmbedFromBOS(Embed):
    """Counts positions from the token BOS, which has position 1.

    Whatever stands before it, instruction words or virtual tokens, is a preamble whose members share position 0.
    A soft prompt then simply stands where the instruction would stand.
    """

    def __init__(self, vocab, dim, context, bos, norm=None):
        super().__init__(vocab, dim, context, norm)
        self.bos = bos

    def positions(self, tokens, start, visible, n, skip=0):
        begun = (((tokens == self.bos) & visible).cumsum(1) + start) > 0
        positions = F.pad(start + (begun & visible).cumsum(1), (n, 0))
        return positions, positions[:, -1:]


@dataclass
class Config:
    """The shape of a Transformer. GPT-2 is `causal, pre_norm, gelu="tanh"`; BERT is neither causal nor pre-norm.

    `bos`: count positions from this token (see EmbedFromBOS); None for absolute positions.
    """

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
    bos: int | None = None


class Cache:
    """The past of a whole model: keys and values for each layer, the padding mask, the positions taken."""

    def __init__(self, layers):
        self.layers = [Past() for _ in range(layers)]
        self.mask, self.start = None, None

    def extend(self, mask, shape, taken):
        """Append the mask of new tokens, None if all are real; return the mask over past and new ones, and keep it.

        shape: (B, T) of the new tokens. taken: how many positions are taken now, from where the next ones `start`.
        """
        self.start = taken
        if self.mask is not None:
            new = torch.ones(shape, dtype=torch.bool, device=self.mask.device) if mask is None else mask
            mask = torch.cat([self.mask, new], dim=1)
        self.mask = mask
        return mask


def choose(logits, temperature=0.0, generator=None):
    """The likeliest token of each row, (B, 1), or at a temperature one sampled from softmax(logits / temperature)."""
    if temperature:
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
    return logits.argmax(-1, keepdim=True)


class Transformer(nn.Module):
    """embed → blocks → norm → head. Another kind of model replaces `embed` and `head`, not the blocks.

    Args of forward:
        tokens: (B, T) integers.
        mask: (B, T) booleans, False at padding; None if there is none. Either side may be padded.
        cache: a `Cache(layers)` that is filled; tokens then continue what it holds.

    Returns logits (B, T, V): whatever `embed` puts in front is carried through the blocks and cut off before the head.
    Raises ValueError if the sequence is longer than the context.
    """

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.embed = (
            Embed(c.vocab, c.dim, c.context) if c.bos is None else EmbedFromBOS(c.vocab, c.dim, c.context, c.bos)
        )
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, eps=c.eps) if c.pre_norm else nn.Identity()
        self.head = nn.Linear(c.dim, c.vocab)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, std=self.std(name))

    def std(self, name):
        """How wide the weight of this name starts: 1/√(2d).

        A sublayer's last weight, which adds to the residual stream, starts at 1/√N of that, N sublayers in all.
        """
        adds = name.endswith(("attn.o.weight", "mlp.down.weight"))
        return (2 * self.config.dim) ** -0.5 * ((2 * self.config.layers) ** -0.5 if adds else 1)

    def forward(self, tokens, mask=None, cache=None):
        cache = cache or Cache(len(self.blocks))
        mask = mask if mask is None else mask.bool()
        x, taken = self.embed(tokens, cache.start, mask)  # (B, n+T, d)
        n = x.shape[1] - tokens.shape[1]
        if mask is not None:
            mask = F.pad(mask, (n, 0), value=True)
        mask = cache.extend(mask, x.shape[:2], taken)
        for block, past in zip(self.blocks, cache.layers, strict=True):
            x = block(x, mask, past)
        return self.head(self.norm(x[:, n:]))  # (B, T, V)

    @torch.no_grad()
    def generate(self, tokens, new, mask=None, temperature=0.0, stop=None, cache=True, generator=None):
        """Continue each row by up to `new` tokens and return only those, (B, ≤ new).

        Args:
            tokens, mask: as in forward; rows of different length are padded on the left.
            temperature: 0 takes the likeliest token; above 0 samples from softmax(logits / temperature).
            stop: a token that ends a row; the row is then filled with it, and all rows ended ends the loop.
            cache: False computes the whole sequence again at every step. The answer is the same, only slower.

        Raises ValueError for a bidirectional model, an empty input, or one that would outgrow the context: see `check`.
        """
        self.check(tokens, new, mask, temperature)
        memory = Cache(len(self.blocks)) if cache else None
        whole, step, made = tokens, tokens, []
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(new):
            following = choose(self(step, mask, memory)[:, -1], temperature, generator)  # (B, 1)
            if stop is not None:
                following[ended] = stop
                ended |= following[:, 0] == stop
            made.append(following)
            if ended.all():
                break
            whole = torch.cat([whole, following], dim=1)
            step = following if cache else whole
            if mask is not None:
                mask = None if cache else F.pad(mask, (0, 1), value=True)
        return torch.cat(made, dim=1)

    def check(self, tokens, new, mask, temperature):
        """Raises ValueError where `generate` could not come to its end, before any work."""
        if not self.config.causal:
            raise ValueError("a bidirectional model cannot generate: its tokens see the future; use a causal one")
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the likeliest token) or more, got {temperature}")
        if new < 1:
            raise ValueError(f"new must be at least 1 token, got {new}")
        if mask is not None and not mask[:, -1].all():
            raise ValueError("a row ends in padding, so what follows it would be wrong: pad on the left to generate")
        room = (0, new - 1)
        self.embed(F.pad(tokens, room), mask=None if mask is None else F.pad(mask, room, value=True))


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
