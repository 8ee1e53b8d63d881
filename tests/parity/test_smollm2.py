"""The real model, read by hand, is what the libraries read: weights, tokens, the form of a conversation, logits."""

import random
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from minipeft.published import smollm2
from minipeft.published.gguf import GGUF

ODD = ("a  5 ²½ 一二 Ⅷ٣ x'll don't 12345  \n\n  x_y é 😀🏳️‍🌈 \x1c \x85 \u2028\u200b end ", "   ", "\n", "", "'S 'LL x's")


@pytest.fixture(scope="module")
def tokenizer():
    """transformers' reading of the file leaves out that digits stand alone, so that is put back."""
    made = AutoTokenizer.from_pretrained(smollm2.path().parent, gguf_file=smollm2.FILE)
    digits, rest = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    return made


def test_every_tensor_is_bit_for_bit_what_the_gguf_package_reads():
    ours, theirs = GGUF(smollm2.path()), GGUFReader(str(smollm2.path()))
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        assert np.array_equal(quants.dequantize(tensor.data, tensor.tensor_type), ours.read(tensor.name).numpy())


def test_every_text_has_the_same_tokens(tokenizer):
    dice = random.Random(0)
    letters = [range(32, 127), range(1, 0x3000), range(0x4E00, 0xA000), range(0x1F300, 0x1F700)]
    noise = ["".join(chr(dice.choice(dice.choice(letters))) for _ in range(40)) for _ in range(300)]
    ours = smollm2.tokenizer()
    for text in (*topics.values(), *ODD, *noise):
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert ours.encode(text) == expected, text[:80]
        assert ours.decode(expected, special=True) == tokenizer.decode(expected, clean_up_tokenization_spaces=False)


def test_a_conversation_has_the_form_that_the_file_prescribes(tokenizer):
    said = ("Hi", "Hello!", "How are you?")
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said, strict=True)]
    told = [{"role": "system", "content": "Be brief."}, *turns]
    for messages, ours in (
        (turns, smollm2.conversation(*said)),
        (told, smollm2.conversation(*said, system="Be brief.")),
    ):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours == expected


def test_logits_and_answers_are_those_of_transformers():
    theirs = AutoModelForCausalLM.from_pretrained(smollm2.path().parent, gguf_file=smollm2.FILE, dtype=torch.float32)
    ours, words = smollm2.smollm2()
    tokens = torch.tensor([words.encode(smollm2.conversation("What is the capital of France?"))])
    with torch.no_grad():
        expected, got = theirs(tokens).logits, ours(tokens)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    made = theirs.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :]
    assert list(smollm2.stream(ours, tokens, 12, stop=words.end)) == [t for t in made.tolist() if t != words.end]
    assert smollm2.answer(ours, words, "What is the capital of France?") == "The capital of France is Paris."
