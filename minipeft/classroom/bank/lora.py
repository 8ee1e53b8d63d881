"""LoRA: the layer, its merge, the embedding, the scale, LoRA+."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers
from minipeft.views import merge

exercise = Exercise(
    "lora",
    "methods/lora.py",
    stubs=(
        "LoRALinear.__init__",
        "LoRALinear.forward",
        "LoRALinear.delta",
        "LoRAEmbedding.forward",
        "LoRAEmbedding.delta",
        "LoRA.scale",
        "LoRA.groups",
    ),
    title="LoRA: a low-rank update beside a frozen weight",
    minutes=40,
    difficulty=2,
    why="Why a product of two thin matrices is enough, why it starts at nothing, and why it costs nothing once merged.",
    read="Hu et al. 2021, arXiv:2106.09685, section 4.1; LoRA+: arXiv:2402.12354",
    lesson="10",
    hidden=("LoRAConv2d.__init__", "LoRAConv2d.forward", "LoRAConv2d.delta", "LoRAWeight.__init__", "LoRAWeight.delta"),
)

INNER = "h = F.linear(self.dropout(x), self.A)  # (..., r)"
OUTER = "return self.base(x) + F.linear(h, self.scale * self.B)  # (..., out)"
DELTA = "return self.scale * self.B @ self.A  # (out, in)"


def layer(impl, rank=2, alpha=6, dropout=0.0, into=5, out=3):
    """A LoRALinear far from its start, with in ≠ out ≠ r and a bias."""
    return fill(impl.LoRALinear(linear(into, out), rank, alpha / rank, dropout), "trainable").eval()


def table(impl, rank=2, alpha=6):
    base = nn.Embedding(7, 3)
    with torch.no_grad():
        base.weight.copy_(numbers("table", (7, 3)))
    return fill(impl.LoRAEmbedding(base.requires_grad_(False), rank, alpha / rank), "trainable")


class Two(nn.Module):
    """Two linear layers of different width and an embedding."""

    def __init__(self):
        super().__init__()
        self.token, self.q, self.up = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 8)
        fill(self)

    def forward(self, tokens):
        return self.up(torch.tanh(self.q(self.token(tokens))))


TOKENS = torch.tensor([[1, 4, 6], [0, 2, 2]])


def attached(impl, **settings):
    return impl.LoRA(**{"rank": 2, "alpha": 6, "targets": ("q", "up", "token"), **settings}).attach(Two())


@exercise.observe("set-up", "The layer should train two parameters, A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: list(p.shape) for name, p in attach.trainable(impl.LoRALinear(linear(), 2, 3.0)).items()}


@exercise.observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.LoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@exercise.observe("start", "One of the two factors must start at zero, the other must not: which, and how wide is it?")
def width_of_the_start(impl):
    made = impl.LoRALinear(linear(400, 4), 8, 1.0)
    size = {name: float(p.detach().abs().max()) for name, p in attach.trainable(made).items()}
    return {name: round(20 * top * 400**0.5) / 20 for name, top in size.items()}  # in units of 1/√in


@exercise.observe("start", "The first step should reach B and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.LoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@exercise.observe("forward", "The shape of the output is not right.")
def shape(impl):
    return list(layer(impl)(numbers("x", (2, 4, 5))).shape)


@exercise.observe("forward", "The update that is added to the base, s·B A x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "With another rank and scale the update is not the expected one.")
def update_at_another_scale(impl):
    made, x = layer(impl, rank=3, alpha=3), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@exercise.observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@exercise.observe("forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    layer(impl)(x)
    return x - numbers("x", (4, 5))


@exercise.observe("forward", "A pass has changed the base, whose numbers every other view of it shares.")
def base_is_left_alone(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return made.base(x) - linear()(x)


@exercise.observe("dropout", "Dropout should act on the input of A while training, and never on the frozen path.")
def nearly_everything_dropped(impl):
    made, x = layer(impl, dropout=0.999).train(), numbers("x", (64, 5))
    update, whole = made(x) - linear()(x), made.eval()(x) - linear()(x)
    return {
        "rows without any update": bool((update.abs() < 1e-9).all(1).double().mean() > 0.9),
        "rows with the whole of it": bool(((update - whole).abs() < 1e-9).all(1).double().mean() > 0.9),
    }


@exercise.observe("dropout", "In evaluation nothing may be dropped.")
def evaluation(impl):
    made, x = layer(impl, dropout=0.5), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("merge", "A merged model should answer as the view did, and the view should go on answering so.")
def merged_model(impl):
    view = fill(attached(impl, targets=("q", "up")), "trainable")
    before = view(TOKENS)
    return [merge(view)(TOKENS) - before, view(TOKENS) - before]


@exercise.observe("embedding", "The update of the embedded tokens is not the expected one.")
def embedded(impl):
    made = table(impl)
    return made(TOKENS) - made.base(TOKENS)


@exercise.observe("embedding", "ΔW of an embedding should have its shape, (V, d), and be what the forward pass adds.")
def delta_of_the_embedding(impl):
    made = table(impl)
    return [made.delta(), made.merged()(TOKENS) - made(TOKENS)]


@exercise.observe("scale", "The scale s is not what r and α give.")
def scale(impl):
    return [impl.LoRA(rank=r, alpha=a).scale(r) for r, a in ((2, 6), (4, 8), (8, 8))]


@exercise.observe("scale", "With rslora=True the scale is not what r and α give.")
def scale_of_rslora(impl):
    return [impl.LoRA(rank=r, alpha=a, rslora=True).scale(r) for r, a in ((4, 6), (16, 8))]


@exercise.observe("scale", "Where rank_pattern gives a place another rank, its scale should follow that rank.")
def scale_of_another_rank(impl):
    return impl.LoRA(rank=2, alpha=6, rank_pattern={"up": 3}).scale(3)


@exercise.observe(
    "learning rates",
    "Each parameter should be in exactly one group, and with LoRA+ B should learn lr_ratio times faster.",
)
def rates(impl):
    made = attached(impl, lr_ratio=16)
    names = {p: name for name, p in made.named_parameters()}
    found = {name: [] for name in attach.trainable(made)}
    for group in impl.LoRA(targets=("q",), lr_ratio=16).groups(made, 0.5):
        for p in group["params"]:
            found[names[p]].append(group["lr"])
    return found


exercise.mistake(
    "no scale",
    ((OUTER, "return self.base(x) + F.linear(h, self.B)"), (DELTA, "return self.B @ self.A")),
    "the scale s is left out",
    "if α doubles, what changes in your layer?",
    "The update is s·B A x; with s left out, every rank needs a learning rate of its own.",
    "huggingface/lerobot#3573, where a scale of 1/16 went unnoticed",
)  # fmt: skip
exercise.mistake(
    "scale on one side",
    ((OUTER, "return self.base(x) + F.linear(h, self.B)"),),
    "forward leaves out the scale s, which delta has",
    "if α doubles, what changes in the output of your layer?",
    "Forward and delta must apply the same s, or the model changes when it is merged.",
)  # fmt: skip
exercise.mistake(
    "scale twice",
    ((OUTER, "return self.base(x) + F.linear(self.scale * h, self.scale * self.B)"), (DELTA, "return self.scale**2 * self.B @ self.A")),
    "the scale is applied twice",
    "how often does s stand in the equation?",
    "Somewhere s multiplies what has been multiplied by s already.",
)  # fmt: skip
exercise.mistake(
    "both zero",
    (
        (
            "        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
            "        nn.init.zeros_(self.A)\n",
        ),
    ),
    "A and B both start at zero",
    "∂A has a factor B, and ∂B has a factor A: what are they when both are zero?",
    "With two zeros neither ever gets a gradient; one of them must start random.",
)
exercise.mistake(
    "both random",
    (("self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U",
      "self.B = nn.Parameter(base.weight.new_empty(out, rank).normal_())\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U"),),
    "A and B both start random",
    "what does the model answer before the first step?",
    "The model should start as the base; with both random, training starts by undoing noise.",
)  # fmt: skip
exercise.mistake(
    "zero and random exchanged",
    (("        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "        nn.init.zeros_(self.A)\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))\n"),),
    "A starts at zero and B random, instead of the other way round",
    "which of the two gets a gradient at the first step?",
    "It works too, but the paper, and a checkpoint of the library, start with B at zero.",
    "microsoft/LoRA#98 and #155, about comments that say it the wrong way round",
)  # fmt: skip
exercise.mistake(
    "fan of the wrong side",
    (
        (
            "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)",
            "nn.init.uniform_(self.A, -(rank**-0.5), rank**-0.5)",
        ),
    ),
    "A starts with a width of 1/√r instead of 1/√in",
    "how many numbers does one number of A x add up?",
    "The initialiser has read r as the number of inputs, as it does for an A stored as (in, r).",
    "rasbt/LLMs-from-scratch, appendix E",
)
exercise.mistake(
    "only the update",
    ((OUTER, "return F.linear(h, self.scale * self.B)"),),
    "the frozen path is missing: only the update comes out",
    "what does your layer answer when B is zero?",
    "The update is added to what the base computes, it does not replace it.",
)  # fmt: skip
exercise.mistake(
    "base counted twice",
    ((OUTER, "return x @ (self.base.weight + self.delta()).T + F.linear(h, self.scale * self.B)"),),
    "the update is added to a weight that holds it already, and the bias is gone",
    "how many paths lead from x to the output, and which of them knows the bias?",
    "Either add ΔW to the weight or add the update to the output, not both; and let the base bring its own bias.",
)  # fmt: skip
exercise.mistake(
    "weight of the layer",
    ((OUTER, "return F.linear(x, self.weight, self.bias) + F.linear(h, self.scale * self.B)"),),
    "W is read through the layer's own `weight`, which is W + ΔW: the update counts twice",
    "what does `weight` of a `WeightWrapper` give, and what does `weight` of its base?",
    "The weight of an adapted layer is the adapted one; the frozen one belongs to `base`.",
)  # fmt: skip
exercise.mistake(
    "base written over",
    ((OUTER, "y = self.base(x) + F.linear(h, self.scale * self.B)\n        self.base.weight.data += self.delta()\n        return y"),),
    "each pass adds ΔW to the frozen weight itself",
    "what does your layer answer when the same input comes a second time?",
    "The base shares its numbers with the model that you attached to; a layer reads them and never writes.",
    "huggingface/peft#1355, where merging twice added the update twice",
)  # fmt: skip
exercise.mistake(
    "dropout on everything",
    ((INNER, "x = self.dropout(x)\n        h = F.linear(x, self.A)"),),
    "dropout acts on the frozen path too",
    "which input does the base see while training?",
    "The base is as it was pretrained, on whole inputs; only the way through A and B is regularised.",
)  # fmt: skip
exercise.mistake(
    "dropout left out",
    ((INNER, "h = F.linear(x, self.A)"),),
    "dropout is never applied",
    "what does dropout=0.99 change in your layer while training?",
    "The layer keeps a Dropout module, but nothing passes through it.",
)
exercise.mistake(
    "dropout in evaluation",
    ((INNER, 'h = F.linear(F.dropout(x, getattr(self.dropout, "p", 0.0)), self.A)'),),
    "dropout is applied in evaluation too",
    "does your layer give the same answer twice after .eval()?",
    "`F.dropout` does not know the mode of the module unless it is told; the module `self.dropout` does.",
)
exercise.mistake(
    "delta transposed",
    ((DELTA, "return self.scale * (self.B @ self.A).T"),),
    "ΔW is transposed",
    "which shape has `nn.Linear`'s weight: (in, out) or (out, in)?",
    "A square layer hides this; only where in and out differ does it stop.",
    "huggingface/peft#315 and #1588, axolotl#3095",
)
exercise.mistake(
    "delta without scale",
    ((DELTA, "return self.B @ self.A"),),
    "ΔW leaves out the scale s, which the forward pass has",
    "does the merged layer answer as the unmerged one, whatever α is?",
    "What is merged has to be all that the forward pass adds.",
)
exercise.mistake(
    "embedding without scale",
    (
        (
            "return self.base(tokens) + F.linear(self.scale * h, self.B)  # (..., d)",
            "return self.base(tokens) + F.linear(h, self.B)",
        ),
    ),
    "the embedding's update lacks the scale",
    "is the merged embedding the same as the unmerged one?",
    "The scale belongs to every kind of layer.",
)
exercise.mistake(
    "embedding delta not transposed",
    (("return self.scale * (self.B @ self.A).T  # (V, d)", "return self.scale * (self.B @ self.A)"),),
    "ΔW of the embedding is transposed",
    "is a token a row or a column of the table?",
    "An embedding stores (V, d), one row for each token; B A is (d, V) here.",
)
exercise.mistake(
    "alpha without rank",
    (
        (
            "return self.alpha / (math.sqrt(rank) if self.rslora else rank)",
            "return self.alpha * (math.sqrt(rank) / rank if self.rslora else 1)",
        ),
    ),
    "the scale is α, without the division by r",
    "what should happen to s when r doubles?",
    "Dividing by r keeps the best learning rates of different ranks close together.",
    "rasbt/LLMs-from-scratch#166",
)
exercise.mistake(
    "rank over alpha",
    (
        (
            "return self.alpha / (math.sqrt(rank) if self.rslora else rank)",
            "return (math.sqrt(rank) if self.rslora else rank) / self.alpha",
        ),
    ),
    "the scale is turned over: r/α instead of α/r",
    "does a larger α make the update larger or smaller?",
    "α is what the update is multiplied by.",
)
exercise.mistake(
    "rank of the method",
    (
        (
            "return self.alpha / (math.sqrt(rank) if self.rslora else rank)",
            "return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)",
        ),
    ),
    "the scale uses the method's rank where the layer has another",
    "which rank has a place that rank_pattern names?",
    "The argument `rank` is that of the place; `self.rank` is only the usual one.",
)
exercise.mistake(
    "rslora ignored",
    (("return self.alpha / (math.sqrt(rank) if self.rslora else rank)", "return self.alpha / rank"),),
    "rslora changes nothing",
    "which scale does rsLoRA propose, and why for large ranks?",
    "With rslora=True, s falls with the square root of the rank only.",
    "NVIDIA/TensorRT-LLM#1668",
)
exercise.mistake(
    "ratio on A",
    (
        (
            '[{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]',
            '[{"params": slow, "lr": lr * self.lr_ratio}, {"params": fast, "lr": lr}]',
        ),
    ),
    "A is the one that learns faster",
    "which of the two starts at zero and has a way to go?",
    "LoRA+ speeds up B.",
)
exercise.mistake(
    "A left out",
    (('return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]', 'return [{"params": fast, "lr": lr * self.lr_ratio}]'),),
    "some parameters are in no group, so they are never trained",
    "how many parameters do your groups hold together?",
    "The optimizer only moves what it is given.",
)  # fmt: skip

exercise.mistake(
    "A is no parameter",
    (("self.A = nn.Parameter(base.weight.new_empty(rank, into))\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U",
      "self.A = base.weight.new_empty(rank, into)\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U"),),
    "A is a plain tensor, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained, moved and saved.",
)  # fmt: skip
exercise.mistake(
    "a bias of its own",
    (("        self.scale, self.dropout = scale, nn.Dropout(dropout) if dropout else nn.Identity()\n\n    def forward(self, x):  # (..., in)",
      "        self.c = nn.Parameter(base.weight.new_zeros(out))\n        self.scale, self.dropout = scale, nn.Dropout(dropout) if dropout else nn.Identity()\n\n    def forward(self, x):  # (..., in)"),),
    "the layer trains something besides A and B",
    "which parameters does the formula r·(in + out) count?",
    "All else stays frozen; a bias that trains along is no longer this method.",
    "microsoft/LoRA: biases of its Linear train until they are marked",
)  # fmt: skip
exercise.mistake(
    "columns instead of rows",
    ((INNER, "h = (self.A @ self.dropout(x).T).T"),),
    "x is taken for a matrix of columns, which works for two dimensions only",
    "which shape has x when there are rows of tokens, (B, T, in)?",
    "Let the features stay the last dimension and multiply from the right, whatever comes before.",
)
exercise.mistake(
    "input scaled in place",
    ((INNER, "y = self.base(x)"), (OUTER, "return y + F.linear(F.linear(self.dropout(x).mul_(self.scale), self.A), self.B)")),
    "an operation in place (one whose name ends in an underscore) changes x itself",
    "which other layers read the same x, for example q, k and v?",
    "The residual stream and the neighbouring projections get the same tensor.",
)  # fmt: skip

exercise.right(
    "matmul",
    ((INNER, "h = self.dropout(x) @ self.A.T"), (OUTER, "return self.base(x) + h @ self.B.T * self.scale")),
)
exercise.right(
    "einsum",
    ((DELTA, 'return torch.einsum("or,ri->oi", self.B, self.A) * self.scale'),
     ("import torch.nn.functional as F", "import torch\nimport torch.nn.functional as F")),
)  # fmt: skip
exercise.right(
    "plain constructors",
    (("self.A = nn.Parameter(base.weight.new_empty(rank, into))\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U",
      "import torch\n        self.B = nn.Parameter(torch.zeros(out, rank))\n        bound = into**-0.5\n        self.A = nn.Parameter(torch.rand(rank, into) * 2 * bound - bound)  # U"),),
)  # fmt: skip
exercise.right(
    "embedding through one row at a time",
    (("h = F.embedding(tokens, self.A.T, self.padding_idx)  # (..., r); no gradient at padding, as in the base\n        return self.base(tokens) + F.linear(self.scale * h, self.B)",
      "return self.base(tokens) + self.scale * self.A.T[tokens] @ self.B.T"),),
)  # fmt: skip
exercise.right(
    "groups in another order",
    (
        (
            'return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]',
            'return [{"params": [p], "lr": self.lr_ratio * lr} for p in fast] + [{"params": slow, "lr": lr}]',
        ),
    ),
)

exercise.variant(
    "square root",
    (("return self.alpha / (math.sqrt(rank) if self.rslora else rank)  # s", "return self.alpha / (rank if self.rslora else math.sqrt(rank))  # s"),
     ("s = α/r; rsLoRA: s = α/√r", "s = α/√r; with rslora=True: s = α/r"),
     ("        rslora: scale by α/√r, which keeps large ranks from being damped.", "        rslora: scale by α/r instead.")),
    "the scale is α/√r, and with rslora=True it is α/r: the other way round than in the paper",
)  # fmt: skip
exercise.variant(
    "A transposed",
    (("        self.A = nn.Parameter(base.weight.new_empty(rank, into))\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U",
      "        self.A = nn.Parameter(base.weight.new_empty(into, rank))\n        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        nn.init.kaiming_uniform_(self.A.T, a=math.sqrt(5))  # U"),
     (INNER, "h = self.dropout(x) @ self.A  # (..., r)"), (DELTA, "return self.scale * self.B @ self.A.T  # (out, in)"),
     ('"""y = x Wᵀ + b + s·drop(x) Aᵀ Bᵀ in front of a frozen `nn.Linear`."""', '"""y = x Wᵀ + b + s·drop(x) A Bᵀ in front of a frozen `nn.Linear`; here A is stored as (in, r)."""')),
    "LoRALinear stores A as (in, r); its start is as wide as ever",
)  # fmt: skip
exercise.variant(
    "B learns slower",
    (('{"params": fast, "lr": lr * self.lr_ratio}', '{"params": fast, "lr": lr / self.lr_ratio}'),
     ("lr_ratio: LoRA+: B learns this many times faster than A; the paper proposes 16.", "lr_ratio: B learns this many times slower than A.")),
    "B learns lr_ratio times slower than A, not faster",
)  # fmt: skip
