"""Bottleneck adapters: the thin MLP, its start, and the places of Houlsby, Pfeiffer and the parallel adapter."""

import math
from functools import lru_cache
from types import SimpleNamespace

import torch
from torch import nn

from minipeft import attach, deltas
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import arrivals, fill, numbers, short, types, usual_type

observe = Observations()

WIDTH, SIZE = 4, 2


class Sublayer(nn.Module):
    """Stands for attention or an MLP: what it puts out depends on everything that it is given."""

    def __init__(self, name="F"):
        super().__init__()
        self.W = nn.Parameter(numbers(name, (WIDTH, WIDTH)), requires_grad=False)

    def forward(self, x, mask=None, cache=None):
        y = x @ self.W
        for given in (mask, cache):
            y = y if given is None else y + given
        return y


class Block(nn.Module):
    """A Transformer block as small as it can be, with everything random."""

    def __init__(self, pre_norm):
        super().__init__()
        self.attn, self.mlp, self.pre_norm = Sublayer("attention"), Sublayer("MLP"), pre_norm
        self.norm1, self.norm2 = norm(), norm()

    def forward(self, x):
        if self.pre_norm:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Stack(nn.Module):
    """Such blocks, and a norm behind them where they begin with theirs.

    Whether it calls itself causal says nothing about where the norms stand: here it says the opposite.
    """

    def __init__(self, pre_norm=True, layers=1):
        super().__init__()
        self.config = SimpleNamespace(pre_norm=pre_norm, causal=not pre_norm)
        self.blocks = nn.ModuleList(Block(pre_norm) for _ in range(layers))
        self.norm = norm() if pre_norm else nn.Identity()

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def shape(p):
    return str(tuple(p.shape))


def x():
    return numbers("x", (2, 3, WIDTH))


@lru_cache(maxsize=4)
def adapter(impl, act=nn.GELU):
    """An adapter far from its start."""
    return fill(impl.Bottleneck(torch.ones(WIDTH), SIZE, act()), "trainable")


def width(p):
    """The standard deviation of random weights, one of 0.01, 0.02, 0.05, 0.1, …: so it depends on no single draw."""
    if not p.any():
        return "0"
    steps = [float(f"{digit}e{power}") for power in range(-6, 6) for digit in (1, 2, 5)]
    return f"about {min(steps, key=lambda step: abs(math.log(step / p.std().item()))):g}"


def norm():
    return fill(nn.LayerNorm(WIDTH), scale=1.0).requires_grad_(False)


def whole(method, model=None):
    """What a model trains, what its adapters answer by themselves, and what it puts out."""
    made = fill(method.attach(model or Stack()), "trainable")
    places = {name: shape(p) for name, p in attach.trainable(made).items()}
    each = [m.adapter(x()) for m in made.modules() if isinstance(m, attach.Wrapper)]
    return {"trained": places, "an adapter alone": each, "output": made(x())}


def reached(made, h):
    """{name: does a gradient arrive?} of everything that is trained and of the input."""
    h = h.requires_grad_()
    return arrivals(made, made(h) + 0 * h.sum()) | {"input": bool(h.grad.any())}


def of_each_type(method, pre_norm=True):
    """How a method takes models of other types."""

    def run(made):
        return made(x().to(made.blocks[0].mlp.W.dtype))

    return types(lambda dtype: method.attach(Stack(pre_norm).to(dtype)), run)


def alike(make):
    """Do two that are made one after the other start with the same numbers, and does making one set a seed?"""
    one, two = ([p for p in make().parameters() if p.ndim > 1 and p.any() and p.requires_grad] for _ in "ab")
    drawn = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        make()
        drawn.append(torch.rand(3))
    return {
        "two start alike": any(p.equal(q) for p, q in zip(one, two, strict=True)),
        "a seed is set": bool(drawn[0].equal(drawn[1])),
    }


@observe("bottleneck", "An adapter should be two linear layers, D (d to m) and U (m to d), each with its bias.")
def parameters_of_an_adapter(impl):
    return {name: shape(p) for name, p in impl.Bottleneck(torch.ones(6), 2, nn.GELU()).named_parameters()}


@observe(
    "bottleneck", "The weights do not start as wide or are not cut off as the docstring says, or a bias is not zero."
)
def start_of_an_adapter(impl):
    made = impl.Bottleneck(torch.ones(60), 20, nn.GELU())
    return {
        name: {"zero": not p.any()}
        if p.ndim == 1
        else {"standard deviation": width(p), "reaches beyond 0.0201": bool(p.abs().max() > 0.0201)}
        for name, p in made.named_parameters()
    }


@observe("bottleneck", "The random weights should lie around zero: some far below it, some far above, none on average.")
def ends_of_the_start(impl):
    made = impl.Bottleneck(torch.ones(60), 20, nn.GELU())
    return {
        name: {
            "below −0.0175": bool(p.min() < -0.0175),
            "above 0.0175": bool(p.max() > 0.0175),
            "mean far from zero": bool(p.mean().abs() > 0.1 * p.std()),
            "standard deviation above 0.0101": bool(p.std() > 0.0101),
        }
        for name, p in made.named_parameters()
        if p.ndim > 1
    }


@observe("bottleneck", "Two adapters should start with different random numbers, and no seed should be set.")
def two_adapters(impl):
    return alike(lambda: impl.Bottleneck(torch.ones(6), 4, nn.GELU()))


@observe("bottleneck", "The new weights should have the type of `like`, which is that of the model.")
def type_of_the_weights(impl):
    like = torch.ones(6, dtype=torch.bfloat16)
    with usual_type():
        made = impl.Bottleneck(like, 2, nn.GELU())
    return {name: short(p.dtype) for name, p in made.named_parameters()}


@observe("bottleneck", "In training and in evaluation an adapter should answer the same: it drops nothing out.")
def in_training_and_in_evaluation(impl):
    made = adapter.__wrapped__(impl)
    return {"the same": bool(made.train()(x()).equal(made.eval()(x())))}


@observe("bottleneck", "A(h) is not what the equation says.")
def answer_of_an_adapter(impl):
    return adapter(impl)(x())


@observe("bottleneck", "With another φ, handed in as `act`, A(h) is not what the equation says.")
def answer_with_another_act(impl):
    return adapter(impl, nn.Tanh)(x())


@observe("bottleneck", "A gradient should reach D, U and both biases, and pass to the input.")
def gradients_of_an_adapter(impl):
    return reached(adapter.__wrapped__(impl), x())


@observe("behind a sublayer", "The layer should put out f + A(f), where f is what the frozen module puts out.")
def behind(impl):
    return impl.SequentialAdapter(Sublayer(), adapter(impl))(x())


@observe("behind a sublayer", "A mask or a cache that the layer is given has to reach the frozen module.")
def the_other_arguments(impl):
    made, mask, cache = (
        impl.SequentialAdapter(Sublayer(), adapter(impl)),
        numbers("mask", (3, 1)),
        numbers("cache", (3, 4)),
    )
    return {"with a mask": made(x(), mask), "with a cache": made(x(), None, cache), "with both": made(x(), mask, cache)}


@observe("behind a sublayer", "The start should be near the base: the output may hardly differ from the base's.")
def near_the_base(impl):
    moved = impl.SequentialAdapter(Sublayer(), impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.GELU()))(x()) - Sublayer()(
        x()
    )
    return {"moves by more than 0.01": bool(moved.abs().max() > 0.01)}


@observe("behind a sublayer", "The gradient has to flow back through the frozen module, to what learns below.")
def gradient_below(impl):
    below = x().requires_grad_()
    impl.SequentialAdapter(Sublayer(), adapter(impl))(below).pow(2).sum().backward()
    return below.grad


@observe("behind a norm", "SequentialAdapterInNorm should put out LN(s + A(LN(s))), with the same LN both times.")
def behind_a_norm(impl):
    return impl.SequentialAdapterInNorm(norm(), adapter(impl))(x())


@observe("behind a norm", "An adapter that answers zero should leave the block as it was.")
def behind_a_norm_with_nothing_to_say(impl):
    silent = impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.ReLU())
    for p in silent.parameters():
        p.data.zero_()
    layer = norm()
    return impl.SequentialAdapterInNorm(layer, silent)(x()) - layer(x())


@observe("behind a norm", "The gradients of s, D and U behind a norm are not the expected ones.")
def gradients_behind_a_norm(impl):
    made, below = impl.SequentialAdapterInNorm(norm(), adapter.__wrapped__(impl)), x().requires_grad_()
    made(1 * below).pow(3).sum().backward()
    return {"s": below.grad} | {name: p.grad for name, p in made.adapter.named_parameters()}


@observe("behind a norm", "The input is changed in place.")
def input_is_left_alone(impl):
    given = x()
    impl.SequentialAdapterInNorm(norm(), adapter(impl))(given)
    return given - x()


def beside(impl, scale=3.0):
    return impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(WIDTH), SIZE, nn.ReLU()), scale)


@observe("beside the MLP", "Only the adapter should be trained: s is a number that is chosen.")
def what_is_trained_beside(impl):
    return {name: shape(p) for name, p in attach.trainable(beside(impl)).items()}


@observe("beside the MLP", "At the start a parallel adapter must change nothing.")
def start_beside(impl):
    return beside(impl)(x()) - Sublayer()(x())


@observe(
    "beside the MLP",
    "D, U or a bias does not start as it should: just one of the four is random, with a width of 1/√d.",
)
def width_of_the_start_beside(impl):
    made = impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(225), 8, nn.ReLU()), 3.0)
    size = {name: float(p.detach().abs().max()) for name, p in made.adapter.named_parameters()}
    return {name: round(20 * top * 225**0.5) / 20 for name, top in size.items()}  # in units of 1/√d


@observe(
    "beside the MLP", "D should start evenly spread between −1/√d and 1/√d; these are its ends and spread, times √d."
)
def ends_of_the_start_beside(impl):
    D = impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(225), 8, nn.ReLU()), 3.0).adapter.D.weight
    return {
        "smallest": round(20 * float(D.min()) * 225**0.5) / 20,
        "largest": round(20 * float(D.max()) * 225**0.5) / 20,
        "standard deviation": round(10 * float(D.std()) * 225**0.5) / 10,
        "mean far from zero": bool(D.mean().abs() > 0.1 * D.std()),
    }


@observe("beside the MLP", "Whatever its width, D should start evenly spread (uniform), not thicker around zero.")
def shape_of_the_start_beside(impl):
    D = impl.ParallelAdapterLayer(Sublayer(), impl.Bottleneck(torch.ones(225), 8, nn.ReLU()), 3.0).adapter.D.weight
    return {"thicker around zero": bool(D.abs().max() > 1.9 * D.pow(2).mean().sqrt())}  # √3 if it is uniform


@observe("beside the MLP", "Two layers should start with different random numbers, and no seed should be set.")
def two_layers_beside(impl):
    return alike(lambda: beside(impl))


@observe("beside the MLP", "The first step should reach U and its bias, and not yet D.")
def where_the_first_gradient_goes(impl):
    made = beside(impl)
    made(x()).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in made.adapter.named_parameters()}


@observe("beside the MLP", "What the layer adds to F(x) is not s·A(x).")
def what_is_added_beside(impl):
    return fill(beside(impl), "trainable")(x()) - Sublayer()(x())


@observe("beside the MLP", "The gradient has to flow back through the MLP and through the adapter beside it.")
def gradient_below_beside(impl):
    below = x().requires_grad_()
    fill(beside(impl), "trainable")(below).pow(2).sum().backward()
    return below.grad


@observe("beside the MLP", "In a pre-norm block ParallelAdapter should give x + f + s·A(n), n = LN(x).")
def parallel_adapters(impl):
    return whole(impl.ParallelAdapter(SIZE, 2.5))


@observe("Houlsby", "In a pre-norm block Houlsby should train two adapters: x + f + A(f), φ = GELU.")
def Houlsby_in_a_pre_norm_block(impl):
    return whole(impl.Houlsby(SIZE, norms=False))


@observe("Houlsby", "In a post-norm block Houlsby should train two adapters: LN(x + f + A(f)), φ = GELU.")
def Houlsby_in_a_post_norm_block(impl):
    return whole(impl.Houlsby(SIZE, norms=False), Stack(pre_norm=False))


@observe("Houlsby", "A gradient should reach every adapter and every LayerNorm, and the input.")
def arriving_gradients(impl):
    return reached(fill(impl.Houlsby(SIZE).attach(Stack(layers=2)), "trainable"), x())


@observe("Houlsby", "In a model of another type, what is trained or the answer does not have the model's type.")
def types_with_Houlsby(impl):
    return of_each_type(impl.Houlsby(SIZE))


@observe(
    "Houlsby", "All LayerNorms should learn, starting from the base's values; the base itself should stay as it is."
)
def norms_that_learn(impl):
    made = Stack()
    base = {name: p.clone() for name, p in made.named_parameters()}
    learned = {name: p for name, p in attach.trainable(impl.Houlsby(SIZE).attach(made)).items() if "norm" in name}
    start = {name: p - base[name] for name, p in learned.items()}
    for p in learned.values():
        p.data += 1
    after = {name: p - base[name] for name, p in made.named_parameters()}
    return {"change before training": start, "change of the base after training": after}


@observe("Houlsby", "What a delta would keep of Houlsby is not what was trained.")
def what_is_stored(impl):
    return {name: shape(p) for name, p in deltas.trained(impl.Houlsby(SIZE).attach(Stack())).items()}


@observe(
    "Pfeiffer", "In pre-norm blocks Pfeiffer should train an adapter around each: y + A(y), y its output, φ = ReLU."
)
def Pfeiffer_in_pre_norm_blocks(impl):
    return whole(impl.Pfeiffer(SIZE), Stack(layers=2))


@observe(
    "Pfeiffer", "In a post-norm block Pfeiffer should train one adapter at the last norm: LN(s + A(LN(s))), s = x + f."
)
def Pfeiffer_in_a_post_norm_block(impl):
    return whole(impl.Pfeiffer(SIZE), Stack(pre_norm=False))


@observe("Pfeiffer", "A gradient should reach every adapter, and the input.")
def arriving_gradients_with_Pfeiffer(impl):
    return {
        name: reached(fill(impl.Pfeiffer(SIZE).attach(Stack(pre)), "trainable"), x())
        for name, pre in (("pre-norm", True), ("post-norm", False))
    }


@observe("Pfeiffer", "In a model of another type, the adapters or the answer do not have the model's type.")
def types_with_Pfeiffer(impl):
    return of_each_type(impl.Pfeiffer(SIZE), pre_norm=False)


@observe("Pfeiffer", "On a view that has adapters already, Pfeiffer should add to what they answer.")
def Pfeiffer_on_Pfeiffer(impl):
    below = fill(impl.Pfeiffer(SIZE).attach(Stack()), "trainable", 0.3)
    return whole(impl.Pfeiffer(SIZE), below)["output"]
