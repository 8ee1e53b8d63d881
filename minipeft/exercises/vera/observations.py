"""VeRA: the shared random pair, the layer around it, its merge, and who shares what in a model."""

import math

import torch
from torch import nn

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import fill, linear, numbers
from minipeft.methods.lora import LoRALinear

observe = Observations()


def pair(impl, rank=2, into=5, out=3, seed=0):
    """A and B with numbers that do not depend on how they were drawn."""
    made = impl.Shared(rank, into, out, seed).to(torch.get_default_dtype())
    with torch.no_grad():
        for name in ("A", "B"):
            matrix = getattr(made, name)
            matrix.copy_(numbers(name, matrix.shape))
    return made


def layer(impl, base=None, **sizes):
    """A VeRALinear far from its start, with in ≠ out ≠ r and a bias; A and B are as large as the layer, or larger."""
    return fill(impl.VeRALinear(base or linear(), pair(impl, **sizes), 0.3), "trainable")


class Wide(nn.Module):
    """Two layers of different widths: the one has the more inputs, the other the more outputs."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(3, 5)
        fill(self)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def attached(impl, **settings):
    return impl.VeRA(**{"rank": 4, "targets": ("one", "two"), "seed": 3, **settings}).attach(Wide())


def layers(made):
    return list(attach.attachments(made)[0].layers.values())


@observe("random pair", "A should be (r, in) and B (out, r).")
def shapes_of_the_pair(impl):
    made = impl.Shared(2, 5, 3, 0)
    return {name: str(tuple(getattr(made, name).shape)) for name in "AB"}


@observe(
    "random pair", "A or B does not have the width that the docstring gives; the numbers are widths times √fan_in."
)
def width_of_the_pair(impl):
    made = impl.Shared(30, 200, 70, 0)
    return {
        name: round(20 * float(matrix.abs().max()) * fan**0.5) / 20
        for name, matrix, fan in (("A", made.A, 200), ("B", made.B, 30))
    }


@observe(
    "random pair",
    "A and B should be uniform, on both sides of zero; the numbers are in units of the docstring's bound.",
)
def ends_of_the_pair(impl):
    made, found = impl.Shared(30, 200, 70, 0), {}
    for name, matrix, fan in (("A", made.A, 200), ("B", made.B, 30)):
        m = matrix.double() * (fan / 6) ** 0.5
        mean, variance = float(m.mean()), float(m.var())
        found[name] = {
            "lowest": round(20 * float(m.min())) / 20,
            "mean": round(4 * mean) / 4,
            "standard deviation, in quarters of an octave": round(4 * math.log2((3 * variance) ** 0.5 + 1e-9)),
            "is Gaussian": bool((m - mean).pow(4).mean() > 2.4 * variance**2),  # 3 there, 1.8 where it is uniform
        }
    return found


@observe("random pair", "A and B should be two draws: here, number by number, B repeats those of A.")
def B_is_not_A_again(impl):
    made = impl.Shared(30, 40, 50, 11)  # not the seed that every observation starts with
    both = torch.stack([made.A.flatten()[:1200], made.B.flatten()[:1200]])
    return {"B repeats A": bool(both.corrcoef()[0, 1].abs() > 0.5)}


@observe("random pair", "The same seed should give the same A and B, whatever else has drawn numbers.")
def same_seed(impl):
    one = impl.Shared(3, 5, 4, 7)
    torch.rand(5)
    other = impl.Shared(3, 5, 4, 7)
    return {f"the same {name}": bool((getattr(one, name) == getattr(other, name)).all()) for name in "AB"}


@observe("random pair", "A and B should be drawn in 32 bits; then a seed means the same under any default type.")
def same_seed_under_another_default_type(impl):
    one = impl.Shared(3, 5, 4, 7)
    torch.set_default_dtype(torch.float32)
    other = impl.Shared(3, 5, 4, 7)
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in "AB"}
    return {
        "the same as under float32": {name: torch.allclose(a.float(), b.float()) for name, (a, b) in pairs.items()},
        "have 32 bits": {name: bool((a.float() == a).all()) for name, (a, _) in pairs.items()},
    }


@observe("random pair", "Another seed should give another A and another B.")
def another_seed(impl):
    one, other = impl.Shared(3, 5, 4, 7), impl.Shared(3, 5, 4, 8)
    return [float((one.A - other.A).abs().max()) > 0, float((one.B - other.B).abs().max()) > 0]


@observe("random pair", "Drawing A and B should not change the random numbers that the rest of the program gets.")
def dice_of_the_others(impl):
    before = torch.get_rng_state()
    impl.Shared(3, 5, 4, 7)
    return torch.equal(torch.get_rng_state(), before)


@observe("set-up", "The layer should train two vectors, d (r) and b (out), and nothing else.")
def what_is_trained(impl):
    made = impl.VeRALinear(linear(), impl.Shared(4, 5, 3, 0), 0.1)
    return {name: str(tuple(p.shape)) for name, p in attach.trainable(made).items()}


@observe("set-up", "d and b should have the type of the base's weight, whatever torch's default type is.")
def type_of_what_is_trained(impl):
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        made = impl.VeRALinear(linear().to(dtype), impl.Shared(4, 5, 3, 0).to(dtype), 0.1)
        found |= {
            f"{name} on {models.short(dtype)}": models.short(p.dtype) for name, p in attach.trainable(made).items()
        }
    return found


@observe("set-up", "When the layer is moved to another type, A and B should move along.")
def type_after_a_move(impl):
    made = layer(impl)
    made.matrices()
    made.to(torch.bfloat16)
    return [models.short(matrix.dtype) for matrix in made.matrices()]


@observe("set-up", "A delta should keep only the two vectors; A and B come from the seed.")
def what_is_stored(impl):
    return sorted(impl.VeRALinear(linear(), impl.Shared(4, 5, 3, 0), 0.1).stored())


@observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    return impl.VeRALinear(linear(), pair(impl), 0.3)(numbers("x", (4, 5))) - linear()(numbers("x", (4, 5)))


@observe("start", "The vectors do not start at the right numbers.")
def start_of_the_vectors(impl):
    made = impl.VeRALinear(linear(), pair(impl), 0.3)
    return {"d": made.d, "b": made.b}


@observe("start", "The first step should reach b and not yet d.")
def where_the_first_gradient_goes(impl):
    made = impl.VeRALinear(linear(), pair(impl), 0.3)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad is not None and bool(p.grad.abs().max() > 0) for name, p in attach.trainable(made).items()}


@observe("forward", "x may have any number of dimensions, (in), (B, in) or (B, T, in): the features come last.")
def dimensions_of_the_input(impl):
    made, found = layer(impl), {"(4, 5)": str(tuple(layer(impl)(numbers("x", (4, 5))).shape))}
    for shape in ((5,), (2, 4, 5)):
        try:
            found[str(shape)] = str(tuple(made(numbers("x", shape)).shape))
        except Exception:
            found[str(shape)] = "stops"
    return found


@observe("forward", "The update Λ_b B Λ_d A x is not the expected one.")
def update(impl):
    made, x = layer(impl), numbers("x", (2, 4, 5))
    return made(x) - linear()(x)


@observe("forward", "The frozen path must reach the output as it is, bias included.")
def whole_output(impl):
    return layer(impl)(numbers("x", (4, 5)))


@observe("forward", "The gradients that reach b and d are not the expected ones.")
def gradients(impl):
    made = layer(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return {name: p.grad for name, p in made.named_parameters()}


@observe(
    "forward", "The gradient that goes on to the input, through the frozen path and through the update, is not right."
)
def gradient_of_the_input(impl):
    x = numbers("x", (4, 5)).requires_grad_()
    layer(impl)(x).pow(2).sum().backward()
    return x.grad


@observe("forward", "In front of a LoRA, the layer should add to what comes out below.")
def stacked(impl):
    below = fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False)
    return layer(impl, below)(numbers("x", (4, 5)))


@observe("merge", "ΔW has to have the shape of the weight and be what the forward pass adds.")
def delta(impl):
    return layer(impl).delta()


@observe("merge", "Where in, out and r are equal, b should still scale rows of B, and d rows of A.")
def delta_of_a_square_layer(impl):
    return layer(impl, linear(3, 3), rank=3, into=3, out=3).delta()


@observe("merge", "What reads the layer's `weight`, W + ΔW, sends d and b other gradients than it should, or none.")
def gradients_through_the_weight(impl):
    return models.through_weight(layer(impl))


@observe("forward", "An x whose rows do not lie in memory one behind the other should be answered as any other.")
def scattered_input(impl):
    return models.scattered(layer(impl))


@observe("merge", "The merged layer should answer as the layer did.")
def merged(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@observe("merge", "After b and d have changed, forward pass and merge should use the new numbers.")
def after_a_step(impl):
    made, x = layer(impl), numbers("x", (4, 5))
    made(x), made.delta(), made.merged()
    with torch.no_grad():
        for name, p in attach.trainable(made).items():
            p.copy_(numbers(f"{name} after a step", p.shape))
    return {"forward": made(x) - linear()(x), "delta": made.delta(), "merged": made.merged()(x) - linear()(x)}


@observe("widths", "Where A and B are larger than the layer, the layer takes the wrong part of them.")
def part_of_the_pair(impl):
    return list(layer(impl, rank=6, into=8, out=7).matrices())


@observe("widths", "The shared pair should be as large as the largest targets need, and no larger.")
def size_of_the_shared_pair(impl):
    return sorted(str(tuple(b.shape)) for b in attached(impl).buffers())


@observe(
    "widths",
    "The targets lead from 3 to 3, 7 to 2, 6 to 6, 4 to 8 and 5 to 4: the pair should have the most inputs "
    "and the most outputs of them all.",
)
def size_of_the_pair_for_five(impl):
    net = nn.Sequential(*(nn.Linear(*sides) for sides in ((3, 3), (7, 2), (6, 6), (4, 8), (5, 4))))
    made = impl.VeRA(rank=1, targets=tuple("01234")).attach(net)
    return sorted(str(tuple(b.shape)) for b in made.buffers())


@observe("widths", "With `layers`, only the targets in these layers should decide how large A and B are.")
def size_for_some_layers(impl):
    made = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 5))
    made = impl.VeRA(rank=2, targets=("0", "1"), layers=(1,)).attach(made)
    return sorted(str(tuple(b.shape)) for b in made.buffers())


@observe("sharing", "In a whole model, other parameters are trained than the targets ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@observe(
    "sharing", "All layers should use one and the same A and B; here is how many numbers the model holds for them."
)
def numbers_held_besides(impl):
    return sum(b.numel() for b in attached(impl).buffers())


@observe("sharing", "The settings of the method (rank, d_initial, seed) should reach the layers.")
def settings(impl):
    one, *_ = layers(attached(impl, rank=2, d_initial=0.4, seed=8))
    other, *_ = layers(attached(impl, rank=2, d_initial=0.4, seed=9))
    return {"d": one.d, "another seed, another A": float((one.matrices()[0] - other.matrices()[0]).abs().max()) > 0}


@observe("sharing", "A and B should have the type of the model.")
def types(impl):
    made = impl.VeRA(rank=2, targets=("0",)).attach(nn.Sequential(nn.Linear(3, 2, dtype=torch.bfloat16)))
    return [str(m.dtype) for m in made[0].matrices()]


@observe("sharing", "Everything that is trained should receive a gradient when the loss of a whole model is sent back.")
def arrivals_in_a_model(impl):
    made = fill(attached(impl), "trainable")
    return models.arrivals(made, made(numbers("x", (4, 6))))


@observe("sharing", "On a base in float64, float32 or bfloat16, d, b and the output should have its type.")
def bases_of_other_types(impl):
    def make(dtype):
        return impl.VeRA(rank=4, targets=("one", "two"), seed=3).attach(Wide().to(dtype))

    return models.types(make, lambda made: made(numbers("x", (4, 6)).to(made.two.base.weight.dtype)))


@observe("sharing", "Attaching should not change the random numbers that the rest of the program gets.")
def dice_while_attaching(impl):
    made, before = Wide(), torch.get_rng_state()
    impl.VeRA(rank=4, targets=("one", "two"), seed=3).attach(made)
    return torch.equal(torch.get_rng_state(), before)


@observe("sharing", "With `layers`, only targets in these layers should train.")
def some_layers(impl):
    made = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 5))
    return sorted(attach.trainable(impl.VeRA(rank=2, targets=("0", "1"), layers=(1,)).attach(made)))
