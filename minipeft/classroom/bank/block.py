"""The block: two sublayers on a residual stream, the norm before or after, the MLP, and how wide the weights start."""

from torch import nn

from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import VOCAB, T, fill, numbers, rows

exercise = Exercise(
    "block",
    "models/transformer.py",
    holes=("MLP.__init__", "MLP.forward", "Block.__init__", "Block.forward", "Transformer.std"),
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
    """In place of a sublayer: keeps what it is given, and answers with something easy to recognise."""

    def __init__(self, factor, shift):
        super().__init__()
        self.factor, self.shift, self.given, self.others = factor, shift, [], []

    def forward(self, x, mask=None, past=None):
        self.given.append(x.clone())
        self.others.append((mask, past))
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
    made = impl.Block(config(impl, heads=3, causal=False, gelu="tanh", eps=0.5, pre_norm=False))
    return {"heads": made.attn.heads, "causal": made.attn.causal, "eps": [m.eps for m in made.modules() if isinstance(m, nn.LayerNorm)]}  # fmt: skip


@exercise.observe("MLP", "What the MLP returns is not down(φ(up(x))), with φ the exact GELU.")
def output_of_the_mlp(impl):
    return mlp(impl)(x())


@exercise.observe("MLP", 'With gelu="tanh", as in GPT-2, what the MLP returns is not the expected output.')
def output_with_the_approximation(impl):
    return mlp(impl, "tanh")(x()) * 1000


@exercise.observe("pre-norm", "In a pre-norm block, what attention reads is not what it should read.")
def what_attention_reads_pre_norm(impl):
    return kept(impl, True)[0]


@exercise.observe("pre-norm", "In a pre-norm block, what the MLP reads is not what it should read.")
def what_the_mlp_reads_pre_norm(impl):
    return kept(impl, True)[1]


@exercise.observe("pre-norm", "What a pre-norm block returns is not the expected output.")
def output_pre_norm(impl):
    return kept(impl, True)[2]


@exercise.observe("pre-norm", "Where both sublayers add nothing, a pre-norm block should pass x on as it is.")
def nothing_added_pre_norm(impl):
    return block(impl, True, answer=0.0)(x()) - x()


@exercise.observe("post-norm", "In a post-norm block, what attention reads is not what it should read.")
def what_attention_reads_post_norm(impl):
    return kept(impl, False)[0]


@exercise.observe("post-norm", "In a post-norm block, what the MLP reads is not what it should read.")
def what_the_mlp_reads_post_norm(impl):
    return kept(impl, False)[1]


@exercise.observe("post-norm", "What a post-norm block returns is not the expected output.")
def output_post_norm(impl):
    return kept(impl, False)[2]


@exercise.observe("what goes along", "The mask and the past should reach attention as they are.")
def what_reaches_attention(impl):
    found = []
    for pre_norm in (True, False):
        made, past = block(impl, pre_norm), impl.Past()
        made(x(), MASK, past)
        found += [{"mask": m, "the same past": p is past} for m, p in made.attn.others]
    return found


@exercise.observe("what goes along", "The x of the caller is changed in place; somebody else may still need it.")
def x_is_left_alone(impl):
    mine = [x(), x()]
    for pre_norm, each in zip((True, False), mine, strict=True):
        block(impl, pre_norm)(each)
    return [each - x() for each in mine]


@exercise.observe(
    "start", "Weights that only pass something on, such as q, up, tables and head, do not start as wide as they should."
)
def width_of_most_weights(impl):
    names = ("embed.token.weight", "blocks.0.attn.q.weight", "blocks.1.mlp.up.weight", "head.weight")
    return [stub(impl, dim, 2).std(name) for dim in (6, 32) for name in names]


@exercise.observe(
    "start", "The last weight of a sublayer, which adds to the stream, does not start as wide as it should."
)
def width_of_what_is_added(impl):
    names = ("blocks.0.attn.o.weight", "blocks.1.mlp.down.weight")
    models = [stub(impl, dim, layers) for dim, layers in ((6, 2), (32, 1), (32, 8))]
    return {
        "width": [made.std(name) for made in models for name in names],
        "share of the others' width": [
            made.std(name) / made.std("blocks.0.mlp.up.weight") for made in models for name in names
        ],
    }


@exercise.observe("start", "The stream of a deep model that has learned nothing yet should not grow with its depth.")
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
PARTS = "        self.attn = Attention(config.dim, config.heads, config.causal)\n        self.mlp = MLP(config.dim, config.ff, config.gelu)\n"
NORMS = "        self.norm1, self.norm2 = (nn.LayerNorm(config.dim, eps=config.eps) for _ in range(2))\n"
PRE = "            x = x + self.attn(self.norm1(x), mask, past)\n            return x + self.mlp(self.norm2(x))\n"
POST = "        x = self.norm1(x + self.attn(x, mask, past))\n        return self.norm2(x + self.mlp(x))\n"
IF = "        if self.pre_norm:\n"
ADDS = '        adds = name.endswith(("attn.o.weight", "mlp.down.weight"))\n'
STD = "        return (2 * self.config.dim) ** -0.5 * ((2 * self.config.layers) ** -0.5 if adds else 1)\n"

exercise.mistake(
    "no bend",
    ((MLP_OUT, "        return self.down(self.up(x))\n"),),
    "there is no bend between up and down",
    "what are two linear layers in a row, with nothing between them?",
    "Without φ the MLP is one linear layer, and of a lower rank than its width promises.",
)
exercise.mistake(
    "bend at the end",
    ((MLP_OUT, "        return self.act(self.down(self.act(self.up(x))))\n"),),
    "φ is applied after down too",
    "may what is added to the stream be negative?",
    "A bend at the end lets through little that is below 0, so the stream could mostly grow.",
)
exercise.mistake(
    "ReLU",
    ((ACT, "        self.act = nn.ReLU()\n"),),
    "φ is a ReLU, as in the first Transformer, not a GELU",
    "which φ do GPT-2 and BERT use?",
    "GELU is smooth, and lets a little pass below 0.",
)
exercise.mistake(
    "GELU always exact",
    ((ACT, "        self.act = nn.GELU()\n"),),
    "the GELU is always the exact one; `gelu` is not used",
    "which argument of `nn.GELU` chooses the approximation?",
    "The difference is small, but it is there at each layer, and a pretrained model was trained with one of the two.",
    "huggingface/transformers#13666, kyutai-labs/pocket-tts#278",
)
exercise.mistake(
    "GELU always approximate",
    ((ACT, '        self.act = nn.GELU(approximate="tanh")\n'),),
    "the GELU is always the tanh approximation; `gelu` is not used",
    "what should the MLP of BERT compute, and what that of GPT-2?",
    "The difference is small, but it is there at each layer, and a pretrained model was trained with one of the two.",
    "Blaizzy/mlx-embeddings#81",
)
exercise.mistake(
    "no biases in the MLP",
    ((MLP_PARTS, "        self.up, self.down = nn.Linear(dim, ff, bias=False), nn.Linear(ff, dim, bias=False)\n"),),
    "up and down have no biases",
    "how many parameters has an MLP of GPT-2 for each layer?",
    "Newer models leave biases out; GPT-2 and BERT have them, and BitFit trains nothing else.",
)
exercise.mistake(
    "not wider",
    ((MLP_PARTS, "        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)\n"),),
    "the MLP is as narrow as the stream: ff is not used",
    "why is the first layer called up?",
    "Between up and down the vectors have ff numbers.",
)
exercise.mistake(
    "residual inside the MLP",
    ((MLP_OUT, "        return x + self.down(self.act(self.up(x)))\n"),),
    "the MLP adds x itself, and the block adds it once more",
    "who adds to the stream, the sublayer or the block?",
    "A sublayer returns only what is about to be added; that is the door at which an adapter stands.",
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
    "which eps has BERT, and which one is the default of PyTorch?",
    "BERT uses 1e-12, GPT-2 1e-5; the converted weights give other numbers with another eps.",
)
exercise.mistake(
    "always causal",
    ((PARTS, PARTS.replace("config.causal", "True")),),
    "attention is always causal",
    "which field of the Config tells an encoder from a decoder?",
    "The same block serves BERT, which reads in both directions.",
)
exercise.mistake(
    "no residual",
    ((PRE, "            x = self.attn(self.norm1(x), mask, past)\n            return self.mlp(self.norm2(x))\n"),
     (POST, "        x = self.norm1(self.attn(x, mask, past))\n        return self.norm2(self.mlp(x))\n")),
    "the sublayers replace the stream: nothing is added",
    "what is left of x if attention returns zeros?",
    "Each sublayer adds to what is there; so the gradient has a straight way back.",
)  # fmt: skip
exercise.mistake(
    "stream is normed",
    ((PRE, "            x = self.norm1(x)\n            x = x + self.attn(x, mask, past)\n            x = self.norm2(x)\n            return x + self.mlp(x)\n"),),
    "in pre-norm, what is added to is the normed x, not x itself",
    "does the stream itself ever pass a norm in a pre-norm block?",
    "The norm is for the sublayer's eyes only; the stream runs on beside it.",
    "SHI-Labs/Compact-Transformers#25",
)  # fmt: skip
exercise.mistake(
    "no second norm",
    ((PRE, PRE.replace("self.mlp(self.norm2(x))", "self.mlp(x)")),),
    "in pre-norm, the MLP reads the stream without a norm",
    "which of the two sublayers reads normed vectors in your block?",
    "Both do, each with its own norm.",
)
exercise.mistake(
    "norm1 twice",
    ((PRE, PRE.replace("norm2", "norm1")), (POST, POST.replace("norm2", "norm1"))),
    "norm1 is used in both places, norm2 in none",
    "which parameters of your block never get a gradient?",
    "A slip of copying; with fresh norms nobody notices, as both are ones and zeros.",
)
exercise.mistake(
    "side by side",
    ((PRE, "            return x + self.attn(self.norm1(x), mask, past) + self.mlp(self.norm2(x))\n"),),
    "in pre-norm, the MLP reads the same x as attention, not what attention has added to",
    "does the MLP know what attention found?",
    "Side by side works too, GPT-J does so; here one comes after the other.",
)
exercise.mistake(
    "always pre-norm",
    ((IF, "        if True:\n"),),
    "the norm always comes before the sublayer",
    "what does your block do with `pre_norm=False`?",
    "The first Transformer and BERT have the norm after the addition.",
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
    "before what does the norm stand in pre-norm?",
    "Pre: before the sublayer. Post: after its result has been added.",
)
exercise.mistake(
    "norm before the addition",
    ((POST, "        x = x + self.norm1(self.attn(x, mask, past))\n        return x + self.norm2(self.mlp(x))\n"),),
    "in post-norm, the sublayer's result is normed, and then added",
    "is what a post-norm block returns normed?",
    "The order is: add, then norm.",
    "datawhalechina/happy-llm#71 asks which of them is meant",
)
exercise.mistake(
    "residual of the first x",
    ((POST, "        y = self.norm1(x + self.attn(x, mask, past))\n        return self.norm2(x + self.mlp(y))\n"),),
    "in post-norm, the second sum goes back to the x that came in and loses what attention gave",
    "to what does the MLP add: to what came in, or to what it has read?",
    "The stream after the first half is the normed sum.",
)
exercise.mistake(
    "mask left behind",
    ((PRE, PRE.replace("mask, past", "None, past")), (POST, POST.replace("mask, past", "None, past"))),
    "the mask does not reach attention",
    "who hides the padding, if attention does not know of it?",
    "A block has no use for the mask itself, but it has to hand it on.",
)
exercise.mistake(
    "past left behind",
    ((PRE, PRE.replace("mask, past", "mask")), (POST, POST.replace("mask, past", "mask"))),
    "the past does not reach attention",
    "what does a token read when it comes alone, with a cache?",
    "A block has no use for the past itself, but it has to hand it on.",
)
exercise.mistake(
    "in place",
    ((PRE, PRE.replace("x = x + self.attn(", "x += self.attn(")), (POST, POST.replace("self.norm1(x + self.attn(x, mask, past))", "self.norm1(x.add_(self.attn(x, mask, past)))"))),
    "the addition happens in place and changes the x of the caller",
    "what is the difference between x = x + y and x += y?",
    "`+=` writes into the tensor that was handed in; the embedded tokens, or a hook that looks at them, change with it.",
)  # fmt: skip
exercise.mistake(
    "nothing starts smaller",
    ((STD, "        return (2 * self.config.dim) ** -0.5\n"),),
    "what adds to the stream starts as wide as all the rest",
    "if 2L terms of variance 1 are added, how does the sum grow with the depth?",
    "GPT-2 divides the start of these weights, so that a deep model does not begin with a larger stream.",
    "huggingface/transformers#47458, stanford-crfm/mistral#30",
)
exercise.mistake(
    "layers instead of sublayers",
    ((STD, STD.replace("(2 * self.config.layers)", "self.config.layers")),),
    "N is taken for the number of layers",
    "how often does one block add to the stream?",
    "N counts the additions of the whole model.",
)
exercise.mistake(
    "divided without the root",
    ((STD, STD.replace("(2 * self.config.layers) ** -0.5", "1 / (2 * self.config.layers)")),),
    "what adds to the stream is divided by N, not by its root",
    "do variances add up, or standard deviations?",
    "The sum of N independent terms has N times their variance.",
)
exercise.mistake(
    "only attention starts smaller",
    ((ADDS, '        adds = name.endswith("attn.o.weight")\n'),),
    "only o starts smaller; the MLP adds to the stream too",
    "which two weights write into the residual stream?",
    "Each sublayer has a last weight: there are two in a block.",
)
exercise.mistake(
    "all of the block starts smaller",
    ((ADDS, '        adds = name.startswith("blocks.")\n'),),
    "every weight of a block starts smaller, q, k, v and up too",
    "which weights write into the stream, and which only read from it?",
    "What reads comes after a norm; only what writes needs the smaller start.",
)
exercise.mistake(
    "number of GPT-2",
    ((STD, STD.replace("(2 * self.config.dim) ** -0.5", "0.02")),),
    "the start is 0.02 wide, whatever d is",
    "for which d is 1/√(2d) about 0.02?",
    "GPT-2 has its number for its own width; a small model would start with next to nothing.",
)
exercise.mistake(
    "variance for width",
    ((STD, STD.replace("(2 * self.config.dim) ** -0.5", "1 / (2 * self.config.dim)")),),
    "the start is 1/(2d) wide: that is the variance, not the standard deviation",
    "does `normal_` take a variance or a standard deviation?",
    "A width is a root.",
)

exercise.right(
    "functions instead of operators",
    ((MLP_OUT, "        import torch.nn.functional as F\n\n        return F.linear(self.act(self.up(x)), self.down.weight, self.down.bias)\n"),
     (PRE, "            h = torch.add(x, self.attn(self.norm1(x), mask=mask, past=past))\n            return torch.add(h, self.mlp(self.norm2(h)))\n")),
)  # fmt: skip
exercise.right(
    "norms of its own making",
    ((NORMS, "        self.norm1 = nn.LayerNorm((config.dim,), config.eps)\n        self.norm2 = nn.LayerNorm((config.dim,), config.eps)\n"),
     (POST, "        for part, norm in ((lambda h: self.attn(h, mask, past), self.norm1), (self.mlp, self.norm2)):\n            x = norm(x + part(x))\n        return x\n")),
)  # fmt: skip
exercise.right(
    "GELU as a function",
    ((ACT, "        self.act = lambda h: nn.functional.gelu(h, approximate=gelu)\n"),
     (MLP_PARTS, "        self.down = nn.Linear(ff, dim)\n        self.up = nn.Linear(dim, ff)\n")),
)  # fmt: skip
exercise.right(
    "another way to the same width",
    ((ADDS, '        adds = "attn.o." in name or "mlp.down." in name\n'),
     (STD, "        c = self.config\n        wide = 1 / math.sqrt(2 * c.dim)\n        if adds:\n            wide /= math.sqrt(2 * c.layers)\n        return wide\n")),
)  # fmt: skip
exercise.right(
    "one way for both",
    ((IF + PRE + POST, "        for part, norm in ((self.attn, self.norm1), (self.mlp, self.norm2)):\n            h = norm(x) if self.pre_norm else x\n            x = x + (part(h, mask, past) if part is self.attn else part(h))\n            x = x if self.pre_norm else norm(x)\n        return x\n"),),
)  # fmt: skip

exercise.house(
    "parallel",
    ((PRE, "            return x + self.attn(self.norm1(x), mask, past) + self.mlp(self.norm2(x))\n"),
     ('"""Attention, then MLP, each added', '"""Attention and MLP, each added'),
     ("comes before (GPT-2) or after (BERT).", "comes before (GPT-2) or after (BERT).\n\n    In pre-norm the two stand side by side: both read the x that came in. In post-norm one follows the other.")),
    "a pre-norm block has its sublayers side by side, both reading the x that came in",
)  # fmt: skip
exercise.house(
    "norm inside",
    ((POST, "        x = x + self.norm1(self.attn(x, mask, past))\n        return x + self.norm2(self.mlp(x))\n"),
     ("    The parts are `attn`,", "    Where it comes after, it norms what the sublayer returns, before that is added.\n\n    The parts are `attn`,")),
    "a norm that comes after norms what the sublayer returns, before it is added to x",
)  # fmt: skip
exercise.house(
    "smaller by depth",
    ((STD, STD.replace("(2 * self.config.layers) ** -0.5", "1 / (2 * self.config.layers)")),
     ("starts at 1/√N of that, N sublayers in all.", "starts at 1/N of that, N sublayers in all.")),
    "what adds to the stream starts at 1/N, not at 1/√N",
)  # fmt: skip
