"""P-tuning v2: prompts at every layer, and the keys and values that they amount to."""

import torch
from torch import nn

import minipeft.exercises.models as models
from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import VOCAB, Learned, fill, loss, numbers, rows
from minipeft.models.transformer import Begin

observe = Observations()

N, DIM = 4, 6  # n differs from d/H = 3, from the 2 heads, the 2 layers, the 3 rows and their 5 tokens


def prompts(impl, base=None, length=N, name="P"):
    return impl.DeepPrompts(base or Begin(), numbers(name, (2, length, DIM)))


def keys(impl, base=None, length=N, name="P"):
    shape = 2, length, DIM
    return impl.DeepKeys(base or Begin(), numbers(f"{name}_K", shape), numbers(f"{name}_V", shape))


def tuned(impl, causal=True, layers=2, pre_norm=None, **settings):
    """A whole model with deep prompts, whose numbers are none of those that training starts from."""
    base = models.model(causal=causal, layers=layers, pre_norm=pre_norm)
    return fill(impl.PTuningV2(**{"length": N, **settings}).attach(base), "trainable")


def held(begin, causal=True):
    """The keys and values that each layer holds at the beginning, as they are for one row."""
    cache = begin(models.model(causal=causal).requires_grad_(False).blocks)
    pairs = [{"keys": layer.k, "values": layer.v} for layer in cache.layers]
    return {
        f"layer {i}": {name: x[0] if x.ndim == 4 else x for name, x in pair.items()}  # (H, n, d/H)
        for i, pair in enumerate(pairs)
    }


def gradients_of(made):
    value = loss(made, *rows("left"))
    if value.requires_grad:
        value.backward()
    return models.gradients(made)


@torch.no_grad()
def held_after_training(made):
    """What the layers hold in a sequence after everything that is trained has moved."""
    held(made)
    for name, P in attach.trainable(made).items():
        P.copy_(numbers(f"moved {name}", P.shape))
    return held(made)


@torch.no_grad()
def piecewise(made):
    """Read in pieces of 3, 1 and 1 tokens: the keys in the cache after each, and the difference to reading at once."""
    (tokens, _), cache, outputs, sizes = rows(), made.new_cache(), [], []
    for piece in tokens.split([3, 1, 1], dim=1):
        outputs.append(made(piece, cache=cache))
        sizes.append(cache.length)
    return {"keys in the cache": sizes, "difference to reading all at once": torch.cat(outputs, dim=1) - made(tokens)}


def shapes(tensors):
    return {name: str(tuple(p.shape)) for name, p in tensors.items()}


def start(impl, **settings):
    table = numbers("table", (VOCAB, DIM), 0.3)
    return impl.PTuningV2(**settings).start(nn.Parameter(table, requires_grad=False), 2)


@observe("parameters", "With prompts, what is trained should be P (L, n, d), and nothing else.")
def trained_with_prompts(impl):
    return shapes(attach.trainable(tuned(impl)))


@observe("parameters", "With key/value, what is trained should be P_K and P_V, (L, n, d) both.")
def trained_with_keys_and_values(impl):
    return shapes(attach.trainable(tuned(impl, form="key/value")))


@observe("start", "Deep prompts should start as large as the embeddings are, keys and values from N(0, 1).")
def size_of_the_start(impl):
    forms = {form: start(impl, length=1000, form=form) for form in ("hidden", "key/value")}
    return {
        form: [[round(float(layer.detach().std()), 1) for layer in P] for P in tensors]
        for form, tensors in forms.items()
    }


@observe("start", "Prompts, keys and values should start from normal numbers around zero.")
def distribution_of_the_start(impl):
    return {
        f"{form} {i}": {
            "part above zero": round(float((P > 0).double().mean()), 1),
            "part within one standard deviation": round(float((P.abs() < P.std()).double().mean()), 1),
        }
        for form in ("hidden", "key/value")
        for i, P in enumerate(P.detach() for P in start(impl, length=1000, form=form))
    }


@observe("start", "Prompts, keys and values should start around zero; this is their mean, in standard deviations.")
def middle_of_the_start(impl):
    starts = {form: start(impl, length=1000, form=form) for form in ("hidden", "key/value")}
    return {
        f"{form} {i}": round(2 * float(P.detach().mean() / P.detach().std())) / 2
        for form, tensors in starts.items()
        for i, P in enumerate(tensors)
    }


@observe("start", "Each new model should draw prompts of its own, and set no seed.")
def two_models_are_made(impl):
    def drawn(seed):
        torch.default_generator.manual_seed(seed)
        made = impl.PTuningV2(length=N).attach(models.model(layers=1))
        return made.begin.P.detach(), torch.rand(5)

    one, other, again = (drawn(seed) for seed in (1, 2, 1))
    return {
        "the prompts are equal": torch.equal(one[0], other[0]),
        "the seed of the caller decides": torch.equal(one[0], again[0]),
        "what is drawn afterwards is always the same": torch.equal(one[1], other[1]),
    }


@observe("start", "On a base of another type, bfloat16 for example, the prompts should have that type too.")
def types_of_the_prompts(impl):
    def made(dtype):
        return impl.PTuningV2(length=N).attach(models.model(layers=1).to(dtype))

    found = models.types(made, lambda tuned: tuned(rows()[0]))
    half = numbers("table", (VOCAB, DIM)).bfloat16()
    with models.usual_type():
        starts = {form: impl.PTuningV2(length=N, form=form).start(half, 2) for form in ("hidden", "key/value")}
    return found | {f"start of {form}": [models.short(P.dtype) for P in tensors] for form, tensors in starts.items()}


@observe("start", "The numbers that prompts start from should be drawn for each layer, keys and values apart.")
def who_shares_numbers(impl):
    (P,), (P_K, P_V) = (start(impl, form=form) for form in ("hidden", "key/value"))
    return {"prompts of two layers are the same": torch.equal(P[0], P[1]), "keys are the values": torch.equal(P_K, P_V)}


@observe("as a prefix", "Where the norm comes first, prompts amount to the keys W_k LN(P) + b_k, values alike.")
def keys_and_values_of_a_decoder(impl):
    return made_of_prompts(impl, causal=True)


def made_of_prompts(impl, causal):
    made = list(prompts(impl).keys_values(models.model(causal=causal).blocks[0], numbers("P", (N, DIM))))
    return dict(zip(("keys", "values"), made, strict=True)) if len(made) == 2 else f"{len(made)} tensors"


@observe("as a prefix", "Where norms come after, prompts amount to other keys and values than yours.")
def keys_and_values_of_an_encoder(impl):
    return made_of_prompts(impl, causal=False)


@observe("prompts", "Each layer should begin with the keys and values of its own P, split into heads.")
def what_each_layer_begins_with(impl):
    return {kind: held(prompts(impl), causal) for kind, causal in (("decoder", True), ("encoder", False))}


@observe("prompts", "On a model that has a prefix already, the keys and values of P should follow its own.")
def prompts_on_a_prefix(impl):
    return held(prompts(impl, Learned()))


class Fronted(Begin):
    """In place of prompt tuning: two vectors in front."""

    def forward(self, blocks):
        cache = super().forward(blocks)
        cache.front.append(numbers("front", (2, DIM)))
        return cache


@observe("prompts", "Besides keys and values, the cache should be as the layer below makes it.")
def what_else_the_cache_holds(impl):
    caches = [made(models.model().blocks) for made in (prompts(impl, Fronted()), keys(impl, Fronted()))]
    return [{"in front": list(cache.front), "mask": cache.mask, "offset": cache.offset} for cache in caches]


@observe("prompts", "Every block should give Block([P ; h]) without its first n rows; the logits differ from that.")
@torch.no_grad()
def the_equation(impl):
    found = {}
    for kind, causal in (("decoder", True), ("encoder", False)):
        made, base, (tokens, _) = tuned(impl, causal), models.model(causal=causal), rows()
        h = base.embed.token(tokens) + base.embed.position.weight[N : N + tokens.shape[1]]
        for block, P in zip(base.blocks, made.begin.P, strict=True):
            h = block(torch.cat([P.expand(len(h), -1, -1), h], dim=1), "causal" if causal else None)[:, N:]
        found[kind] = made(tokens) - base.head(base.norm(h))
    return found


@observe("prompts", "When P has moved, as in training, the next sequence should begin with new keys and values.")
def after_the_prompts_have_moved(impl):
    return held_after_training(prompts(impl))


@observe("prompts", "When the answer to a pass is sent back, a gradient should arrive at all that is trained.")
def where_gradients_arrive(impl):
    return models.arrivals_in_a_pass(tuned(impl))


@observe("prompts", "A padded row should get the logits that it gets alone.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@observe("prompts", "The gradient that reaches P is not the expected one.")
def gradient(impl):
    return gradients_of(tuned(impl))


@observe("prompts", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones.")
def piece_by_piece(impl):
    return piecewise(tuned(impl))


@observe("key/value", "Each layer should begin with its own P_K and P_V, split into heads.")
def keys_and_values_of_each_layer(impl):
    return held(keys(impl))


@observe("key/value", "On a model that has a prefix already, P_K and P_V should follow its keys and values.")
def keys_on_a_prefix(impl):
    return held(keys(impl, Learned()))


@observe("key/value", "When P_K and P_V have moved, as in training, the next sequence should begin with the new ones.")
def after_the_keys_have_moved(impl):
    return held_after_training(keys(impl))


@observe("key/value", "When the answer to a pass is sent back, a gradient should arrive at P_K and P_V.")
def where_gradients_arrive_with_keys(impl):
    return models.arrivals_in_a_pass(tuned(impl, form="key/value"))


@observe("key/value", "The logits with P_K and P_V in every layer are not the expected ones.")
def logits_with_keys_and_values(impl):
    return tuned(impl, form="key/value")(rows()[0])


@observe("key/value", "The gradients that reach P_K and P_V are not the expected ones.")
def gradients_of_keys_and_values(impl):
    return gradients_of(tuned(impl, form="key/value"))


@observe("key/value", "Read 3 tokens, one more and one more, the cache or the logits are not the expected ones.")
def pieces_with_keys_and_values(impl):
    return piecewise(tuned(impl, form="key/value"))


@observe(
    "as a prefix", "With the keys and values of its prompts in place of the prompts, a model should answer the same."
)
@torch.no_grad()
def both_forms_agree(impl):
    made, (tokens, _) = tuned(impl), rows()
    pairs = [made.begin.keys_values(block, P) for block, P in zip(made.blocks, made.begin.P, strict=True)]
    twin = impl.PTuningV2(length=N, form="key/value").attach(models.model())
    for P, new in zip((twin.begin.P_K, twin.begin.P_V), zip(*pairs, strict=True), strict=True):
        P.copy_(torch.stack(new))
    return twin(tokens) - made(tokens)


@observe("whole model", "What is saved is what `wrap` has put in place: that should be the layer of the form.")
def layers_of_the_method(impl):
    found = {}
    for form in ("hidden", "key/value"):
        made = impl.PTuningV2(length=N, form=form).attach(models.model(layers=1))
        layers = attach.attachments(made)[0].layers
        found[form] = {path: type(layer).__name__ for path, layer in layers.items()}
    return found


class Pair(nn.Module):
    """Two sequences that methods can stand before: Transformers of other depth, width and scale."""

    def __init__(self):
        super().__init__()
        self.reader, self.writer = models.model(dim=8, layers=1), models.model(layers=3)
        fill(self.writer, scale=2.0)


def pair(impl, *places, **settings):
    return impl.PTuningV2(places=places, **settings).attach(Pair())


@observe("whole model", "Where a model has several sequences, each should get prompts of its own depth and width.")
def prompts_of_two_sequences(impl):
    return shapes(attach.trainable(pair(impl, "reader", "writer")))


@observe("whole model", "Where a model has several sequences, only those in `places` should get prompts.")
def prompts_of_one_sequence(impl):
    return [shapes(attach.trainable(pair(impl, which))) for which in ("reader", "writer")]


@observe("whole model", "Where one sequence's part of a model lies in another's, each should get its prompts once.")
def prompts_of_a_sequence_inside_another(impl):
    base = models.model()
    base.inner = models.model(layers=1)
    return shapes(attach.trainable(impl.PTuningV2(places=("begin", "inner")).attach(base)))


@observe("whole model", "Where a model has several sequences, each should start at the scale of its own embeddings.")
def scale_of_two_sequences(impl):
    made = attach.trainable(pair(impl, "reader", "writer", length=1000))
    return {name: quarters(P) for name, P in made.items()}


def quarters(P):
    """The standard deviation, to a quarter: whoever draws in another order gets the same."""
    return round(4 * float(P.detach().std())) / 4


@observe("whole model", "Where a model has several sequences, they should not share numbers.")
def two_sequences_alike(impl):
    made = impl.PTuningV2(places=("0", "1")).attach(nn.ModuleList(models.model() for _ in range(2)))
    first, other = attach.trainable(made).values()
    return {"their numbers are the same": torch.equal(first, other)}


class Patches(nn.Module):
    """In place of `embed` where no tokens come: vectors of the kind that stand in the sequence are its `table`."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(numbers("patches", (50, DIM), 2.0))


@observe("whole model", "Where a sequence is not made of tokens, prompts should start at the scale of its vectors.")
def prompts_where_no_tokens_stand(impl):
    base = models.model()
    base.embed = Patches()
    P = impl.PTuningV2(length=1000).attach(base).begin.P
    return {"shape": list(P.shape), "scale": quarters(P)}
