"""The encoder-decoder against its equations, against itself (padded, cached, copied), and with every method on it."""

import copy
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from minipeft.attach import detach, trainable
from minipeft.deltas import load, save
from minipeft.methods import (
    IA3,
    METHODS,
    AdaLoRA,
    AdapterFusion,
    BitFit,
    DoRA,
    Full,
    Houlsby,
    LinearProbe,
    LoRA,
    ParallelAdapter,
    Pfeiffer,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    PTuning,
    PTuningV2,
    QLoRA,
    VeRA,
)
from minipeft.mixing import MultiTask
from minipeft.models.encoder_decoder import DecoderBlock, EncoderDecoder, EncoderDecoderConfig
from minipeft.models.transformer import recording
from minipeft.training import loss_of
from minipeft.views import merge
from tests.models import (
    BOS,
    CONTEXT,
    DIM,
    FF,
    HEADS,
    VOCAB,
    T,
    apart,
    bits,
    close,
    count,
    moved,
    rows,
    same_bits,
    stirred,
)

START, U, READS, WRITES = 2, 5, 2, 3  # how many blocks the encoder and the decoder have
PLACES = ("encoder", "memory", "decoder")
BLOCKS = [f"encoder.blocks.{i}" for i in range(READS)] + [f"decoder.blocks.{i}" for i in range(WRITES)]
CROSS = [f"decoder.blocks.{i}.cross" for i in range(WRITES)]
ATTENTIONS = [f"{block}.attn" for block in BLOCKS] + CROSS
ANYWHERE = [
    Full(), LinearProbe(), LoRA(rank=3, targets=("q", "down", "token")), LoRA(rank=2, targets=("cross.k.weight",)),
    BitFit(), IA3(), Houlsby(size=5), Houlsby(size=5, norms=False), Pfeiffer(size=5), ParallelAdapter(size=5),
    AdapterFusion(adapters=2, size=5), AdaLoRA(rank=2, initial_rank=3), QLoRA(rank=3, block_size=8), DoRA(rank=3),
    VeRA(rank=6), PiSSA(rank=3),
]  # fmt: skip
IN_FRONT = [
    PromptTuning(length=3), PTuning(length=3, width=5), PrefixTuning(length=3), PrefixTuning(length=3, mlp=5),
    PTuningV2(length=3), PTuningV2(length=3, form="key/value"),
]  # fmt: skip
EVERY = [*ANYWHERE, *(replace(method, places=(place,)) for method in IN_FRONT for place in PLACES)]
EVERY += [PrefixTuning(length=3, places=PLACES), PrefixTuning(length=3, init=(5, 9), places=("encoder",))]
EVERY += [PTuning(length=2, template=(-1, 9, -1), encoder="mlp", width=5, places=("encoder",))]
METHOD = pytest.mark.parametrize("method", EVERY, ids=repr)
KINDS = pytest.mark.parametrize("bos", [None, BOS], ids=["absolute", "from BOS"])
NORMS = pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
SIDES = pytest.mark.parametrize("side", [None, "left", "right"])


def make(bos=BOS, pre_norm=True, context=CONTEXT):
    torch.manual_seed(0)
    sizes = VOCAB, START, DIM, READS, WRITES, HEADS, FF, context
    model = EncoderDecoder(EncoderDecoderConfig(*sizes, pre_norm=pre_norm, bos=bos))
    return moved(model, model.parameters(), 0.3).eval()


def pairs(side=None):
    """Three sources, alone and as one padded batch with its mask (None without padding), and their answers."""
    alone, tokens, mask = rows(side)
    answers = torch.randint(3, VOCAB, (len(tokens), U))
    answers[:, 0] = START
    if side is None:
        alone, tokens, mask = list(draw()), draw(), None
    return alone, tokens, mask, answers


def draw():
    tokens = torch.randint(3, VOCAB, (3, T), generator=torch.Generator().manual_seed(4))
    tokens[:, 2] = BOS
    return tokens


def test_every_registered_method_is_put_to_these_tests():
    assert {type(method) for method in EVERY} == set(METHODS.values())


# the model


def mixed(attention, x, memory, visible):
    """o softmax(QKᵀ/√(d/H)) V, a row and a head at a time."""
    size, out = DIM // HEADS, []
    for row, source in zip(x, memory, strict=True):
        q, k, v = attention.q(row), attention.k(source), attention.v(source)
        heads = [slice(size * h, size * h + size) for h in range(HEADS)]
        scores = [(q[:, h] @ k[:, h].T / math.sqrt(size)).masked_fill(~visible, -math.inf) for h in heads]
        out.append(torch.cat([s.softmax(-1) @ v[:, h] for s, h in zip(scores, heads, strict=True)], dim=-1))
    return attention.o(torch.stack(out))


def stepped(block, norm, x, sublayer):
    return x + sublayer(norm(x)) if block.pre_norm else norm(x + sublayer(x))


def by_definition(model, tokens, answers):
    def embedded(embed, tokens, first):
        places = torch.arange(tokens.shape[1]).expand(tokens.shape)
        if model.config.bos is not None:
            places = (tokens == first).cumsum(1).cumsum(1)  # with one such token in each row
        return embed.token(tokens) + embed.position(places)

    every = torch.ones(T, T, dtype=torch.bool)
    x = embedded(model.encoder.embed, tokens, BOS)
    for block in model.encoder.blocks:
        x = stepped(block, block.norm1, x, lambda h, block=block: mixed(block.attn, h, h, every))
        x = stepped(block, block.norm2, x, block.mlp)
    memory = model.encoder.norm(x)
    x = embedded(model.decoder.embed, answers, START)
    for block in model.decoder.blocks:
        x = stepped(block, block.norm1, x, lambda h, block=block: mixed(block.attn, h, h, every[:U, :U].tril()))
        x = stepped(block, block.norm_cross, x, lambda h, block=block: mixed(block.cross, h, memory, every[:U]))
        x = stepped(block, block.norm2, x, block.mlp)
    return model.head(model.decoder.norm(x))


@KINDS
@NORMS
def test_it_is_its_equations(bos, pre_norm):
    model, (_, tokens, _, answers) = make(bos, pre_norm), pairs()
    logits = model(tokens, answers)
    assert logits.shape == (3, U, VOCAB)
    close(logits, by_definition(model, tokens, answers))
    with recording(model) as layers:
        close(model(tokens, answers), logits)
    assert len(layers) == READS + 2 * WRITES
    assert model.decoder.blocks[0].cross.weights.shape == (3, HEADS, U, T)
    shorter = model(tokens, answers[:, :3])
    close(shorter, logits[:, :3])  # no token sees what comes after it
    other = tokens.clone()
    other[:, -1] = 3
    apart(model(other, answers)[:, 0], logits[:, 0])  # but all of the source


@NORMS
@SIDES
def test_padding_is_not_seen_not_even_by_itself(pre_norm, side):
    model, (_, tokens, mask, answers) = make(pre_norm=pre_norm), pairs(side)
    with recording(model):
        logits = model(tokens, answers, mask)
    if mask is None:
        return
    for block in model.decoder.blocks:
        seen = block.cross.weights.amax((1, 2)) > 0  # (B, S)
        assert torch.equal(seen, mask)
    close(model(tokens.masked_fill(~mask, 7), answers, mask.long()), logits)


def test_a_new_model_starts_smaller_where_its_three_sublayers_add():
    torch.manual_seed(0)
    model = EncoderDecoder(EncoderDecoderConfig(VOCAB, START, dim=64, encoder_layers=2, decoder_layers=3))
    for name, p in model.named_parameters():
        adds = name.endswith(("o.weight", "down.weight"))
        N = (4 if name.startswith("encoder") else 9) if adds else 1
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(1 / math.sqrt(128 * N), rel=0.1), name
        else:
            assert torch.equal(p, torch.full_like(p, float("norm" in name and name.endswith("weight"))))


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "view": LoRA().attach}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_shares_inside_itself_what_the_model_shares(how):
    twin = COPIES[how](make())
    assert twin.memory.decoder is twin.decoder
    assert twin.memory.embed is twin.decoder.embed
    assert twin.decoder.embed.token is twin.encoder.embed.token
    assert not any("memory" in name for name, _ in twin.named_parameters())


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_row_ends_at_its_stop_and_begins_with_another_start(temperature):
    model, (_, tokens, _, _) = make(), pairs()

    def sampled(**settings):
        return model.generate(
            tokens, 8, temperature=temperature, generator=torch.Generator().manual_seed(3), **settings
        )

    free = sampled()
    stop = int(free[0, 2])
    ended = sampled(stop=stop)
    for row, whole in zip(ended, free, strict=True):
        first = (whole == stop).nonzero()[0, 0] if stop in whole else 8
        assert torch.equal(row[:first], whole[:first][: len(row)])
        assert (row[first:] == stop).all()
    assert not torch.equal(sampled(start=9), free)
    assert torch.equal(sampled(start=START), free)


# what it refuses

TOKENS, MASK, ANSWERS = draw(), torch.ones(3, T, dtype=torch.bool), torch.full((3, U), START)
EMPTY = MASK.clone()
EMPTY[1] = False
REFUSED = [
    ((TOKENS.float(), ANSWERS), r"tokens must be a tensor of integers \(B, T\)"),
    ((TOKENS, ANSWERS, MASK[:, 1:]), "mask must have the tokens' shape"),
    ((TOKENS, ANSWERS, EMPTY), "row 1 of the source is padding alone, so there is nothing to attend to: leave it out"),
    ((TOKENS, MASK), "answers must be a tensor of integers.* the mask is the third argument"),
    ((TOKENS, ANSWERS[0]), r"answers must be a tensor of integers \(B, U\).* tokens\[None\]"),
    ((TOKENS, ANSWERS[:2]), r"each row of tokens needs an answer, .* tokens are .*\(3, 7\).*, answers .*\(2, 5\)"),
    ((TOKENS, ANSWERS[:, :0]), "at least the token that it begins with"),
    ((TOKENS, ANSWERS + VOCAB), "the vocabulary has the tokens 0 to 22, the input holds 25"),
    ((TOKENS + VOCAB, ANSWERS), "the vocabulary has the tokens 0 to 22"),
    ((TOKENS, ANSWERS.repeat(1, 2)), "needs 10 positions but the context has 8"),
    ((TOKENS.repeat(1, 2), ANSWERS), "needs 14 positions but the context has 8"),
]
NOT_WRITTEN = [
    ({"tokens": TOKENS.repeat(1, 2)}, "needs 14 positions but the context has 8"),
    ({"mask": EMPTY}, "row 1 of the source is padding alone"),
    ({"new": 9}, "needs 9 positions but the context has 8"),
    ({"new": 0}, "new must be a whole number"),
    ({"temperature": -1}, "temperature must be 0"),
    ({"stop": VOCAB}, "stop must be a token, 0 to 22, or None; got 23"),
    ({"start": -1}, "start must be a token, 0 to 22, or None; got -1"),
    ({"cache": None}, "cache must be True or False"),
]


@pytest.fixture
def idle():
    """A model with a context of 8, and the list of the blocks that have worked, which is empty at the end."""
    model, work = make(None, context=8), []
    for block in [*model.encoder.blocks, *model.decoder.blocks]:
        block.register_forward_pre_hook(lambda module, args: work.append(module))
    yield model
    assert not work


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_a_pass_refuses_before_any_work(arguments, message, idle):
    with pytest.raises(ValueError, match=message):
        idle(*arguments)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("arguments", "message"), NOT_WRITTEN, ids=[message[:40] for _, message in NOT_WRITTEN])
def test_what_generation_refuses_before_any_work(arguments, message, cache, idle):
    with pytest.raises(ValueError, match=message):
        idle.generate(**{"tokens": TOKENS, "new": 3, "cache": cache} | arguments)


def test_generation_stops_at_logits_that_are_not_finite():
    model = make()
    with torch.no_grad():
        model.decoder.blocks[0].cross.k.bias.fill_(math.nan)
    for cache in (True, False):
        with pytest.raises(FloatingPointError, match="the largest logit is nan"):
            model.generate(TOKENS, 3, cache=cache)


# what stands in front


@pytest.mark.parametrize("method", IN_FRONT, ids=repr)
def test_a_method_in_front_of_a_sequence_wants_to_know_of_which(method):
    with pytest.raises(ValueError, match=r"could stand before: encoder, memory, decoder; say which"):
        method.attach(make())


@pytest.mark.parametrize("place", ["memory", "decoder"])
@pytest.mark.parametrize(
    "method", [PrefixTuning(2, init=(5, 9)), PTuning(2, (-1, 9, -1)), PromptTuning(2, (5, 9))], ids=str
)
def test_only_the_encoder_reads_words_on_its_own(place, method):
    with pytest.raises(TypeError, match=f"{place}' does not read tokens on its own"):
        replace(method, places=(place,)).attach(make())


@KINDS
@SIDES
def test_vectors_before_the_source_stay_in_the_memory(bos, side):
    view, (_, tokens, mask, answers) = stirred(PromptTuning(4, places=("encoder",)), make(bos)), pairs(side)
    assert view.encoder(tokens, mask).shape == (3, 4 + T, DIM)
    with recording(view):
        assert view(tokens, answers, mask).shape == (3, U, VOCAB)
    assert (view.decoder.blocks[1].cross.weights[..., :4] > 0).all()


@NORMS
@SIDES
def test_a_prompt_before_the_memory_is_one_that_every_block_reads_and_no_norm_precedes_its_keys(pre_norm, side):
    model, (_, tokens, mask, answers) = make(pre_norm=pre_norm), pairs(side)
    prompt = stirred(PromptTuning(4, places=("memory",)), model)
    hidden = stirred(PTuningV2(4, places=("memory",)), model)
    keys = stirred(PTuningV2(4, form="key/value", places=("memory",)), model)
    P = prompt.memory.begin.P
    with torch.no_grad():
        hidden.memory.begin.P.copy_(P.expand(WRITES, -1, -1))
        for i, block in enumerate(model.decoder.blocks):
            keys.memory.begin.P_K[i] = block.cross.k(P)
            keys.memory.begin.P_V[i] = block.cross.v(P)
    logits = prompt(tokens, answers, mask)
    apart(logits, model(tokens, answers, mask))
    close(hidden(tokens, answers, mask), logits)
    close(keys(tokens, answers, mask), logits)


# every method


@METHOD
@KINDS
def test_a_method_changes_the_answer_and_leaves_the_base_alone(method, bos):
    base, (_, tokens, _, answers) = make(bos), pairs()
    plain, before = base(tokens, answers), bits(base)
    view = stirred(method, base)
    assert not torch.isclose(view(tokens, answers), plain, atol=1e-4).all(-1).any(), "every token notices"
    loss_of(view(tokens, answers)[:, :-1], answers[:, 1:]).backward()
    idle = ("attn.k.bias", "cross.k.bias", "key.bias")  # the softmax does not see them
    for name, p in trainable(view).items():
        assert name.endswith(idle) or p.grad.any(), name
    assert all(p.grad is None for p in view.parameters() if not p.requires_grad)
    assert detach(view) is base
    assert same_bits(base, before)
    assert torch.equal(base(tokens, answers), plain)


@METHOD
@pytest.mark.parametrize(("side", "bos", "pre_norm"), [("left", None, False), ("right", BOS, True)])
def test_a_padded_row_gets_what_it_gets_alone(method, side, bos, pre_norm):
    view, (alone, tokens, mask, answers) = stirred(method, make(bos, pre_norm)), pairs(side)
    logits = view(tokens, answers, mask)
    made = view.generate(tokens, 6, mask)
    for i, row in enumerate(alone):
        close(logits[i], view(row[None], answers[i, None])[0])
        assert torch.equal(made[i], view.generate(row[None], 6)[0])


@METHOD
@pytest.mark.parametrize(("side", "bos", "pre_norm"), [(None, None, False), ("left", BOS, True)])
def test_generation_is_the_same_with_and_without_the_cache(method, side, bos, pre_norm):
    view, (_, tokens, mask, _) = stirred(method, make(bos, pre_norm).double()), pairs(side)
    for temperature in (0.0, 1.5):
        made, again = (
            view.generate(tokens, 8, mask, temperature, cache=cache, generator=torch.Generator().manual_seed(3))
            for cache in (True, False)
        )
        assert torch.equal(made, again)
    assert len(made.unique()) > 4, "else a model that ignores its past would pass"


@METHOD
def test_a_saved_delta_gives_the_same_answers_on_a_fresh_base(method, tmp_path):
    view, (_, tokens, mask, answers) = stirred(method, make()), pairs("left")
    save(view, tmp_path / "delta")
    close(load(tmp_path / "delta", make())(tokens, answers, mask), view(tokens, answers, mask), 1e-6)


@METHOD
@pytest.mark.filterwarnings("ignore:.*were one weight and now differ")  # the embedding, with a LoRA on it
def test_what_can_be_merged_gives_the_same_answers(method):
    view, (_, tokens, mask, answers) = stirred(method, make().double()), pairs("left")
    if isinstance(method, Full | LinearProbe | BitFit | IA3 | LoRA | AdaLoRA | DoRA | VeRA | PiSSA):
        plain = merge(view)
        close(plain(tokens, answers, mask), view(tokens, answers, mask))
        assert plain.state_dict().keys() == make().state_dict().keys()
    else:
        with pytest.raises(TypeError, match="cannot be merged"):
            merge(view)


EXACT = [Full(), LinearProbe(), LoRA(targets=("q", "down")), BitFit(), IA3(), ParallelAdapter(5)]
NEAR = [Houlsby(5), Pfeiffer(5), PiSSA(rank=3), DoRA(rank=3)]


@pytest.mark.parametrize("method", EXACT + NEAR, ids=str)
def test_the_start_is_the_base_or_near_it(method):
    base, (_, tokens, mask, answers) = make(), pairs("right")
    start, plain = method.attach(base)(tokens, answers, mask), base(tokens, answers, mask)
    if method in EXACT:
        assert torch.equal(start, plain)
    else:
        close(start, plain, 0.05)


LORA = LoRA(targets=("q", "cross.k"))
WHERE = [
    (LORA, [*(f"{at}.q" for at in ATTENTIONS), *(f"{at}.k" for at in CROSS)], "A B", 8 * DIM),
    (replace(LORA, targets=("q",), places=("encoder",)), [f"{at}.q" for at in ATTENTIONS[:READS]], "A B", 8 * DIM),
    (replace(LORA, targets=("attn.q",)), [f"{at}.attn.q" for at in BLOCKS], "A B", 8 * DIM),
    (IA3(("k", "v"), ()), [f"{at}.{n}" for at in ATTENTIONS for n in "kv"], "l", DIM),
    (Pfeiffer(5), [f"{at}.adapter" for at in BLOCKS], "D.weight D.bias U.weight U.bias", 11 * DIM + 5),
    (replace(Pfeiffer(5), places=("decoder",)), [f"{at}.adapter" for at in BLOCKS[READS:]],
     "D.weight D.bias U.weight U.bias", 11 * DIM + 5),
    (PrefixTuning(3, places=PLACES), [f"{place}.begin" for place in PLACES], "P_K P_V", None),
    (PrefixTuning(3, places=("memory",)), ["memory.begin"], "P_K P_V", 2 * WRITES * 3 * DIM),
    (PrefixTuning(3, places=("encoder",)), ["encoder.begin"], "P_K P_V", 2 * READS * 3 * DIM),
    (PromptTuning(3, places=("decoder",)), ["decoder.begin"], "P", 3 * DIM),
    (LinearProbe(), ["head"], "weight bias", VOCAB * (DIM + 1)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "places", "names", "each"), WHERE, ids=lambda value: repr(value)[:60])
def test_exactly_this_is_trained(method, places, names, each):
    view = method.attach(make())
    assert set(trainable(view)) == {f"{place}.{name}" for place in places for name in names.split()}
    assert count(view) == (len(places) * each if each else 2 * 3 * DIM * (READS + 2 * WRITES))


def test_full_fine_tuning_trains_every_weight_and_bitfit_every_bias():
    base = make()
    assert set(trainable(Full().attach(base))) == {name for name, _ in base.named_parameters()}
    assert set(trainable(BitFit().attach(base))) == {n for n, _ in base.named_parameters() if n.endswith("bias")}


@pytest.mark.parametrize("method", [Full(), PrefixTuning(3, places=PLACES), Houlsby(5)], ids=str)
def test_a_checkpointed_block_gives_the_same_gradients(method, monkeypatch):
    view, (_, tokens, mask, answers) = stirred(method, make()), pairs("left")
    plain, ran = DecoderBlock.forward, []

    def gradients():
        view.zero_grad()
        loss_of(view(tokens, answers, mask)[:, :-1], answers[:, 1:]).backward()
        return {name: p.grad.clone() for name, p in trainable(view).items()}

    def forward(self, *args):
        ran.append(self)
        return checkpoint(plain, self, *args, use_reentrant=False)

    wanted = gradients()
    monkeypatch.setattr(DecoderBlock, "forward", forward)
    found = gradients()
    assert len(ran) == WRITES
    for name in wanted:
        close(found[name], wanted[name], 1e-6)


def test_rows_of_one_batch_under_different_views():
    base, (_, tokens, mask, answers) = make(), pairs("left")
    views = {"q": stirred(LoRA(), base), "front": stirred(PrefixTuning(3, places=PLACES), base, 2)}
    several, names = MultiTask(views), ["front", None, "q"]
    logits, made = several(tokens, names, answers, mask), several.generate(tokens, names, 6, mask)
    for i, name in enumerate(names):
        model = views.get(name, base)
        close(logits[i], model(tokens, answers, mask)[i])
        assert torch.equal(made[i], model.generate(tokens, 6, mask)[i])
