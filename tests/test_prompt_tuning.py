"""Prompt tuning: where the vectors come from and where they enter."""

import pytest
import torch

from minipeft.attach import detach, trainable
from minipeft.methods import LoRA, PrefixTuning, PromptTuning
from tests.models import BOS, DIM, T, close, count, make, rows, stirred


def test_the_equation():
    model, (_, tokens, _) = stirred(PromptTuning(length=4), make(None)), rows()
    P, embed = model.embed.P, model.embed.base
    x = torch.cat([P.expand(3, -1, -1), embed.token(tokens)], dim=1) + embed.position.weight[: 4 + T]
    for block in model.blocks:
        x = block(x)
    close(model(tokens), model.head(model.norm(x[:, 4:])))
    assert count(model) == 4 * DIM
    assert list(trainable(model)) == ["embed.P"]


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_prompt_of_words_is_the_words_until_it_is_trained(side):
    words, (_, tokens, mask) = (5, 9, 14), rows(side)
    mask = mask if side else torch.ones_like(mask)
    model = make(BOS)
    before = torch.tensor(words).expand(3, -1)
    told = model(torch.cat([before, tokens], 1), torch.cat([torch.ones(3, 3, dtype=torch.bool), mask], 1))[:, 3:]
    PromptTuning(length=3, init=words).attach(model)
    close(model(tokens, mask)[mask], told[mask])


def test_words_are_repeated_or_cut_to_the_length():
    table = make().embed.token.weight
    for length, expected in ((5, [7, 3, 7, 3, 7]), (1, [7])):
        model = PromptTuning(length=length, init=(7, 3)).attach(make())
        assert torch.equal(model.embed.P, table[expected])


def test_the_start_has_the_scale_that_was_asked_for():
    model = make()
    with torch.no_grad():
        model.embed.token.weight.mul_(0.05)
    scale = float(model.embed.token.weight.detach().std())

    def start(init):
        P = PromptTuning(length=800, init=init).attach(model).embed.P.detach().clone()
        detach(model)
        return P

    assert float(start("normal").std()) == pytest.approx(scale, rel=0.05)
    uniform = start("uniform")
    assert uniform.abs().max() <= 0.5
    assert float(uniform.std()) == pytest.approx(12**-0.5, rel=0.05)
    same = (start("vocabulary")[:, None] == model.embed.token.weight).all(-1)
    assert same.any(1).all(), "every vector is a row of the table"
    assert same.any(0).sum() > 15, "and not the same one"


def test_the_vectors_are_no_part_of_the_embedding_table():
    model = PromptTuning(length=2, init=(7, 3)).attach(make())
    with torch.no_grad():
        model.embed.P.zero_()
    assert torch.equal(model.embed.token.weight, make().embed.token.weight)


def test_rows_may_have_prompts_of_their_own():
    model, (_, tokens, _) = make(None), rows()
    PromptTuning(length=2).attach(model)
    prompts, together = torch.randn(3, 2, DIM), []
    for P in prompts:
        model.embed.P.data.copy_(P)
        together.append(model(tokens))
    detach(model)
    embed = model.embed
    x, _ = embed(tokens, front=prompts)
    for block in model.blocks:
        x = block(x)
    got = model.head(model.norm(x[:, 2:]))
    close(got, torch.stack([together[i][i] for i in range(3)]))


@pytest.mark.parametrize("bos", [None, BOS])
def test_it_stands_on_top_of_other_methods_and_under_them(bos):
    _, tokens, _ = rows()
    results = []
    for order in ((PrefixTuning(length=2), PromptTuning(length=3)), (PromptTuning(length=3), PrefixTuning(length=2))):
        model, seen = make(bos), []
        for method in order:
            torch.manual_seed(4)
            method.attach(model, stack=True)
        model.embed.position.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        results.append(model(tokens))
        assert seen[0][0, -T:].tolist() == list(range(5, 5 + T) if bos is None else range(1, 1 + T))
    close(*results)
    model = make(bos)
    LoRA(rank=2).attach(model)
    PromptTuning(length=3, init=(4, 5, 6)).attach(model, stack=True)
    assert list(trainable(model)) == ["embed.P"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "at least 1 virtual token, got 0"),
        ({"length": 2.0}, "whole number"),
        ({"init": "words"}, "normal, uniform, vocabulary or a tuple of tokens, got 'words'"),
        ({"init": ()}, r"got \(\)"),
        ({"init": (1.5,)}, "tuple of tokens"),
    ],
)
def test_bad_settings_are_told(settings, says):
    with pytest.raises(ValueError, match=says):
        PromptTuning(**settings)


@pytest.mark.parametrize("token", [23, -1])
def test_a_word_that_does_not_exist_is_told(token):
    model = make()
    with pytest.raises(ValueError, match=f"the token {token}, but the vocabulary has the tokens 0 to 22"):
        PromptTuning(init=(3, token)).attach(model)
    assert not hasattr(model, "attachments")
