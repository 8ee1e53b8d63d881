"""Prompt tuning: what the sequence begins with, what of it is trained, and where its vectors come from."""

import torch

from minipeft import attach
from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import (
    BOS,
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


@observe("set-up", "One parameter should be trained, P (n, d), and nothing else.")
def what_is_trained(impl):
    return {name: list(p.shape) for name, p in attach.trainable(tuned(impl)).items()}


@observe("set-up", "P should begin with the vectors that it is given.")
def where_P_begins(impl):
    return prompt(impl).P


@observe("beginning", "The sequence should begin with one entry in front: P, as it is.")
def what_stands_in_front(impl):
    return front(prompt(impl)(blocks()))


@observe("beginning", "With two prompts, one attached to the other, both should stand in front, in that order.")
def two_prompts(impl):
    return front(prompt(impl, prompt(impl), 2, "second")(blocks()))


@observe("beginning", "Besides the vectors in front, the cache should be as it was: no keys, no mask, no offset.")
def what_else_the_cache_holds(impl):
    cache = prompt(impl)(blocks())
    return {"keys": cache.length, "mask": cache.mask, "offset": cache.offset}


@observe("beginning", "On a model that has a learned prefix already, its keys and values should stay in the cache.")
def a_prompt_on_a_prefix(impl):
    layer = prompt(impl, Learned())(blocks()).layers[0]
    return [layer.k, layer.v]


@observe("beginning", "Each sequence should begin in the same way, with one P, however many came before.")
def a_second_sequence(impl):
    made = tuned(impl)
    made(rows()[0])
    return front(made.begin(made.blocks))


@observe("beginning", "When P has moved, as it does in training, what stands in front should have moved with it.")
@torch.no_grad()
def after_P_has_moved(impl):
    made = prompt(impl)
    made(blocks())
    made.P.add_(1)
    return front(made(blocks()))


@observe("model", "There should be logits for the tokens alone, as the base gives them.")
def shape(impl):
    return list(tuned(impl)(rows()[0]).shape)


@observe("model", "With a prompt, the logits are not the expected ones.")
def logits(impl):
    return tuned(impl)(rows()[0])


@observe("model", "Where positions are counted from BOS, the logits with a prompt are not the expected ones.")
def logits_from_BOS(impl):
    return tuned(impl, BOS)(rows()[0])


@observe("model", "A prompt that holds the embeddings of words should have exactly the effect of those words.")
@torch.no_grad()
def told_in_words(impl):
    tokens, plain = rows()[0], base()
    told = plain(torch.cat([torch.tensor(WORDS).expand(len(tokens), -1), tokens], 1))[:, N:]
    return impl.PromptTuning(length=N, init=WORDS).attach(plain)(tokens) - told


@observe("model", "When the logits of a pass are sent back, a gradient should arrive at P.")
def where_gradients_arrive(impl):
    return arrivals_in_a_pass(tuned(impl))


@observe("model", "The gradients, which should reach P and nothing else, are not the expected ones.")
def gradients(impl):
    made = tuned(impl)
    loss(made, rows()[0]).backward()
    return gradients_of(made)


@observe("model", "A padded row should get the logits that it gets alone: padding takes no position.")
@torch.no_grad()
def padded_rows(impl):
    made, found = tuned(impl), {}
    for side in ("left", "right"):
        tokens, mask = rows(side)
        alone = [made(row[real][None])[0] for row, real in zip(tokens, mask, strict=True)]
        found[f"padding on the {side}"] = made(tokens, mask)[mask] - torch.cat(alone)
    return found


@observe("model", "Read in two steps with a cache, a row should get the logits that it gets in one.")
@torch.no_grad()
def two_steps(impl):
    made, (tokens, _) = tuned(impl), rows()
    cache = made.new_cache()
    return torch.cat([made(tokens[:, :3], cache=cache), made(tokens[:, 3:], cache=cache)], 1) - made(tokens)


@observe("start", "When P moves, the embedding table of the base should stay where it is.")
def the_table_is_left_alone(impl):
    words = table()
    made = impl.Prompt(Begin(), impl.vectors(words, N, "vocabulary"))
    with torch.no_grad():
        made.P.add_(1)
    return words - table()


@observe("start", "In front of a base of another type, bfloat16 for example, P should have that type too.")
def types_of_P(impl):
    def made(dtype):
        return impl.PromptTuning(length=N).attach(base().to(dtype))

    inits, words = ("normal", "uniform", "vocabulary", WORDS), table().bfloat16()
    with usual_type():
        starts = {str(init): short(impl.vectors(words, N, init).dtype) for init in inits}
    return types(made, lambda tuned: tuned(rows()[0])) | starts


@observe("start", '"normal": P should have the standard deviation of the numbers in the table.')
def start_normal(impl):
    P, std = impl.vectors(table(), 400, "normal"), float(table().std())
    return {
        "shape": list(P.shape),
        "standard deviation, in that of the table": rounded(P.std() / std, 0.2),
        "part within one standard deviation": rounded((P.abs() < P.std()).double().mean(), 0.1),
        "some far out on both sides": bool(P.min() < -2.5 * P.std()) and bool(P.max() > 2.5 * P.std()),
    }


@observe("start", '"normal": the numbers in P should lie around zero; this is their mean, in standard deviations.')
def middle_of_the_normal_start(impl):
    P = impl.vectors(table(), 400, "normal")
    return rounded(P.mean() / P.std(), 0.25)


@observe("start", '"normal": of a table with numbers three times as large, P should start three times as large.')
def start_normal_of_a_larger_table(impl):
    small, large = (impl.vectors(scale * table(), 400, "normal").std() for scale in (1, 3))
    return rounded(large / small, 1)


@observe("start", '"uniform": P should lie evenly between the two bounds.')
def start_uniform(impl):
    P = impl.vectors(table(), 400, "uniform")
    return {
        "shape": list(P.shape),
        "least": rounded(P.min(), 0.1),
        "most": rounded(P.max(), 0.1),
        "part in the inner half": rounded((P.abs() < 0.25).double().mean(), 0.1),
    }


@observe("start", '"uniform": the numbers in P should lie around zero, as many below it as above.')
def middle_of_the_uniform_start(impl):
    return rounded((impl.vectors(table(), 400, "uniform") > 0).double().mean(), 0.1)


@observe("start", '"vocabulary": each vector should be a row of the table, drawn anew from all of them.')
def start_vocabulary(impl):
    words = table()
    which = (impl.vectors(words, 60, "vocabulary")[:, None] == words).all(-1)  # (n, V)
    drawn = which.any(0)
    different = int(drawn.sum())
    return {
        "shape": list(which.shape),
        "all are rows of the table": bool(which.any(1).all()),
        "different ones": "many" if different > 20 else "few" if different > 1 else "one",
        "late ones too": bool(drawn[60:].any()) or different == 1,
    }


@observe(
    "start", "A random start should be drawn anew each time, from PyTorch's random numbers, and set no seed of its own."
)
def two_prompts_are_drawn(impl):
    def drawn(init, seed):
        torch.default_generator.manual_seed(seed)
        return impl.vectors(table(), 20, init), torch.rand(5)

    found = {}
    for init in ("normal", "uniform", "vocabulary"):
        (one, then), (other, later), (again, _) = (drawn(init, seed) for seed in (1, 2, 1))
        found[init] = {
            "two starts are equal": torch.equal(one, other),
            "the seed of the caller decides": torch.equal(one, again),
            "what is drawn afterwards is always the same": torch.equal(then, later),
        }
    return found


@observe("start", "A prompt of words should hold their embeddings, in their order.")
def start_words(impl):
    return impl.vectors(table(), 2, (7, 3))


@observe(
    "start",
    "Fewer words than n should be repeated over and over, in their order; of more, the first n should be taken.",
)
def words_repeated_or_cut(impl):
    return {f"words {words}, n = {n}": told(impl, words, n) for words, n in (((7, 3), 5), ((4,), 3), ((7, 3, 5, 2), 3))}


def told(impl, words, n):
    """Which word stands in which row of P."""
    P = impl.vectors(table(), n, words)
    if P.shape != (n, DIM):
        return list(P.shape)
    which = torch.isclose(P[:, None], table()).all(-1)  # (n, V)
    return " ".join(str(int(row.int().argmax())) if row.any() else "none" for row in which)
