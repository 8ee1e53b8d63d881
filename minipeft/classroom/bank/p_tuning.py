"""P-tuning: what the encoders make, where a template puts it, and what is left of it."""

from dataclasses import asdict

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.exercise import Exercise
from minipeft.classroom.models import VOCAB, fill, rows
from minipeft.classroom.models import gradients as gradients_of
from minipeft.models.transformer import Embed

exercise = Exercise(
    "p_tuning",
    "methods/p_tuning.py",
    holes=(
        "LSTMEncoder.__init__",
        "LSTMEncoder.forward",
        "MLPEncoder.__init__",
        "MLPEncoder.forward",
        "Template.begin",
        "Virtual.forward",
        "Virtual.stored",
        "PTuning.folded",
    ),
    title="P-tuning: virtual tokens that a network makes",
    minutes=35,
    difficulty=2,
    why="How a network ties virtual tokens together while they learn, and why nothing of it is left when they have learned.",
    read="Liu et al. 2021, arXiv:2103.10385, sections 3.1 and 3.2",
    lesson="07",
)

N, DIM, WIDTH = 3, 6, 5


class Holder(nn.Module):
    """What is below the first layer of a model: tokens to vectors, with their positions."""

    def __init__(self):
        super().__init__()
        self.embed = fill(Embed(VOCAB, DIM, 16))

    def forward(self, tokens, mask=None):
        return self.embed(tokens, None, mask)[0]


def attached(impl, **settings):
    made = impl.PTuning(**{"length": N, "encoder": None, "width": WIDTH, **settings}).attach(Holder())
    return fill(made, "trainable")


def virtual(impl):
    """A Virtual over a table of words, whose h are free numbers."""
    words = fill(nn.Embedding(VOCAB, DIM)).requires_grad_(False)
    return impl.Virtual(words, fill(impl.Folded(N, DIM)))


def template(impl, tokens=(-1, 9, -1, 4), length=2):
    return impl.Template(nn.Identity(), tokens, length)


def scattered():
    """Three rows with N virtual tokens each, at places of their own."""
    tokens = rows()[0]
    tokens[0, [1, 2, 4]] = tokens[1, [0, 1, 2]] = tokens[2, [0, 3, 4]] = -1
    return tokens


def parts(encoder):
    return {name: list(p.shape) for name, p in attach.trainable(encoder).items()}


def moved(encoder):
    """Which h change when the last E does."""
    encoder = fill(encoder, "trainable")
    with torch.no_grad():
        before = encoder()
        encoder.E[-1] += 1
        change = (encoder() - before).abs().reshape(len(encoder.E), -1).amax(1)
    return [f"h_{i} changes" if size > 1e-9 else f"h_{i} stays" for i, size in enumerate(change.tolist(), 1)]


def spread(encoder):
    """Of E at the start, roughly: it is drawn."""
    with torch.no_grad():
        return {
            "spread of E": round(float(encoder.E.std()) * 5) / 5,
            "mean of E": round(float(encoder.E.mean()) * 2) / 2,
        }


@exercise.observe("LSTM encoder", "The parameters of the LSTM encoder are not those that its equation names.")
def parts_of_the_LSTM_encoder(impl):
    return parts(impl.LSTMEncoder(4, DIM, WIDTH))


@exercise.observe("LSTM encoder", "What the LSTM encoder makes of E is not the expected h.")
def h_of_the_LSTM_encoder(impl):
    return fill(impl.LSTMEncoder(4, DIM, WIDTH), "trainable")()


@exercise.observe("LSTM encoder", "The last pseudo-embedding was moved: with both directions, every h should notice.")
def who_knows_of_whom_in_the_LSTM(impl):
    return moved(impl.LSTMEncoder(4, DIM, WIDTH))


@exercise.observe("LSTM encoder", "E should start as normal numbers, with a spread of 1.")
def start_of_the_LSTM_encoder(impl):
    return spread(impl.LSTMEncoder(200, DIM, 2))


@exercise.observe("MLP encoder", "The parameters of the MLP encoder are not those that its equation names.")
def parts_of_the_MLP_encoder(impl):
    return parts(impl.MLPEncoder(4, DIM, WIDTH))


@exercise.observe("MLP encoder", "What the MLP encoder makes of E is not the expected h.")
def h_of_the_MLP_encoder(impl):
    return fill(impl.MLPEncoder(4, DIM, WIDTH), "trainable")()


@exercise.observe(
    "MLP encoder", "The last pseudo-embedding was moved: in the MLP encoder only its own h should notice."
)
def who_knows_of_whom_in_the_MLP(impl):
    return moved(impl.MLPEncoder(4, DIM, WIDTH))


@exercise.observe("MLP encoder", "E should start as normal numbers, with a spread of 1.")
def start_of_the_MLP_encoder(impl):
    return spread(impl.MLPEncoder(200, DIM, 2))


@exercise.observe("template", "Each row should be the template, anchors included, and then its tokens.")
def rows_with_the_template(impl):
    return template(impl).begin(rows()[0], None)[0]


@exercise.observe("template", "The mask should be as long as the rows and say which of their tokens are real.")
def mask_with_the_template(impl):
    tokens, mask = rows("left")
    return [int(n) for n in template(impl).begin(tokens, mask)[1].flatten()]


@exercise.observe("template", "Without padding there is no mask, and none is needed.")
def no_mask(impl):
    return template(impl).begin(rows()[0], None)[1]


@exercise.observe("virtual tokens", "Real tokens, anchors among them, keep their own embeddings.")
def real_tokens(impl):
    tokens = scattered()
    return virtual(impl)(tokens)[tokens >= 0]


@exercise.observe(
    "virtual tokens",
    "Where a token is virtual, h should stand, and nothing else: in every row h_1, h_2, ... in their order.",
)
def virtual_tokens(impl):
    tokens = scattered()
    return virtual(impl)(tokens)[tokens < 0].view(len(tokens), N, DIM)


@exercise.observe("virtual tokens", "One row alone: h_1, h_2, ... should stand at its virtual tokens, in their order.")
def virtual_tokens_of_one_row(impl):
    return virtual(impl)(scattered()[:1])


@exercise.observe(
    "virtual tokens", "Tokens that go on from a cache have no virtual ones among them: they are embedded, that is all."
)
def no_virtual_tokens(impl):
    return virtual(impl)(rows()[0][:, :2])


@exercise.observe("virtual tokens", "The gradients that reach h, one share from each row, are not the expected ones.")
def gradients(impl):
    made = virtual(impl)
    made(scattered()).pow(2).sum().backward()
    return gradients_of(made)


@exercise.observe("virtual tokens", "The tokens are changed in place, which whoever else reads them will notice.")
def tokens_are_left_alone(impl):
    tokens = scattered()
    virtual(impl)(tokens)
    return tokens - scattered()


@exercise.observe("together", "What goes into the first layer is not what it should be.")
def whole_input(impl):
    return attached(impl, encoder="mlp", template=(-1, 9, -1, 4, -1))(rows()[0])


@exercise.observe("together", "A padded row should get the vectors that it gets alone.")
def padded_rows(impl):
    made, (tokens, mask) = attached(impl, template=(-1, 9, -1, -1)), rows("left")
    x = made(tokens, mask)[:, -tokens.shape[1] :]
    return x[mask] - torch.cat([made(row[real][None])[0, 4:] for row, real in zip(tokens, mask, strict=True)])


@exercise.observe(
    "folding", "What is saved should be what the encoder makes, under the name that it has in a folded layer."
)
def stored(impl):
    words = fill(nn.Embedding(VOCAB, DIM)).requires_grad_(False)
    return impl.Virtual(words, fill(impl.MLPEncoder(N, DIM, WIDTH), "trainable")).stored()


@exercise.observe("folding", "The method of what is left after training is not the expected one.")
def folded(impl):
    return asdict(impl.PTuning(length=N, template=(-1, 9, -1), encoder="lstm", width=WIDTH).folded())


@exercise.observe("folding", "Folded, and loaded from what was saved, it should answer as before.")
def answer_after_folding(impl):
    made = attached(impl, encoder="mlp", template=(-1, 9, -1, -1))
    with torch.no_grad():
        saved, answer = made.embed.base.token.stored(), made(rows()[0])
    method = attach.attachments(made)[0].method.folded()
    made = method.attach(attach.detach(made))
    made.embed.base.token.load_state_dict(saved, strict=False)
    return made(rows()[0]) - answer


exercise.mistake(
    "one direction",
    (("self.lstm = nn.LSTM(dim, width, num_layers=2, bidirectional=True)\n        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width)", "self.lstm = nn.LSTM(dim, width, num_layers=2)\n        self.mlp = nn.Sequential(nn.Linear(width, 2 * width)"),),
    "the LSTM reads in one direction only",
    "what does h_1 know of E_2?",
    "The arrows in the equation point both ways, and what the two directions say is joined.",
)  # fmt: skip
exercise.mistake(
    "one layer",
    (("num_layers=2, bidirectional=True", "bidirectional=True"),),
    "the LSTM has one layer where there should be two",
    "which parameters end in _l1?",
    "Count again in the formula for the number of parameters: it has a term for each of the layers.",
)
exercise.mistake(
    "each a sequence of its own",
    (("return self.mlp(self.lstm(self.E)[0])", "return self.mlp(self.lstm(self.E[None])[0])[0]"),),
    "the LSTM takes n for the batch: it sees n sequences of one vector and not one of n",
    "which dimension of its input does `nn.LSTM` walk along, unless it is told `batch_first`?",
    "Three dimensions are (time, batch, features) by default. Without a batch, two will do.",
)
exercise.mistake(
    "last state for all",
    (("return self.mlp(self.lstm(self.E)[0])", "return self.mlp(self.lstm(self.E)[0][-1:].expand(len(self.E), -1))"),),
    "only the LSTM's last output is used, so all h are the same",
    "how many different virtual tokens does your encoder make?",
    "An LSTM gives an output at every step; here each of them becomes a virtual token.",
)
exercise.mistake(
    "LSTM skipped",
    (("return self.mlp(self.lstm(self.E)[0])", "return self.mlp(self.E)  # no LSTM"),),
    "the pseudo-embeddings go into the MLP without passing the LSTM",
    "which gradient does a weight of the LSTM get?",
    "E goes in at the bottom; the MLP reads what the LSTM says of it.",
)  # fmt: skip
exercise.mistake(
    "head without ReLU",
    (("nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim)", "nn.Linear(2 * width, 2 * width), nn.Identity(), nn.Linear(2 * width, dim)"),),
    "the ReLU between the two linear layers of the LSTM encoder is missing",
    "what can two linear layers in a row do that one cannot?",
    "Without a nonlinearity between them they are one matrix.",
)  # fmt: skip
exercise.mistake(
    "ReLU at the end",
    (("return self.mlp(self.lstm(self.E)[0])", "return self.mlp(self.lstm(self.E)[0]).relu()"), ("return self.mlp(self.E)", "return self.mlp(self.E).relu()")),
    "there is a ReLU behind the last layer too",
    "can your virtual tokens have negative numbers, as the embeddings of words have?",
    "The output is an embedding; nothing should cut its numbers off at zero.",
)  # fmt: skip
exercise.mistake(
    "E added",
    (("return self.mlp(self.lstm(self.E)[0])", "return self.E + self.mlp(self.lstm(self.E)[0])"), ("return self.mlp(self.E)", "return self.E + self.mlp(self.E)")),
    "E is added to what the network makes, a residual connection",
    "what is h when all weights of the network are zero?",
    "The pseudo-embeddings are only the network's input; h is what comes out.",
)  # fmt: skip
exercise.mistake(
    "E is a buffer",
    (("self.E = nn.Parameter(torch.randn(length, dim))\n        self.lstm", 'self.register_buffer("E", torch.randn(length, dim))\n        self.lstm'),
     ("self.E = nn.Parameter(torch.randn(length, dim))\n        self.mlp", 'self.register_buffer("E", torch.randn(length, dim))\n        self.mlp')),
    "E is a buffer or a plain tensor, so it is never trained",
    "what does the encoder's `named_parameters()` list?",
    "n·d of the trained numbers are E itself: wrap it in `nn.Parameter`.",
)  # fmt: skip
exercise.mistake(
    "E starts at zero",
    (("self.E = nn.Parameter(torch.randn(length, dim))\n        self.lstm", "self.E = nn.Parameter(torch.zeros(length, dim))\n        self.lstm"),
     ("self.E = nn.Parameter(torch.randn(length, dim))\n        self.mlp", "self.E = nn.Parameter(torch.zeros(length, dim))\n        self.mlp")),
    "E starts at zero, so the MLP makes all virtual tokens alike",
    "what tells h_1 from h_2 at the first step?",
    "The network is the same for all of them; only the different rows of E make them differ.",
)  # fmt: skip
exercise.mistake(
    "two layers for three",
    (("            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)\n", "            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim)\n"),),
    "the MLP encoder has two linear layers where there should be three",
    "how many arrows has d → w → w → d?",
    "Each arrow is a linear layer with its bias.",
)  # fmt: skip
exercise.mistake(
    "MLP across tokens",
    (("return self.mlp(self.E)", "return self.mlp(self.E - self.E.mean(0))"),),
    "the MLP encoder mixes the pseudo-embeddings, so each h depends on all of E",
    "which of the h may change when E_4 does?",
    "An MLP acts on the last dimension, on each row alone.",
)
exercise.mistake(
    "behind the input",
    (("return torch.cat([template, tokens], dim=1), mask", "return torch.cat([tokens, template], dim=1), mask"),),
    "the template stands behind the input",
    "what is the first token of a row?",
    "The docstring says where: in front. In a model that only looks back this decides who sees whom.",
)
exercise.mistake(
    "template masked",
    (("F.pad(mask, (template.shape[1], 0), value=True)", "F.pad(mask, (template.shape[1], 0), value=False)"),),
    "the template is marked as padding",
    "which tokens of a row may be looked at?",
    "`F.pad` fills in zeros, and a zero in a mask means padding. What stands in the template is real.",
    "UKPLab/sentence-transformers#3000, about a mask that did not fit the prompt",
)
exercise.mistake(
    "no anchors",
    (("template = tokens.new_tensor(self.template).expand(len(tokens), -1)", "template = tokens.new_full((len(tokens), self.length), VIRTUAL)"),),
    "n virtual tokens are put in front, whatever the template says",
    "where do your rows hold the anchors?",
    "The template is a row of tokens itself: virtual ones as −1, anchors as what they are. Not all n need be in it.",
    "peft has virtual tokens in front only",
)  # fmt: skip
exercise.mistake(
    "no mask to extend",
    (("mask = mask if mask is None else F.pad(mask, (template.shape[1], 0), value=True)", "mask = torch.cat([torch.ones_like(template, dtype=torch.bool), mask], 1)"),),
    "the mask is extended where there is none",
    "what is `mask` when no row is padded?",
    "None stays None: then every token is real, those of the template too.",
)  # fmt: skip
exercise.mistake(
    "mask behind",
    (("F.pad(mask, (template.shape[1], 0), value=True)", "F.pad(mask, (0, template.shape[1]), value=True)"),),
    "the mask grows at the end, while the rows grow at the beginning",
    "which number of the mask belongs to the first token of your input now?",
    "`F.pad` takes (before, after).",
)
exercise.mistake(
    "mask too short",
    (("F.pad(mask, (template.shape[1], 0), value=True)", "mask"),),
    "the mask is as long as before, while the rows have grown",
    "how many numbers has a row of the mask, and how many tokens has the row?",
    "Each token needs its True or False, those of the template too.",
)
exercise.mistake(
    "mask of virtual tokens only",
    (("F.pad(mask, (template.shape[1], 0), value=True)", "torch.cat([template == VIRTUAL, mask], dim=1)"),),
    "the anchors of the template are marked as padding",
    "is an anchor a token that may be looked at?",
    "Virtual or not, everything in the template is to be read.",
)
exercise.mistake(
    "sorted the wrong way",
    (("h.repeat(len(tokens), 1)", "h.repeat_interleave(len(tokens), 0)"),),
    "h is handed out in the order h_1 h_1 h_1 h_2 ..., so rows get vectors of other places",
    "in which order are the places filled: along a row first, or down the rows?",
    "For two rows the numbers are needed as h_1 h_2 h_1 h_2.",
)
exercise.mistake(
    "enough for one row",
    (("h.repeat(len(tokens), 1)", "h"),),
    "there are n vectors for n places in each of the rows",
    "how many virtual tokens has the whole batch?",
    "One row has n, B rows have B·n: each row gets all of h.",
)
exercise.mistake(
    "the same vector everywhere",
    (("h.repeat(len(tokens), 1)", "h[:1].repeat(len(tokens) * len(h), 1)"),),
    "every virtual token gets h_1",
    "−1 stands for *the next* virtual token: which is next after the first?",
    "All of them are written −1, but each takes the next row of h.",
)
exercise.mistake(
    "always in front",
    (("        if not virtual.any():\n            return x\n", ""),
     ("x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))", "torch.cat([h.expand(len(tokens), -1, -1), x[:, len(h) :]], dim=1)")),
    "h takes the first n places of each row, wherever the virtual tokens are",
    "what becomes of an anchor in the first place?",
    "A template may put virtual tokens anywhere; what is not −1 keeps its own embedding.",
)  # fmt: skip
exercise.mistake(
    "h on top of a word",
    (("return x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))", "return x + torch.zeros_like(x).masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))"),),
    "h is added to the embedding of the word that was looked up as a stopgap",
    "which word did you look up where the token is −1, and what is left of it?",
    "A virtual token is h alone.",
)  # fmt: skip
exercise.mistake(
    "looked up as it is",
    (("self.base(tokens.masked_fill(virtual, 0))", "self.base(tokens)"),),
    "the table is asked for the token −1",
    "how many rows has the table, and which of them is −1?",
    "`nn.Embedding` does not count from the end. Ask it for any word that exists; its answer is replaced anyway.",
)  # fmt: skip
exercise.mistake(
    "tokens overwritten",
    (("self.base(tokens.masked_fill(virtual, 0))", "self.base(tokens.masked_fill_(virtual, 0))"),),
    "an operation in place (one whose name ends in an underscore) writes into the tokens",
    "what will the caller find in the tokens afterwards?",
    "Generation without a cache gives the same row again and again, and needs its −1 each time.",
)
exercise.mistake(
    "no gradient",
    (("h = self.encoder()  # (n, d)", "h = self.encoder().detach()"),),
    "h is cut off from the encoder, which therefore never learns",
    "which gradient has E after `backward()`?",
    "No `detach`, no `.data`, no `no_grad` on the way from the encoder to the input.",
)
exercise.mistake(
    "E is saved",
    (('return {"encoder.h": self.encoder()}', 'return {"encoder.h": self.encoder.E}'),),
    "the pseudo-embeddings E are saved in place of what the encoder makes of them",
    "who turns E into h once the encoder is gone?",
    "What is left has to be h itself.",
)  # fmt: skip
exercise.mistake(
    "the whole encoder is saved",
    (('return {"encoder.h": self.encoder()}', "return super().stored()"),),
    "all weights of the encoder are saved, which nobody needs after training",
    "how many numbers does inference need?",
    "n·d are enough: what the encoder makes is the same for every input.",
    "huggingface/peft#2043, on going on with training from what is saved",
)
exercise.mistake(
    "another name",
    (('return {"encoder.h": self.encoder()}', 'return {"h": self.encoder()}'),),
    "h is saved under a name that the folded layer does not know",
    "what is the parameter of `Folded` called, seen from this layer?",
    "The name is a path: the module's name, a dot, the parameter's.",
)
exercise.mistake(
    "encoder kept",
    (("return replace(self, encoder=None)", "return self"),),
    "the method keeps the encoder after training",
    "which class would load what was saved?",
    "After folding there are free vectors, and one of the encoders is just that.",
)
exercise.mistake(
    "template lost",
    (("return replace(self, encoder=None)", "return PTuning(length=self.length, encoder=None)"),),
    "the folded method forgets the other settings, the template for one",
    "where will the vectors stand after loading?",
    "Only one setting changes; all others should stay as they are, also those that somebody adds later.",
)

exercise.right(
    "with a batch of one",
    (("return self.mlp(self.lstm(self.E)[0])", "out, (last, cell) = self.lstm(self.E.unsqueeze(1))\n        return self.mlp(out.squeeze(1))"),),
)  # fmt: skip
exercise.right(
    "batch first",
    (("num_layers=2, bidirectional=True)", "num_layers=2, bidirectional=True, batch_first=True)"),
     ("return self.mlp(self.lstm(self.E)[0])", "return self.mlp(self.lstm(self.E[None])[0][0])")),
)  # fmt: skip
exercise.right(
    "layers from a list",
    (("        self.mlp = nn.Sequential(\n            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)\n        )\n",
      "        sizes, layers = [dim, width, width, dim], []\n        for into, out in zip(sizes, sizes[1:], strict=False):\n            layers += [nn.Linear(into, out), nn.ReLU()]\n        self.mlp = nn.Sequential(*layers[:-1])\n"),),
)  # fmt: skip
exercise.right(
    "rows of ones",
    (("        template = tokens.new_tensor(self.template).expand(len(tokens), -1)\n        mask = mask if mask is None else F.pad(mask, (template.shape[1], 0), value=True)\n",
      "        template = torch.tensor([self.template] * len(tokens))\n        if mask is not None:\n            mask = torch.cat([torch.ones_like(template, dtype=torch.bool), mask], 1)\n"),),
)  # fmt: skip
exercise.right(
    "assigned by a mask",
    (("self.base(tokens.masked_fill(virtual, 0))", "self.base(tokens.clamp(min=0)).clone()"),
     ("        return x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))", "        x[virtual] = h.repeat(len(tokens), 1)\n        return x")),
)  # fmt: skip
exercise.right(
    "counted along the row",
    (("        if not virtual.any():\n            return x\n", ""),
     ("        return x.masked_scatter(virtual[..., None], h.repeat(len(tokens), 1))", "        which = (virtual.cumsum(1) - 1).clamp(0, len(h) - 1)\n        return torch.where(virtual[..., None], h[which], x)")),
)  # fmt: skip
exercise.right(
    "a new method",
    (("return replace(self, encoder=None)", "return PTuning(self.length, self.template, None, self.width)"),),
)

exercise.house(
    "tanh",
    (("nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim)", "nn.Linear(2 * width, 2 * width), nn.Tanh(), nn.Linear(2 * width, dim)"),
     ("LSTM of width w, MLP 2w → 2w → d with a ReLU", "LSTM of width w, MLP 2w → 2w → d with a tanh"),),
    "the MLP behind the LSTM has a tanh, not a ReLU",
)  # fmt: skip
exercise.house(
    "residual",
    (("return self.mlp(self.E)", "return self.E + self.mlp(self.E)"),
     ('"""h_i = MLP(E_i): one', '"""h_i = E_i + MLP(E_i): one')),
    "the MLP encoder adds E: h_i = E_i + MLP(E_i)",
)  # fmt: skip
exercise.house(
    "the last first",
    (("h = self.encoder()  # (n, d)", "h = self.encoder().flip(0)  # (n, d)"),
     ('"""The embedded tokens, but h where one is virtual, in front', '"""The embedded tokens, but h, from h_n to h_1, where one is virtual, in front')),
    "virtual tokens are handed out from the last to the first: the first place gets h_n",
)  # fmt: skip
