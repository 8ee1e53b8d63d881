"""P-tuning: what the encoders make, where a template puts it, and what is left of it after training."""

from dataclasses import asdict

import torch
from torch import nn

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import (
    Learned,
    arrivals_in_a_pass,
    fill,
    loss,
    model,
    numbers,
    rows,
    short,
    types,
    usual_type,
)
from minipeft.exercises.models import gradients as gradients_of
from minipeft.models.transformer import Begin

observe = Observations()

N, DIM, WIDTH = 3, 6, 5
TEMPLATE = (-1, 9, -1, 4, -1)  # the middle and the ends are virtual
VIRTUAL = [token < 0 for token in TEMPLATE]


def attached_to(impl, base, **settings):
    settings = {"length": N, "template": TEMPLATE, "encoder": None, "width": WIDTH, **settings}
    return fill(impl.PTuning(**settings).attach(base), "trainable")


def attached(impl, **settings):
    return attached_to(impl, model(layers=1), **settings)


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
            "numbers within one standard deviation": round(float((encoder.E.abs() < 1).double().mean()) * 10) / 10,
            "standard deviation of E": round(float(encoder.E.std()) * 5) / 5,
            "mean of E": round(float(encoder.E.mean()) * 2) / 2,
        }


@torch.no_grad()
def different(encoder):
    """How many different h there are."""
    return len(encoder().round(decimals=9).unique(dim=0))


@torch.no_grad()
def nonlinearity(encoder):
    """What the layers of the MLP do without their biases, which tells a ReLU from all others."""
    mlp = fill(encoder).mlp
    for layer in mlp:
        if isinstance(layer, nn.Linear):
            layer.bias.zero_()
    x = numbers("x", (7, mlp[0].in_features))
    return {
        "twice the input makes twice the output": bool(torch.allclose(mlp(2 * x), 2 * mlp(x))),
        "the opposite input makes the opposite output": bool(torch.allclose(mlp(-x), -mlp(x))),
    }


@torch.no_grad()
def repeated(encoder):
    """By how much two runs differ, in training."""
    encoder = fill(encoder).train()
    return encoder() - encoder()


def drawn_twice(make):
    def drawn(seed):
        torch.default_generator.manual_seed(seed)
        return make(4, DIM, WIDTH).E.detach(), torch.rand(5)

    (one, then), (other, later), (again, _) = (drawn(seed) for seed in (1, 2, 1))
    return {
        "two starts are equal": torch.equal(one, other),
        "the seed of the caller decides": torch.equal(one, again),
        "what is drawn afterwards is always the same": torch.equal(then, later),
    }


@observe("LSTM encoder", "The recurrent network should be an LSTM.")
def kind_of_the_recurrent_network(impl):
    return "an LSTM" if isinstance(impl.LSTMEncoder(4, DIM, WIDTH).lstm, nn.LSTM) else "another one"


@observe("LSTM encoder", "The parameters of the LSTM encoder are not those that its equation names.")
def parts_of_the_LSTM_encoder(impl):
    return parts(impl.LSTMEncoder(4, DIM, WIDTH))


@observe("LSTM encoder", "What the LSTM encoder makes of E is not the expected h.")
def h_of_the_LSTM_encoder(impl):
    return fill(impl.LSTMEncoder(4, DIM, WIDTH), "trainable")()


@observe("LSTM encoder", "The last pseudo-embedding was moved: with both directions, every h should change.")
def who_knows_of_whom_in_the_LSTM(impl):
    return moved(impl.LSTMEncoder(4, DIM, WIDTH))


@observe("LSTM encoder", "Of n different pseudo-embeddings, the LSTM encoder should make n different h.")
def different_h_of_the_LSTM(impl):
    return different(fill(impl.LSTMEncoder(4, DIM, WIDTH)))


@observe("LSTM encoder", "Between the linear layers of the LSTM encoder there should be a ReLU, and nothing after.")
def nonlinearity_of_the_LSTM_encoder(impl):
    return nonlinearity(impl.LSTMEncoder(4, DIM, WIDTH))


@observe("LSTM encoder", "Run twice in training, the LSTM encoder should make the same h: nothing in it is random.")
def two_runs_of_the_LSTM_encoder(impl):
    return repeated(impl.LSTMEncoder(4, DIM, WIDTH))


@observe("LSTM encoder", "Each new encoder should draw an E of its own, and set no seed.")
def two_LSTM_encoders(impl):
    return drawn_twice(impl.LSTMEncoder)


@observe("LSTM encoder", "From its start on, the LSTM encoder should make n different h.")
def different_h_at_the_start_of_the_LSTM(impl):
    return different(impl.LSTMEncoder(4, DIM, WIDTH))


@observe("LSTM encoder", "E should start as normal numbers with a standard deviation of 1.")
def start_of_the_LSTM_encoder(impl):
    return start(impl.LSTMEncoder(200, DIM, 2))


@observe("MLP encoder", "The parameters of the MLP encoder are not those that its equation names.")
def parts_of_the_MLP_encoder(impl):
    return parts(impl.MLPEncoder(4, DIM, WIDTH))


@observe("MLP encoder", "What the MLP encoder makes of E is not the expected h.")
def h_of_the_MLP_encoder(impl):
    return fill(impl.MLPEncoder(4, DIM, WIDTH), "trainable")()


@observe("MLP encoder", "The last pseudo-embedding was moved: in the MLP encoder, only its own h should change.")
def who_knows_of_whom_in_the_MLP(impl):
    return moved(impl.MLPEncoder(4, DIM, WIDTH))


@observe("MLP encoder", "Of n different pseudo-embeddings, the MLP encoder should make n different h.")
def different_h_of_the_MLP(impl):
    return different(fill(impl.MLPEncoder(4, DIM, WIDTH)))


@observe("MLP encoder", "Between the linear layers of the MLP encoder there should be a ReLU, and nothing after.")
def nonlinearity_of_the_MLP_encoder(impl):
    return nonlinearity(impl.MLPEncoder(4, DIM, WIDTH))


@observe("MLP encoder", "Run twice in training, the MLP encoder should make the same h: nothing in it is random.")
def two_runs_of_the_MLP_encoder(impl):
    return repeated(impl.MLPEncoder(4, DIM, WIDTH))


@observe("MLP encoder", "Each new encoder should draw an E of its own, and set no seed.")
def two_MLP_encoders(impl):
    return drawn_twice(impl.MLPEncoder)


@observe("MLP encoder", "From its start on, the MLP encoder should make n different h.")
def different_h_at_the_start_of_the_MLP(impl):
    return different(impl.MLPEncoder(4, DIM, WIDTH))


@observe("MLP encoder", "E should start as normal numbers with a standard deviation of 1.")
def start_of_the_MLP_encoder(impl):
    return start(impl.MLPEncoder(200, DIM, 2))


@observe("places", "Which places of the template are virtual is not right.")
def virtual_places(impl):
    found = [impl.PTuning(length=n, template=t).layout(table()) for n, t in ((3, TEMPLATE), (2, None))]
    return [virtual.bool().tolist() for virtual, _ in found]


@observe("places", "Where the template names a token, its embedding should stand.")
def anchors(impl):
    return impl.PTuning(length=N, template=TEMPLATE).layout(table())[1][[1, 3]]


@observe("places", "Virtual places and anchors should both be as long as the template.")
def shapes_of_the_places(impl):
    return [list(part.shape) for part in impl.PTuning(length=N, template=TEMPLATE).layout(table())]


@observe("places", "A template with a token that the vocabulary lacks should be refused, by a ValueError.")
def an_anchor_that_does_not_exist(impl):
    return refused(impl, len(table()))


@observe("places", "A token far beyond the vocabulary should be refused in a template, by a ValueError.")
def an_anchor_far_beyond_the_vocabulary(impl):
    return refused(impl, 10 * len(table()))


@observe("places", "The last token of the vocabulary is an anchor like any other.")
def the_last_token_as_an_anchor(impl):
    return refused(impl, len(table()) - 1)


def refused(impl, token):
    try:
        impl.PTuning(length=1, template=(-1, token)).layout(table())
    except ValueError:
        return "refused"
    return "accepted"


@observe("places", "The anchors should have the type of the embeddings, bfloat16 for example.")
def type_of_the_anchors(impl):
    words = table().bfloat16()
    with usual_type():
        return short(impl.PTuning(length=N, template=TEMPLATE).layout(words)[1].dtype)


def table():
    return model(layers=1).embed.token.weight.requires_grad_(False)


@observe("front", "At the anchors' places, the anchors should stand as they are.")
def anchors_in_front(impl):
    return front(template(impl))[[1, 3]]


@observe("front", "At the virtual places, h should stand and nothing else: h_1, h_2, ... in their order.")
def virtual_tokens_in_front(impl):
    return front(template(impl))[VIRTUAL]


@observe("front", "With virtual places alone, the sequence should begin with h.")
def virtual_tokens_alone(impl):
    return front(template(impl, virtual=[True, True]))


@observe("front", "Attached to a model that has a prompt, both should stand in front, the older one first.")
def behind_another_prompt(impl):
    return front(template(impl, template(impl, virtual=[True, True])))


@observe("front", "The keys and values of a prefix that is there already should stay in the cache.")
def behind_a_prefix(impl):
    layer = template(impl, Learned())(model(layers=1).blocks).layers[0]
    return [layer.k, layer.v]


@observe("front", "When E has moved, as it does in training, the next sequence should begin with the new h.")
@torch.no_grad()
def after_E_has_moved(impl):
    made = template(impl, encoder=impl.MLPEncoder(N, DIM, WIDTH))
    front(made)
    made.encoder.E.add_(1)
    return front(made)[VIRTUAL] - made.encoder()


@observe("front", "The anchors belong to the base: they should be as before when a sequence has begun.")
def anchors_are_left_alone(impl):
    made = template(impl)
    made(model(layers=1).blocks)
    return {"anchors": made.anchors - numbers("anchors", (len(TEMPLATE), DIM)), "trained": made.anchors.requires_grad}


@observe("model", "With the template in front, the logits are not the expected ones.")
def logits(impl):
    return [attached(impl, encoder=encoder)(rows()[0]) for encoder in ("mlp", None)]


@observe("model", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, (tokens, mask) = attached(impl), rows("left")
    return made(tokens, mask)[mask] - torch.cat(
        [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
    )


@observe("model", "When the logits of a pass are sent back, a gradient should arrive at all that is trained.")
def where_gradients_arrive(impl):
    return {encoder: arrivals_in_a_pass(attached(impl, encoder=encoder)) for encoder in ("lstm", "mlp", None)}


@observe("model", "A base of another type, bfloat16 for example, should work, with an encoder of that type.")
def types_of_the_base(impl):
    def made(dtype):
        return attached_to(impl, model(layers=1).to(dtype), encoder="lstm")

    return types(made, lambda tuned: tuned(rows()[0])) | {"h of the mlp": short(mlp_in_half(impl).dtype)}


def mlp_in_half(impl):
    with usual_type():
        return impl.MLPEncoder(4, DIM, WIDTH).bfloat16()()


@observe("model", "The gradients that reach the encoder are not the expected ones.")
def gradients(impl):
    made = attached(impl, encoder="mlp")
    for _ in range(2):
        loss(made, rows()[0]).backward()
    return gradients_of(made)


@observe("folding", "What is saved should be what the encoder makes, under the name that it has in a folded layer.")
def stored(impl):
    return dict(template(impl, encoder=impl.MLPEncoder(N, DIM, WIDTH)).stored())


@observe("folding", "The method of what is left after training is not the expected one.")
def folded(impl):
    return asdict(impl.PTuning(length=N, template=TEMPLATE, encoder="lstm", width=WIDTH).folded())


@observe("folding", "Folding should give a new method and leave the old one as it is.")
def the_method_before_folding(impl):
    method = impl.PTuning(length=N, template=TEMPLATE, encoder="mlp", width=WIDTH)
    method.folded()
    return asdict(method)


@observe("folding", "Folded, and loaded from what was saved, it should give the same logits as before.")
@torch.no_grad()
def answer_after_folding(impl):
    made = attached(impl, encoder="mlp")
    saved, answer = made.begin.stored(), made(rows()[0])
    method = attach.attachments(made)[0].method.folded()
    made = method.attach(attach.detach(made))
    made.begin.load_state_dict(saved, strict=False)
    return made(rows()[0]) - answer
