"""LoRA: the layer, its merge, the embedding, the scale, LoRA+."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, linear, numbers, scattered, through_weight, types
from minipeft.methods.lora import LoRALinear
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


def dropped(impl, rank, p, rows=500):
    """What dropout does to rows of one feature each, in turn: (is all of a row's update gone, its size, what is left).

    All as parts of the update in evaluation, which is the fourth.
    """
    made, x = layer(impl, rank=rank, dropout=p).train(), torch.eye(5).repeat(rows // 5, 1)
    update, whole = made(x.clone()) - linear()(x), made.eval()(x.clone()) - linear()(x)
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


def method(impl, **settings):
    return impl.LoRA(**{"rank": 2, "alpha": 6, "targets": ("q", "up", "token"), **settings})


def attached(impl, **settings):
    return method(impl, **settings).attach(Two())


def learning_rates(impl, **settings):
    """{name: learning rates of the groups that it is in} of all that is trained and all that is in a group."""
    made = attached(impl, **settings)
    names = {p: name for name, p in made.named_parameters()}
    found = {name: [] for name in attach.trainable(made)}
    for group in method(impl, **settings).groups(made, 0.5):
        for p in group["params"]:
            found.setdefault(names.get(p, "something else"), []).append(group["lr"])
    return found


@observe("set-up", "The layer should train two parameters, A (r, in) and B (out, r), and nothing else.")
def what_is_trained(impl):
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(impl.LoRALinear(linear(), 2, 3.0)).items()}


@observe("set-up", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe("set-up", "A and B should have the type of the base, whatever it is: 16 bits in front of 16 bits.")
def type_of_the_factors(impl):
    bases = [linear().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [{name: str(p.dtype) for name, p in attach.trainable(impl.LoRALinear(b, 2, 3.0)).items()} for b in bases]


@observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    base = linear()
    return impl.LoRALinear(base, 2, 3.0)(numbers("x", (4, 5))) - base(numbers("x", (4, 5)))


@observe("start", "One of the two factors must start at zero, the other random: how do its numbers lie?")
def spread_of_the_start(impl):
    return {name: spread(p) for name, p in attach.trainable(impl.LoRALinear(linear(100, 80), 8, 1.0)).items()}


@observe(
    "start",
    "In units of 1/√in, the smallest and the largest number that a factor starts with are not the expected ones.",
)
def width_of_the_start(impl):
    made = impl.LoRALinear(linear(100, 80), 8, 1.0)
    ends = {name: (float(p.detach().min()), float(p.detach().max())) for name, p in attach.trainable(made).items()}
    return {name: [round(20 * end * 100**0.5) / 20 for end in both] for name, both in ends.items()}


@observe("start", "Two layers made one after the other start with the same random numbers. Is a seed set?")
def two_layers_differ(impl):
    first, second = (
        [p for name, p in impl.LoRALinear(linear(), 2, 3.0).named_parameters() if not name.startswith("base.")]
        for _ in range(2)
    )
    return {
        "random": any(spread(p) != "all zero" for p in first),
        "different": any(bool((a != b).any()) for a, b in zip(first, second, strict=True)),
    }


@observe("start", "Making a layer sets the seed of all random numbers of the program.")
def random_numbers_go_on(impl):
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.LoRALinear(linear(), 2, 3.0)
        after.append(float(torch.rand(())))
    return after[0] != after[1]


@observe("start", "The first step should reach B and not yet A.")
def where_the_first_gradient_goes(impl):
    made = impl.LoRALinear(linear(), 2, 3.0)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@observe("forward", "The shape of the output is not right.")
def shape(impl):
    return list(layer(impl)(numbers("x", (2, 4, 5))).shape)


@observe("forward", "The update that is added to the base, s·B A x, is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "With another rank and scale the update is not the expected one.")
def update_at_another_scale(impl):
    made, x = layer(impl, rank=3, alpha=2), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("forward", "The frozen path must reach the output, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@observe("forward", "A layer whose base has no bias should work as well.")
def update_without_a_bias(impl):
    base, x = linear(bias=False), numbers("x", (4, 5))
    return fill(impl.LoRALinear(base, 2, 3.0), "trainable").eval()(x) - base(x)


@observe("forward", "Once B is no longer zero, a gradient should reach both A and B.")
def where_gradients_arrive(impl):
    made = layer(impl)
    return arrivals(made, made(numbers("x", (4, 5)).requires_grad_()))


@observe("forward", "The gradients that reach A and B are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5)).requires_grad_()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@observe(
    "forward",
    "The gradient that goes on to the layer below, through the base and through A and B, is not the expected one.",
)
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@observe("forward", "After A and B have changed, the output should follow. Is something kept from before?")
def after_a_change(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return fill(made, "trainable", 0.2)(x) - linear()(x)


@observe("forward", "In front of another LoRA, the layer should add to what comes out below, LoRA included.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0), "trainable", 0.3).requires_grad_(False)
    made, x = fill(impl.LoRALinear(below, 2, 3.0), "trainable").eval(), numbers("x", (4, 5))
    return made(x) - below(x)


@observe("forward", "On a base in 64 or 16 bits the answer, or its type, is not the expected one.")
def bases_of_other_types(impl):
    x = numbers("x", (4, 5))
    return types(
        lambda dtype: impl.LoRALinear(linear().to(dtype), 2, 3.0), lambda made: made(x.to(made.base.weight.dtype))
    )


@observe("forward", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    layer(impl)(x)
    return x - numbers("x", (4, 5))


@observe(
    "forward",
    "A transposed x, whose rows do not lie in memory one behind the other, stops the layer or changes its answer.",
)
def x_scattered_in_memory(impl):
    return scattered(layer(impl))


@observe("forward", "A pass has changed the base, whose numbers every other view of it shares.")
def base_is_left_alone(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x)
    return made.base(x) - linear()(x)


@observe("dropout", "While training, dropout overwrites x itself: other layers that read it find its numbers dropped.")
def input_is_left_alone_by_dropout(impl):
    x = numbers("x", (64, 5))
    layer(impl, dropout=0.5).train()(x)
    return {"x is as it was": bool((x == numbers("x", (64, 5))).all())}


@observe("dropout", "Dropout should act on the input of A while training, and never on the frozen path.")
def nearly_everything_dropped(impl):
    made, x = layer(impl, dropout=0.999).train(), numbers("x", (64, 5))
    update, whole = made(x.clone()) - linear()(x), made.eval()(x.clone()) - linear()(x)
    return {
        "rows without any update": bool((update.abs() < 1e-5).all(1).double().mean() > 0.9),
        "rows with the whole of it": bool(((update - whole).abs() < 1e-5).all(1).double().mean() > 0.9),
        "the whole of it": whole[:4],
    }


@observe(
    "dropout",
    "If x has one feature, dropout on the input of A takes all of the update or nothing. Where does yours act?",
)
def dropout_of_one_feature(impl):
    none, _, off, whole = dropped(impl, 2, 0.5)
    return {"all or nothing": bool((none | (off.abs() < 1e-5).all(1)).all()), "in evaluation": whole}


@observe(
    "dropout", "If x has one feature and r is 1, too, dropout takes all of the update or nothing. Where does yours act?"
)
def dropout_of_one_feature_with_rank_one(impl):
    none, _, off, whole = dropped(impl, 1, 0.5)
    return {"all or nothing": bool((none | (off.abs() < 1e-5).all(1)).all()), "in evaluation": whole}


@observe("dropout", "Each row should be dropped from by itself; yours all lose the same features.")
def rows_are_dropped_from_apart(impl):
    none, _, _, whole = dropped(impl, 2, 0.5)
    none = none.reshape(-1, 5)
    return {"some rows lose what others keep": bool((none.any(0) & ~none.all(0)).any()), "in evaluation": whole}


@observe("dropout", "An input should be dropped with the probability p, the others multiplied by 1/(1 − p).")
def probability_of_dropout(impl):
    none, factor, _, whole = dropped(impl, 2, 0.2, 2000)
    kept = factor[~none]
    return {
        "share that is dropped": round(10 * float(none.double().mean())) / 10,
        "factor of the others": round(float(kept.median()), 2) if len(kept) else None,
        "in evaluation": whole,
    }


@observe("dropout", "In evaluation nothing may be dropped.")
def evaluation(impl):
    made, x = layer(impl, dropout=0.5), numbers("x", (4, 5))
    return made(x) - linear()(x)


@observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "After A and B have changed, ΔW should follow. Is something kept from before?")
def delta_after_a_change(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))), made.delta()
    return fill(made, "trainable", 0.2).delta()


@observe("merge", "What reads the layer's `weight`, W + ΔW, sends A and B other gradients than it should, or none.")
def gradients_through_the_weight(impl):
    return through_weight(layer(impl))


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


@observe("embedding", "The gradients that reach A and B of an embedding are not the expected ones.")
def gradients_of_the_embedding(impl):
    made = table(impl)
    (made(TOKENS) + 0 * made.A.sum()).pow(2).sum().backward()
    return {name: p.grad for name, p in attach.trainable(made).items()}


@observe(
    "embedding",
    "A head that reads the embedding's `weight`, W + ΔW, sends A and B other gradients than it should, or none.",
)
def gradients_through_the_table(impl):
    return through_weight(table(impl))


@observe(
    "embedding", "After A and B have changed, the embedding and its ΔW should follow. Is something kept from before?"
)
def embedding_after_a_change(impl):
    made = table(impl)
    made(TOKENS), made.delta()
    fill(made, "trainable", 0.2)
    return [made(TOKENS) - made.base(TOKENS), made.delta()]


@observe("scale", "The scale s is not what r and α give.")
def scale(impl):
    return [impl.LoRA(rank=r, alpha=a).scale(r) for r, a in ((2, 6), (4, 6), (8, 8))]


@observe("scale", "With rslora=True the scale is not what r and α give.")
def scale_of_rslora(impl):
    return [impl.LoRA(rank=r, alpha=a, rslora=True).scale(r) for r, a in ((2, 6), (16, 8))]


@observe("scale", "Where rank_pattern gives a place another rank, its scale should follow that rank.")
def scale_of_another_rank(impl):
    return impl.LoRA(rank=2, alpha=6, rank_pattern={"up": 3}).scale(3)


@observe(
    "learning rates",
    "Each trained parameter should be in exactly one group, and with LoRA+ B should learn lr_ratio times faster.",
)
def rates(impl):
    return learning_rates(impl, lr_ratio=16)


@observe(
    "learning rates",
    "Where an A is square, or a place has another rank, the learning rates are not right. How do you tell A from B?",
)
def rates_where_shapes_do_not_tell(impl):
    return learning_rates(impl, rank=5, rank_pattern={"up": 2}, lr_ratio=16)
