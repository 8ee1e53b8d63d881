"""LoRA: the layer, its merge, the embedding, the scale, LoRA+."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import arrivals, fill, linear, numbers, types
from minipeft.methods.lora import LoRALinear
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

RANDOM_A = "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)"
FACTORS = (
    "self.A = nn.Parameter(base.weight.new_empty(rank, into))\n"
    "        self.B = nn.Parameter(base.weight.new_zeros(out, rank))\n        " + RANDOM_A
)
SETTINGS = (
    "self.scale, self.dropout = scale, nn.Dropout(dropout) if dropout else nn.Identity()\n\n"
    "    def forward(self, x):  # (..., in)"
)
INNER = "h = F.linear(self.dropout(x), self.A)  # (..., r)"
OUTER = "return self.base(x) + F.linear(h, self.scale * self.B)  # (..., out)"
DELTA = "return self.scale * self.B @ self.A  # (out, in)"
EMBEDDED = "return self.base(tokens) + F.linear(self.scale * h, self.B)  # (..., d)"
DELTA_OF_TABLE = "return self.scale * (self.B @ self.A).T  # (V, d)"
SCALE = "return self.alpha / (math.sqrt(rank) if self.rslora else rank)"
GROUPS = '[{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]'


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


def dropped(impl, rank, p, rows=500):
    """What dropout does to rows of one feature each, in turn: (is all of a row's update gone, its size, what is left).

    All as parts of the update in evaluation, which is the fourth.
    """
    made, x = layer(impl, rank=rank, dropout=p).train(), torch.eye(5).repeat(rows // 5, 1)
    update, whole = made(x) - linear()(x), made.eval()(x) - linear()(x)
    return (update.abs() < 1e-5).all(1), update.norm(dim=1) / whole.norm(dim=1), update - whole / (1 - p), whole[:5]


def spread(factor):
    """How the numbers of a factor lie, in words."""
    values = factor.detach().flatten()
    if not values.any():
        return "all zero"
    if values.min() >= 0 or values.max() <= 0:
        return "all on one side of zero"
    apart = (values - values.mean()).abs().max() / values.std()  # √3 if they are spread evenly
    return "crowded round zero like a bell" if apart > 2.5 else "spread evenly"


def attached(impl, **settings):
    return impl.LoRA(**{"rank": 2, "alpha": 6, "targets": ("q", "up", "token"), **settings}).attach(Two())


@exercise.observe("set-up", "The layer should train two parameters, A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.LoRALinear(linear(), 2, 3.0)).items()}


@exercise.observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("set-up", "A and B should have the type of the base, whatever it is: 16 bits in front of 16 bits.")
def type_of_the_factors(impl):
    bases = [linear().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{name: str(p.dtype) for name, p in attach.trainable(impl.LoRALinear(b, 2, 3.0)).items()} for b in bases]


@exercise.observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.LoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@exercise.observe("start", "One of the two factors must start at zero, the other random: how do its numbers lie?")
def spread_of_the_start(impl):
    return {name: spread(p) for name, p in attach.trainable(impl.LoRALinear(linear(100, 80), 8, 1.0)).items()}


@exercise.observe(
    "start",
    "In units of 1/√in, the smallest and the largest number that a factor starts with are not the expected ones.",
)
def width_of_the_start(impl):
    made = impl.LoRALinear(linear(100, 80), 8, 1.0)
    ends = {name: (float(p.detach().min()), float(p.detach().max())) for name, p in attach.trainable(made).items()}
    return {name: [round(20 * end * 100**0.5) / 20 for end in both] for name, both in ends.items()}


@exercise.observe("start", "Two layers made one after the other start with the same random numbers. Is a seed set?")
def two_layers_differ(impl):
    first, second = (
        [p for name, p in impl.LoRALinear(linear(), 2, 3.0).named_parameters() if not name.startswith("base.")]
        for _ in range(2)
    )
    return {
        "random": any(spread(p) != "all zero" for p in first),
        "different": any(bool((a != b).any()) for a, b in zip(first, second, strict=True)),
    }


@exercise.observe("start", "Making a layer sets the seed of all random numbers of the program.")
def random_numbers_go_on(impl):
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.LoRALinear(linear(), 2, 3.0)
        after.append(float(torch.rand(())))
    return after[0] != after[1]


@exercise.observe("start", "The first step should reach B and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.LoRALinear(linear(), 2, 3.0)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@exercise.observe("forward", "The shape of the output is not right.")
def shape(impl):
    return list(layer(impl)(numbers("x", (2, 4, 5))).shape)


@exercise.observe("forward", "The update that is added to the base, s·B A x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "With another rank and scale the update is not the expected one.")
def update_at_another_scale(impl):
    made, x = layer(impl, rank=3, alpha=2), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@exercise.observe("forward", "A layer whose base has no bias should work as well.")
def update_without_a_bias(impl):
    base, x = linear(bias=False), numbers("x", (4, 5))
    return fill(impl.LoRALinear(base, 2, 3.0), "trainable").eval()(x) - base(x)


@exercise.observe("forward", "Once B is no longer zero, a gradient should reach both A and B.")
def where_gradients_arrive(impl):
    made = layer(impl)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@exercise.observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@exercise.observe(
    "forward",
    "The gradient that goes on to the layer below, through the base and through A and B, is not the expected one.",
)
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@exercise.observe("forward", "After A and B have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x) - linear()(x)


@exercise.observe("forward", "In front of another LoRA, the layer should add to what comes out below, LoRA included.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False)
    made, x = fill(impl.LoRALinear(below, 2, 3.0), "trainable").eval(), numbers("x", (4, 5))
    return made(x) - below(x)


@exercise.observe("forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = numbers("x", (4, 5))
    return types(
        lambda dtype: impl.LoRALinear(linear().to(dtype), 2, 3.0), lambda made: made(x.to(made.base.weight.dtype))
    )


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
        "rows without any update": bool((update.abs() < 1e-5).all(1).double().mean() > 0.9),
        "rows with the whole of it": bool(((update - whole).abs() < 1e-5).all(1).double().mean() > 0.9),
        "the whole of it": whole[:4],
    }


@exercise.observe(
    "dropout",
    "If x has one feature, dropout on the input of A takes all of the update or nothing. Where does yours act?",
)
def dropout_of_one_feature(impl):
    none, _, off, whole = dropped(impl, 2, 0.5)
    return {"all or nothing": bool((none | (off.abs() < 1e-5).all(1)).all()), "in evaluation": whole}


@exercise.observe(
    "dropout", "If x has one feature and r is 1, too, dropout takes all of the update or nothing. Where does yours act?"
)
def dropout_of_one_feature_with_rank_one(impl):
    none, _, off, whole = dropped(impl, 1, 0.5)
    return {"all or nothing": bool((none | (off.abs() < 1e-5).all(1)).all()), "in evaluation": whole}


@exercise.observe("dropout", "Each row should be dropped from by itself; yours all lose the same features.")
def rows_are_dropped_from_apart(impl):
    none, _, _, whole = dropped(impl, 2, 0.5)
    none = none.reshape(-1, 5)
    return {"some rows lose what others keep": bool((none.any(0) & ~none.all(0)).any()), "in evaluation": whole}


@exercise.observe("dropout", "An input should be dropped with the probability p, the others multiplied by 1/(1 − p).")
def probability_of_dropout(impl):
    none, factor, _, whole = dropped(impl, 2, 0.2, 2000)
    kept = factor[~none]
    return {
        "share that is dropped": round(10 * float(none.double().mean())) / 10,
        "factor of the others": round(float(kept.median()), 2) if len(kept) else None,
        "in evaluation": whole,
    }


@exercise.observe("dropout", "In evaluation nothing may be dropped.")
def evaluation(impl):
    made, x = layer(impl, dropout=0.5), numbers("x", (4, 5))
    return made(x) - linear()(x)


@exercise.observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@exercise.observe("merge", "After A and B have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


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


@exercise.observe("embedding", "The gradients that reach A and B of an embedding are not the expected ones.")
def gradients_of_the_embedding(impl):
    made = table(impl)
    (made(TOKENS) + 0 * made.A.sum()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@exercise.observe(
    "embedding", "After A and B have changed, the embedding and its ΔW should follow. Is something kept from before?"
)
def embedding_after_a_change(impl):
    made = table(impl)
    made(TOKENS), made.delta()
    fill(made, "trainable", 0.2)
    return [made(TOKENS) - made.base(TOKENS), made.delta()]


@exercise.observe("scale", "The scale s is not what r and α give.")
def scale(impl):
    return [impl.LoRA(rank=r, alpha=a).scale(r) for r, a in ((2, 6), (4, 6), (8, 8))]


@exercise.observe("scale", "With rslora=True the scale is not what r and α give.")
def scale_of_rslora(impl):
    return [impl.LoRA(rank=r, alpha=a, rslora=True).scale(r) for r, a in ((2, 6), (16, 8))]


@exercise.observe("scale", "Where rank_pattern gives a place another rank, its scale should follow that rank.")
def scale_of_another_rank(impl):
    return impl.LoRA(rank=2, alpha=6, rank_pattern={"up": 3}).scale(3)


@exercise.observe(
    "learning rates",
    "Each parameter that is trained should be in exactly one group, and with LoRA+ B should learn lr_ratio times faster.",
)
def rates(impl):
    made = attached(impl, lr_ratio=16)
    names = {p: name for name, p in made.named_parameters()}
    found = {name: [] for name in attach.trainable(made)}
    for group in impl.LoRA(targets=("q",), lr_ratio=16).groups(made, 0.5):
        for p in group["params"]:
            found.setdefault(names.get(p, "something else"), []).append(group["lr"])
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
    forms=(
        ((OUTER, "return self.base(x) + F.linear(self.scale * h, self.scale * self.B)"),),
        ((DELTA, "return self.scale**2 * self.B @ self.A"),),
        (("self.scale * h, self.B)  # (..., d)", "self.scale * h, self.scale * self.B)"),),
        ((DELTA_OF_TABLE, "return self.scale**2 * (self.B @ self.A).T"),),
    ),
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
    forms=(
        ((RANDOM_A + "\n        " + SETTINGS, RANDOM_A + "\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))\n        " + SETTINGS),),
        ((RANDOM_A + "\n        " + SETTINGS, "nn.init.normal_(self.A)\n        nn.init.normal_(self.B)\n        " + SETTINGS),),
    ),
    any_value=("start", "spread of the start", "width of the start"),
)  # fmt: skip
exercise.mistake(
    "zero and random exchanged",
    (("        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # U(−1/√in, 1/√in)\n",
      "        nn.init.zeros_(self.A)\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))\n"),),
    "A starts at zero and B random, instead of the other way round",
    "which of the two gets a gradient at the first step?",
    "It works too, but the paper, and a checkpoint of the library, start with B at zero.",
    "microsoft/LoRA#98 and #155, about comments that say it the wrong way round",
    any_value=("spread of the start", "width of the start"),
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
    forms=(
        ((DELTA_OF_TABLE, "return (self.B @ self.A).T"),),
        ((EMBEDDED, "return self.base(tokens) + F.linear(h, self.B)"), (DELTA_OF_TABLE, "return (self.B @ self.A).T")),
    ),
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
    forms=(
        ((FACTORS, FACTORS.replace("self.A = nn.Parameter(base.weight.new_empty(rank, into))", 'self.register_buffer("A", base.weight.new_empty(rank, into))')),),
    ),
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

exercise.mistake(
    "Gaussian",
    ((RANDOM_A, "nn.init.normal_(self.A)"),),
    "A is drawn from a Gaussian, where this exercise spreads it evenly",
    "between which two numbers should every number of A lie at the start?",
    "The paper says Gaussian; the authors' code, the library and this exercise use the uniform distribution that `nn.Linear` starts with.",
    "Hu et al. 2021, section 4.1, beside loralib's reset_parameters",
    forms=(((RANDOM_A, "nn.init.normal_(self.A, std=0.02)"),),),
    any_value=("width of the start",),
)  # fmt: skip
exercise.mistake(
    "one-sided",
    ((RANDOM_A, "nn.init.uniform_(self.A, 0, into**-0.5)"),),
    "the numbers of A all have one sign at the start",
    "what is the mean of the numbers that A starts with?",
    "`torch.rand` draws between 0 and 1. The mean of A should be zero, or each row of A adds up x with one sign.",
    any_value=("width of the start",),
)
exercise.mistake(
    "type of its own",
    ((FACTORS, "import torch\n        self.A = nn.Parameter(torch.empty(rank, into))\n        self.B = nn.Parameter(torch.zeros(out, rank))\n        " + RANDOM_A),),
    "A and B are made without asking for the type of the base",
    "which type has `torch.zeros(out, rank)`, and which type has a model in 16 bits?",
    "The formula is right. A tensor made from sizes alone gets torch's default type; think of how it can take over the base's type.",
    forms=(
        ((FACTORS, FACTORS.replace("base.weight.new_empty(rank, into)", "__import__('torch').empty(rank, into)")),),
        ((FACTORS, FACTORS.replace("base.weight.new_zeros(out, rank)", "__import__('torch').zeros(out, rank)")),),
    ),
)  # fmt: skip
exercise.mistake(
    "seed in the layer",
    ((FACTORS, "import torch\n        torch.manual_seed(0)\n        " + FACTORS),),
    "`__init__` sets a seed, so every layer starts with the same A",
    "what do two layers of one model start with, and what becomes of the random numbers that the program draws next?",
    "Whoever runs the experiment sets a seed, once. A layer only draws.",
    forms=(
        ((RANDOM_A, "import torch\n        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))"),),
    ),
)  # fmt: skip
exercise.mistake(
    "delta kept",
    ((OUTER, "return self.base(x) + F.linear(self.dropout(x), self.delta())"),
     (DELTA, 'if "kept" not in vars(self):\n            self.kept = self.scale * self.B @ self.A\n        return self.kept')),
    "ΔW is kept from before, though A and B have changed since",
    "when do A and B change, and when is your ΔW computed?",
    "Every step changes A and B. What is computed once and kept is that of an earlier step.",
    forms=(
        ((DELTA, 'if "kept" not in vars(self):\n            self.kept = self.scale * self.B @ self.A\n        return self.kept'),),
        ((FACTORS, FACTORS + "\n        self.kept = (scale * self.B @ self.A).detach()"), (DELTA, "return self.kept")),
        ((FACTORS, FACTORS + "\n        self.kept = (scale * self.B @ self.A).detach()"), (DELTA, "return self.kept"),
         (OUTER, "return self.base(x) + F.linear(self.dropout(x), self.delta())")),
    ),

)  # fmt: skip
exercise.mistake(
    "factors cut off",
    ((OUTER, "return self.base(x) + F.linear(F.linear(self.dropout(x), self.A.detach()), self.scale * self.B.detach())"),),
    "A and B are cut off from the gradient in forward",
    "what are `layer.A.grad` and `layer.B.grad` after a backward pass?",
    "`.data`, `.detach()`, `torch.no_grad()` and `torch.tensor(…)` give the numbers without their history. A and B are what should learn.",
    forms=(
        ((INNER, "h = F.linear(self.dropout(x), self.A.detach())"),),
        ((OUTER, "return self.base(x) + F.linear(h, self.scale * self.B.detach())"),),
        ((OUTER, "return self.base(x) + F.linear(h, self.scale * self.B).detach()"),),
        ((OUTER, "return self.base(x) + F.linear(h.detach(), self.scale * self.B)"),),
        ((OUTER, "return (self.base(x) + F.linear(h, self.scale * self.B)).detach()"),),
    ),
)  # fmt: skip
exercise.mistake(
    "input cut off",
    ((INNER, "h = F.linear(self.dropout(x.detach()), self.A)"),),
    "x is cut off from the gradient, so the layer below does not learn through A and B",
    "by which ways does a change of x reach the output, and does a gradient come back on each of them?",
    "Frozen means that a weight is not trained. The gradient still has to pass through it, and through A and B, to the layer below.",
    forms=(
        ((OUTER, "return self.base(x).detach() + F.linear(h, self.scale * self.B)"),),
        ((OUTER, "return self.base(x.detach()) + F.linear(h, self.scale * self.B)"),),
        ((INNER, "x = x.detach()\n        h = F.linear(self.dropout(x), self.A)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "dropout after A",
    ((INNER, "h = self.dropout(F.linear(x, self.A))"),),
    "dropout acts between A and B, on the r numbers of h",
    "which vector loses some of its numbers: x, h, or the update?",
    "Dropout belongs before A. There it has in numbers to choose from; between A and B it has only r, and with r = 1 it drops all or nothing.",
)  # fmt: skip
exercise.mistake(
    "dropout on the update",
    ((INNER, "h = F.linear(x, self.A)"), (OUTER, "return self.base(x) + self.dropout(F.linear(h, self.scale * self.B))")),
    "dropout acts on the finished update, after B",
    "which vector loses some of its numbers: x, h, or the update?",
    "Dropout belongs before A, on what the two factors read.",
)  # fmt: skip
exercise.mistake(
    "dropout on the output",
    ((INNER, "h = F.linear(x, self.A)"), (OUTER, "return self.dropout(self.base(x) + F.linear(h, self.scale * self.B))")),
    "dropout acts on the whole output, the frozen path's included",
    "what does the base's part of the output lose while training?",
    "Dropout belongs before A, and the frozen path stays as it is.",
)  # fmt: skip
exercise.mistake(
    "probability to keep",
    ((SETTINGS, SETTINGS.replace("nn.Dropout(dropout)", "nn.Dropout(1 - dropout)")),),
    "dropout is taken for the probability to keep an input",
    "with dropout=0.1, how many of ten inputs are dropped, on average?",
    "In PyTorch, p is the probability that a number is dropped, not that it stays.",
)  # fmt: skip
exercise.mistake(
    "not made larger",
    ((INNER, "p = getattr(self.dropout, 'p', 0.0) if self.training else 0.0\n        h = F.linear(self.dropout(x) * (1 - p), self.A)"),),
    "the inputs that dropout leaves are not multiplied by 1/(1 − p)",
    "what is the mean of the update while training, compared with its mean in evaluation?",
    "What is left has to make up for what is dropped; `nn.Dropout` does so.",
)  # fmt: skip
exercise.mistake(
    "update in training only",
    ((OUTER, "return self.base(x) + F.linear(h, self.scale * self.B) if self.training else self.base(x)"),),
    "in evaluation the layer answers as the base alone, as if it had been merged",
    "who has put ΔW into the weight before your layer is asked in evaluation?",
    "Merging makes another module; this layer always adds its update.",
    "loralib merges on .eval(); here nothing does",
)  # fmt: skip
exercise.mistake(
    "bottom of the base",
    ((OUTER, "return F.linear(x, bottom(self.base).weight, bottom(self.base).bias) + F.linear(h, self.scale * self.B)"),),
    "where the layer is stacked on another method, what that one has learned is left out",
    "what is `self.base` if a LoRA stands there already, and what does it answer?",
    "Ask the base for its output, whatever it is; do not look further down.",
)  # fmt: skip
exercise.mistake(
    "bias left out",
    ((OUTER, "return F.linear(x, self.base.weight) + F.linear(h, self.scale * self.B)"),),
    "the bias of the frozen layer is lost",
    "what does your layer answer to a row of zeros, and what does the base answer?",
    "Who multiplies by the base's weight has to bring its bias along; the base itself does both.",
    forms=(
        ((OUTER, "return F.linear(x, self.base.weight + self.delta())"),),
        ((OUTER, "return F.linear(x, self.weight)"),),
    ),
)  # fmt: skip
exercise.mistake(
    "bias twice",
    ((OUTER, "return self.base(x) + F.linear(h, self.scale * self.B, self.base.bias)"),),
    "the bias is added on both paths",
    "what does the layer answer to a row of zeros?",
    "The frozen layer has added its bias already; the update has none.",
    forms=(((OUTER, "return self.base(x) + F.linear(h, self.scale * self.B) + (0 if self.base.bias is None else self.base.bias)"),),),
)  # fmt: skip
exercise.mistake(
    "bias taken for granted",
    ((OUTER, "return x @ self.base.weight.T + self.base.bias + F.linear(h, self.scale * self.B)"),),
    "a layer without a bias is not thought of",
    "what is `base.bias` in a model whose projections have none, like T5 or Llama?",
    "The base knows whether it has a bias; ask it for its output.",
)  # fmt: skip
exercise.mistake(
    "sizes exchanged",
    (("out, into = base.weight.shape\n", "into, out = base.weight.shape\n"),),
    "the shape of the weight is read as (in, out), which makes A and B of each other's size",
    "which of its two sizes does `nn.Linear`'s weight have first?",
    "A square layer hides this. The weight is stored as (out, in), one row for each output.",
)
exercise.mistake(
    "A before B",
    ((DELTA, "return self.scale * self.A @ self.B"),),
    "ΔW multiplies the factors in the wrong order",
    "in which order does x meet A and B, and which shapes have A B and B A?",
    "ΔW has the shape (out, in). Its factor on the left gives it its rows, its factor on the right its columns.",
    forms=(((DELTA_OF_TABLE, "return self.scale * (self.A @ self.B).T"),),),
)
exercise.mistake(
    "embedding without its table",
    ((EMBEDDED, "return F.linear(self.scale * h, self.B)"),),
    "the frozen table is missing: only the update of the embedding comes out",
    "what does your embedding answer when A is zero?",
    "The update is added to the row that the base looks up, it does not replace it.",
)
exercise.mistake(
    "embedding cut off",
    ((EMBEDDED, "return self.base(tokens) + F.linear(self.scale * h, self.B).detach()"),),
    "A and B of the embedding are cut off from the gradient",
    "what are `A.grad` and `B.grad` after a backward pass through the embedding?",
    "`.data`, `.detach()` and `torch.no_grad()` give the numbers without their history. A and B are what should learn.",
    forms=(
        ((EMBEDDED, "return self.base(tokens) + F.linear(self.scale * h.detach(), self.B)"),),
        ((EMBEDDED, "return self.base(tokens) + F.linear(self.scale * h, self.B.detach())"),),
    ),
)  # fmt: skip
exercise.mistake(
    "embedding's delta kept",
    ((DELTA_OF_TABLE, 'if "kept" not in vars(self):\n            self.kept = self.scale * (self.B @ self.A).T\n        return self.kept'),),
    "ΔW of the embedding is kept from before, though A and B have changed since",
    "when do A and B change, and when is your ΔW computed?",
    "Every step changes A and B. What is computed once and kept is that of an earlier step.",
    forms=(
        ((DELTA_OF_TABLE, 'if "kept" not in vars(self):\n            self.kept = self.scale * (self.B @ self.A).T\n        return self.kept'),
         (EMBEDDED, "return self.base(tokens) + self.delta()[tokens]")),
    ),
)  # fmt: skip
exercise.mistake(
    "root for all",
    ((SCALE, "return self.alpha / math.sqrt(rank)"),),
    "the scale is α/√r whether rslora is asked for or not",
    "what does LoRA divide α by, and what rsLoRA?",
    "The root is rsLoRA's; without it, s falls as fast as r grows.",
)
exercise.mistake(
    "ratio for all",
    ((GROUPS, '[{"params": slow + fast, "lr": lr * self.lr_ratio}]'),),
    "every parameter learns lr_ratio times faster, A too",
    "which learning rate should A have?",
    "LoRA+ is about the ratio of two learning rates; one of the two stays.",
)
exercise.mistake(
    "ratio ignored",
    ((GROUPS, '[{"params": slow + fast, "lr": lr}]'),),
    "lr_ratio changes nothing",
    "which learning rate should B have, if lr_ratio is 16?",
    "Two learning rates need two groups.",
)
exercise.mistake(
    "B slower",
    ((GROUPS, '[{"params": slow, "lr": lr}, {"params": fast, "lr": lr / self.lr_ratio}]'),),
    "B learns lr_ratio times slower",
    "which of the two starts at zero and has a way to go?",
    "LoRA+ speeds up B.",
)
exercise.mistake(
    "one mask",
    ((INNER, "h = F.linear(x, self.A * self.dropout(self.A.new_ones(1, self.A.shape[1])))"),),
    "dropout draws one mask for all rows, as if it dropped columns of A",
    "do two rows of a batch lose the same features?",
    "Dropout on x draws for each number of x; one mask for the whole batch makes the gradient noisier.",
    "minLoRA, whose dropout acts on the weight",
)  # fmt: skip
exercise.mistake(
    "whole numbers",
    ((SCALE, "return self.alpha // (math.sqrt(rank) if self.rslora else rank)"),),
    "the scale is rounded to a whole number",
    "what is s for r = 4 and α = 6?",
    "`//` and `int` cut off what stands behind the point; if α is smaller than r, nothing is left.",
    forms=(((SCALE, "return self.alpha / math.sqrt(rank) if self.rslora else self.alpha // rank"),),),
)  # fmt: skip
exercise.mistake(
    "frozen ones too",
    (("slow = [p for name, p in trainable(model).items() if", "slow = [p for name, p in model.named_parameters() if"),),
    "frozen parameters are in a group too",
    "which parameters of the model does training change?",
    "Weight decay, or a state for each parameter, costs something even where no gradient comes.",
)  # fmt: skip
exercise.mistake(
    "B in two groups",
    ((GROUPS, '[{"params": slow + fast, "lr": lr}, {"params": fast, "lr": lr * self.lr_ratio}]'),),
    "B is in more than one group",
    "how often does each parameter appear in your groups?",
    "An optimizer refuses a parameter that is there twice; take B out of the other group.",
)  # fmt: skip
exercise.mistake(
    "stored transposed",
    ((FACTORS, "self.A = nn.Parameter(base.weight.new_empty(into, rank).uniform_(-(into**-0.5), into**-0.5))\n        self.B = nn.Parameter(base.weight.new_zeros(rank, out))"),
     (INNER, "h = self.dropout(x) @ self.A"), (OUTER, "return self.base(x) + h @ self.B * self.scale"), (DELTA, "return self.scale * (self.A @ self.B).T")),
    "A and B are stored transposed, as (in, r) and (r, out)",
    "which shapes do the names A (r, in) and B (out, r) promise to a checkpoint?",
    "The layer works, but others who read a stored A expect it as `nn.Linear` stores its weight: (out, in) of its own product.",
    forms=(
        ((FACTORS, "self.A = nn.Parameter(base.weight.new_empty(into, rank))\n        self.B = nn.Parameter(base.weight.new_zeros(rank, out))\n        " + RANDOM_A),
         (INNER, "h = self.dropout(x) @ self.A"), (OUTER, "return self.base(x) + h @ self.B * self.scale"), (DELTA, "return self.scale * (self.A @ self.B).T")),
    ),
)  # fmt: skip
exercise.mistake(
    "A is frozen",
    ((FACTORS, FACTORS.replace("new_empty(rank, into)", "new_empty(rank, into), requires_grad=False")),),
    "A is frozen: only B is trained",
    "what does the first step do to A, and what do the later ones do?",
    "A has no gradient at the very first step only. After that both factors learn.",
    "that is another method, LoRA-FA",
)  # fmt: skip
exercise.mistake(
    "computed in 32 bits",
    ((OUTER, "return self.base(x).float() + F.linear(F.linear(self.dropout(x).float(), self.A.float()), self.scale * self.B.float())"),),
    "the update is computed, and left, in 32 bits",
    "which type should the output have, if x has 16 or 64 bits?",
    "The next layer expects the type that the model has.",
    any_value=("start", "merged", "merged model"),
)  # fmt: skip
exercise.mistake(
    "update of the start",
    ((OUTER, "return self.base(x) + F.linear(h.detach(), 0 * self.B.detach())"),),
    "the update stays what it was when the layer was made: zero, kept from before A and B have changed",
    "when do A and B change, and when is your product computed?",
    "`__init__` runs once, before training. The product has to be made in each pass, from A and B as they are then.",
    forms=(((OUTER, "return self.base(x)"),),),
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
      "import torch\n        self.B = nn.Parameter(torch.zeros(out, rank).to(base.weight))\n        bound = into**-0.5\n        self.A = nn.Parameter((torch.rand(rank, into) * 2 * bound - bound).to(base.weight))  # U"),),
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
