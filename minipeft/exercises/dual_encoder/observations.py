"""A dual encoder: cosines and their temperature, a classifier made of captions, and the question of pretraining."""

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import nn

from minipeft.classroom.engine.observation import Observations
from minipeft.exercises.models import BOS, VOCAB, after_a_move, arrivals, fill, numbers, rows, short, usual_type
from minipeft.models.dual_encoder import DualConfig
from minipeft.models.transformer import Config
from minipeft.models.vision import VisionConfig

observe = Observations()

B, C, WIDTH = 4, 3, 5  # pictures, captions (those of rows()), width of the shared space


def config():
    image = VisionConfig(8, 4, WIDTH, 3, 8, layers=1, heads=2, ff=12)
    return DualConfig(image, Config(VOCAB, 6, 1, 2, 8, bos=BOS), WIDTH)


def fresh(impl, s=1.0):
    """A dual encoder with numbers by their names, and the given s."""
    made = fill(impl.DualEncoder(config())).eval()
    made.scale.data.fill_(s)
    return made


def model(impl):
    """One for all observations that change nothing: to make it takes longer than to use it."""
    known = vars(impl)
    if "model of the bank" not in known:
        known["model of the bank"] = fresh(impl)
    return known["model of the bank"]


def pictures(number=B):
    return numbers("pictures", (number, 3, 8, 8)).sigmoid()


class Tower(nn.Module):
    """In a tower's place: its answer is a table, whatever it reads."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, read, mask=None):
        return self.answer


def on_tables(impl, s=0.0, of_pictures=1.0, of_captions=1.0, dtype=None):
    """The logits for vectors that are given: those of B pictures and those of C captions, so many times as long."""
    u, v = of_pictures * numbers("u", (B, WIDTH), 1.0), of_captions * numbers("v", (C, WIDTH), 1.0)
    made = model_on(impl, u, v, s).to(dtype or u.dtype)
    return made(pictures().to(dtype or u.dtype), rows()[0])


def model_on(impl, u, v, s):
    made = fresh(impl, s)
    made.image, made.text = Tower(u), Tower(v)
    return made


class Table(nn.Module):
    """In the place of a dual encoder: its logits are given, whatever it is asked."""

    def __init__(self, size=B, dtype=None):
        super().__init__()
        table = numbers("table", (size, size), 1.0)
        self.table = nn.Parameter(table.to(dtype or table.dtype))

    def forward(self, images, captions, mask=None):
        return self.table


APART = torch.arange(3 * B).view(B, 3)  # no two share a word
DIFFERENT = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 3], [1, 6, 3]])  # they share words, but no two are equal
TURNED = torch.tensor([[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]])  # the same words in another order
TWICE = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 2, 3], [1, 6, 3]])  # the third is the first
SAME = torch.zeros(B, B).bool()
SAME[0, 2] = SAME[2, 0] = True


def asked(impl, captions=APART, dtype=None):
    """What `Contrastive` makes of given logits."""
    return impl.Contrastive(Table(len(captions), dtype))(pictures(len(captions)), captions)


def part(answer, which):
    """(B, B): what the pictures ask (0) or what the captions ask (1). A number that hides is told as a million."""
    return answer[:, which].clamp(-1e6, 1e6)


def loss(answer):
    right = torch.arange(len(answer))[:, None].expand(len(answer), 2)
    return F.cross_entropy(answer.flatten(0, 1), right.flatten())


def refusal(ask):
    """The kind of error that is raised, or "none"."""
    try:
        ask()
    except Exception as error:
        return type(error).__name__
    return "none"


# -- the logits --------------------------------------------------------------------------------------------------------


@observe("cosines", "For B pictures and C captions, the logits should be (B, C): a row for each picture.")
def shape_of_the_logits(impl):
    return list(model(impl)(pictures(), rows()[0]).shape)


@observe("cosines", "If the vectors of a tower become longer, the logits should stay as they are.")
def longer_vectors(impl):
    usual = on_tables(impl)
    return {
        "those of the pictures": on_tables(impl, of_pictures=3.0) - usual,
        "those of the captions": on_tables(impl, of_captions=3.0) - usual,
    }


@observe("cosines", "With s = 0, the logits should be the cosines of the angles between the vectors.")
def cosines(impl):
    return on_tables(impl)


@observe("cosines", "A picture should get the same logits, whichever other pictures and captions are beside it.")
def one_by_one(impl):
    made, (captions, _) = model(impl), rows()
    alone = torch.cat([made(pictures()[i : i + 1], captions) for i in range(B)])
    each = torch.cat([made(pictures(), captions[j : j + 1]) for j in range(C)], dim=1)
    return {"a picture alone": alone - made(pictures(), captions), "a caption alone": each - alone}


@observe(
    "temperature", "The parameter `scale` is a logarithm, s: at s = 1 the logits should be e times those at s = 0."
)
def what_s_does(impl):
    usual = on_tables(impl)
    return {f"s = {s:g}": (on_tables(impl, s) / usual).mean() for s in (1.0, -1.0, 2.0)}


@observe("temperature", "Nothing here keeps e^s below 100, as CLIP does; s is used as it is, and is not changed.")
def a_large_s(impl):
    made = fresh(impl, 6.0)
    answer = made(pictures(), rows()[0])
    return {"largest logit": answer.abs().max(), "s after the pass": made.scale.detach()}


@observe("temperature", "The gradient that s gets is not the expected one: s is trained together with the towers.")
def gradient_of_s(impl):
    made = fresh(impl)
    answer = made(pictures(), rows()[0])
    if answer.requires_grad:
        answer.pow(2).sum().backward()
    return 0.0 if made.scale.grad is None else made.scale.grad


@observe("towers", "The logits of a whole dual encoder are not e^s times the cosines of its two towers' vectors.")
def logits(impl):
    return model(impl)(pictures(), rows()[0])


@observe("towers", "With captions that are padded on the left, the mask should reach the tower that reads them.")
def logits_with_padding(impl):
    tokens, mask = rows("left")
    return model(impl)(pictures(), tokens, mask)


@observe("towers", "A gradient should reach every parameter of both towers, and s.")
def arriving_gradients(impl):
    made = fresh(impl)
    found = arrivals(made, made(pictures(), rows()[0]))
    return {name: arrived for name, arrived in found.items() if ".position" not in name}


@observe(
    "towers", "After all weights and s have changed, the logits should follow. Is something kept from an earlier pass?"
)
@torch.no_grad()
def after_a_change(impl):
    return after_a_move(lambda: fresh(impl), lambda made: made(pictures(), rows()[0]))


@observe("towers", "In a model of another type, the logits do not have the model's type, or not its values.")
def types_of_the_logits(impl):
    exact, found = on_tables(impl, 1.0), {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        with usual_type():
            answer = on_tables(impl, 1.0, dtype=dtype).detach()
        off = (answer.double() - exact).norm() / exact.norm()
        found[short(dtype)] = {"type": short(answer.dtype), "right": bool(off < 0.05)}
    return found


@observe("towers", "A pass should leave the pictures and the captions that it is given as they are.")
def what_is_given(impl):
    images, (captions, mask) = pictures(), rows("left")
    given = captions.clone()
    model(impl)(images, captions, mask)
    return {"pictures": images - pictures(), "captions": captions - given}


# -- a classifier made of captions -------------------------------------------------------------------------------------


@observe("zero-shot", "A classifier should give each picture the logits of the class captions, (B, classes).")
def logits_of_the_classes(impl):
    tokens, _ = rows()
    return impl.ZeroShot(model(impl), tokens)(pictures()) - model(impl)(pictures(), tokens)


@observe("zero-shot", "A classifier with padded captions should hand their mask to the model at every pass.")
def classes_with_padding(impl):
    tokens, mask = rows("left")
    return impl.ZeroShot(model(impl), tokens, mask)(pictures()) - model(impl)(pictures(), tokens, mask)


@observe("zero-shot", "Captions and mask should be buffers: they follow the model to a GPU and into a file.")
def buffers(impl):
    tokens, mask = rows("left")
    made = {"with a mask": impl.ZeroShot(model(impl), tokens, mask), "without": impl.ZeroShot(model(impl), tokens)}
    own = {case: {n: t for n, t in m.named_buffers() if not n.startswith("model.")} for case, m in made.items()}
    return {case: {name: list(t.shape) for name, t in found.items()} for case, found in own.items()}


@observe("zero-shot", "What is saved of a classifier should hold its captions, and their mask if it has one.")
def what_is_saved(impl):
    tokens, mask = rows("left")
    made = {"with a mask": impl.ZeroShot(model(impl), tokens, mask), "without": impl.ZeroShot(model(impl), tokens)}
    return {case: sorted(n for n in m.state_dict() if not n.startswith("model.")) for case, m in made.items()}


@observe(
    "zero-shot", "The model is in training, and a classifier made of it, or a pass of it, puts it into evaluation."
)
@torch.no_grad()
def training_goes_on(impl):
    made = fresh(impl).train()
    classifier = impl.ZeroShot(made, rows()[0])
    found = {"when it is made": made.training}
    made.train()
    classifier(pictures())
    return found | {"in a pass": made.training}


@observe("zero-shot", "A classifier should have the parameters of its model, and none of its own.")
def parameters_of_a_classifier(impl):
    made = impl.ZeroShot(model(impl), rows()[0])
    inside = len(list(model(impl).parameters()))
    return {"all": len(list(made.parameters())), "the model's": inside}


@observe("zero-shot", "If the model has been trained further, the classifier should answer what the model now answers.")
def after_a_step_of_training(impl):
    made, (tokens, _) = fresh(impl), rows()
    classifier = impl.ZeroShot(made, tokens)
    classifier(pictures())
    with torch.no_grad():
        for p in made.parameters():
            p.add_(numbers("step", p.shape, 0.1))
    return classifier(pictures()) - made(pictures(), tokens)


@observe("zero-shot", "A gradient should pass through a classifier into both towers of its model.")
def gradients_through_a_classifier(impl):
    made = fresh(impl)
    found = arrivals(made, impl.ZeroShot(made, rows()[0])(pictures()))
    return {tower: any(v for n, v in found.items() if n.startswith(tower)) for tower in ("image", "text", "scale")}


@observe("zero-shot", "Captions that are no rows of tokens, or a mask of another shape, should raise a ValueError.")
def captions_that_cannot_be(impl):
    tokens, mask = rows("left")
    cases = {"one row": (tokens[0],), "numbers": (tokens.double(),), "a mask too short": (tokens, mask[:, :-1])}
    return {case: refusal(lambda given=given: impl.ZeroShot(model(impl), *given)) for case, given in cases.items()}


# -- the question of pretraining ---------------------------------------------------------------------------------------


@observe("both directions", "Contrastive should return (B, 2, B): for each i two questions, each with B answers.")
def shape_of_the_questions(impl):
    return list(asked(impl).shape)


@observe("both directions", "Row i, question 0, should hold the logits of picture i for every caption.")
def what_the_pictures_ask(impl):
    return part(asked(impl), 0)


@observe("both directions", "Row i, question 1, should hold the logits of caption i for every picture.")
def what_the_captions_ask(impl):
    return part(asked(impl), 1)


@observe("both directions", "The gradient that the logits get from the loss is not the expected one.")
def gradient_of_the_logits(impl):
    made = impl.Contrastive(Table())
    answer = made(pictures(), APART)
    if answer.requires_grad:
        loss(answer).backward()
    found = [p.grad for p in made.parameters() if p.grad is not None]
    return found[0] if found else "no gradient"


@observe("both directions", "Another number of captions than of pictures should raise a ValueError.")
def numbers_that_differ(impl):
    found = {}
    for captions in (DIFFERENT[:3], torch.cat([DIFFERENT, DIFFERENT[:1]])):
        found[f"{B} pictures, {len(captions)} captions"] = refusal(
            lambda given=captions: impl.Contrastive(model(impl))(pictures(), given)
        )
    return found


@observe("equal captions", "Captions that share some words, but not all, are different captions.")
def captions_that_share_words(impl):
    return {"hidden pairs": int((asked(impl, DIFFERENT).softmax(-1) == 0).sum())}


@observe("equal captions", "Captions of the same words in another order are different captions.")
def captions_in_another_order(impl):
    return {"hidden pairs": int((asked(impl, TURNED).softmax(-1) == 0).sum())}


@observe(
    "equal captions",
    "A caption that stands in the batch twice fits two pictures, so the other one should get no weight.",
)
def weight_of_an_equal_caption(impl):
    weights = asked(impl, TWICE).softmax(-1)
    return {"asked by pictures": part(weights, 0)[SAME], "asked by captions": part(weights, 1)[SAME]}


@observe("equal captions", "Where captions are equal, the logits of all other pairs should stay as they are.")
def logits_beside_equal_captions(impl):
    answer = asked(impl, TWICE)
    return {"asked by pictures": part(answer, 0)[~SAME], "asked by captions": part(answer, 1)[~SAME]}


@observe("equal captions", "Every logit should be a finite number, for `evaluate` refuses what is not.")
def hidden_logits_are_finite(impl):
    return {"not finite": int((~asked(impl, TWICE).isfinite()).sum()), "loss": loss(asked(impl, TWICE))}


@observe(
    "equal captions", "If all captions of a batch are equal, there are no wrong answers, and the loss should be 0."
)
def all_captions_equal(impl):
    return loss(asked(impl, DIFFERENT[:1].expand(B, 3)))


@observe(
    "equal captions", "In 16 bits there is no number as small as in 32: equal captions are not hidden in every type."
)
def types_with_equal_captions(impl):
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        answer, kind = None, "an error"
        with usual_type(), suppress(RuntimeError):
            answer = asked(impl, TWICE, dtype)
            kind = short(answer.dtype)
        hidden = answer is not None and bool((answer.double().softmax(-1)[:, 0][SAME] == 0).all())
        found[short(dtype)] = {"type": kind, "hidden": hidden}
    return found
