"""The block: two sublayers on a residual stream, the norm before or after, the MLP, and how large the weights start."""

import torch
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import VOCAB, T, after_a_move, arrivals, fill, numbers, rows, types

observe = Observations()

D, FF = 6, 8
KINDS = {"pre-norm": True, "post-norm": False}
MASK = rows("left")[1]


def x(name="x", length=T):
    return numbers(name, (3, length, D), 1.0)


def config(impl, **settings):
    return impl.Config(VOCAB, **{"dim": D, "layers": 2, "heads": 2, "ff": FF, "context": 8, **settings})


def mlp(impl, gelu="none"):
    return fill(impl.MLP(D, FF, gelu), scale=0.8).eval()


class Heard(nn.Module):
    """Stands in for a sublayer: keeps what it is given, and answers with something easy to recognise."""

    def __init__(self, factor, shift):
        super().__init__()
        self.factor, self.shift, self.given, self.others = factor, shift, [], []

    def forward(self, x, mask=None, cache=None):
        self.given.append(x.clone())
        self.others.append((mask, cache))
        return self.factor * x.flip(-1) + self.shift


def block(impl, pre_norm, answer=1.0, **settings):
    """A Block with random norms and two sublayers that take notes."""
    made = fill(impl.Block(config(impl, pre_norm=pre_norm, **settings))).eval()
    made.attn, made.mlp = Heard(0.7 * answer, 0.3 * answer), Heard(-0.4 * answer, 0.2 * answer)
    return made


def kept(impl, pre_norm):
    """What a block reads and answers, for several observations: to make one takes a while."""
    known = vars(impl).setdefault("blocks of the bank", {})
    if pre_norm not in known:
        made = block(impl, pre_norm)
        y = made(x())
        known[pre_norm] = made.attn.given, made.mlp.given, y
    return known[pre_norm]


@observe("parts", "The MLP should have two layers, up (d → ff) and down (ff → d), each with a bias.")
def parameters_of_the_mlp(impl):
    return {name: list(p.shape) for name, p in impl.MLP(D, FF, "none").named_parameters()}


@observe("parts", "The parameters of a block are not those of an attention, an MLP and two norms.")
def parameters_of_the_block(impl):
    return {name: list(p.shape) for name, p in impl.Block(config(impl)).named_parameters()}


@observe("parts", "A setting of the Config does not arrive where it belongs.")
def settings_that_arrive(impl):
    made = impl.Block(config(impl, heads=3, gelu="tanh", eps=0.5, pre_norm=False))
    norms = {name: module for name, module in made.named_modules() if isinstance(module, nn.LayerNorm)}
    return {"heads": made.attn.heads} | {f"eps of {name}": norm.eps for name, norm in norms.items()}


@observe("parts", "A block should say by `pre_norm` where its norms are: adapters and P-tuning v2 read it.")
def what_others_read_of_a_block(impl):
    return {
        f"pre_norm={pre}": getattr(impl.Block(config(impl, pre_norm=pre)), "pre_norm", "no such attribute")
        for pre in (True, False)
    }


@observe("MLP", "The MLP does not return down(φ(up(x))), with φ the exact GELU.")
def output_of_the_mlp(impl):
    return mlp(impl)(x())


@observe("MLP", 'With gelu="tanh", as in GPT-2, the MLP does not return the expected output.')
def output_with_the_approximation(impl):
    return mlp(impl, "tanh")(x()) * 1000


@observe("pre-norm", "In a pre-norm block, attention does not read what it should read.")
def what_attention_reads_pre_norm(impl):
    return kept(impl, True)[0]


@observe("pre-norm", "In a pre-norm block, the MLP does not read what it should read.")
def what_the_mlp_reads_pre_norm(impl):
    return kept(impl, True)[1]


@observe("pre-norm", "A pre-norm block does not return the expected output.")
def output_pre_norm(impl):
    return kept(impl, True)[2]


@observe("pre-norm", "Where both sublayers add nothing, a pre-norm block should pass x on as it is.")
def nothing_added_pre_norm(impl):
    return block(impl, True, answer=0.0)(x()) - x()


@observe("post-norm", "In a post-norm block, attention does not read what it should read.")
def what_attention_reads_post_norm(impl):
    return kept(impl, False)[0]


@observe("post-norm", "In a post-norm block, the MLP does not read what it should read.")
def what_the_mlp_reads_post_norm(impl):
    return kept(impl, False)[1]


@observe("post-norm", "A post-norm block does not return the expected output.")
def output_post_norm(impl):
    return kept(impl, False)[2]


@observe("post-norm", "`pre_norm` alone should decide where the norms stand, also in a model that is not causal.")
def who_reads_the_stream_itself(impl):
    found = {}
    for pre_norm in (True, False):
        made = block(impl, pre_norm, causal=not pre_norm)
        made(x())
        found[f"pre_norm={pre_norm}, causal={not pre_norm}"] = bool(made.attn.given[0].equal(x()))
    return found


@observe("what goes along", "The mask and the cache should reach attention as they are.")
def what_reaches_attention(impl):
    found = {}
    for kind, pre_norm in KINDS.items():
        made, cache = block(impl, pre_norm), impl.KVCache()
        made(x(), MASK.clone(), cache)
        found[kind] = [{"mask": m, "the same cache": c is cache} for m, c in made.attn.others]
    return found


@observe("what goes along", "The caller's x is changed in place; somebody else may still need it.")
def x_is_left_alone(impl):
    mine = {kind: x() for kind in KINDS}
    for kind, each in mine.items():
        block(impl, KINDS[kind])(each)
    return {kind: each - x() for kind, each in mine.items()}


@observe("what goes along", "After all weights have changed, the answer should follow. Is something kept from before?")
def after_a_change(impl):
    blocks = {name: lambda pre=pre: fill(impl.Block(config(impl, pre_norm=pre))).eval() for name, pre in KINDS.items()}
    made = {"MLP": lambda: mlp(impl)} | blocks
    return {name: after_a_move(make, lambda part: part(x())) for name, make in made.items()}


@observe("what goes along", "In training, the same input gives another output: nobody asked for a dropout.")
def training_is_like_evaluation(impl):
    made = {"MLP": mlp(impl), "pre-norm": block(impl, True), "post-norm": block(impl, False)}
    return {name: bool(part.eval()(x()).allclose(part.train()(x()))) for name, part in made.items()}


@observe(
    "gradients",
    "A gradient should reach the input and every weight; where does `detach`, `no_grad` or a copy cut it off?",
)
def where_gradients_arrive(impl):
    found = {}
    for kind, pre_norm in KINDS.items():
        made, given, cache = fill(impl.Block(config(impl, pre_norm=pre_norm))), x().requires_grad_(), impl.KVCache()
        cache.k, cache.v = (numbers(f"old {w}", (3, 2, 1, 3)) for w in "kv")  # without any, the bias of k gets none
        arrived = arrivals(made, made(given, None, cache))
        seen = bool(given.grad is not None and given.grad.abs().max() > 0)
        found[kind] = arrived | {"x": seen}
    return found


@observe(
    "gradients", "The gradient that reaches the input of a block is not the expected one: one of its ways is cut off."
)
def gradient_of_the_input(impl):
    found = {}
    for kind, pre_norm in KINDS.items():
        given = x().requires_grad_()
        block(impl, pre_norm)(given).pow(3).sum().backward()
        found[kind] = given.grad
    return found


@observe("types", "With weights in bfloat16 or float64 a block should work, and answer in their type.")
def types_of_numbers(impl):
    def run(made):
        return made(x().to(made.mlp.up.weight.dtype))

    return {
        name: types(lambda dtype, pre=pre: impl.Block(config(impl, pre_norm=pre)).to(dtype), run)
        for name, pre in KINDS.items()
    }


@observe("start", "Two blocks made one after the other should not start alike; is a seed set on the way?")
def two_blocks_start_differently(impl):
    blocks = [impl.Block(config(impl)) for _ in range(2)]
    mlps = [impl.MLP(D, FF, "none") for _ in range(2)]
    pairs = {
        "two MLPs": [m.up.weight for m in mlps],
        "the MLPs of two blocks": [b.mlp.up.weight for b in blocks],
        "the attentions of two blocks": [b.attn.q.weight for b in blocks],
    }
    return {which: bool(torch.equal(*pair)) for which, pair in pairs.items()}


@observe(
    "start",
    "Weights that add nothing to the stream (q, up, the tables, the head) start with the wrong standard deviation.",
)
def size_of_most_weights(impl):
    names = ("embed.token.weight", "blocks.0.attn.q.weight", "blocks.1.mlp.up.weight", "head.weight")
    return {f"{name} in width {dim}": stub(impl, dim, 2).std(name) for dim in (6, 32) for name in names}


@observe("start", "The last weight of a sublayer, which adds to the stream, starts with the wrong standard deviation.")
def size_of_what_is_added(impl):
    names = ("blocks.0.attn.o.weight", "blocks.1.mlp.down.weight")
    found = {}
    for dim, layers in ((6, 2), (32, 1), (32, 8)):
        made = stub(impl, dim, layers)
        for name in names:
            found[f"{name} in width {dim} with {layers} layers"] = {
                "standard deviation": made.std(name),
                "as a share of that of the others": made.std(name) / made.std("blocks.0.mlp.up.weight"),
            }
    return found


@observe("start", "In a model that has learned nothing yet, the residual stream should not grow with the depth.")
def what_all_layers_add_together(impl):
    return {
        f"{layers} layers": layers * stub(impl, 64, layers).std("blocks.0.mlp.down.weight") ** 2
        for layers in (1, 4, 16)
    }


def stub(impl, dim, layers):
    """A Transformer that knows its shape but has no weights: they would take a while."""
    made = impl.Transformer.__new__(impl.Transformer)
    nn.Module.__init__(made)
    made.config = config(impl, dim=dim, layers=layers)
    return made
