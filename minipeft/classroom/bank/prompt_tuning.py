"""Prompt tuning: what the sequence begins with, what of it is trained, and where its vectors come from."""

import torch

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import BOS, Learned, fill, loss, model, numbers, rows
from minipeft.classroom.models import gradients as gradients_of
from minipeft.models.transformer import Begin

exercise = Exercise(
    "prompt_tuning",
    "methods/prompt_tuning.py",
    stubs=("Prompt.__init__", "Prompt.forward", "vectors"),
    title="Prompt tuning: free vectors in front of the input",
    minutes=25,
    difficulty=1,
    why="Why an instruction need not be words, what a virtual token costs, and why the first numbers in it matter so much.",
    read="Lester, Al-Rfou, Constant 2021, arXiv:2104.08691, sections 2 and 3.2; what a sequence begins with: `Cache` in minipeft/models/transformer.py",
    lesson="06",
)

N, DIM = 3, 6
WORDS = (5, 9, 4)


def prompt(impl, base=None, n=N, name="P"):
    """A Prompt of n vectors in front of `begin`, or of another method's layer there."""
    return impl.Prompt(base or Begin(), numbers(name, (n, DIM)))


def blocks():
    return model(layers=1).requires_grad_(False).blocks


def front(cache):
    """What stands in front, one entry after the other; (1, n, d) is as good as (n, d)."""
    return [P[0] if P.ndim == 3 and len(P) == 1 else P for P in cache.front]


def base(bos=None):
    return model(bos, layers=1)


def tuned(impl, bos=None, n=N, **settings):
    """A whole model with a prompt, whose numbers are none of those that training starts from."""
    return fill(impl.PromptTuning(length=n, **settings).attach(base(bos)), "trainable")


def table(size=100):
    return numbers("table", (size, DIM), 0.3)


def rounded(number, step):
    return round(float(number) / step) * step


@exercise.observe("set-up", "One parameter should be trained, P (n, d), and nothing else.")
def what_is_trained(impl):
    return {name: list(p.shape) for name, p in attach.trainable(tuned(impl)).items()}


@exercise.observe("set-up", "P should begin with the vectors that it is given.")
def where_P_begins(impl):
    return prompt(impl).P


@exercise.observe("beginning", "The sequence should begin with one entry in front: P, as it is.")
def what_stands_in_front(impl):
    return front(prompt(impl)(blocks()))


@exercise.observe(
    "beginning", "With two prompts, one attached to the other, both should stand in front, in that order."
)
def two_prompts(impl):
    return front(prompt(impl, prompt(impl), 2, "second")(blocks()))


@exercise.observe(
    "beginning", "Besides the vectors in front, the cache should be as it was: no keys, no mask, no offset."
)
def what_else_the_cache_holds(impl):
    cache = prompt(impl)(blocks())
    return {"keys": cache.length, "mask": cache.mask, "offset": cache.offset}


@exercise.observe(
    "beginning", "On a model that has a learned prefix already, its keys and values should stay in the cache."
)
def a_prompt_on_a_prefix(impl):
    layer = prompt(impl, Learned())(blocks()).layers[0]
    return [layer.k, layer.v]


@exercise.observe("beginning", "Each sequence should begin in the same way, with one P, however many came before.")
def a_second_sequence(impl):
    made = tuned(impl)
    made(rows()[0])
    return front(made.begin(made.blocks))


@exercise.observe("model", "There should be logits for the tokens alone, as the base gives them.")
def shape(impl):
    return list(tuned(impl)(rows()[0]).shape)


@exercise.observe("model", "With a prompt, the logits are not the expected ones.")
def logits(impl):
    return tuned(impl)(rows()[0])


@exercise.observe("model", "Where positions are counted from BOS, the logits with a prompt are not the expected ones.")
def logits_from_BOS(impl):
    return tuned(impl, BOS)(rows()[0])


@exercise.observe("model", "A prompt that holds the embeddings of words should have exactly the effect of those words.")
@torch.no_grad()
def told_in_words(impl):
    tokens, plain = rows()[0], base()
    told = plain(torch.cat([torch.tensor(WORDS).expand(len(tokens), -1), tokens], 1))[:, N:]
    return impl.PromptTuning(length=N, init=WORDS).attach(plain)(tokens) - told


@exercise.observe("model", "The gradients, which should reach P and nothing else, are not the expected ones.")
def gradients(impl):
    made = tuned(impl)
    loss(made, rows()[0]).backward()
    return gradients_of(made)


@exercise.observe("model", "A padded row should get the logits that it gets alone: padding takes no position.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@exercise.observe("model", "Read in two steps with a cache, a row should get the logits that it gets in one.")
@torch.no_grad()
def two_steps(impl):
    made, (tokens, _) = tuned(impl), rows()
    cache = made.new_cache()
    return torch.cat([made(tokens[:, :3], cache=cache), made(tokens[:, 3:], cache=cache)], 1) - made(tokens)


@exercise.observe("start", "When P moves, the embedding table of the base should stay where it is.")
def the_table_is_left_alone(impl):
    words = table()
    made = impl.Prompt(Begin(), impl.vectors(words, N, "vocabulary"))
    with torch.no_grad():
        made.P.add_(1)
    return words - table()


@exercise.observe("start", '"normal": P should have mean 0 and the standard deviation of the numbers in the table.')
def start_normal(impl):
    P, std = impl.vectors(table(), 400, "normal"), float(table().std())
    return {
        "shape": list(P.shape),
        "standard deviation, in that of the table": rounded(P.std() / std, 0.2),
        "mean, in the same unit": rounded(P.mean() / std, 0.5),
    }


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


@exercise.observe(
    "start", "With fewer words than n, the words should be repeated; of more, the first n should be taken."
)
def words_repeated_or_cut(impl):
    return [impl.vectors(table(), n, words) for words, n in (((7, 3), 5), ((4,), 3), ((7, 3, 5, 2), 3))]


INIT = "self.P = nn.Parameter(P)  # (n, d)"
CACHE = "        cache = self.base(blocks)\n        cache.front.append"
FRONT = "        cache.front.append(self.P)\n"
BACK = FRONT + "        return cache\n"
NORMAL = "normal_(std=float(table.std()))"
UNIFORM = "uniform_(-0.5, 0.5)"
DRAWN = "torch.randint(vocab, (length,))"
TOLD = "else repeated(init, length, vocab)"
LOOKED_UP = "return table[tokens.to(table.device)].detach().clone()"

exercise.mistake(
    "P is a buffer",
    ((INIT, 'self.register_buffer("P", P)'),),
    "P is a plain tensor or a buffer, which no optimizer will find",
    "what does the layer's `named_parameters()` list?",
    "A buffer is saved and moved with the model, but only what is wrapped in `nn.Parameter` is trained.",
)
exercise.mistake(
    "P drawn anew",
    ((INIT, "self.P = nn.Parameter(torch.randn_like(P))"),),
    "P is drawn anew, so the start that was chosen is lost",
    "what is the second argument of the constructor for?",
    "Where P starts is decided in `vectors`; the layer only keeps what it is given.",
)
exercise.mistake(
    "P starts at zero",
    ((INIT, "self.P = nn.Parameter(torch.zeros_like(P))"),),
    "P starts at zero, as B does in LoRA",
    "does a vector of zeros in front of the input leave the answer as it is?",
    "A virtual token of zeros is a token too, and one that the base has never seen. All rows of P would start alike.",
)
exercise.mistake(
    "one vector",
    ((INIT, "self.P = nn.Parameter(P[:1])"),),
    "P is a single vector, whatever the length",
    "how many rows does P have for n = 3?",
    "Each virtual token has a vector of its own.",
)
exercise.mistake(
    "front overwritten",
    ((FRONT, "        cache.front = [self.P]\n"),),
    "the vectors of a prompt that is there already are lost",
    "two prompts are stacked, of 3 and of 2 vectors: how many vectors should stand in front?",
    "The cache may hold something already. Yours comes in addition.",
)
exercise.mistake(
    "in front of the other's",
    ((FRONT, "        cache.front.insert(0, self.P)\n"),),
    "P stands in front of the vectors of a prompt that was there before",
    "which of two prompts did the model have first?",
    "What the model begins with already stays in front; a new prompt comes after it.",
)
exercise.mistake(
    "a cache of its own",
    ((CACHE, "        from minipeft.models.transformer import Cache\n\n        cache = Cache(len(blocks))\n        cache.front.append"),),
    "the layer makes an empty cache itself, so whatever another method begins with is lost",
    "what does `self.base` return, and which module may stand behind that name in a stack of methods?",
    "A layer in front of another module asks that module first, and changes what it answers.",
)  # fmt: skip
exercise.mistake(
    "cache kept",
    ((CACHE, '        if hasattr(self, "kept"):\n            return self.kept\n        cache = self.kept = self.base(blocks)\n        cache.front.append'),),
    "the cache is made once and used again for every sequence",
    "what is left in front after the first sequence has taken the vectors out?",
    "A cache belongs to one sequence. Only P outlives it.",
)  # fmt: skip
exercise.mistake(
    "cache not returned",
    ((BACK, FRONT),),
    "the layer returns nothing",
    "what does a function return that has no `return`?",
    "The model reads what `begin` returns; changing the cache on the way is not enough.",
)
exercise.mistake(
    "rows instead of the whole",
    ((FRONT, "        cache.front += self.P\n"),),
    "each row of P becomes an entry of its own, a vector (d,) without a length",
    "how many entries does the list have afterwards, and which shapes?",
    "Adding a tensor to a list takes it apart along its first dimension. An entry is a whole prompt, (n, d).",
)
exercise.mistake(
    "no gradient",
    ((FRONT, "        cache.front.append(self.P.data)\n"),),
    "P is used without its history (`.data` or `detach`), so it never learns",
    "which gradient does P have after `backward()`?",
    "Autograd records what is done with the parameter itself; `.data` holds its numbers without that record.",
)
exercise.mistake(
    "offset moved",
    ((FRONT, FRONT + "        cache.offset = cache.offset + len(self.P)\n"),),
    "the layer moves the positions by n, which the embedding does already where it should",
    "which module decides where a token stands?",
    "A method never sets a position. Where positions are counted from BOS, an offset above 0 says that BOS has come.",
)
exercise.mistake(
    "keys in every layer",
    ((FRONT, "        for layer, block in zip(cache.layers, blocks, strict=True):\n            layer.extend(block.attn.split(self.P), block.attn.split(self.P))\n"),),
    "P is put into every layer as keys and values, not before the embedded tokens",
    "through what does an embedded word pass before it becomes a key?",
    "Learned keys and values are prefix tuning. A prompt enters once, below the first layer.",
)  # fmt: skip
exercise.mistake(
    "at every layer",
    ((FRONT, "        for layer, block in zip(cache.layers, blocks, strict=True):\n            x = block.norm1(self.P) if block.pre_norm else self.P\n            layer.extend(block.attn.split(block.attn.k(x)), block.attn.split(block.attn.v(x)))\n"),),
    "P enters every layer anew, where it should enter once",
    "what should the second layer read of the prompt: P itself, or what the first layer made of it?",
    "The layers carry the vectors along like tokens. New vectors at every layer are P-tuning v2.",
)  # fmt: skip
exercise.mistake(
    "P in front twice",
    ((FRONT, FRONT + FRONT),),
    "P stands in front twice",
    "how many virtual tokens does each row have?",
    "The equation has one P.",
)
exercise.mistake(
    "unit normal",
    ((NORMAL, "normal_()"),),
    "P starts with a standard deviation of 1, far from the scale of the embeddings",
    "how large are the numbers in the table that P will stand beside?",
    "Vectors much longer than those of words drown out the words, and the first steps go into shrinking them.",
    "peft's RandomInit: N(0, 1), fifty times the scale of GPT-2's embeddings",
)
exercise.mistake(
    "variance for standard deviation",
    ((NORMAL, "normal_(std=float(table.var()))"),),
    "the variance stands where the standard deviation belongs",
    "which of the two does the normal distribution take: the standard deviation, or its square?",
    "One is the square of the other; for small embeddings it is far too small.",
)
exercise.mistake(
    "uniform from zero",
    ((UNIFORM, "uniform_(0, 1)"),),
    "the uniform start lies between 0 and 1",
    "what is the mean of all the numbers in P?",
    "The paper's interval lies around zero. `torch.rand` begins at zero.",
)
exercise.mistake(
    "the same word everywhere",
    ((DRAWN, "torch.randint(vocab, (1,)).expand(length)"),),
    "one word is drawn and stands in all n places",
    "how many different rows does P have?",
    "Vectors that start alike differ by their positions only. Draw one word for each place.",
)
exercise.mistake(
    "the first rows themselves",
    (("    tokens = torch.randint(vocab, (length,)) if init", "    if init == \"vocabulary\":\n        return table[:length].detach()\n    tokens = torch.randint(vocab, (length,)) if init"),),
    "P is the first n rows of the table, and a view of it: when P learns, the words change",
    "which tokens have the smallest numbers, and does `table[:n]` have memory of its own?",
    "Draw from the whole vocabulary. A slice shares its memory with the table, and `detach` does not change that.",
)  # fmt: skip
exercise.mistake(
    "one vector for the phrase",
    ((LOOKED_UP, "return table[tokens].detach().mean(0).repeat(length, 1)"),),
    "the embeddings are averaged, and every row of P starts as their mean",
    "how many different rows does P have at the start?",
    "Each virtual token starts at a word of its own, not at the middle of all of them.",
)
exercise.mistake(
    "words not repeated",
    ((TOLD, "else torch.tensor(init)"),),
    "P has as many rows as there are words, whatever the length",
    "how many rows should P have for two words and n = 5?",
    "n decides. `repeated`, which the file imports, says the words over and over and stops at n.",
)
exercise.mistake(
    "each word several times in a row",
    ((TOLD, "else repeated(init, length, vocab).sort(descending=True).values"),),
    "equal words stand side by side: 7 7 7 3 3 instead of 7 3 7 3 7",
    "does your prompt still read as the phrase it was?",
    "The phrase is repeated as a whole, so that its words keep their neighbours.",
)

exercise.right(
    "with a batch dimension",
    ((FRONT, "        cache.front = [*cache.front, self.P[None]]\n"),),
)
exercise.right(
    "in a single line",
    ((CACHE, "        (cache := self.base(blocks)).front.append"),),
)
exercise.right(
    "other constructors",
    (("table.new_empty(length, dim)." + NORMAL, "torch.randn(length, dim) * table.std()"),
     ("table.new_empty(length, dim)." + UNIFORM, "torch.rand(length, dim) - 0.5"),
     (INIT, "self.P = nn.Parameter(P.detach().clone().contiguous())")),
)  # fmt: skip
exercise.right(
    "no word drawn twice",
    ((DRAWN, "torch.randperm(vocab)[:length]"),),
)
exercise.right(
    "repeated with itertools",
    (("    tokens = torch.randint(vocab, (length,)) if init == \"vocabulary\" " + TOLD, "    import itertools\n\n    if init == \"vocabulary\":\n        tokens = torch.randint(0, len(table), (length,))\n    else:\n        tokens = torch.tensor(list(itertools.islice(itertools.cycle(init), length)))"),),
)  # fmt: skip
exercise.right(
    "looked up",
    ((LOOKED_UP, "return torch.nn.functional.embedding(tokens, table.detach())"),),
)

exercise.variant(
    "bounds by the width",
    ((UNIFORM, "uniform_(-(dim**-0.5), dim**-0.5)"),
     ('"uniform" in ±½ as in the paper', '"uniform" in ±1/√d')),
    "the uniform start lies in ±1/√d and not in ±½",
)  # fmt: skip
exercise.variant(
    "the new one first",
    ((FRONT, "        cache.front.insert(0, self.P)\n"),
     ("vectors to be put before the embedded tokens.", "vectors to be put before the embedded tokens,\n    and before the vectors of a prompt that is there already.")),
    "P stands in front of the vectors of a prompt that is there already",
)  # fmt: skip
exercise.variant(
    "half the scale",
    ((NORMAL, "normal_(std=float(table.std()) / 2)"),
     ('"normal" at the scale of the embeddings', '"normal" at half the scale of the embeddings'),
     ("Here the default is a normal at\nthe embeddings' own scale.", "Here the default is a normal at\nhalf the embeddings' own scale.")),
    "the normal start has half the standard deviation of the embeddings",
)  # fmt: skip
