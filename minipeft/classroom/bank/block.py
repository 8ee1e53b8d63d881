"""The block: two sublayers on a residual stream, the norm before or after, the MLP, and how large the weights start."""

from torch import nn

from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import VOCAB, T, fill, numbers, rows

exercise = Exercise(
    "block",
    "models/transformer.py",
    stubs=("MLP.__init__", "MLP.forward", "Block.__init__", "Block.forward", "Transformer.std"),
    title="The block: attention and MLP, each added to the residual stream",
    minutes=30,
    difficulty=1,
    why="What a residual stream is, where GPT-2 and BERT put their norms, and why what is added should start small.",
    read="Vaswani et al. 2017, arXiv:1706.03762, section 3; GPT-2: Radford et al. 2019, section 2.3; BERT: arXiv:1810.04805; pre- and post-norm: Xiong et al. 2020, arXiv:2002.04745",
    lesson="01",
)

D, FF = 6, 8
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


@exercise.observe("parts", "The MLP should have two layers, up (d → ff) and down (ff → d), each with a bias.")
def parameters_of_the_mlp(impl):
    return {name: list(p.shape) for name, p in impl.MLP(D, FF, "none").named_parameters()}


@exercise.observe("parts", "The parameters of a block are not those of an attention, an MLP and two norms.")
def parameters_of_the_block(impl):
    return {name: list(p.shape) for name, p in impl.Block(config(impl)).named_parameters()}


@exercise.observe("parts", "A setting of the Config does not arrive where it belongs.")
def settings_that_arrive(impl):
    made = impl.Block(config(impl, heads=3, gelu="tanh", eps=0.5, pre_norm=False))
    return {"heads": made.attn.heads, "eps": [m.eps for m in made.modules() if isinstance(m, nn.LayerNorm)]}  # fmt: skip


@exercise.observe("MLP", "The MLP does not return down(φ(up(x))), with φ the exact GELU.")
def output_of_the_mlp(impl):
    return mlp(impl)(x())


@exercise.observe("MLP", 'With gelu="tanh", as in GPT-2, the MLP does not return the expected output.')
def output_with_the_approximation(impl):
    return mlp(impl, "tanh")(x()) * 1000


@exercise.observe("pre-norm", "In a pre-norm block, attention does not read what it should read.")
def what_attention_reads_pre_norm(impl):
    return kept(impl, True)[0]


@exercise.observe("pre-norm", "In a pre-norm block, the MLP does not read what it should read.")
def what_the_mlp_reads_pre_norm(impl):
    return kept(impl, True)[1]


@exercise.observe("pre-norm", "A pre-norm block does not return the expected output.")
def output_pre_norm(impl):
    return kept(impl, True)[2]


@exercise.observe("pre-norm", "Where both sublayers add nothing, a pre-norm block should pass x on as it is.")
def nothing_added_pre_norm(impl):
    return block(impl, True, answer=0.0)(x()) - x()


@exercise.observe("post-norm", "In a post-norm block, attention does not read what it should read.")
def what_attention_reads_post_norm(impl):
    return kept(impl, False)[0]


@exercise.observe("post-norm", "In a post-norm block, the MLP does not read what it should read.")
def what_the_mlp_reads_post_norm(impl):
    return kept(impl, False)[1]


@exercise.observe("post-norm", "A post-norm block does not return the expected output.")
def output_post_norm(impl):
    return kept(impl, False)[2]


@exercise.observe("what goes along", "The mask and the cache should reach attention as they are.")
def what_reaches_attention(impl):
    found = []
    for pre_norm in (True, False):
        made, cache = block(impl, pre_norm), impl.KVCache()
        made(x(), MASK, cache)
        found += [{"mask": m, "the same cache": c is cache} for m, c in made.attn.others]
    return found


@exercise.observe("what goes along", "The caller's x is changed in place; somebody else may still need it.")
def x_is_left_alone(impl):
    mine = [x(), x()]
    for pre_norm, each in zip((True, False), mine, strict=True):
        block(impl, pre_norm)(each)
    return [each - x() for each in mine]


@exercise.observe(
    "start",
    "Weights that add nothing to the stream (q, up, the tables, the head) start with the wrong standard deviation.",
)
def size_of_most_weights(impl):
    names = ("embed.token.weight", "blocks.0.attn.q.weight", "blocks.1.mlp.up.weight", "head.weight")
    return [stub(impl, dim, 2).std(name) for dim in (6, 32) for name in names]


@exercise.observe(
    "start", "The last weight of a sublayer, which adds to the stream, starts with the wrong standard deviation."
)
def size_of_what_is_added(impl):
    names = ("blocks.0.attn.o.weight", "blocks.1.mlp.down.weight")
    models = [stub(impl, dim, layers) for dim, layers in ((6, 2), (32, 1), (32, 8))]
    return {
        "standard deviation": [made.std(name) for made in models for name in names],
        "as a share of the others'": [
            made.std(name) / made.std("blocks.0.mlp.up.weight") for made in models for name in names
        ],
    }


@exercise.observe(
    "start", "In a model that has learned nothing yet, the residual stream should not grow with the depth."
)
def what_all_layers_add_together(impl):
    return [layers * stub(impl, 64, layers).std("blocks.0.mlp.down.weight") ** 2 for layers in (1, 4, 16)]


def stub(impl, dim, layers):
    """A Transformer that knows its shape but has no weights: they would take a while."""
    made = impl.Transformer.__new__(impl.Transformer)
    nn.Module.__init__(made)
    made.config = config(impl, dim=dim, layers=layers)
    return made


MLP_PARTS = "        self.up, self.down = nn.Linear(dim, ff), nn.Linear(ff, dim)\n"
ACT = "        self.act = nn.GELU(approximate=gelu)\n"
MLP_OUT = "        return self.down(self.act(self.up(x)))\n"
PARTS = "        self.attn = Attention(config.dim, config.heads)\n        self.mlp = MLP(config.dim, config.ff, config.gelu)\n"
NORMS = "        self.norm1, self.norm2 = (nn.LayerNorm(config.dim, eps=config.eps) for _ in range(2))\n"
PRE = "            x = x + self.attn(self.norm1(x), mask, cache)\n            return x + self.mlp(self.norm2(x))\n"
POST = "        x = self.norm1(x + self.attn(x, mask, cache))\n        return self.norm2(x + self.mlp(x))\n"
IF = "        if self.pre_norm:\n"
ADDS = '        adds = name.endswith(("attn.o.weight", "mlp.down.weight"))\n'
STD = "        return (2 * self.config.dim) ** -0.5 * ((2 * self.config.layers) ** -0.5 if adds else 1)\n"

exercise.mistake(
    "no nonlinearity",
    ((MLP_OUT, "        return self.down(self.up(x))\n"),),
    "there is no nonlinearity between up and down",
    "what can two linear layers in a row compute, with nothing between them?",
    "Without φ the MLP is a single linear map, and the extra width ff adds nothing to it.",
)
exercise.mistake(
    "nonlinearity at the end",
    ((MLP_OUT, "        return self.act(self.down(self.act(self.up(x))))\n"),),
    "φ is applied after down too",
    "can the MLP still add negative numbers to the stream?",
    "A nonlinearity at the end cuts off most of what is below 0, so the stream could mostly grow.",
)
exercise.mistake(
    "ReLU",
    ((ACT, "        self.act = nn.ReLU()\n"),),
    "φ is a ReLU, as in the first Transformer, not a GELU",
    "which φ do GPT-2 and BERT use?",
    "GELU is smooth, and lets a little through below 0.",
)
exercise.mistake(
    "GELU always exact",
    ((ACT, "        self.act = nn.GELU()\n"),),
    "the GELU is always the exact one; `gelu` is not used",
    "which argument of `nn.GELU` chooses the approximation?",
    "The difference is small, but it is there in every layer, and a pretrained model was trained with one of the two.",
    "huggingface/transformers#13666, kyutai-labs/pocket-tts#278",
)
exercise.mistake(
    "GELU always approximate",
    ((ACT, '        self.act = nn.GELU(approximate="tanh")\n'),),
    "the GELU is always the tanh approximation; `gelu` is not used",
    "what should the MLP of BERT compute, and what that of GPT-2?",
    "The difference is small, but it is there in every layer, and a pretrained model was trained with one of the two.",
    "Blaizzy/mlx-embeddings#81",
)
exercise.mistake(
    "no biases in the MLP",
    ((MLP_PARTS, "        self.up, self.down = nn.Linear(dim, ff, bias=False), nn.Linear(ff, dim, bias=False)\n"),),
    "up and down have no biases",
    "how many parameters does the MLP of one GPT-2 layer have?",
    "Newer models leave biases out. GPT-2 and BERT have them, and BitFit trains nothing else.",
)
exercise.mistake(
    "not wider than the stream",
    ((MLP_PARTS, "        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)\n"),),
    "the MLP is as narrow as the stream: ff is not used",
    "why is the first layer called `up`?",
    "Between up and down the vectors have ff numbers, not d.",
)
exercise.mistake(
    "residual inside the MLP",
    ((MLP_OUT, "        return x + self.down(self.act(self.up(x)))\n"),),
    "the MLP adds x to its output, and the block adds x once more",
    "which of the two adds to the stream, the sublayer or the block?",
    "A sublayer returns only what is about to be added to the stream. That is where an adapter steps in.",
)
exercise.mistake(
    "one norm for both",
    ((NORMS, "        self.norm1 = self.norm2 = nn.LayerNorm(config.dim, eps=config.eps)\n"),),
    "norm1 and norm2 are one and the same module",
    "how many LayerNorms have weights of their own in your block?",
    "Two names for one module share their weights; the two norms learn different ones.",
)
exercise.mistake(
    "eps left out",
    ((NORMS, NORMS.replace(", eps=config.eps", "")),),
    "the norms do not get eps from the Config",
    "which eps does BERT use, and which is the default of PyTorch?",
    "BERT uses 1e-12 and GPT-2 uses 1e-5; converted weights give other numbers with another eps.",
)
exercise.mistake(
    "one head",
    ((PARTS, PARTS.replace("config.heads", "1")),),
    "attention has a single head: `heads` of the Config is not used",
    "how many heads does attention have in your block, and how many does the Config ask for?",
    "The number of heads changes no shape and no number of parameters, so nothing complains.",
)
exercise.mistake(
    "no residual",
    ((PRE, "            x = self.attn(self.norm1(x), mask, cache)\n            return self.mlp(self.norm2(x))\n"),
     (POST, "        x = self.norm1(self.attn(x, mask, cache))\n        return self.norm2(self.mlp(x))\n")),
    "each sublayer replaces the stream instead of adding to it",
    "what is left of x if attention returns zeros?",
    "Each sublayer adds to what is there, so the gradient has a straight path back.",
)  # fmt: skip
exercise.mistake(
    "stream is normalized",
    ((PRE, "            x = self.norm1(x)\n            x = x + self.attn(x, mask, cache)\n            x = self.norm2(x)\n            return x + self.mlp(x)\n"),),
    "in pre-norm, the sublayer's result is added to the normalized x, not to x itself",
    "does the stream itself ever pass through a norm in a pre-norm block?",
    "Only the sublayer reads normalized vectors; the stream runs on beside it.",
    "SHI-Labs/Compact-Transformers#25",
)  # fmt: skip
exercise.mistake(
    "no second norm",
    ((PRE, PRE.replace("self.mlp(self.norm2(x))", "self.mlp(x)")),),
    "in pre-norm, the MLP reads the stream without a norm",
    "which of the two sublayers reads normalized vectors in your block?",
    "Both do, each with its own norm.",
)
exercise.mistake(
    "norm1 twice",
    ((PRE, PRE.replace("norm2", "norm1")), (POST, POST.replace("norm2", "norm1"))),
    "norm1 is used in both places, norm2 in none",
    "which parameters of your block never get a gradient?",
    "This is a slip of copying. Nobody notices with fresh norms, as both are ones and zeros.",
)
exercise.mistake(
    "side by side",
    ((PRE, "            return x + self.attn(self.norm1(x), mask, cache) + self.mlp(self.norm2(x))\n"),),
    "in pre-norm, the MLP reads the same x as attention, without what attention has added",
    "does the MLP know what attention found?",
    "Sublayers side by side work too, as in GPT-J; here the MLP comes after attention.",
)
exercise.mistake(
    "always pre-norm",
    ((IF, "        if True:\n"),),
    "the norm always comes before the sublayer",
    "what does your block do with `pre_norm=False`?",
    "In the first Transformer and in BERT, the norm comes after the addition.",
    "harvardnlp/annotated-transformer#1 and #92",
)
exercise.mistake(
    "always post-norm",
    ((IF, "        if False:\n"),),
    "the norm always comes after the addition",
    "what does your block do with `pre_norm=True`?",
    "GPT-2 moved the norm to the input of each sublayer.",
    "openai/CLIP#91 asks why",
)
exercise.mistake(
    "the other way round",
    ((IF, "        if not self.pre_norm:\n"),),
    "pre-norm and post-norm are exchanged",
    "what does the norm come before, in pre-norm?",
    "Pre: before the sublayer. Post: after its result has been added.",
)
exercise.mistake(
    "norm before the addition",
    ((POST, "        x = x + self.norm1(self.attn(x, mask, cache))\n        return x + self.norm2(self.mlp(x))\n"),),
    "in post-norm, the sublayer's result is normalized first and added then",
    "is the output of a post-norm block normalized?",
    "The order is: add, then normalize.",
    "datawhalechina/happy-llm#71 asks which of them is meant",
)
exercise.mistake(
    "residual of the first x",
    ((POST, "        y = self.norm1(x + self.attn(x, mask, cache))\n        return self.norm2(x + self.mlp(y))\n"),),
    "in post-norm, the second sum starts from the x that came in and loses what attention added",
    "what should the MLP's result be added to: the input of the block, or what the MLP has read?",
    "After the first half, the stream is the normalized sum.",
)
exercise.mistake(
    "mask dropped",
    ((PRE, PRE.replace("mask, cache", "None, cache")), (POST, POST.replace("mask, cache", "None, cache"))),
    "the mask does not reach attention",
    "where is padding hidden, if not in attention?",
    "A block has no use for the mask itself, but it has to pass it on.",
)
exercise.mistake(
    "cache dropped",
    ((PRE, PRE.replace("mask, cache", "mask")), (POST, POST.replace("mask, cache", "mask"))),
    "the cache does not reach attention",
    "which keys does a single new token read, if attention gets no cache?",
    "A block has no use for the cache itself, but it has to pass it on.",
)
exercise.mistake(
    "in place",
    ((PRE, PRE.replace("x = x + self.attn(", "x += self.attn(")), (POST, POST.replace("self.norm1(x + self.attn(x, mask, cache))", "self.norm1(x.add_(self.attn(x, mask, cache)))"))),
    "the addition happens in place and changes the caller's x",
    "what is the difference between x = x + y and x += y?",
    "`+=` writes to the tensor that was passed in. The embedded tokens change with it, and so does whatever else holds them.",
)  # fmt: skip
exercise.mistake(
    "nothing starts smaller",
    ((STD, "        return (2 * self.config.dim) ** -0.5\n"),),
    "the weights that add to the stream start as large as all the others",
    "if 2L terms of variance 1 are added, how does the sum grow with the depth?",
    "GPT-2 makes the start of these weights smaller, so that a deep model does not begin with a larger stream.",
    "huggingface/transformers#47458, stanford-crfm/mistral#30",
)
exercise.mistake(
    "layers instead of sublayers",
    ((STD, STD.replace("(2 * self.config.layers)", "self.config.layers")),),
    "N is taken to be the number of layers",
    "how often does one block add to the stream?",
    "N counts the additions in the whole model.",
)
exercise.mistake(
    "divided without the root",
    ((STD, STD.replace("(2 * self.config.layers) ** -0.5", "1 / (2 * self.config.layers)")),),
    "the start of what adds to the stream is divided by N, not by its square root",
    "do variances add up, or standard deviations?",
    "The sum of N independent terms has N times their variance.",
)
exercise.mistake(
    "only attention starts smaller",
    ((ADDS, '        adds = name.endswith("attn.o.weight")\n'),),
    "only o starts smaller, although the MLP adds to the stream too",
    "which two weights write into the residual stream?",
    "Each sublayer has a last weight, so there are two in a block.",
)
exercise.mistake(
    "all of the block starts smaller",
    ((ADDS, '        adds = name.startswith("blocks.")\n'),),
    "every weight of a block starts smaller, including q, k, v and up",
    "which weights write into the stream, and which only read from it?",
    "The weights that read come after a norm; only those that write need the smaller start.",
)
exercise.mistake(
    "the number of GPT-2",
    ((STD, STD.replace("(2 * self.config.dim) ** -0.5", "0.02")),),
    "the standard deviation is 0.02, whatever d is",
    "for which d is 1/√(2d) about 0.02?",
    "GPT-2 has this number for its own width; a small model would start with next to nothing.",
)
exercise.mistake(
    "variance for standard deviation",
    ((STD, STD.replace("(2 * self.config.dim) ** -0.5", "1 / (2 * self.config.dim)")),),
    "the weights start with a standard deviation of 1/(2d), which should be their variance",
    "does `normal_` take a variance or a standard deviation?",
    "A standard deviation is the square root of a variance.",
)

exercise.right(
    "functions instead of operators",
    ((MLP_OUT, "        import torch.nn.functional as F\n\n        return F.linear(self.act(self.up(x)), self.down.weight, self.down.bias)\n"),
     (PRE, "            h = torch.add(x, self.attn(self.norm1(x), mask=mask, cache=cache))\n            return torch.add(h, self.mlp(self.norm2(h)))\n")),
)  # fmt: skip
exercise.right(
    "norms one by one",
    ((NORMS, "        self.norm1 = nn.LayerNorm((config.dim,), config.eps)\n        self.norm2 = nn.LayerNorm((config.dim,), config.eps)\n"),
     (POST, "        for part, norm in ((lambda h: self.attn(h, mask, cache), self.norm1), (self.mlp, self.norm2)):\n            x = norm(x + part(x))\n        return x\n")),
)  # fmt: skip
exercise.right(
    "GELU as a function",
    ((ACT, "        self.act = lambda h: nn.functional.gelu(h, approximate=gelu)\n"),
     (MLP_PARTS, "        self.down = nn.Linear(ff, dim)\n        self.up = nn.Linear(dim, ff)\n")),
)  # fmt: skip
exercise.right(
    "another way to the same number",
    ((ADDS, '        adds = "attn.o." in name or "mlp.down." in name\n'),
     (STD, "        c = self.config\n        std = 1 / math.sqrt(2 * c.dim)\n        if adds:\n            std /= math.sqrt(2 * c.layers)\n        return std\n")),
)  # fmt: skip
exercise.right(
    "one way for both",
    ((IF + PRE + POST, "        for part, norm in ((self.attn, self.norm1), (self.mlp, self.norm2)):\n            h = norm(x) if self.pre_norm else x\n            x = x + (part(h, mask, cache) if part is self.attn else part(h))\n            x = x if self.pre_norm else norm(x)\n        return x\n"),),
)  # fmt: skip

exercise.variant(
    "parallel",
    ((PRE, "            return x + self.attn(self.norm1(x), mask, cache) + self.mlp(self.norm2(x))\n"),
     ('"""Attention, then MLP, each added', '"""Attention and MLP, each added'),
     ("comes before (GPT-2) or after (BERT).", "comes before (GPT-2) or after (BERT).\n\n    In pre-norm the two stand side by side: both read the x that came in. In post-norm the MLP follows attention.")),
    "in a pre-norm block the sublayers stand side by side, and both read the x that came in",
)  # fmt: skip
exercise.variant(
    "norm inside",
    ((POST, "        x = x + self.norm1(self.attn(x, mask, cache))\n        return x + self.norm2(self.mlp(x))\n"),
     ("    The parts are `attn`,", "    Where the norm comes after, it is applied to what the sublayer returns, before that is added.\n\n    The parts are `attn`,")),
    "a norm that comes after is applied to what the sublayer returns, before that is added to x",
)  # fmt: skip
exercise.variant(
    "smaller by depth",
    ((STD, STD.replace("(2 * self.config.layers) ** -0.5", "1 / (2 * self.config.layers)")),
     ("it is divided by √N as well, for N", "it is divided by N as well, for N")),
    "a weight that adds to the stream starts at 1/N of the others, not at 1/√N",
)  # fmt: skip
