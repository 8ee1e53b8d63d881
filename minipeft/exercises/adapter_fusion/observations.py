"""AdapterFusion: the attention over frozen adapters, where its answer goes, and the penalty on W_v."""

from functools import lru_cache

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.adapter.observations import Stack, Sublayer, norm, shape, width
from minipeft.exercises.models import arrivals, fill, numbers, short, types, usual_type

observe = Observations()

WIDTH, SIZE, N = 4, 2, 3


def x():
    return numbers("x", (2, 5, WIDTH))


def put_in(fusion):
    """Adapters far from their start."""
    for name in ("D", "b_D", "U", "b_U"):
        tensor = getattr(fusion, name)
        tensor.data.copy_(numbers(name, tensor.shape, 1.0))
    return fusion


@lru_cache(maxsize=4)
def fusion(impl, adapters=N):
    """A Fusion far from its start."""
    return put_in(fill(impl.Fusion(torch.ones(WIDTH), adapters, SIZE), "trainable", 1.0))


def kept(impl):
    """The α of a pass, None if there are none."""
    made = fusion(impl)
    made.weights = None
    made(x())
    return made.weights


def by_themselves(made, h):
    """What each adapter finds, (..., N, d)."""
    z = [torch.relu(h @ D.T + b) for D, b in zip(made.D, made.b_D, strict=True)]
    return torch.stack([z_t @ U.T + b for z_t, U, b in zip(z, made.U, made.b_U, strict=True)], dim=-2)


def attached(impl, pre_norm=True, weight=0.01):
    """The method, and a model with its fusions filled."""
    method = impl.AdapterFusion(N, SIZE, weight)
    made = fill(method.attach(Stack(pre_norm)), "trainable", 1.0)
    for layer in impl.fusions(made).values():
        put_in(layer)
    return method, made


@observe(
    "set-up", "The layer should train W_q and W_k with a bias each and W_v, 3d² + 2d numbers, and not the adapters."
)
def what_is_trained(impl):
    return {name: shape(p) for name, p in attach.trainable(impl.Fusion(torch.ones(6), 4, 2)).items()}


@observe("set-up", "The adapters should be saved, in buffers whose first dimension counts the adapters.")
def what_is_saved(impl):
    return {name: shape(t) for name, t in impl.Fusion(torch.ones(6), 4, 2).state_dict().items()}


@observe("set-up", "Everything should have the type of `like`, which is that of the model.")
def type_of_everything(impl):
    like = torch.ones(6, dtype=torch.bfloat16)
    with usual_type():
        made = impl.Fusion(like, 4, 2)
    return {name: short(t.dtype) for name, t in made.state_dict().items()}


@observe("start", "W_v should start as a matrix that lets what the adapters say pass unchanged.")
def start_of_the_values(impl):
    return {name: p for name, p in impl.Fusion(torch.ones(6), 4, 2).named_parameters() if name.startswith("value")}


@observe("start", "Queries and keys start with another width, or with biases that are not zero.")
def start_of_queries_and_keys(impl):
    made = impl.Fusion(torch.ones(30), 1, 1).named_parameters()
    return {
        name: {"standard deviation": width(p)} if p.ndim > 1 else {"zero": not p.any()}
        for name, p in made
        if name.startswith(("query", "key"))
    }


@observe(
    "start", "The random weights should be normal around zero: some far below it, some far above, none on average."
)
def ends_of_the_start(impl):
    made = impl.Fusion(torch.ones(30), 1, 1)
    return {
        name: {
            "below −0.04": bool(W.min() < -0.04),
            "above 0.04": bool(W.max() > 0.04),
            "mean far from zero": bool(W.mean().abs() > 0.2 * W.std()),
        }
        for name, W in (("W_q", made.query.weight), ("W_k", made.key.weight))
    }


def alike(one, two):
    return {
        name: bool(getattr(one, name).weight.equal(getattr(two, name).weight)) for name in ("query", "key", "value")
    }


@observe("start", "Of two layers, W_q and W_k should start with different random numbers, and W_v should start alike.")
def two_layers(impl):
    return alike(*(impl.Fusion(torch.ones(6), 1, 1) for _ in "ab"))


@observe("start", "Making a layer should leave PyTorch's random numbers to the user: it sets no seed.")
def seed_of_the_user(impl):
    drawn = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        impl.Fusion(torch.ones(6), 1, 1)
        drawn.append(torch.rand(3))
    return {"the same after another seed": bool(drawn[0].equal(drawn[1]))}


@observe("start", "At the start the fusion of a single adapter should answer as that adapter.")
def one_adapter_at_the_start(impl):
    made = put_in(impl.Fusion(torch.ones(WIDTH), 1, SIZE))
    return made(x()) - by_themselves(made, x())[..., 0, :]


@observe("attention", "For each token the α kept in `weights` should sum to one over the adapters.")
def sums_of_the_weights(impl):
    α = kept(impl)
    return None if α is None else α.sum(-1) - 1


@observe("attention", "The query should read h; keys and values should read all of z_t = U_t φ(D_t h + b_D) + b_U.")
@torch.no_grad()
def what_is_read(impl):
    made, h, one = put_in(impl.Fusion(torch.ones(WIDTH), N, SIZE)), x(), torch.eye(WIDTH)
    z, u = by_themselves(made, h), numbers("u", (WIDTH,))
    may_be = {"z_t": z, "z_t without b_U": z - made.b_U, "h": h[..., None, :].expand_as(z)}
    for p in (p for layer in (made.query, made.key, made.value) for p in layer.parameters()):
        p.zero_()
    made.value.weight.copy_(one)
    values = known(made(h), {name: v.mean(-2) for name, v in may_be.items()})  # all adapters count alike
    made.key.weight.copy_(one)
    made.query.bias = nn.Parameter(u)
    keys = known(scores(made, h), {name: centred(k @ u) for name, k in may_be.items()})
    made.query.weight.copy_(one)
    made.query.bias.zero_()
    may_be_asked = {"h": h[..., None, :], "z_t": z, "the mean of z_t": z.mean(-2, keepdim=True)}
    query = known(scores(made, h), {name: centred((q * may_be[keys]).sum(-1)) for name, q in may_be_asked.items()})
    return {"query": query, "keys": keys, "values": values}


def scores(made, h):
    """What stands before the softmax, up to what all adapters have in common; None if no α are kept."""
    made(h)
    return None if made.weights is None else centred(made.weights.log())


def centred(t):
    return t - t.mean(-1, keepdim=True)


def known(got, may_be):
    """Which of these it is, up to a factor. If it is none, the first: then what is wrong is seen elsewhere."""
    for name, t in may_be.items():
        if got is not None and got.shape == t.shape and torch.allclose(got / got.norm(), t / t.norm(), atol=1e-6):
            return name
    return next(iter(may_be))


@observe("attention", "The α are not the softmax of q·k over the adapters.")
def weights_of_the_adapters(impl):
    return kept(impl)


def compared(impl):
    """The scores behind the α, up to a constant for each token, and q·k: (B·T, N) each."""
    made = put_in(fill(impl.Fusion(torch.ones(WIDTH), N, SIZE), "trainable"))
    made(x())
    scores = made.weights.log()
    qk = (made.key(by_themselves(made, x())) @ made.query(x())[..., None])[..., 0]
    return [(s - s.mean(-1, keepdim=True)).flatten(0, 1).detach() for s in (scores, qk)]


@observe("attention", "The scores before the softmax are q·k times a factor, and the equation has none.")
def factor_of_the_scores(impl):
    scores, qk = compared(impl)
    if scores.shape != qk.shape:
        return 1.0
    factor = float((scores * qk).sum() / (qk * qk).sum())
    return (
        factor if abs(factor) > 1e-6 and torch.allclose(scores, factor * qk, atol=1e-6) else 1.0
    )  # what is no factor is seen elsewhere


@observe("attention", "The answer of a token should not depend on the tokens around it.")
def a_token_alone(impl):
    made = fusion(impl)
    return made(x()[:1, :1]) - made(x())[:1, :1]


@observe("attention", "With a single adapter α should be 1, and o should be W_v z.")
def a_single_adapter(impl):
    return fusion(impl, adapters=1)(x())


@observe("attention", "The answer o = Σ α_t W_v z_t is not the expected one.")
def answer(impl):
    return fusion(impl)(x())


@observe("attention", "The gradients of W_q, W_k, W_v and of the input are not the expected ones.")
def gradients(impl):
    made, h = fusion.__wrapped__(impl), x().requires_grad_()
    made(h).pow(2).sum().backward()
    found = {"h": h.grad} | {name: p.grad for name, p in attach.trainable(made).items()}
    if found.get("key.bias") is not None:  # the softmax does not see b_k: its gradient is zero but for rounding
        found["key.bias"] = found["key.bias"].round(decimals=6).abs()
    return found


@observe("attention", "A gradient should reach W_q, W_k and W_v, and pass to the input.")
def arriving_gradients(impl):
    made, h = put_in(fill(impl.Fusion(torch.ones(WIDTH), N, SIZE), "trainable")), x().requires_grad_()
    found = arrivals(made, made(h) + 0 * h.sum()) | {"h": bool(h.grad.any())}
    return {name: there for name, there in found.items() if name != "key.bias"}  # the softmax does not see b_k


@observe("attention", "When adapters are filled in or weights are trained later, the answer should follow.")
def after_a_change(impl):
    made = fusion.__wrapped__(impl)
    made(x())
    for tensor in (*made.buffers(), *made.parameters()):
        tensor.data *= 0.5
    return made(x())


@observe("attention", "In a model of another type, the weights or the answer do not have the model's type.")
def types_of_a_model(impl):
    def run(made):
        return made(x().to(made.value.weight.dtype))

    return types(lambda dtype: put_in(impl.Fusion(torch.ones(WIDTH, dtype=dtype), N, SIZE)), run)


@observe("attention", "What is kept in `weights` should be numbers to look at, without the graph of the pass.")
def the_kept_weights(impl):
    α = kept(impl)
    return {"weights.requires_grad": None if α is None else α.requires_grad}


@observe("behind a block", "The layer should put out s + o, where s is what the block puts out, and o reads s.")
def behind(impl):
    return impl.SequentialFusion(Sublayer(), fusion(impl))(x())


@observe("behind a block", "A mask or a cache that the layer is given has to reach the block.")
def the_other_arguments(impl):
    made, mask, cache = (
        impl.SequentialFusion(Sublayer(), fusion(impl)),
        numbers("mask", (5, 1)),
        numbers("cache", (5, 4)),
    )
    return {"with a mask": made(x(), mask), "with a cache": made(x(), None, cache), "with both": made(x(), mask, cache)}


@observe("behind a block", "The gradient has to flow back through the block, to what learns below.")
def gradient_below(impl):
    below = x().requires_grad_()
    impl.SequentialFusion(Sublayer(), fusion(impl))(below).pow(2).sum().backward()
    return below.grad


@observe("behind a norm", "The layer should put out LN(s + o), where o reads LN(s).")
def behind_a_norm(impl):
    return impl.SequentialFusionInNorm(norm(), fusion(impl))(x())


@observe("behind a norm", "Before any adapter is filled in, the block should answer as the base.")
def behind_a_norm_without_adapters(impl):
    layer = norm()
    return impl.SequentialFusionInNorm(layer, impl.Fusion(torch.ones(WIDTH), N, SIZE))(x()) - layer(x())


@observe("behind a norm", "The gradients behind a norm are not the expected ones.")
def gradients_behind_a_norm(impl):
    made, below = impl.SequentialFusionInNorm(norm(), fusion.__wrapped__(impl)), x().requires_grad_()
    made(1 * below).pow(3).sum().backward()
    return {"s": below.grad, "W_v": made.fusion.value.weight.grad}


@observe("whole model", "In a model of post-norm blocks the fusion does not answer as it should.")
def in_a_model(impl):
    return attached(impl, pre_norm=False)[1](x())


@observe("regularizer", "The penalty λ‖I − W_v‖², over all layers, is not the expected one.")
def regularizer(impl):
    method = impl.AdapterFusion(N, SIZE, 0.3)
    made = method.attach(Stack(layers=2))
    start = float(method.regularizer(made))
    return {"at the start": start, "later": float(method.regularizer(fill(made, "trainable", 1.0)))}


@observe("regularizer", "The gradient of the penalty with respect to W_v is not the expected one.")
def gradient_of_the_penalty(impl):
    method, made = attached(impl, weight=2.0)
    method.regularizer(made).backward()
    return [layer.value.weight.grad for layer in impl.fusions(made).values()]


@observe("regularizer", "The penalty should move W_v of each layer, and nothing else.")
def what_the_penalty_moves(impl):
    method, made = attached(impl, weight=2.0)
    return arrivals(made, method.regularizer(made))
