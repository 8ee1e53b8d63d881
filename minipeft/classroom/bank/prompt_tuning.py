"""Prompt tuning: where P stands, when it is there, and where its vectors come from."""

import torch

from minipeft import attach
from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import VOCAB, fill, model, numbers, rows
from minipeft.classroom.models import gradients as gradients_of
from minipeft.models.transformer import Cache, Embed

exercise = Exercise(
    "prompt_tuning",
    "methods/prompt_tuning.py",
    holes=("Prompt.__init__", "Prompt.forward", "Prompt.before", "vectors", "repeated"),
    title="Prompt tuning: free vectors in front of the input",
    minutes=25,
    difficulty=1,
    why="Why an instruction need not be words, what a virtual token costs, and why the first numbers in it matter so much.",
    read="Lester, Al-Rfou, Constant 2021, arXiv:2104.08691, sections 2 and 3.2",
    lesson="06",
)

N, DIM = 3, 6


def embed():
    return fill(Embed(VOCAB, DIM, 16)).requires_grad_(False)


def prompt(impl, n=N):
    """A Prompt of n vectors in front of an embedding with positions."""
    return impl.Prompt(embed(), numbers("P", (n, DIM)))


def table(size=100):
    return numbers("table", (size, DIM), 0.3)


def rounded(number, step):
    return round(float(number) / step) * step


@exercise.observe("set-up", "One parameter is trained, P (n, d), and nothing else.")
def what_is_trained(impl):
    return {name: list(p.shape) for name, p in attach.trainable(prompt(impl)).items()}


@exercise.observe("set-up", "P should begin with the vectors that it is given.")
def where_P_begins(impl):
    return prompt(impl).P


@exercise.observe("set-up", "When P moves, the embedding table of the base should stay where it is.")
def the_table_is_left_alone(impl):
    words = table()
    made = impl.Prompt(embed(), impl.vectors(words, N, "vocabulary"))
    with torch.no_grad():
        made.P.add_(1)
    return words - table()


@exercise.observe("forward", "The vectors that go into the first layer should be n + T for each row.")
def shape(impl):
    return list(prompt(impl)(rows()[0])[0].shape)


@exercise.observe("forward", "The first n vectors of each row should be P, each with its position.")
def what_stands_first(impl):
    return prompt(impl)(rows()[0])[0][:, :N]


@exercise.observe("forward", "Behind P come the embedded tokens, at the positions that follow.")
def the_tokens_behind_it(impl):
    return prompt(impl)(rows()[0])[0][:, N:]


@exercise.observe(
    "forward", "Virtual tokens and tokens each take one position; the second result tells how many are taken."
)
def positions_taken(impl):
    return prompt(impl)(rows()[0])[1]


@exercise.observe("forward", "A prompt that holds the embeddings of words should work exactly as those words do.")
def told_in_words(impl):
    words, (tokens, _), base = (5, 9, 4), rows(), embed()
    told = base(torch.cat([torch.tensor(words).expand(len(tokens), -1), tokens], 1))[0]
    return impl.Prompt(base, impl.vectors(base.token.weight, N, words))(tokens)[0] - told


@exercise.observe("forward", "The gradients, which should reach P and nothing else, are not the expected ones.")
def gradients(impl):
    made = prompt(impl)
    made(rows()[0])[0].pow(3).sum().backward()
    return gradients_of(made)


@exercise.observe("padding", "A padded row should get the vectors that it gets alone: padding takes no position.")
def padded_rows(impl):
    made, found = prompt(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        x = made(tokens, None, mask)[0][:, -tokens.shape[1] :]
        alone = [made(row[real][None])[0][0, -int(real.sum()) :] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = x[mask] - torch.cat(alone)
    return found


@exercise.observe("padding", "In a padded row, P and the real tokens take positions, and nothing else does.")
def positions_taken_in_padded_rows(impl):
    tokens, mask = rows("left")
    return prompt(impl)(tokens, None, mask)[1]


@exercise.observe("cache", "A token that goes on from a cache is embedded alone, at the position that it is told.")
def one_more_token(impl):
    return list(prompt(impl)(rows()[0][:, :1], 8))


@exercise.observe("cache", "Padded rows go on from different positions: `start` is then a tensor (B, 1).")
def one_more_token_in_each_row(impl):
    return list(prompt(impl)(rows()[0][:, :1], torch.tensor([[8], [6], [7]])))


@exercise.observe("cache", "In two steps with the cache the answer should be what it is in one.")
def two_steps(impl):
    made, (tokens, _), cache = impl.PromptTuning(length=N, init=(5, 9, 4)).attach(model(layers=1)), rows(), Cache(1)
    parts = [made(tokens[:, :3], cache=cache), made(tokens[:, 3:], cache=cache)]
    return torch.cat(parts, 1) - made(tokens)


@exercise.observe(
    "other methods", "Where another method brings vectors (m, d), they stand behind P and before the tokens."
)
def with_vectors_of_another(impl):
    return prompt(impl)(rows()[0], front=numbers("front", (2, DIM)))[0]


@exercise.observe(
    "other methods",
    "The vectors of another method may differ from row to row, (B, m, d): P stands before them in each.",
)
def with_vectors_of_another_for_each_row(impl):
    return prompt(impl)(rows()[0], front=numbers("front", (3, 2, DIM)))[0]


@exercise.observe(
    "other methods", "Virtual tokens that are in the layers only take positions too: `skip` tells how many."
)
def skipped_positions(impl):
    return list(prompt(impl)(rows()[0], skip=2))


@exercise.observe("start", '"normal": P should be spread around zero as widely as the numbers of the table are.')
def start_normal(impl):
    P, spread = impl.vectors(table(), 400, "normal"), float(table().std())
    return {"shape": list(P.shape), "spread": rounded(P.std() / spread, 0.2), "mean": rounded(P.mean() / spread, 0.5)}


@exercise.observe("start", '"uniform": P should lie evenly between the two bounds.')
def start_uniform(impl):
    P = impl.vectors(table(), 400, "uniform")
    return {"shape": list(P.shape), "least": rounded(P.min(), 0.1), "most": rounded(P.max(), 0.1)}


@exercise.observe("start", '"vocabulary": each vector should be a row of the table, drawn anew from all of them.')
def start_vocabulary(impl):
    words = table()
    which = (impl.vectors(words, 60, "vocabulary")[:, None] == words).all(-1)  # (n, V)
    drawn = which.any(0)
    return {
        "shape": list(which.shape),
        "all are rows of the table": bool(which.any(1).all()),
        "many different ones": bool(drawn.sum() > 20),
        "late ones too": bool(drawn[60:].any()),
    }


@exercise.observe("start", "A prompt of words should hold their embeddings, in their order.")
def start_words(impl):
    return impl.vectors(table(), 2, (7, 3))


@exercise.observe("start", "Too few words for n vectors are said over and over.")
def words_repeated(impl):
    return [[int(t) for t in impl.repeated(words, n)] for words, n in (((7, 3), 5), ((4,), 3))]


@exercise.observe("start", "Of too many words the first n are taken.")
def words_cut(impl):
    return [int(t) for t in impl.repeated((7, 3, 5, 2), 3)]


PASSED = "            return self.base(tokens, start, mask, front, skip)\n        return self.base(tokens, start, mask, self.before(front), skip)  # (B, n+T, d)"

exercise.mistake(
    "P is a buffer",
    (("self.P = nn.Parameter(P)", 'self.register_buffer("P", P)'),),
    "P is a plain tensor or a buffer, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "A buffer is saved and moved with the model, but only what is wrapped in `nn.Parameter` is trained.",
)
exercise.mistake(
    "base is trained too",
    (
        (
            "        super().__init__(base)\n        self.P",
            "        super().__init__(base.requires_grad_(True))\n        self.P",
        ),
    ),
    "the embedding table of the base is trained along",
    "how many numbers is training allowed to change: n·d, or n·d and the whole table?",
    "What makes a prompt small and the base shareable is that the table stays frozen.",
)
exercise.mistake(
    "P drawn anew",
    (("self.P = nn.Parameter(P)", "self.P = nn.Parameter(torch.randn_like(P))"),),
    "P is drawn anew, so the start that was chosen is lost",
    "what is the second argument of the constructor for?",
    "Where P starts is decided in `vectors`; the layer only keeps what it is given.",
)
exercise.mistake(
    "P starts at zero",
    (("self.P = nn.Parameter(P)", "self.P = nn.Parameter(torch.zeros_like(P))"),),
    "P starts at zero, as B does in LoRA",
    "does a vector of zeros in front of the input leave the answer as it is?",
    "A virtual token of zeros is a token too, and the base has never met it; all rows of P would start alike.",
)
exercise.mistake(
    "behind the tokens",
    ((PASSED, "            return self.base(tokens, start, mask, front, skip)\n        x, taken = self.base(tokens, start, mask, front, skip)\n        return torch.cat([x, self.P.expand(len(tokens), -1, -1)], dim=1), taken + len(self.P)"),),
    "P stands behind the tokens",
    "which tokens can see P in a model that only looks back?",
    "A causal model reads from the left: an instruction has to come first. Whatever is in front is also cut off again before the head.",
)  # fmt: skip
exercise.mistake(
    "put in front afterwards",
    ((PASSED, "            return self.base(tokens, start, mask, front, skip)\n        x, taken = self.base(tokens, start, mask, front, skip)\n        return torch.cat([self.P.expand(len(tokens), -1, -1), x], dim=1), taken"),),
    "P is put in front of vectors that have their positions already, so P has none and the tokens keep theirs",
    "which position has the first real token of a prompt of words?",
    "The tokens have to move up by n. Let P go through the same place that gives out the positions.",
)  # fmt: skip
exercise.mistake(
    "P without positions",
    ((PASSED, "            return self.base(tokens, start, mask, front, skip)\n        x, taken = self.base(tokens, start, mask, front, skip + len(self.P))\n        return torch.cat([self.P.expand(len(tokens), -1, -1), x], dim=1), taken"),),
    "the tokens have moved up, but P itself gets no position",
    "what is added to the embedding of a word before the first layer?",
    "A virtual token is embedded like a word: its vector and its position.",
)  # fmt: skip
exercise.mistake(
    "added to the tokens",
    ((PASSED, "            return self.base(tokens, start, mask, front, skip)\n        x, taken = self.base(tokens, start, mask, front, skip)\n        n = len(self.P)\n        return torch.cat([x[:, :n] + self.P, x[:, n:]], dim=1), taken"),),
    "P is added to the first n tokens instead of standing before them",
    "how long is the sequence that the first layer sees?",
    "The brackets in [P ; E(x)] join two pieces end to end; nothing is added up.",
)  # fmt: skip
exercise.mistake(
    "again at every step",
    (("        if start is not None:  # a sequence goes on that began with P\n            return self.base(tokens, start, mask, front, skip)\n", ""),),
    "P is put in front again at each step of generation",
    "after the first step, where are the keys and values of P?",
    "With a cache each step brings one new token only; what came before, P included, is in the cache.",
)  # fmt: skip
exercise.mistake(
    "only with a cache",
    (("if start is not None:  # a sequence goes on that began with P", "if start is None:"),),
    "the condition is turned over: P is missing at the beginning and comes later",
    "what is `start` when a sequence begins?",
    "None means that nothing has been read yet.",
)
exercise.mistake(
    "truth of a tensor",
    (("if start is not None:  # a sequence goes on that began with P", "if start:"),),
    "`start` is used as a truth value, but it may be a tensor with a number for each row",
    "what is `bool()` of a tensor of three numbers, and what should it be?",
    "Ask whether there is a start, and not whether it is zero.",
)
exercise.mistake(
    "mask dropped",
    ((PASSED, PASSED.replace("start, mask, self", "start, None, self")),),
    "the mask is not passed on, so padding takes positions",
    "how does `embed` know which tokens of a row are padding?",
    "Every argument that is not yours to change should reach the base as it came.",
    "UKPLab/sentence-transformers#3000, about a mask that did not fit the prompt",
)
exercise.mistake(
    "skip dropped",
    ((PASSED, PASSED.replace("self.before(front), skip)", "self.before(front))")),),
    "`skip` is not passed on at the beginning of a sequence",
    "which position has your first token when another method keeps two virtual tokens in its layers?",
    "Every argument that is not yours to change should reach the base as it came.",
)
exercise.mistake(
    "no gradient",
    (("            return self.P\n        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "            return self.P.data\n        return torch.cat([self.P.data.expand(*front.shape[:-2], -1, -1), front], dim=-2)"),),
    "P is used without its history (`.data` or `detach`), so it never learns",
    "which gradient does P have after `backward()`?",
    "Autograd records what is done with the parameter itself; `.data` is the number behind its back.",
)  # fmt: skip
exercise.mistake(
    "nothing to join",
    (("        if front is None:\n            return self.P\n        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "        return torch.cat([self.P, front], dim=-2)"),),
    "P is joined with `front` where there is no front",
    "what is `front` when prompt tuning is the only method on the model?",
    "None is not an empty tensor: the usual case, P alone, is a case of its own.",
)  # fmt: skip
exercise.mistake(
    "the other's vectors dropped",
    (("        if front is None:\n            return self.P\n        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "        return self.P"),),
    "the vectors that another method brings are lost",
    "two prompts are stacked, of 3 and of 2 vectors: how many should there be?",
    "`front` may hold vectors already. Yours come in addition.",
)  # fmt: skip
exercise.mistake(
    "own vectors dropped",
    (("        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "        return front"),),
    "P is left out as soon as another method brings vectors",
    "two prompts are stacked, of 3 and of 2 vectors: how many should there be?",
    "Both are part of the input, one behind the other.",
)
exercise.mistake(
    "behind the other's",
    (("torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "torch.cat([front, self.P.expand(*front.shape[:-2], -1, -1)], dim=-2)"),),
    "P stands behind the vectors of the other method, the order is exchanged",
    "which of the two is nearer to the tokens?",
    "Read [P ; front] from the left.",
)  # fmt: skip
exercise.mistake(
    "no dimension for rows",
    (("torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "torch.cat([self.P, front], dim=0)"),),
    "P has no dimension for the rows, where the other vectors have one",
    "which shapes have the two pieces that you join, and along which dimension do they grow?",
    "P is the same for every row. `expand` shows it to each of them without a copy.",
)  # fmt: skip
exercise.mistake(
    "unit normal",
    (("normal_(std=float(table.std()))", "normal_()"),),
    "P starts with a spread of 1, far from the scale of the embeddings",
    "how large are the numbers in the table that P will stand beside?",
    "Vectors much longer than any word drown the words; the first steps are spent on shrinking them.",
    "peft's RandomInit: N(0, 1), fifty times the scale of GPT-2's embeddings",
)
exercise.mistake(
    "variance for spread",
    (("normal_(std=float(table.std()))", "normal_(std=float(table.var()))"),),
    "the variance stands where the standard deviation belongs",
    "is what you measure in the table of the same kind as what the normal distribution is given?",
    "One is the square of the other; for small embeddings that is far too little.",
)
exercise.mistake(
    "uniform from zero",
    (("uniform_(-0.5, 0.5)", "uniform_(0, 1)"),),
    "the uniform start lies between 0 and 1",
    "what is the mean of all the numbers in P?",
    "The paper's interval lies around zero. `torch.rand` begins at zero.",
)
exercise.mistake(
    "the same word everywhere",
    (("torch.randint(vocab, (length,))", "torch.randint(vocab, (1,)).expand(length)"),),
    "one word is drawn and stands in all n places",
    "how many different rows has P?",
    "Vectors that start alike differ by their positions only. Draw one word for each place.",
)
exercise.mistake(
    "the first rows themselves",
    (("    tokens = torch.randint(vocab, (length,)) if init", "    if init == \"vocabulary\":\n        return table[:length].detach()\n    tokens = torch.randint(vocab, (length,)) if init"),),
    "P is the first n rows of the table, and a view of it: when P learns, the words change",
    "which tokens have the smallest numbers, and who owns the memory of `table[:n]`?",
    "Draw from the whole vocabulary. A slice shares its memory with the table and `detach` does not change that.",
)  # fmt: skip
exercise.mistake(
    "one vector for the phrase",
    (("return table[tokens.to(table.device)].detach().clone()", "return table[tokens].detach().mean(0).repeat(length, 1)"),),
    "the embeddings are averaged, and all of P starts as their mean",
    "how many different rows has P at the start?",
    "Each virtual token starts at a word of its own, not at the middle of all of them.",
)  # fmt: skip
exercise.mistake(
    "each word several times in a row",
    (("return [words[i % len(words)] for i in range(length)]", "return [w for w in words for _ in range(-(-length // len(words)))][:length]"),),
    "each word is repeated before the next comes: 7 7 3 3 instead of 7 3 7 3",
    "does your prompt still read as the phrase it was?",
    "The phrase is repeated as a whole, so that its words keep their neighbours.",
)  # fmt: skip
exercise.mistake(
    "not repeated",
    (("return [words[i % len(words)] for i in range(length)]", "return list(words[:length])"),),
    "few words give a shorter prompt than n",
    "how many vectors should P have for two words and n = 5?",
    "When the words run out, begin again with the first.",
)
exercise.mistake(
    "not cut",
    (
        (
            "return [words[i % len(words)] for i in range(length)]",
            "return list(words) * max(1, -(-length // len(words)))",
        ),
    ),
    "the prompt is longer than n where the words do not come out even",
    "how many vectors should P have for two words and n = 5?",
    "Whole repetitions overshoot; n is what counts.",
)

exercise.right(
    "joined by hand in each case",
    (("        if front is None:\n            return self.P\n        return torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)",
      "        if front is None:\n            return self.P\n        if front.ndim == 2:\n            return torch.vstack([self.P, front])\n        return torch.cat([self.P[None].repeat(len(front), 1, 1), front], 1)"),),
)  # fmt: skip
exercise.right(
    "one way through",
    (("        if start is not None:  # a sequence goes on that began with P\n            return self.base(tokens, start, mask, front, skip)\n        return self.base(tokens, start, mask, self.before(front), skip)  # (B, n+T, d)",
      "        front = self.before(front) if start is None else front\n        return self.base(tokens, start=start, mask=mask, front=front, skip=skip)"),),
)  # fmt: skip
exercise.right(
    "other constructors",
    (("table.new_empty(length, dim).normal_(std=float(table.std()))", "torch.randn(length, dim) * table.std()"),
     ("table.new_empty(length, dim).uniform_(-0.5, 0.5)", "torch.rand(length, dim) - 0.5"),
     ("self.P = nn.Parameter(P)", "self.P = nn.Parameter(P.detach().clone().contiguous())")),
)  # fmt: skip
exercise.right(
    "no word drawn twice",
    (("torch.randint(vocab, (length,))", "torch.randperm(vocab)[:length]"),),
)
exercise.right(
    "repeated with itertools",
    (("return [words[i % len(words)] for i in range(length)]", "import itertools\n\n    return list(itertools.islice(itertools.cycle(words), length))"),),
)  # fmt: skip
exercise.right(
    "looked up",
    (("return table[tokens.to(table.device)].detach().clone()", "return torch.nn.functional.embedding(tokens, table.detach())"),),
)  # fmt: skip

exercise.house(
    "bounds by the width",
    (("uniform_(-0.5, 0.5)", "uniform_(-(dim**-0.5), dim**-0.5)"),
     ('"uniform" in ±½ as in the paper', '"uniform" in ±1/√d')),
    "the uniform start lies in ±1/√d and not in ±½",
)  # fmt: skip
exercise.house(
    "behind what is there",
    (("torch.cat([self.P.expand(*front.shape[:-2], -1, -1), front], dim=-2)", "torch.cat([front, self.P.expand(*front.shape[:-2], -1, -1)], dim=-2)"),
     ('"""[P ; front]: all vectors that come before the tokens."""', '"""[front ; P]: all vectors that come before the tokens; P stands next to them."""')),
    "P stands behind the vectors that another method brings, next to the tokens: [front ; P]",
)  # fmt: skip
exercise.house(
    "from the last word",
    (("return [words[i % len(words)] for i in range(length)]", "return [words[-1 - i % len(words)] for i in range(length)]"),
     ('"""The words over and over, (7, 3) → 7 3 7 3 7, cut to the length."""', '"""The words over and over, beginning with the last, (7, 3) → 3 7 3 7 3, cut to the length."""')),
    "the words of a prompt are taken from the last to the first, over and over",
)  # fmt: skip
