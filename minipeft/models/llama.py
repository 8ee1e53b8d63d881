"""The Llama kind of decoder, for real language models: on the parts of `transformer`, with the same three doors.

What differs from GPT-2, and nothing else:
  RMSNorm     γ ⊙ x / √(mean(x²) + ε)                    no mean is subtracted, and there is no β
  RoPE        q and k are rotated by angles that grow with their position; no positions are added to the embeddings
  GQA         H query heads share G heads of keys and values, H/G query heads each
  SwiGLU      down(silu(gate x) ⊙ up x)
  no biases; the head may be the embedding table

The cache holds keys as W_k makes them, and attention rotates all of them when it reads them. Most code stores rotated
keys, which saves a little time; this way a method that puts keys in front needs to know nothing of positions.
Letters in shape comments: those of `transformer`, and G heads of keys and values, c = d/H numbers in a head.

Sources: 1) Llama: Touvron et al. 2023, arXiv:2302.13971. 2) RoPE: Su et al. 2021, arXiv:2104.09864.
         3) GQA: Ainslie et al. 2023, arXiv:2305.13245. 4) SwiGLU: Shazeer 2020, arXiv:2002.05202.
         5) RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.models.transformer import Attention, Begin, Embed, Transformer, attend


@dataclass
class LlamaConfig:
    """The shape of a Llama. rope_base: θ of the angles θ^(−2i/c). tied: the head is the embedding table."""

    vocab: int
    dim: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    ff: int = 128
    context: int = 256
    eps: float = 1e-5
    rope_base: float = 10_000.0
    tied: bool = True

    causal = True  # not a setting: such a model only reads backwards


def key_positions(mask, T, S, device=None):
    """The position of each of S keys, (1 or B, 1, S): how many real keys stand before it.

    mask: which keys each of the last T tokens may see, as `attention_mask` gives it. Padding gets a position too, which
    no other token sees.
    """
    if mask is None or isinstance(mask, str):
        return torch.arange(S, device=device)[None, None]
    return mask[:, :, -1].cumsum(-1) - 1  # what the last token sees is every real key


def rotate(x, positions, base):
    """RoPE: the pair (x_i, x_{i+c/2}) is turned by the angle position·base^(−2i/c).

    x: (B, heads, T, c). positions: (1 or B, 1, T).
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device) / half)  # (c/2,)
    angle = positions[..., None] * frequency  # (1 or B, 1, T, c/2)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class RotaryAttention(Attention):
    """Grouped-query attention with rotated queries and keys. Args of forward: those of `Attention`.

    Only the difference of two positions tells in a score, so no token needs to know where the sequence began.
    """

    def __init__(self, dim, heads, kv_heads, rope_base):
        nn.Module.__init__(self)
        self.size = dim // heads
        if dim % heads or heads % kv_heads or self.size % 2:
            raise ValueError(
                f"the width {dim} must be an even multiple of the number of heads, and this a multiple of the number "
                f"of key heads; got {heads} heads and {kv_heads} key heads"
            )
        self.q, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(dim, kv_heads * self.size, bias=False) for _ in range(2))
        self.heads, self.kv_heads, self.rope_base = heads, kv_heads, rope_base
        self.recording, self.weights = False, None

    def split(self, x):
        return x.unflatten(-1, (-1, self.size)).transpose(-3, -2)  # (..., T, heads·c) → (..., heads, T, c)

    def forward(self, x, mask=None, cache=None):  # (B, T, d)
        q, k, v = (self.split(proj(x)) for proj in (self.q, self.k, self.v))  # (B, H, T, c), (B, G, T, c) twice
        v = v.add(k.detach(), alpha=0)  # v + 0·k: the fused kernel may answer 0 to NaN in k
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, G, S, c)
        T, S = q.shape[2], k.shape[2]
        positions = key_positions(mask, T, S, x.device)  # (1 or B, 1, S)
        q, k = rotate(q, positions[..., -T:], self.rope_base), rotate(k, positions, self.rope_base)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))  # (B, H, S, c)
        if self.recording:
            y, weights = attend(q, k, v, mask)
            self.weights = weights.detach()
        elif isinstance(mask, str):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.add(q.detach(), alpha=0)  # and to NaN in q
        return self.o(y.transpose(1, 2).flatten(2))  # (B, T, d)


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate x) ⊙ up x)."""

    def __init__(self, dim, ff):
        super().__init__()
        self.gate, self.up = (nn.Linear(dim, ff, bias=False) for _ in range(2))
        self.down = nn.Linear(ff, dim, bias=False)

    def forward(self, x):  # (B, T, d)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    """A pre-norm block, as `transformer.Block`."""

    pre_norm = True

    def __init__(self, config):
        super().__init__()
        c = config
        self.attn, self.mlp = RotaryAttention(c.dim, c.heads, c.kv_heads, c.rope_base), GatedMLP(c.dim, c.ff)
        self.norm1, self.norm2 = (nn.RMSNorm(c.dim, eps=c.eps) for _ in range(2))

    def forward(self, x, mask=None, cache=None):  # (B, T, d)
        x = x + self.attn(self.norm1(x), mask, cache)
        return x + self.mlp(self.norm2(x))


class NoPositions(nn.Module):
    """Stands where GPT-2 has a table of positions: adds nothing, but tells how long a sequence may be."""

    def __init__(self, context):
        super().__init__()
        self.num_embeddings = context

    def forward(self, positions):
        return 0


class EmbedTokens(Embed):
    """Tokens to vectors, and no positions. Args of forward: those of `Embed`."""

    def __init__(self, vocab, dim, context):
        nn.Module.__init__(self)
        self.token, self.position, self.norm = nn.Embedding(vocab, dim), NoPositions(context), nn.Identity()


class Llama(Transformer):
    """embed → blocks → norm → head. `forward` and `generate` are those of `Transformer`."""

    def __init__(self, config):
        nn.Module.__init__(self)
        c = self.config = config
        self.begin = Begin()
        self.embed = EmbedTokens(c.vocab, c.dim, c.context)
        self.blocks = nn.ModuleList(LlamaBlock(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.dim, eps=c.eps)
        self.head = nn.Linear(c.dim, c.vocab, bias=False)
        if c.tied:
            self.head.weight = self.embed.token.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=self.std(name))
