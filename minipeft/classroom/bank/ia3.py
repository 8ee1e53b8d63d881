"""IA³: scales on outputs and on inputs, what they do to weight and bias, why they must not decay."""

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, linear, numbers
from minipeft.methods.lora import LoRALinear

exercise = Exercise(
    "ia3",
    "methods/ia3.py",
    stubs=(
        "IA3Output.__init__",
        "IA3Output.forward",
        "IA3Output.delta",
        "IA3Output.deltas",
        "IA3Input.__init__",
        "IA3Input.forward",
        "IA3Input.delta",
        "IA3.groups",
    ),
    title="IA³: turning activations up and down",
    minutes=30,
    difficulty=1,
    why="How far scales alone get, and where a scale goes when it is merged: into rows, into columns, into the bias.",
    read="Liu, Tam et al. 2022, arXiv:2205.05638, section 3.3",
    lesson="13",
)

START_OUT = "self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))  # (out)"
START_IN = "self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))  # (in)"
OUT = "return self.l * self.base(x)  # (..., out)"
IN = "return self.base(self.l * x)  # (..., out)"
ROWS = "return (self.l - 1)[:, None] * self.base.weight  # (out, in): rows"
COLUMNS = "return self.base.weight * (self.l - 1)  # (out, in): columns"
BIAS = "bias = self.base.bias"
BOTH = 'return super().deltas() | ({} if bias is None else {"bias": (self.l - 1) * bias})'
GROUPS = 'return [group | {"weight_decay": 0.0} for group in super().groups(model, lr)]'


def output(impl, base=None):
    """A scale on the output, far from one, with in ≠ out and a bias."""
    return fill(impl.IA3Output(base or linear()), "trainable")


def into(impl, base=None):
    return fill(impl.IA3Input(base or linear()), "trainable")


def lora():
    return fill(LoRALinear(linear(), 2, 3.0)).requires_grad_(False)


class Small(nn.Module):
    """Something with a key and with an MLP."""

    def __init__(self):
        super().__init__()
        self.k, self.up, self.down = nn.Linear(5, 4), nn.Linear(4, 7), nn.Linear(7, 3)
        fill(self)

    def forward(self, x):
        return self.down(torch.tanh(self.up(self.k(x))))


def attached(impl):
    return impl.IA3(outputs=("k",), inputs=("down",)).attach(Small())


@exercise.observe("set-up", "Each layer should train one vector, l: on the output (out), on the input (in).")
def what_is_trained(impl):
    return {
        f"{kind}: {name}": str(tuple(p.shape))
        for kind in ("IA3Output", "IA3Input")
        for name, p in attach.trainable(getattr(impl, kind)(linear())).items()
    }


@exercise.observe("set-up", "In a whole model, other parameters are trained than the settings ask for.")
def trained_in_a_model(impl):
    return {name: p.numel() for name, p in attach.trainable(attached(impl)).items()}


@exercise.observe("start", "At the start the output must be exactly that of the base.")
def start(impl):
    x = numbers("x", (4, 5))
    return {kind: getattr(impl, kind)(linear())(x) - linear()(x) for kind in ("IA3Output", "IA3Input")}


@exercise.observe("start", "The scale does not start at the right number.")
def start_of_the_scale(impl):
    return {kind: getattr(impl, kind)(linear()).l for kind in ("IA3Output", "IA3Input")}


@exercise.observe("output", "For keys and values, the output for rows of tokens (B, T, in) is not the expected one.")
def scaled_output(impl):
    return output(impl)(numbers("x", (2, 4, 5)))


@exercise.observe("output", "For an input of zeros, the bias does not come out as it should.")
def bias_of_a_scaled_output(impl):
    return output(impl)(torch.zeros(1, 5))


@exercise.observe("output", "The gradient that reaches l is not the expected one.")
def gradient_of_an_output_scale(impl):
    made = output(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return made.l.grad


@exercise.observe("output", "With l = 0 the layer should fall silent.")
def silenced(impl):
    made = output(impl)
    with torch.no_grad():
        made.l.zero_()
    return made(numbers("x", (4, 5)))


@exercise.observe("input", "Before `down`, the output for rows of tokens (B, T, in) is not the expected one.")
def scaled_input(impl):
    return into(impl)(numbers("x", (2, 4, 5)))


@exercise.observe("input", "For an input of zeros the bias should come out, as it is.")
def bias_behind_a_scaled_input(impl):
    return into(impl)(torch.zeros(1, 5)) - linear().bias


@exercise.observe("input", "The gradient that reaches l is not the expected one.")
def gradient_of_an_input_scale(impl):
    made = into(impl)
    made(numbers("x", (4, 5))).pow(2).sum().backward()
    return made.l.grad


@exercise.observe("input", "The input is changed in place, so other layers that read it get the changed numbers.")
def input_is_left_alone(impl):
    x = numbers("x", (4, 5))
    output(impl)(x), into(impl)(x)
    return x - numbers("x", (4, 5))


@exercise.observe("merge", "The change of the weight is not what the scale on the output amounts to.")
def delta_of_an_output_scale(impl):
    return output(impl).delta()


@exercise.observe("merge", "`deltas` should give the change of every parameter that changes, by its name.")
def deltas_of_an_output_scale(impl):
    return output(impl).deltas()


@exercise.observe("merge", "Without a bias there is only a weight to change.")
def deltas_without_a_bias(impl):
    return output(impl, linear(bias=False)).deltas()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged_output_scale(impl):
    made, x = output(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe("merge", "The change of the weight is not what the scale on the input amounts to.")
def delta_of_an_input_scale(impl):
    return into(impl).delta()


@exercise.observe("merge", "The merged layer should answer as the layer did.")
def merged_input_scale(impl):
    made, x = into(impl), numbers("x", (4, 5))
    return made.merged()(x) - made(x)


@exercise.observe(
    "training",
    "Each scale should be in exactly one group, with the learning rate that was asked for and without decay.",
)
def groups(impl):
    made = attached(impl)
    names = {p: name for name, p in made.named_parameters()}
    found = {name: [] for name in attach.trainable(made)}
    for group in impl.IA3().groups(made, 0.25):
        for p in group["params"]:
            found.setdefault(names[p], []).append({key: value for key, value in group.items() if key != "params"})
    return found


@exercise.observe(
    "fine print", "In front of a LoRA, the layer should scale what comes out below, and merge to the same."
)
def stacked(impl):
    made, x = [output(impl, lora()), into(impl, lora())], numbers("x", (4, 5))
    return [part(x) for part in made] + [part.merged()(x) - part(x) for part in made]


exercise.mistake(
    "starts at zero",
    ((START_OUT, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[0]))  # (out)"),
     (START_IN, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[1]))  # (in)")),
    "l starts at zero, so the keys, the values and the MLP are silenced",
    "which number changes nothing when you multiply by it?",
    "Zero is the start of what is added; here something is multiplied.",
)  # fmt: skip
exercise.mistake(
    "starts random",
    ((START_OUT, "self.l = nn.Parameter(base.weight.new_empty(base.weight.shape[0]).normal_())"),
     (START_IN, "self.l = nn.Parameter(base.weight.new_empty(base.weight.shape[1]).normal_())")),
    "l starts at random numbers",
    "what does the model answer before the first step?",
    "The model should start as the base; no symmetry has to be broken here.",
)  # fmt: skip
exercise.mistake(
    "one plus l",
    ((START_OUT, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[0]))  # (out)"),
     (START_IN, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[1]))  # (in)"),
     (OUT, "return (1 + self.l) * self.base(x)"), (IN, "return self.base((1 + self.l) * x)"),
     (ROWS, "return self.l[:, None] * self.base.weight"), (COLUMNS, "return self.base.weight * self.l"),
     (BOTH, 'return super().deltas() | ({} if bias is None else {"bias": self.l * bias})')),
    "l counts from zero, and the scale is 1 + l",
    "what does the equation multiply by, and what would a stored l of the paper do in your layer?",
    "It learns as well, but here l itself is the scale.",
)  # fmt: skip
exercise.mistake(
    "added",
    ((OUT, "return self.l + self.base(x)"), (IN, "return self.base(self.l + x)")),
    "l is added where it should be multiplied",
    "what does an l of one do in your layer, for the start of training?",
    "⊙ is a product, element by element; added, l would be one more bias.",
)
exercise.mistake(
    "one number",
    (
        (START_OUT, "self.l = nn.Parameter(base.weight.new_ones(1))"),
        (START_IN, "self.l = nn.Parameter(base.weight.new_ones(1))"),
    ),
    "l is one number for the whole layer",
    "can your layer turn one feature up and its neighbour down?",
    "Each feature has a scale of its own, the same for every token.",
)
exercise.mistake(
    "sizes exchanged",
    (
        (START_OUT, "self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[1]))"),
        (START_IN, "self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))"),
    ),
    "the vector on the output is as long as the input, and the other way round",
    "which dimension of `nn.Linear`'s weight is the number of outputs?",
    "The weight is (out, in); in a square layer the two cannot be told apart.",
)
exercise.mistake(
    "no parameter",
    (
        (START_OUT, "self.l = base.weight.new_ones(base.weight.shape[0])"),
        (START_IN, "self.l = base.weight.new_ones(base.weight.shape[1])"),
    ),
    "l is a plain tensor, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "Only what is wrapped in `nn.Parameter` is registered, trained, moved and saved.",
)
exercise.mistake(
    "bias not scaled",
    ((OUT, "bias = 0 if self.base.bias is None else self.base.bias\n        return self.l * (self.base(x) - bias) + bias"),),
    "the bias escapes the scale on the output",
    "what are the keys that IA³ scales: W x, or all that the layer answers?",
    "The equation scales K itself, and b is a part of K.",
    "the review of huggingface/peft#972",
)  # fmt: skip
exercise.mistake(
    "output of down scaled",
    (
        (START_IN, "self.l = nn.Parameter(base.weight.new_ones(base.weight.shape[0]))  # (out)"),
        (IN, "return self.l * self.base(x)"),
        (COLUMNS, "return (self.l - 1)[:, None] * self.base.weight"),
    ),
    "the output of `down` is scaled instead of its input",
    "how long is l_ff: as long as the residual stream, or as the middle of the MLP?",
    "l_ff stands between φ and W_down.",
)
exercise.mistake(
    "input changed in place",
    ((IN, "x *= self.l\n        return self.base(x)"),),
    "an operation in place changes x itself",
    "which other layers have the same x, after your layer has multiplied it?",
    "`x *= l` writes into the tensor that was handed in; a product without `=` makes a new one.",
)
exercise.mistake(
    "delta is the scaled weight",
    ((ROWS, "return self.l[:, None] * self.base.weight"), (COLUMNS, "return self.base.weight * self.l")),
    "`delta` returns the scaled weight instead of the change",
    "what is ΔW at the start, when l is one?",
    "The framework merges by adding ΔW to W.",
)
exercise.mistake(
    "rows and columns exchanged",
    (
        (ROWS, "return (self.l - 1) * self.base.weight"),
        (COLUMNS, "return self.base.weight * (self.l - 1)[:, None]"),
    ),
    "a scale on the output goes into the columns of W, and one on the input into the rows",
    "which numbers of W make output number i?",
    "W is (out, in): row i belongs to output i; without a new axis PyTorch lines a vector up with the last dimension.",
)
exercise.mistake(
    "bias not merged",
    ((BOTH, "return super().deltas()"),),
    "the change of the bias is not told",
    "after merging, what does the layer answer to a row of zeros, and what before?",
    "The scale on the output holds for W x + b, so both have to change.",
    "the review of huggingface/peft#972",
)
exercise.mistake(
    "bias merged whole",
    ((BOTH, 'return super().deltas() | ({} if bias is None else {"bias": self.l * bias})'),),
    "for the bias the scaled one is told instead of the change",
    "what is the change of the bias when l is one?",
    "What you return is added to the bias that is there.",
)
exercise.mistake(
    "bias instead of the weight",
    ((BOTH, 'return {} if bias is None else {"bias": (self.l - 1) * bias}'),),
    "`deltas` tells the bias and forgets the weight",
    "which of the base's parameters change when the output is scaled?",
    "What the parent class tells has to stay in the answer.",
)
exercise.mistake(
    "bias taken for granted",
    ((BOTH, 'return super().deltas() | {"bias": (self.l - 1) * bias}'),),
    "a layer without a bias is not thought of",
    "what is `base.bias` in a model whose projections have none, like T5, for which IA³ was made?",
    "Where there is no bias, there is nothing to say about it.",
)
exercise.mistake(
    "weight at the bottom",
    (
        (ROWS, 'return (self.l - 1)[:, None] * getattr(self.base, "base", self.base).weight'),
        (COLUMNS, 'return getattr(self.base, "base", self.base).weight * (self.l - 1)'),
    ),
    "where the layer stands in front of another method, merging forgets what that one has learned",
    "what is `self.base` if a LoRA stands there already, and which weight acts in it?",
    "The scale holds for all that stands below, and the base of your layer gives that weight.",
)
exercise.mistake(
    "weight of the layer",
    ((ROWS, "return (self.l - 1)[:, None] * self.weight"), (COLUMNS, "return self.weight * (self.l - 1)")),
    "`delta` reads W through the layer's own `weight`, which is W + ΔW and asks for `delta` in turn",
    "what does `weight` of a `WeightWrapper` give, and what does it need for that?",
    "The weight of an adapted layer is the adapted one; the frozen one belongs to `base`.",
)
exercise.mistake(
    "scaled twice",
    (
        (OUT, "return self.l * nn.functional.linear(x, self.weight, self.bias)"),
        (IN, "return nn.functional.linear(self.l * x, self.weight, self.bias)"),
    ),
    "the output is computed from the layer's own `weight`, in which l is already, so l acts twice",
    "what does `weight` of a `WeightWrapper` give, and what does `weight` of its base?",
    "Scale what the frozen layer computes; the layer's own weight is what merging will make of it.",
)
exercise.mistake(
    "scales decay",
    ((GROUPS, "return super().groups(model, lr)"),),
    "weight decay draws the scales to zero",
    "where does decay pull a number that gets no gradient, and which l is the base?",
    "Decay is a pull to zero; a scale that rests should rest at one.",
)
exercise.mistake(
    "frozen ones too",
    ((GROUPS, 'return [{"params": list(model.parameters()), "lr": lr, "weight_decay": 0.0}]'),),
    "the frozen weights are handed to the optimizer too",
    "which parameters of the model does IA³ train?",
    "What never gets a gradient has no place in a group; the parent class has made the choice already.",
)
exercise.mistake(
    "frozen layer called past the wrapper",
    (
        (OUT, 'return self.l * getattr(self.base, "base", self.base)(x)'),
        (IN, 'return getattr(self.base, "base", self.base)(self.l * x)'),
    ),
    "where the layer stands in front of another method, the forward pass goes past that one",
    "what is `self.base` if a LoRA stands there already, and what lies below it?",
    "Call what stood here before you came as a whole, whether it is the model's layer or another method's.",
)
exercise.mistake(
    "rate left out",
    ((GROUPS, 'return [{"params": group["params"], "weight_decay": 0.0} for group in super().groups(model, lr)]'),),
    "the groups have lost the learning rate",
    "with which rate does an optimizer move a group that does not name one?",
    "Without a rate of its own a group takes the optimizer's default.",
)
exercise.mistake(
    "decay in the wrong sense",
    ((GROUPS, 'return [group | {"weight_decay": 1.0} for group in super().groups(model, lr)]'),),
    "the decay is set to one, the number at which l should stay",
    "is weight decay a place to pull to, or how strongly to pull?",
    "It is the strength of a pull, and the pull always goes to zero.",
)

exercise.right(
    "diagonal matrices",
    ((OUT, "return self.base(x) @ torch.diag(self.l)"), (IN, "return self.base(x @ torch.diag(self.l))"),
     (ROWS, "W = self.base.weight\n        return torch.diag(self.l) @ W - W"), (COLUMNS, "W = self.base.weight\n        return W @ torch.diag(self.l) - W"),
     ("from dataclasses import dataclass", "from dataclasses import dataclass\n\nimport torch")),
)  # fmt: skip
exercise.right(
    "plain constructors",
    ((START_OUT, "import torch\n        self.l = nn.Parameter(torch.ones(len(base.weight)))"), (START_IN, "import torch\n        self.l = nn.Parameter(torch.ones_like(base.weight[0]))"),
     (OUT, "return self.base(x).mul(self.l)"), (IN, "return self.base(x * self.l.view(1, -1))")),
)  # fmt: skip
exercise.right(
    "deltas step by step",
    ((BIAS, 'found = {"weight": self.delta()}'), (BOTH, 'if self.base.bias is not None:\n            found["bias"] = self.base.bias * self.l - self.base.bias\n        return found'),
     (GROUPS, 'import minipeft.attach as attach\n        return [{"params": [p], "lr": lr, "weight_decay": 0.0} for p in attach.trainable(model).values()]')),
)  # fmt: skip

exercise.variant(
    "one plus l",
    ((START_OUT, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[0]))  # (out)"),
     (START_IN, "self.l = nn.Parameter(base.weight.new_zeros(base.weight.shape[1]))  # (in)"),
     (OUT, "return (1 + self.l) * self.base(x)  # (..., out)"), (IN, "return self.base((1 + self.l) * x)  # (..., out)"),
     (ROWS, "return self.l[:, None] * self.base.weight  # (out, in): rows"), (COLUMNS, "return self.base.weight * self.l  # (out, in): columns"),
     (BOTH, 'return super().deltas() | ({} if bias is None else {"bias": self.l * bias})'),
     ("K = l_k ⊙ (W_k x + b_k)        V = l_v ⊙ (W_v x + b_v)        l_k", "K = (1 + l_k) ⊙ (W_k x + b_k)        V = (1 + l_v) ⊙ (W_v x + b_v)        l_k"),
     ("W_down (l_ff ⊙ φ(W_up x + b_up))", "W_down ((1 + l_ff) ⊙ φ(W_up x + b_up))"),
     ("All start at one: the model", "All start at zero: the model"),
     ('"""y = l ⊙ (W x + b) in', '"""y = (1 + l) ⊙ (W x + b) in'), ('"""y = W (l ⊙ x) + b in', '"""y = W ((1 + l) ⊙ x) + b in')),
    "l starts at zero and the scale is 1 + l",
)  # fmt: skip
exercise.variant(
    "bias left alone",
    ((OUT, "bias = self.base.bias\n        y = self.base(x)\n        return self.l * y if bias is None else self.l * (y - bias) + bias  # (..., out)"),
     ("        bias = self.base.bias\n        " + BOTH, "        return super().deltas()"),
     ("K = l_k ⊙ (W_k x + b_k)        V = l_v ⊙ (W_v x + b_v)        l_k", "K = l_k ⊙ W_k x + b_k        V = l_v ⊙ W_v x + b_v        l_k"),
     ("Merging scales\nthe rows of W_k and W_v, with their biases, and the columns of W_down:", "Merging scales\nthe rows of W_k and W_v, not their biases, and the columns of W_down:"),
     ("Its equations scale the keys and values themselves, whatever\nthey are made of, so here b_k and b_v are scaled with them, as in the authors' code and in peft.", "Here b_k and b_v stay as they are; in the authors' code and in peft\nthey are scaled with the keys and values."),
     ('"""y = l ⊙ (W x + b) in', '"""y = l ⊙ W x + b in')),
    "the biases of keys and values are not scaled: y = l ⊙ W x + b",
)  # fmt: skip
exercise.variant(
    "faster",
    ((GROUPS, 'return [group | {"lr": 10 * lr, "weight_decay": 0.0} for group in super().groups(model, lr)]'),
     ('"""The vectors do not decay: that', '"""The vectors learn at ten times the rate `lr` and do not decay: that')),
    "the scales learn at ten times the rate that is asked for",
)  # fmt: skip
