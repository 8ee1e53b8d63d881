"""Find the mistake: ten pieces of code, each with exactly one mistake, and statements about it of which one is true.

Set the letter of the true statement behind each piece, as in `FIRST = "a"`. The docstring says what the code should do.
It runs: import it from this file, feed it small tensors, look at shapes, zeros, gradients, neighbours, and let that
decide, not the look of a line. Every base is frozen, as `base.requires_grad_(False)` leaves it.
"""

import torch
import torch.nn.functional as F
from torch import nn

# -- weights


class First(nn.Module):
    """LoRA: y = x Wᵀ + b + s·x Aᵀ Bᵀ in front of a frozen linear layer; A (r, in), B (out, r), s = α/r.

    a) The scale is turned over: r/α.
    b) A can never learn: B is zero, and will stay so.
    c) The base's bias is left out.
    d) The model does not start as the base.
    e) A and B are multiplied in the wrong order.
    """

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A = nn.Parameter(torch.zeros(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + self.scale * x @ self.A.T @ self.B.T


FIRST = "b"


class Second(nn.Module):
    """LoRA that can be merged: afterwards `base` alone computes what was computed before.

    a) Merging adds ΔW transposed.
    b) Merging forgets the scale.
    c) After merging the update acts twice.
    d) Merging a second time would be harmless.
    e) Merging changes the bias.
    """

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def merge(self):
        self.base.weight.data += self.scale * self.B.data @ self.A.data

    def forward(self, x):
        return self.base(x) + self.scale * x @ self.A.T @ self.B.T


SECOND = "c"


class Third(nn.Module):
    """DoRA: W' = m ⊙ V/‖V‖, V = W + s·B A, one magnitude m for each output; ‖V‖ has no gradient.

    a) The magnitudes belong to the inputs.
    b) The magnitudes should start at one.
    c) The gradient passes through ‖V‖.
    d) The model does not start as the base.
    e) The bias is scaled along.
    """

    def __init__(self, base, rank, scale):
        super().__init__()
        self.base, self.scale = base, scale
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.m = nn.Parameter(base.weight.detach().norm(dim=0))

    def forward(self, x):
        V = self.base.weight + self.scale * self.B @ self.A
        return F.linear(x, self.m * V / V.detach().norm(dim=0), self.base.bias)


THIRD = "a"


def fourth(model):
    """Freezes a model but for LoRA's two factors, called lora_A and lora_B, and returns the names of what is trained.

    a) It freezes parameters that belong to LoRA.
    b) It trains parameters that only sound like LoRA's.
    c) Frozen parameters are left out of the forward pass.
    d) The names that it returns are not those that are trained.
    """
    for name, p in model.named_parameters():
        p.requires_grad = "lora_" in name
    return [name for name, p in model.named_parameters() if p.requires_grad]


FOURTH = "b"

# -- vectors and bottlenecks


class Fifth(nn.Module):
    """IA³ for keys or values: y = l ⊙ (W x + b) in front of a frozen linear layer.

    a) l has the length of the input.
    b) l should not act on the bias.
    c) l and the base's weight are trained together.
    d) The model does not start as the base.
    e) l gets no gradient.
    """

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.l = nn.Parameter(torch.zeros(base.out_features))

    def forward(self, x):
        return self.l * self.base(x)


FIFTH = "d"


class Sixth(nn.Module):
    """An adapter behind a frozen sublayer F: f + U φ(D f), f = F(x); D (m, d), U (d, m), φ = GELU.

    a) It reads the input of the sublayer instead of its output.
    b) The bottleneck is wider than the model.
    c) The function φ is missing.
    d) Neither D nor U can learn at the start.
    e) What the sublayer computes no longer gets past the bottleneck.
    """

    def __init__(self, base, d, m):
        super().__init__()
        self.base = base
        self.D, self.U = nn.Linear(d, m), nn.Linear(m, d)
        for layer in (self.D, self.U):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        f = self.base(x)
        return self.U(F.gelu(self.D(f)))


SIXTH = "e"

# -- virtual tokens


class Seventh(nn.Module):
    """Prompt tuning: [P ; x] and a mask for it, from embedded tokens x (B, T, d) and their mask (B, T).

    a) The prompt stands behind the tokens.
    b) Nobody can attend to the prompt.
    c) The rows of a batch get different prompts.
    d) The mask has another length than the vectors.
    e) The prompt is no parameter.
    """

    def __init__(self, n, d):
        super().__init__()
        self.P = nn.Parameter(0.5 * torch.randn(n, d))

    def forward(self, x, mask):
        P = self.P.expand(len(x), -1, -1)
        return torch.cat([P, x], dim=1), F.pad(mask, (len(self.P), 0), value=False)


SEVENTH = "b"


def eighth(P, heads):
    """Prefix tuning: the learned keys P (n, d), split into heads as the model splits its own: (heads, n, d/heads).

    Head h of the model sees the numbers h·d/heads … (h+1)·d/heads of each key.

    a) The result has another shape than the docstring says.
    b) Some numbers of P are lost.
    c) A head gets numbers from other heads' parts.
    d) P gets no gradient.
    e) The heads are in reverse order.
    """
    n, d = P.shape
    return P.reshape(heads, n, d // heads)


EIGHTH = "c"


def ninth(T, S):
    """Which of S keys each of T queries of a causal model may see: (T, S) booleans.

    The queries are the last T of S tokens: with S > T the earlier ones, or a prefix, are in the cache.

    a) Without a cache a token does not see itself.
    b) Without a cache it lets tokens see the future.
    c) The result is transposed: (S, T).
    d) With a cache the queries are taken for the first tokens instead of the last.
    e) With a cache the first token sees nothing.
    """
    return torch.ones(T, S, dtype=torch.bool).tril()


NINTH = "d"

# -- four bits


def tenth(codes):
    """Packs an even number of 4-bit codes, 0 … 15, two into a byte, and unpacks them: should be the codes again.

    a) Codes above 7 come back negative.
    b) Neighbours come back exchanged.
    c) Codes above 7 come back as zero.
    d) Only every other code comes back.
    e) The two codes of a byte come back added.
    """
    codes = codes.to(torch.uint8)
    packed = codes[0::2] << 4 | codes[1::2]
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten()


TENTH = "b"
