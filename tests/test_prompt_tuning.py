"""Prompt tuning: where the vectors come from and where they enter."""

import pytest
import torch

from minipeft.methods import PrefixTuning, PromptTuning
from tests.models import BOS, DIM, VOCAB, T, close, make, rows, stirred, through


def test_the_equation():
    view, (_, tokens, _) = stirred(PromptTuning(length=4), make(None)), rows()
    x = torch.cat([view.begin.P.expand(3, -1, -1), view.embed.token(tokens)], dim=1)
    close(view(tokens), through(view, x + view.embed.position.weight[: 4 + T], 4))


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_prompt_of_words_is_the_words_until_it_is_trained(side):
    words, (_, tokens, mask), base = (5, 9, 14), rows(side), make(BOS)
    mask = mask if side else torch.ones_like(mask)
    before = torch.tensor(words).expand(3, -1)
    told = base(torch.cat([before, tokens], 1), torch.cat([torch.ones(3, 3, dtype=torch.bool), mask], 1))[:, 3:]
    close(PromptTuning(length=3, init=words).attach(base)(tokens, mask)[mask], told[mask])


def test_words_are_repeated_or_cut_to_the_length():
    table = make().embed.token.weight
    for length, expected in ((5, [7, 3, 7, 3, 7]), (1, [7])):
        assert torch.equal(PromptTuning(length=length, init=(7, 3)).attach(make()).begin.P, table[expected])


def test_the_start_has_the_scale_that_was_asked_for():
    model = make()
    with torch.no_grad():
        model.embed.token.weight.mul_(0.05)

    def start(init):
        return PromptTuning(length=800, init=init).attach(model).begin.P.detach()

    assert float(start("normal").std()) == pytest.approx(model.embed.token.weight.std().item(), rel=0.05)
    uniform = start("uniform")
    assert uniform.abs().max() <= 0.5
    assert float(uniform.std()) == pytest.approx(12**-0.5, rel=0.05)
    same = (start("vocabulary")[:, None] == model.embed.token.weight).all(-1)
    assert same.any(1).all(), "every vector is a row of the table"
    assert same.any(0).sum() > 15, "and not the same one"


def test_the_vectors_are_no_part_of_the_embedding_table():
    base = make()
    with torch.no_grad():
        PromptTuning(length=2, init=(7, 3)).attach(base).begin.P.zero_()
    assert torch.equal(base.embed.token.weight, make().embed.token.weight)


def test_rows_may_have_prompts_of_their_own():
    base, (_, tokens, _), prompts = make(None), rows(), torch.randn(3, 2, DIM)
    cache, view, together = base.new_cache(), PromptTuning(length=2).attach(base), []
    cache.front.append(prompts)
    got = base(tokens, cache=cache)
    for i, P in enumerate(prompts):
        view.begin.P.data.copy_(P)
        together.append(view(tokens)[i])
    close(got, torch.stack(together))


@pytest.mark.parametrize("bos", [None, BOS])
def test_it_stands_on_top_of_a_prefix_and_under_it(bos):
    _, tokens, _ = rows()
    prompt, prefix, results = PromptTuning(length=3), PrefixTuning(length=2), []
    for order in ((prefix, prompt), (prompt, prefix)):
        view, seen = make(bos), []
        for method in order:
            torch.manual_seed(4)
            view = method.attach(view)
        view.embed.position.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
        results.append(view(tokens))
        assert seen[0][0, -T:].tolist() == list(range(5, 5 + T) if bos is None else range(1, 1 + T))
        assert [len(front) for front in view.begin(view.blocks).front] == [3]
        assert view.begin(view.blocks).length == 2
    close(*results)


@pytest.mark.parametrize("method", [PromptTuning, PrefixTuning])
def test_words_that_are_none_are_told(method):
    for words, strange in (((3, VOCAB), VOCAB), ((), "nothing")):
        with pytest.raises(
            ValueError, match=rf"init holds {strange}, but the vocabulary has the tokens 0 to {VOCAB - 1}"
        ):
            method(init=words).attach(make())
    with pytest.raises(ValueError, match="init must be"):
        method(init=(3, -1))
