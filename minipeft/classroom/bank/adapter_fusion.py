"""AdapterFusion: the attention over frozen adapters, where its answer goes, and the penalty on W_v."""

from functools import lru_cache

import torch

from minipeft import attach
from minipeft.classroom.bank.adapter import Stack, Sublayer, norm, shape, width
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import fill, numbers

exercise = Exercise(
    "adapter_fusion",
    "methods/adapter_fusion.py",
    stubs=(
        "Fusion.__init__",
        "Fusion.forward",
        "SequentialFusion.forward",
        "SequentialFusionInNorm.forward",
        "AdapterFusion.regularizer",
    ),
    title="AdapterFusion: an attention over adapters",
    minutes=45,
    difficulty=2,
    why="How a model can ask, for each token anew, which of several frozen adapters help, without changing any of them.",
    read="Pfeiffer et al. 2021, arXiv:2005.00247, section 3.2",
    lesson="05",
)

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


@exercise.observe(
    "set-up", "The layer should train W_q and W_k with a bias each and W_v, 3d² + 2d numbers, and not the adapters."
)
def what_is_trained(impl):
    return {name: shape(p) for name, p in attach.trainable(impl.Fusion(torch.ones(6), 4, 2)).items()}


@exercise.observe("set-up", "The adapters should be saved, in buffers whose first dimension counts the adapters.")
def what_is_saved(impl):
    return {name: shape(t) for name, t in impl.Fusion(torch.ones(6), 4, 2).state_dict().items()}


@exercise.observe("set-up", "Everything should have the type of `like`, which is that of the model.")
def type_of_everything(impl):
    made = impl.Fusion(torch.ones(6, dtype=torch.bfloat16), 4, 2)
    return {name: str(t.dtype) for name, t in made.state_dict().items()}


@exercise.observe("start", "W_v should start as a matrix that lets what the adapters say pass unchanged.")
def start_of_the_values(impl):
    return {name: p for name, p in impl.Fusion(torch.ones(6), 4, 2).named_parameters() if name.startswith("value")}


@exercise.observe("start", "Queries and keys start with another width, or with biases that are not zero.")
def start_of_queries_and_keys(impl):
    made = impl.Fusion(torch.ones(30), 1, 1).named_parameters()
    return {
        name: {"standard deviation": width(p)} if p.ndim > 1 else {"zero": not p.any()}
        for name, p in made
        if name.startswith(("query", "key"))
    }


@exercise.observe("start", "At the start the fusion of a single adapter should answer as that adapter.")
def one_adapter_at_the_start(impl):
    made = put_in(impl.Fusion(torch.ones(WIDTH), 1, SIZE))
    return made(x()) - by_themselves(made, x())[..., 0, :]


@exercise.observe("attention", "For each token the α kept in `weights` should sum to one over the adapters.")
def sums_of_the_weights(impl):
    α = kept(impl)
    return None if α is None else α.sum(-1) - 1


@exercise.observe("attention", "The α are not the softmax of q·k over the adapters.")
def weights_of_the_adapters(impl):
    return kept(impl)


@exercise.observe("attention", "The answer of a token should not depend on the tokens around it.")
def a_token_alone(impl):
    made = fusion(impl)
    return made(x()[:1, :1]) - made(x())[:1, :1]


@exercise.observe("attention", "With a single adapter α should be 1, and o should be W_v z.")
def a_single_adapter(impl):
    return fusion(impl, adapters=1)(x())


@exercise.observe("attention", "The answer o = Σ α_t W_v z_t is not the expected one.")
def answer(impl):
    return fusion(impl)(x())


@exercise.observe("attention", "The gradients of W_q, W_k, W_v and of the input are not the expected ones.")
def gradients(impl):
    made, h = fusion.__wrapped__(impl), x().requires_grad_()
    made(h).pow(2).sum().backward()
    return {"h": h.grad} | {name: p.grad for name, p in attach.trainable(made).items()}


@exercise.observe("attention", "What is kept in `weights` should be numbers to look at, without the graph of the pass.")
def the_kept_weights(impl):
    α = kept(impl)
    return {"weights.requires_grad": None if α is None else α.requires_grad}


@exercise.observe(
    "behind a block", "The layer should put out s + o, where s is what the block puts out, and o reads s."
)
def behind(impl):
    return impl.SequentialFusion(Sublayer(), fusion(impl))(x())


@exercise.observe("behind a block", "A mask or a cache that the layer is given has to reach the block.")
def the_other_arguments(impl):
    return impl.SequentialFusion(Sublayer(), fusion(impl))(x(), numbers("mask", (5, 1)), numbers("cache", (5, WIDTH)))


@exercise.observe("behind a block", "The gradient has to flow back through the block, to what learns below.")
def gradient_below(impl):
    below = x().requires_grad_()
    impl.SequentialFusion(Sublayer(), fusion(impl))(below).pow(2).sum().backward()
    return below.grad


@exercise.observe("behind a norm", "The layer should put out LN(s + o), where o reads LN(s).")
def behind_a_norm(impl):
    return impl.SequentialFusionInNorm(norm(), fusion(impl))(x())


@exercise.observe("behind a norm", "Before any adapter is filled in, the block should answer as the base.")
def behind_a_norm_without_adapters(impl):
    layer = norm()
    return impl.SequentialFusionInNorm(layer, impl.Fusion(torch.ones(WIDTH), N, SIZE))(x()) - layer(x())


@exercise.observe("behind a norm", "The gradients behind a norm are not the expected ones.")
def gradients_behind_a_norm(impl):
    made, below = impl.SequentialFusionInNorm(norm(), fusion.__wrapped__(impl)), x().requires_grad_()
    made(1 * below).pow(3).sum().backward()
    return {"s": below.grad, "W_v": made.fusion.value.weight.grad}


@exercise.observe("whole model", "In a model of post-norm blocks the fusion does not answer as it should.")
def in_a_model(impl):
    return attached(impl, pre_norm=False)[1](x())


@exercise.observe("regularizer", "The penalty λ‖I − W_v‖², over all layers, is not the expected one.")
def regularizer(impl):
    method = impl.AdapterFusion(N, SIZE, 0.3)
    made = method.attach(Stack(layers=2))
    start = float(method.regularizer(made))
    return {"at the start": start, "later": float(method.regularizer(fill(made, "trainable", 1.0)))}


@exercise.observe("regularizer", "The gradient of the penalty with respect to W_v is not the expected one.")
def gradient_of_the_penalty(impl):
    method, made = attached(impl, weight=2.0)
    method.regularizer(made).backward()
    return [layer.value.weight.grad for layer in impl.fusions(made).values()]


BUFFER = "            self.register_buffer(name, torch.zeros(adapters, *shape))\n"
LINEAR = "self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)"
SMALL = "            nn.init.normal_(layer.weight, std=0.02)\n"
EYE = "        nn.init.eye_(self.value.weight)\n"
DOWN = 'z = F.relu(torch.einsum("...d,nmd->...nm", h, self.D) + self.b_D)'
UP = 'z = torch.einsum("...nm,ndm->...nd", z, self.U) + self.b_U'
QKV = "q, k, v = self.query(h), self.key(z), self.value(z)"
ALPHA = 'α = torch.einsum("...d,...nd->...n", q, k).softmax(-1)'
KEEP = "self.weights = α.detach()"
OUT = 'return torch.einsum("...n,...nd->...d", α, v)'
BEHIND = "        s = self.base(x, *rest)\n        return s + self.fusion(s)"
NORM = "        h = self.base(s)\n        return self.base(s + self.fusion(h))"
PENALTY = "return self.regularization * sum((torch.eye(len(W)).to(W) - W).square().sum() for W in values)"

exercise.mistake(
    "adapters learn",
    ((BUFFER, "            setattr(self, name, nn.Parameter(torch.zeros(adapters, *shape)))\n"),),
    "the adapters are trained along with the attention",
    "what does the second stage change, and what did the first stage learn?",
    "In the second stage the adapters are frozen, so that no task overwrites another: they are kept, not trained.",
)
exercise.mistake(
    "adapters not registered",
    ((BUFFER, "            setattr(self, name, torch.zeros(adapters, *shape))\n"),),
    "the adapters are plain tensors, which are neither saved nor moved",
    "what does the `state_dict` of your fusion list?",
    "A tensor that belongs to a module without being trained is registered as a buffer.",
)
exercise.mistake(
    "type of its own",
    (("        self.to(like)\n", ""),),
    "the new weights do not follow the type and device of the model",
    "which type have your weights when the model is in bfloat16?",
    "What is made anew is in the default type and on the CPU, until it is moved to where `like` is.",
)
exercise.mistake(
    "W_v random",
    ((EYE, ""),),
    "W_v starts random",
    "what is left of what an adapter says, after a random W_v?",
    "The adapters are trained already; at the start their words should pass as they are.",
)
exercise.mistake(
    "W_v zero",
    ((EYE, "        nn.init.zeros_(self.value.weight)\n"),),
    "W_v starts at zero",
    "which α gets a gradient when every W_v z_t is zero?",
    "The penalty tells where W_v is at home: it costs nothing there.",
)
exercise.mistake(
    "bias of W_v",
    ((LINEAR, LINEAR.replace(", bias=False", "")),),
    "W_v comes with a bias",
    "how many vectors are in the count 3d² + 2d?",
    "Queries and keys have a bias, values have none: what an adapter did not say must not come out.",
)
exercise.mistake(
    "no biases",
    ((LINEAR, "self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))"),
     ("            nn.init.zeros_(layer.bias)\n", "")),
    "queries and keys lack their biases",
    "how many vectors are in the count 3d² + 2d?",
    "W_q and W_k come with a bias each.",
)  # fmt: skip
exercise.mistake(
    "wide start",
    ((SMALL, ""),),
    "queries and keys keep the wide start of `nn.Linear`",
    "how equal are the α of the adapters before the first step?",
    "Small scores make the softmax nearly flat, so that at first all adapters count alike.",
)
exercise.mistake(
    "no ReLU",
    ((DOWN, 'z = torch.einsum("...d,nmd->...nm", h, self.D) + self.b_D'),),
    "the adapters are computed without their ReLU",
    "what did an adapter compute when it was trained?",
    "The frozen adapters have to answer exactly as they did in the first stage.",
)
exercise.mistake(
    "no adapter biases",
    ((DOWN, 'z = F.relu(torch.einsum("...d,nmd->...nm", h, self.D))'), (UP, 'z = torch.einsum("...nm,ndm->...nd", z, self.U)')),
    "the adapters are computed without their biases",
    "which four tensors does an adapter consist of?",
    "The frozen adapters have to answer exactly as they did in the first stage.",
)  # fmt: skip
exercise.mistake(
    "adapters with their skip",
    ((UP, 'z = h[..., None, :] + torch.einsum("...nm,ndm->...nd", z, self.U) + self.b_U'),),
    "what the adapters say includes the residual h",
    "what is z_t when U_t is zero?",
    "Keys and values read what the adapter finds, without the residual; h is added once, outside.",
    "adapter-hub/adapters#148, about what keys and values read",
)
exercise.mistake(
    "softmax over the tokens",
    ((ALPHA, ALPHA.replace("softmax(-1)", "softmax(-2)")),),
    "the softmax runs over the tokens",
    "over which dimension do the α sum to one?",
    "Each token asks which adapter helps it; the other tokens have no part in that.",
)
exercise.mistake(
    "no softmax",
    ((ALPHA, ALPHA.replace(".softmax(-1)", "")),),
    "the raw scores are used as weights",
    "can your α be negative?",
    "The scores become a mixture, positive and with sum one, before they weigh anything.",
)
exercise.mistake(
    "divided by the root of d",
    ((ALPHA, ALPHA.replace(", q, k)", ", q, k).div(math.sqrt(q.shape[-1]))")),),
    "the scores are divided by √d, as in a Transformer",
    "does a √d stand in the equation of α?",
    "It would be no mistake in a Transformer; neither the paper's equation nor the library divides here.",
)
exercise.mistake(
    "keys from h",
    ((QKV, "q, k, v = self.query(h), self.key(h)[..., None, :].expand_as(z), self.value(z)"),),
    "the keys read h, so they are the same for every adapter",
    "can a softmax prefer an adapter when all keys are equal?",
    "The key of an adapter comes from what this adapter finds.",
    "adapter-hub/adapters#148, about what keys and values read",
)
exercise.mistake(
    "query from the adapters",
    ((QKV, "q, k, v = self.query(z.mean(-2)), self.key(z), self.value(z)"),),
    "the query reads the adapters' answers instead of h",
    "what makes the query in this attention, and what makes the keys?",
    "The token asks, with what the residual stream holds at its place.",
)
exercise.mistake(
    "values without W_v",
    ((QKV, "q, k, v = self.query(h), self.key(z), z"),),
    "W_v is never used",
    "which gradient does W_v get?",
    "At the start it makes no difference, as W_v is the identity; later it does.",
)
exercise.mistake(
    "keys and values exchanged",
    ((QKV, "q, k, v = self.query(h), self.value(z), self.key(z)"),),
    "keys and values have each other's matrix",
    "which of the matrices starts at the identity, and what is mixed by α?",
    "q is compared with W_k z_t; what is added up is W_v z_t.",
    "adapter-hub/adapters#148, about what keys and values read",
)
exercise.mistake(
    "plain mean",
    ((OUT, "return v.mean(-2)"),),
    "the adapters are averaged, whatever α says",
    "where do your α enter the sum?",
    "At the start all adapters count nearly alike, so a mean hides well; α has to weigh them.",
)
exercise.mistake(
    "residual inside",
    ((OUT, 'return h + torch.einsum("...n,...nd->...d", α, v)'),),
    "the fusion adds h to its answer, which the layer around it adds again",
    "how often is the residual stream in the sum when no adapter says anything?",
    "o is the mixture alone; the sum with s is written once, where the fusion is placed.",
)
exercise.mistake(
    "weights not kept",
    (("        " + KEEP + "\n", ""),),
    "the α are not kept",
    "where can one look up which adapter a token has asked?",
    "`weights` holds the α of the last pass, to be looked at.",
    "adapter-hub/adapters#83 and #56, about how to get at these α",
)
exercise.mistake(
    "weights with their graph",
    ((KEEP, "self.weights = α"),),
    "the α that are kept hold on to the whole graph of the pass",
    "how long does the memory of a pass live when one of its tensors is kept?",
    "What is only looked at is kept without gradient.",
)
exercise.mistake(
    "no skip",
    ((BEHIND, "        return self.fusion(self.base(x, *rest))"),),
    "the skip round the fusion is missing",
    "what comes out of the block when no adapter says anything?",
    "o is added to s, it does not replace it.",
)
exercise.mistake(
    "reads the input",
    ((BEHIND, "        return self.base(x, *rest) + self.fusion(x)"),),
    "the fusion reads what goes into the block",
    "what did the adapters read when they were trained?",
    "h is the residual stream after the MLP, so the fusion reads what the block puts out.",
)
exercise.mistake(
    "arguments lost",
    ((BEHIND, "        s = self.base(x)\n        return s + self.fusion(s)"),),
    "mask and cache do not reach the block",
    "what becomes of the padding mask on its way to attention?",
    "Whatever the wrapper is given besides x belongs to the block in front of which it stands.",
)
exercise.mistake(
    "gradient cut",
    ((BEHIND, "        s = self.base(x, *rest).detach()\n        return s + self.fusion(s)"),),
    "the gradient stops at the frozen block",
    "how does the fusion of the first layer learn, when the loss is at the far end?",
    "Frozen means that the weights do not change; the gradient still has to pass, so no `detach` and no `no_grad`.",
)
exercise.mistake(
    "residual behind the norm",
    ((NORM, "        h = self.base(s)\n        return self.base(h + self.fusion(h))"),),
    "o is added to LN(s) where it should be added to s",
    "with empty adapters, is LN(LN(s)) the same as LN(s)?",
    "The fusion reads the normalised sum, but its answer goes to the raw one, before the norm acts again.",
)
exercise.mistake(
    "no norm at the end",
    ((NORM, "        h = self.base(s)\n        return h + self.fusion(h)"),),
    "the answer is added behind the norm, and nothing normalises it",
    "how often does LN stand in the equation of a post-norm block?",
    "In a post-norm block the norm comes last; its output goes straight into the next layer.",
)
exercise.mistake(
    "reads the raw sum",
    ((NORM, "        return self.base(s + self.fusion(s))"),),
    "the fusion reads s, not LN(s)",
    "what is h in a post-norm block?",
    "The adapters were trained on LN(s); they need to read it again.",
)
exercise.mistake(
    "sum changed in place",
    ((NORM, "        s += self.fusion(self.base(s))\n        return self.base(s)"),),
    "`+=` writes into s, which others still need",
    "which numbers does the backward pass of the first LN need?",
    "In place, the tensor that autograd has kept is gone; make a new one.",
)
exercise.mistake(
    "no λ",
    ((PENALTY, PENALTY.replace("self.regularization * ", "")),),
    "the penalty lacks λ",
    "what does the setting `regularization` change in your penalty?",
    "Without its weight the penalty drowns the loss of the task.",
)
exercise.mistake(
    "weight decay",
    ((PENALTY, "return self.regularization * sum(W.square().sum() for W in values)"),),
    "W_v is drawn to zero, not to the identity",
    "what does your penalty say at the start, where W_v is the identity?",
    "Weight decay would silence the adapters; the penalty keeps W_v near where it began.",
)
exercise.mistake(
    "mean instead of sum",
    ((PENALTY, PENALTY.replace(".square().sum()", ".square().mean()")),),
    "the squares are averaged over the entries, not added up",
    "does ‖·‖² divide by the number of entries?",
    "The squared Frobenius norm is a sum; a mean is d² times smaller.",
)
exercise.mistake(
    "norm not squared",
    ((PENALTY, PENALTY.replace(".square().sum()", ".square().sum().sqrt()")),),
    "the norm is not squared",
    "how does your penalty grow when the distance from the identity doubles?",
    "A square is mild near the identity; the norm itself pulls with the same force everywhere, and has no gradient there.",
)
exercise.mistake(
    "one layer only",
    ((PENALTY, PENALTY.replace("in values)", "in values[-1:])")),),
    "only one layer pays",
    "how many W_v has the model?",
    "Every layer has a fusion of its own, and the loss gets the penalty of each.",
)
exercise.mistake(
    "half the square",
    ((PENALTY, PENALTY.replace(".square().sum()", ".square().sum() / 2")),),
    "the square is halved",
    "does a ½ stand in λ‖I − W_v‖²?",
    "A half is often put before a square to make the gradient look nice; here it would change what λ means.",
)
exercise.mistake(
    "penalty without gradient",
    ((PENALTY, PENALTY.replace("for W in values)", "for W in [W.detach() for W in values])")),),
    "the penalty is a mere number, without a gradient",
    "what does the optimizer get to know of your penalty?",
    "With `detach`, `item` or `data` the number is right, but nothing is drawn anywhere.",
)

exercise.right(
    "one adapter after the other",
    ((DOWN, "each = zip(self.D, self.b_D, self.U, self.b_U)"),
     (UP, "z = torch.stack([F.linear(F.relu(F.linear(h, D, b)), U, c) for D, b, U, c in each], dim=-2)"),
     (ALPHA, "α = torch.softmax((q[..., None, :] * k).sum(-1), dim=-1)"),
     (OUT, "return (α[..., None] * v).sum(-2)")),
)  # fmt: skip
exercise.right(
    "matmul",
    ((ALPHA, "α = F.softmax((k @ q.unsqueeze(-1)).squeeze(-1), dim=-1)"),
     (OUT, "return (α.unsqueeze(-2) @ v).squeeze(-2)")),
)  # fmt: skip
exercise.right(
    "mixed before W_v",
    ((QKV, "q, k = self.query(h), self.key(z)"), (OUT, 'return self.value(torch.einsum("...n,...nd->...d", α, z))')),
)
exercise.right(
    "made by hand",
    ((BUFFER, "            self.register_buffer(name, like.new_zeros((adapters, *shape)))\n"),
     (SMALL, "            layer.weight.data = 0.02 * torch.randn(d, d)\n"),
     (EYE, "        self.value.weight = nn.Parameter(torch.eye(d))\n")),
)  # fmt: skip
exercise.right(
    "keys that read h as well",  # W_k h is the same for every adapter, and the softmax does not see it
    ((QKV, "q, k, v = self.query(h), self.key(z + h[..., None, :]), self.value(z)"),),
)
exercise.right("sums in another order", (
    (BEHIND, "        y = self.base(x, *rest)\n        return self.fusion(y) + y"),
    (NORM, "        return self.base(self.fusion(self.base(s)) + s)"),
))  # fmt: skip
exercise.right(
    "penalty layer by layer",
    ((PENALTY, """total = 0.0
        for W in values:
            total = total + torch.linalg.matrix_norm(W - torch.eye(*W.shape, dtype=W.dtype, device=W.device)) ** 2
        return total * self.regularization"""),),
)  # fmt: skip

exercise.variant(
    "scaled scores",
    ((ALPHA, ALPHA.replace(", q, k)", ", q, k).div(math.sqrt(q.shape[-1]))")),
     ("    α   = softmax_t(q·k_t)        ", "    α   = softmax_t(q·k_t / √d)   "),
     ("neither divides the scores by √d, nor does this file.", "neither divides the scores by √d; this file does."),
     ("o = Σ_t softmax_t(q·k_t) W_v z_t over N", "o = Σ_t softmax_t(q·k_t / √d) W_v z_t over N")),
    "the scores are divided by √d before the softmax",
)  # fmt: skip
exercise.variant(
    "keys and values read the sum",
    ((UP, 'z = h[..., None, :] + torch.einsum("...nm,ndm->...nd", z, self.U) + self.b_U'),
     ("z_t = U_t φ(D_t h + b_D) + b_U          what adapter t finds;", "z_t = h + U_t φ(D_t h + b_D) + b_U      what adapter t puts out, h included;"),
     ("In its code and here keys\nand values read z_t without the residual, and", "In its code keys\nand values read z_t without the residual, here with it, and")),
    "z_t includes the residual: keys and values read h + U φ(D h + b_D) + b_U",
)  # fmt: skip
exercise.variant(
    "mean over the layers",
    ((PENALTY, PENALTY + " / len(values)"),
     ("the loss gets λ‖I − W_v‖² for each layer:", "the loss gets the mean of λ‖I − W_v‖² over the layers:"),
     ("regularization: λ of λ‖I − W_v‖², which the loss gets for each layer.", "regularization: λ of λ‖I − W_v‖², of which the loss gets the mean over the layers.")),
    "the penalty is the mean over the layers, not the sum",
)  # fmt: skip
