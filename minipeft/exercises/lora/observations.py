"""LoRA: the layer, its merge, the embedding, the scale, LoRA+."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers
from minipeft.views import merge

observe = Observations()


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


@observe("set-up", "The layer should train two parameters, A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: list(p.shape) for name, p in attach.trainable(impl.LoRALinear(linear(), 2, 3.0)).items()}


@observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.LoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@observe("start", "One of the two factors must start at zero, the other must not: which, and how wide is it?")
def width_of_the_start(impl):
    made = impl.LoRALinear(linear(400, 4), 8, 1.0)
    size = {name: float(p.detach().abs().max()) for name, p in attach.trainable(made).items()}
    return {name: round(20 * top * 400**0.5) / 20 for name, top in size.items()}  # in units of 1/√in


@observe("start", "The first step should reach B and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.LoRALinear(linear(), 2, 3.0)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@observe("forward", "The shape of the output is not right.")
def shape(impl):
    return list(layer(impl)(numbers("x", (2, 4, 5))).shape)


@observe("forward", "The update that is added to the base, s·B A x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "With another rank and scale the update is not the expected one.")
def update_at_another_scale(impl):
    made, x = layer(impl, rank=3, alpha=3), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@observe("forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    layer(impl)(x)
    return x - numbers("x", (4, 5))


@observe("forward", "A pass has changed the base, whose numbers every other view of it shares.")
def base_is_left_alone(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return made.base(x) - linear()(x)


@observe("dropout", "Dropout should act on the input of A while training, and never on the frozen path.")
def nearly_everything_dropped(impl):
    made, x = layer(impl, dropout=0.999).train(), numbers("x", (64, 5))
    update, whole = made(x) - linear()(x), made.eval()(x) - linear()(x)
    return {
        "rows without any update": bool((update.abs() < 1e-9).all(1).double().mean() > 0.9),
        "rows with the whole of it": bool(((update - whole).abs() < 1e-9).all(1).double().mean() > 0.9),
    }


@observe("dropout", "In evaluation nothing may be dropped.")
def evaluation(impl):
    made, x = layer(impl, dropout=0.5), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "A merged model should answer as the view did, and the view should go on answering so.")
def merged_model(impl):
    view = fill(attached(impl, targets=("q", "up")), "trainable")
    before = view(TOKENS)
    return [merge(view)(TOKENS) - before, view(TOKENS) - before]


@observe("embedding", "The update of the embedded tokens is not the expected one.")
def embedded(impl):
    made = table(impl)
    return made(TOKENS) - made.base(TOKENS)


@observe("embedding", "ΔW of an embedding should have its shape, (V, d), and be what the forward pass adds.")
def delta_of_the_embedding(impl):
    made = table(impl)
    return [made.delta(), made.merged()(TOKENS) - made(TOKENS)]


@observe("scale", "The scale s is not what r and α give.")
def scale(impl):
    return [impl.LoRA(rank=r, alpha=a).scale(r) for r, a in ((2, 6), (4, 8), (8, 8))]


@observe("scale", "With rslora=True the scale is not what r and α give.")
def scale_of_rslora(impl):
    return [impl.LoRA(rank=r, alpha=a, rslora=True).scale(r) for r, a in ((4, 6), (16, 8))]


@observe("scale", "Where rank_pattern gives a place another rank, its scale should follow that rank.")
def scale_of_another_rank(impl):
    return impl.LoRA(rank=2, alpha=6, rank_pattern={"up": 3}).scale(3)


@observe(
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
