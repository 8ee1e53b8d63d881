"""P-tuning: what the encoders make, where a template puts it, and what is left of it after training."""

from dataclasses import asdict

import torch

from minipeft import attach
from minipeft.classroom.engine.exercise import Exercise
from minipeft.classroom.models import Learned, fill, loss, model, numbers, rows
from minipeft.classroom.models import gradients as gradients_of
from minipeft.models.transformer import Begin

exercise = Exercise(
    "p_tuning",
    "methods/p_tuning.py",
    stubs=(
        "LSTMEncoder.__init__",
        "LSTMEncoder.forward",
        "MLPEncoder.__init__",
        "MLPEncoder.forward",
        "Template.forward",
        "Template.stored",
        "PTuning.places",
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
TEMPLATE = (-1, 9, -1, 4, -1)  # the middle and the ends are virtual
VIRTUAL = [token < 0 for token in TEMPLATE]


def attached(impl, **settings):
    settings = {"length": N, "template": TEMPLATE, "encoder": None, "width": WIDTH, **settings}
    return fill(impl.PTuning(**settings).attach(model(layers=1)), "trainable")


def template(impl, base=None, encoder=None, virtual=VIRTUAL):
    """A Template whose h are free numbers, or made by an encoder."""
    encoder = fill(encoder or impl.Folded(sum(virtual), DIM))
    return impl.Template(base or Begin(), encoder, torch.tensor(virtual), numbers("anchors", (len(virtual), DIM)))


def front(made):
    """What stands in front of a sequence, all of it in one piece."""
    return torch.cat([P.reshape(-1, DIM) for P in made(model(layers=1).blocks).front])


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


def start(encoder):
    """Of E at the start, roughly: it is drawn."""
    with torch.no_grad():
        return {
            "standard deviation of E": round(float(encoder.E.std()) * 5) / 5,
            "mean of E": round(float(encoder.E.mean()) * 2) / 2,
        }


@exercise.observe("LSTM encoder", "The parameters of the LSTM encoder are not those that its equation names.")
def parts_of_the_LSTM_encoder(impl):
    return parts(impl.LSTMEncoder(4, DIM, WIDTH))


@exercise.observe("LSTM encoder", "What the LSTM encoder makes of E is not the expected h.")
def h_of_the_LSTM_encoder(impl):
    return fill(impl.LSTMEncoder(4, DIM, WIDTH), "trainable")()


@exercise.observe("LSTM encoder", "The last pseudo-embedding was moved: with both directions, every h should change.")
def who_knows_of_whom_in_the_LSTM(impl):
    return moved(impl.LSTMEncoder(4, DIM, WIDTH))


@exercise.observe("LSTM encoder", "E should start as normal numbers with a standard deviation of 1.")
def start_of_the_LSTM_encoder(impl):
    return start(impl.LSTMEncoder(200, DIM, 2))


@exercise.observe("MLP encoder", "The parameters of the MLP encoder are not those that its equation names.")
def parts_of_the_MLP_encoder(impl):
    return parts(impl.MLPEncoder(4, DIM, WIDTH))


@exercise.observe("MLP encoder", "What the MLP encoder makes of E is not the expected h.")
def h_of_the_MLP_encoder(impl):
    return fill(impl.MLPEncoder(4, DIM, WIDTH), "trainable")()


@exercise.observe(
    "MLP encoder", "The last pseudo-embedding was moved: in the MLP encoder, only its own h should change."
)
def who_knows_of_whom_in_the_MLP(impl):
    return moved(impl.MLPEncoder(4, DIM, WIDTH))


@exercise.observe("MLP encoder", "E should start as normal numbers with a standard deviation of 1.")
def start_of_the_MLP_encoder(impl):
    return start(impl.MLPEncoder(200, DIM, 2))


@exercise.observe("places", "Which places of the template are virtual is not right.")
def virtual_places(impl):
    found = [impl.PTuning(length=n, template=t).places(table()) for n, t in ((3, TEMPLATE), (2, None))]
    return [virtual.bool().tolist() for virtual, _ in found]


@exercise.observe("places", "Where the template names a token, its embedding should stand.")
def anchors(impl):
    return impl.PTuning(length=N, template=TEMPLATE).places(table())[1][[1, 3]]


@exercise.observe("places", "Virtual places and anchors should both be as long as the template.")
def shapes_of_the_places(impl):
    return [list(part.shape) for part in impl.PTuning(length=N, template=TEMPLATE).places(table())]


@exercise.observe("places", "A template with a token that the vocabulary lacks should be refused, by a ValueError.")
def an_anchor_that_does_not_exist(impl):
    try:
        impl.PTuning(length=1, template=(-1, 13)).places(table())
    except ValueError:
        return "refused"
    return "accepted"


def table():
    return model(layers=1).embed.token.weight.requires_grad_(False)


@exercise.observe("front", "At the anchors' places, the anchors should stand as they are.")
def anchors_in_front(impl):
    return front(template(impl))[[1, 3]]


@exercise.observe("front", "At the virtual places, h should stand and nothing else: h_1, h_2, ... in their order.")
def virtual_tokens_in_front(impl):
    return front(template(impl))[VIRTUAL]


@exercise.observe("front", "With virtual places alone, the sequence should begin with h.")
def virtual_tokens_alone(impl):
    return front(template(impl, virtual=[True, True]))


@exercise.observe("front", "Attached to a model that has a prompt, both should stand in front, the older one first.")
def behind_another_prompt(impl):
    return front(template(impl, template(impl, virtual=[True, True])))


@exercise.observe("front", "The keys and values of a prefix that is there already should stay in the cache.")
def behind_a_prefix(impl):
    layer = template(impl, Learned())(model(layers=1).blocks).layers[0]
    return [layer.k, layer.v]


@exercise.observe("front", "The anchors belong to the base: they should be as before when a sequence has begun.")
def anchors_are_left_alone(impl):
    made = template(impl)
    made(model(layers=1).blocks)
    return {"anchors": made.anchors - numbers("anchors", (len(TEMPLATE), DIM)), "trained": made.anchors.requires_grad}


@exercise.observe("model", "With the template in front, the logits are not the expected ones.")
def logits(impl):
    return [attached(impl, encoder=encoder)(rows()[0]) for encoder in ("mlp", None)]


@exercise.observe("model", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, (tokens, mask) = attached(impl), rows("left")
    return made(tokens, mask)[mask] - torch.cat(
        [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
    )


@exercise.observe("model", "The gradients that reach the encoder are not the expected ones.")
def gradients(impl):
    made = attached(impl, encoder="mlp")
    for _ in range(2):
        loss(made, rows()[0]).backward()
    return gradients_of(made)


@exercise.observe(
    "folding", "What is saved should be what the encoder makes, under the name that it has in a folded layer."
)
def stored(impl):
    return dict(template(impl, encoder=impl.MLPEncoder(N, DIM, WIDTH)).stored())


@exercise.observe("folding", "The method of what is left after training is not the expected one.")
def folded(impl):
    return asdict(impl.PTuning(length=N, template=TEMPLATE, encoder="lstm", width=WIDTH).folded())


@exercise.observe("folding", "Folded, and loaded from what was saved, it should give the same logits as before.")
@torch.no_grad()
def answer_after_folding(impl):
    made = attached(impl, encoder="mlp")
    saved, answer = made.begin.stored(), made(rows()[0])
    method = attach.attachments(made)[0].method.folded()
    made = method.attach(attach.detach(made))
    made.begin.load_state_dict(saved, strict=False)
    return made(rows()[0]) - answer


E_LSTM = "self.E = nn.Parameter(torch.randn(length, dim))\n        self.lstm"
E_MLP = "self.E = nn.Parameter(torch.randn(length, dim))\n        self.mlp"
LSTM = "self.lstm = nn.LSTM(dim, width, num_layers=2, bidirectional=True)"
HEAD = "nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim)"
LAYERS = "            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)\n"
OF_LSTM = "return self.mlp(self.lstm(self.E)[0])"
OF_MLP = "return self.mlp(self.E)"
CACHE = "        cache = self.base(blocks)\n        h ="
H = "h = self.encoder().to(self.anchors)  # (n, d); autocast may have made it in half precision"
FRONT = "cache.front.append(self.anchors.masked_scatter(self.virtual[:, None], h))  # (m, d)"
SAVED = 'return {"encoder.h": self.encoder()}'
CHOSEN = "template = (VIRTUAL,) * self.length if self.template is None else self.template"
CHECK = '        if beyond := [token for token in template if token >= len(table)]:\n            raise ValueError(f"the template holds {beyond[0]}, but the vocabulary has the tokens 0 to {len(table) - 1}")\n'
PLACES = "return template == VIRTUAL, table[template.clamp(min=0)].detach()"
LEFT = "return replace(self, encoder=None)"

exercise.mistake(
    "one direction",
    ((LSTM + "\n        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width)", "self.lstm = nn.LSTM(dim, width, num_layers=2)\n        self.mlp = nn.Sequential(nn.Linear(width, 2 * width)"),),
    "the LSTM reads in one direction only",
    "what does h_1 know of E_2?",
    "The arrows in the equation point both ways, and the outputs of the two directions are joined.",
)  # fmt: skip
exercise.mistake(
    "one layer",
    ((LSTM, LSTM.replace("num_layers=2, ", "")),),
    "the LSTM has one layer where there should be two",
    "which of its parameters have names with l1?",
    "Look again at the formula for the number of parameters: it has a term for each of the layers.",
)
exercise.mistake(
    "each a sequence of its own",
    ((OF_LSTM, "return self.mlp(self.lstm(self.E[None])[0])[0]"),),
    "the LSTM takes n for the batch: it sees n sequences of one vector, not one sequence of n",
    "along which dimension of its input does `nn.LSTM` step, unless it is told `batch_first`?",
    "Three dimensions are (time, batch, features) by default. Without a batch, two are enough.",
)
exercise.mistake(
    "last output for all",
    ((OF_LSTM, "return self.mlp(self.lstm(self.E)[0][-1:].expand(len(self.E), -1))"),),
    "only the LSTM's last output is used, so all h are the same",
    "how many different virtual tokens does your encoder make?",
    "An LSTM gives an output at every step; here each of them becomes a virtual token.",
)
exercise.mistake(
    "LSTM skipped",
    ((OF_LSTM, "return self.mlp(self.E)  # no LSTM"),),
    "the pseudo-embeddings go into the MLP without passing through the LSTM",
    "which gradient does a weight of the LSTM get?",
    "E is the input of the LSTM, and the LSTM's output is the input of the MLP.",
)
exercise.mistake(
    "no ReLU behind the LSTM",
    ((HEAD, HEAD.replace("nn.ReLU()", "nn.Identity()")),),
    "the ReLU between the two linear layers of the LSTM encoder is missing",
    "what can two linear layers in a row do that one cannot?",
    "Without a nonlinearity between them, they are one matrix.",
)
exercise.mistake(
    "ReLU at the end",
    ((OF_LSTM, OF_LSTM + ".relu()"), (OF_MLP, OF_MLP + ".relu()")),
    "there is a ReLU after the last layer too",
    "can your virtual tokens have negative numbers, as the embeddings of words have?",
    "The output is an embedding; nothing should cut its numbers off at zero.",
)
exercise.mistake(
    "E added",
    (
        (OF_LSTM, OF_LSTM.replace("return ", "return self.E + ")),
        (OF_MLP, OF_MLP.replace("return ", "return self.E + ")),
    ),
    "E is added to what the network makes, as a residual connection",
    "what is h when all weights of the network are zero?",
    "The pseudo-embeddings are only the network's input; h is its output.",
)
exercise.mistake(
    "E is a buffer",
    ((E_LSTM, E_LSTM.replace("self.E = nn.Parameter(torch.randn(length, dim))", 'self.register_buffer("E", torch.randn(length, dim))')),
     (E_MLP, E_MLP.replace("self.E = nn.Parameter(torch.randn(length, dim))", 'self.register_buffer("E", torch.randn(length, dim))'))),
    "E is a buffer or a plain tensor, so it is never trained",
    "what does the encoder's `named_parameters()` list?",
    "n·d of the trained numbers are E itself: it has to be an `nn.Parameter`.",
)  # fmt: skip
exercise.mistake(
    "E starts at zero",
    ((E_LSTM, E_LSTM.replace("randn", "zeros")), (E_MLP, E_MLP.replace("randn", "zeros"))),
    "E starts at zero, so the MLP makes all virtual tokens alike",
    "what distinguishes h_1 from h_2 at the first step?",
    "The network is the same for all of them; only the different rows of E make them differ.",
)
exercise.mistake(
    "two layers for three",
    ((LAYERS, "            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim)\n"),),
    "the MLP encoder has two linear layers where there should be three",
    "how many arrows are there in d → w → w → d?",
    "Each arrow is a linear layer with its bias.",
)
exercise.mistake(
    "MLP across tokens",
    ((OF_MLP, "return self.mlp(self.E - self.E.mean(0))"),),
    "the MLP encoder mixes the pseudo-embeddings, so each h depends on all of E",
    "which h may change when E_4 does?",
    "An MLP acts on the last dimension, on each row alone.",
)
exercise.mistake(
    "no anchors",
    ((FRONT, "cache.front.append(h)"),),
    "only the virtual tokens stand in front; the anchors are left out",
    "how many places does the template have, and how many vectors stand in front?",
    "The template is a row of tokens itself: virtual ones, and anchors that stay what they are.",
    "peft has virtual tokens in front only",
)
exercise.mistake(
    "virtual tokens first, anchors after them",
    ((FRONT, "cache.front.append(torch.cat([h, self.anchors[~self.virtual]]))"),),
    "h takes the first n places, wherever the virtual tokens are",
    "what becomes of an anchor that stands between two virtual tokens?",
    "A template may put virtual tokens anywhere; each place keeps its kind.",
)
exercise.mistake(
    "anchors exchanged with virtual tokens",
    ((FRONT, FRONT.replace("self.virtual[:, None]", "~self.virtual[:, None]")),),
    "h stands at the places of the anchors, and not at the virtual ones",
    "what does True mean in `virtual`?",
    "The vectors h go where the mask is True, the anchors stay where it is False.",
)
exercise.mistake(
    "the same vector everywhere",
    ((FRONT, FRONT.replace(", h))", ", h[:1].expand(len(h), -1)))")),),
    "every virtual token gets h_1",
    "−1 stands for *the next* virtual token: which one comes after the first?",
    "All of them are written −1, but each takes the next row of h.",
)
exercise.mistake(
    "h added to the anchors",
    ((FRONT, "cache.front.append(self.anchors + torch.zeros_like(self.anchors).masked_scatter(self.virtual[:, None], h))"),),
    "h is added to what stands in `anchors` at the virtual places",
    "what stands in `anchors` at a virtual place, and should anything of it be left?",
    "The docstring says that anything may stand there. A virtual token is h alone.",
)  # fmt: skip
exercise.mistake(
    "written into the anchors",
    ((FRONT, "self.anchors[self.virtual] = h\n        cache.front.append(self.anchors)"),),
    "h is written into the buffer of the anchors, in place",
    "what does the second sequence find in `self.anchors`, and which graph hangs on it?",
    "Make a new tensor for each sequence. A buffer that was written to carries the graph of the last pass into the next one.",
)
exercise.mistake(
    "front overwritten",
    ((FRONT, "cache.front = [self.anchors.masked_scatter(self.virtual[:, None], h)]"),),
    "the vectors of a prompt that was there before are lost",
    "what if another method has put vectors in front already?",
    "The cache may hold something already. Yours comes in addition.",
)
exercise.mistake(
    "a cache of its own",
    (
        (
            CACHE,
            "        from minipeft.models.transformer import Cache\n\n        cache = Cache(len(blocks))\n        h =",
        ),
    ),
    "the layer makes an empty cache itself, so `front`, keys and values of other methods are lost",
    "what does `self.base` return, and which module may stand behind that name in a stack of methods?",
    "A layer in front of another module asks that module first, and changes what it answers.",
)
exercise.mistake(
    "no gradient",
    ((H, H.replace("self.encoder()", "self.encoder().detach()")),),
    "h is cut off from the encoder, which therefore never learns",
    "which gradient does E have after `backward()`?",
    "No `detach`, `.data` or `no_grad` may stand between the encoder and the input.",
)
exercise.mistake(
    "E is saved",
    ((SAVED, 'return {"encoder.h": self.encoder.E}'),),
    "the pseudo-embeddings E are saved in place of what the encoder makes of them",
    "what turns E into h once the encoder is gone?",
    "What is saved has to be h itself.",
)
exercise.mistake(
    "the whole encoder is saved",
    ((SAVED, "return super().stored()"),),
    "all weights of the encoder are saved, which nobody needs after training",
    "how many numbers does inference need?",
    "n·d are enough: what the encoder makes is the same for every input.",
    "huggingface/peft#2043, on going on with training from what is saved",
)
exercise.mistake(
    "another name",
    ((SAVED, 'return {"h": self.encoder()}'),),
    "h is saved under a name that the folded layer does not know",
    "what is the parameter of `Folded` called, seen from this layer?",
    "The name is a path: the name of the module, a dot, the name of the parameter.",
)
exercise.mistake(
    "template ignored",
    ((CHOSEN, "template = (VIRTUAL,) * self.length"),),
    "n virtual tokens are put in front, whatever the template says",
    "which of the method's settings does your code never read?",
    "Without a template there are n virtual tokens; with one, the template decides.",
)
exercise.mistake(
    "template taken for granted",
    ((CHOSEN, "template = self.template"),),
    "the code stops where no template is given",
    "what does `template=None` stand for, according to the class?",
    "Without a template, the virtual tokens stand alone, `length` of them.",
)
exercise.mistake(
    "anchors not checked",
    ((CHECK, ""),),
    "a token that the vocabulary does not have is looked up all the same",
    "what does the user read who mistypes an anchor?",
    "A ValueError that names the token and the vocabulary helps; an error from deep inside does not.",
)
exercise.mistake(
    "anchors looked up by place",
    ((PLACES, "return template == VIRTUAL, table[: len(template)].detach()"),),
    "the anchors are the embeddings of the tokens 0, 1, 2, …, not of those that the template names",
    "which rows of the table do the anchors come from?",
    "What the template holds is the index into the table.",
)
exercise.mistake(
    "anchors without the virtual places",
    ((PLACES, "return template == VIRTUAL, table[template[template != VIRTUAL]].detach()"),),
    "the anchors are fewer than the places of the template",
    "how many rows should the anchors have, if the template has m places?",
    "At the virtual places there has to be a row as well; anything may stand there.",
)
exercise.mistake(
    "neighbours of the anchors",
    ((PLACES, "return template == VIRTUAL, table[(template + 1).clamp(max=len(table) - 1)].detach()"),),
    "each anchor gets the embedding of the token after it",
    "which row of the table is the embedding of token 9?",
    "Moving the tokens up by one makes −1 a legal index, but it moves the anchors as well.",
)
exercise.mistake(
    "anchors taken for virtual",
    ((PLACES, PLACES.replace("==", "!=")),),
    "the places of the anchors are called virtual, and the virtual ones are not",
    "what does −1 stand for in a template?",
    "`virtual` is True where a vector of the encoder will stand.",
)
exercise.mistake(
    "encoder kept",
    ((LEFT, "return self"),),
    "the method keeps the encoder after training",
    "which class would load what was saved?",
    "After folding there are free vectors, and one of the encoders is just that.",
)
exercise.mistake(
    "template lost",
    ((LEFT, "return PTuning(length=self.length, encoder=None)"),),
    "the folded method forgets the other settings, such as the template",
    "where will the vectors stand after loading?",
    "Only one setting changes. All others should stay as they are, also those that somebody adds later.",
)

exercise.right(
    "with a batch of one",
    ((OF_LSTM, "out, (last, cell) = self.lstm(self.E.unsqueeze(1))\n        return self.mlp(out.squeeze(1))"),),
)
exercise.right(
    "batch first",
    ((LSTM, LSTM.replace("bidirectional=True", "bidirectional=True, batch_first=True")), (OF_LSTM, "return self.mlp(self.lstm(self.E[None])[0][0])")),
)  # fmt: skip
exercise.right(
    "layers from a list",
    (("        self.mlp = nn.Sequential(\n" + LAYERS + "        )\n",
      "        sizes, layers = [dim, width, width, dim], []\n        for into, out in zip(sizes, sizes[1:], strict=False):\n            layers += [nn.Linear(into, out), nn.ReLU()]\n        self.mlp = nn.Sequential(*layers[:-1])\n"),),
)  # fmt: skip
exercise.right(
    "assigned by a mask",
    ((FRONT, "x = self.anchors.clone()\n        x[self.virtual] = h\n        cache.front.append(x[None])"),),
)
exercise.right(
    "place by place",
    ((FRONT, "free = iter(h)\n        cache.front += [torch.stack([next(free) if v else a for v, a in zip(self.virtual, self.anchors)])]"),),
)  # fmt: skip
exercise.right(
    "counted along the template",
    ((FRONT, "which = (self.virtual.cumsum(0) - 1).clamp(0, len(h) - 1)\n        cache.front.append(torch.where(self.virtual[:, None], h[which], self.anchors))"),),
)  # fmt: skip
exercise.right(
    "zeros at the virtual places",
    ((PLACES, "virtual = torch.tensor([t < 0 for t in template.tolist()])\n        anchors = torch.zeros(len(template), table.shape[1])\n        anchors[~virtual] = table.detach()[template[~virtual]]\n        return virtual, anchors"),),
)  # fmt: skip
exercise.right(
    "a new method",
    ((LEFT, "return PTuning(self.length, self.template, None, self.width)"),),
)

exercise.variant(
    "tanh",
    ((HEAD, HEAD.replace("nn.ReLU()", "nn.Tanh()")),
     ("LSTM of width w, MLP 2w → 2w → d with a ReLU", "LSTM of width w, MLP 2w → 2w → d with a tanh")),
    "the MLP behind the LSTM has a tanh, not a ReLU",
)  # fmt: skip
exercise.variant(
    "residual",
    ((OF_MLP, "return self.E + self.mlp(self.E)"),
     ('"""h_i = MLP(E_i): one', '"""h_i = E_i + MLP(E_i): one')),
    "the MLP encoder adds E: h_i = E_i + MLP(E_i)",
)  # fmt: skip
exercise.variant(
    "the last first",
    ((H, H.replace(".to(self.anchors)", ".to(self.anchors).flip(0)")),
     ("with the template, h at its virtual places and anchors", "with the template, h from h_n to h_1 at its virtual places, anchors")),
    "virtual tokens are given out from the last to the first: the first virtual place gets h_n",
)  # fmt: skip
