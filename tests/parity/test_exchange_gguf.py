"""A LoRA as a GGUF file is read by the gguf package, and llama.cpp computes with it what we compute.

llama.cpp itself comes in a wheel for Linux; elsewhere its test is left out.
"""

import json

import pytest
import torch

from minipeft.attach import trainable
from minipeft.exchange import gguf as ours
from minipeft.exchange import to_gguf_lora
from minipeft.methods import LoRA
from minipeft.published import smollm2
from tests.exchange import built_like
from tests.models import moved, stirred


def test_the_gguf_package_reads_what_is_written(tmp_path):
    package = pytest.importorskip("gguf")
    view = stirred(LoRA(rank=3, alpha=5, targets=("v", "gate")), built_like("llama"))
    to_gguf_lora(view, tmp_path / "lora.gguf")
    file = package.GGUFReader(str(tmp_path / "lora.gguf"))
    said = {name: field.contents() for name, field in file.fields.items()}
    assert said["general.type"] == "adapter"
    assert said["adapter.type"] == "lora"
    assert said["adapter.lora.alpha"] == 5
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in file.tensors}
    assert torch.equal(tensors["blk.1.attn_v.weight.lora_a"], view.blocks[1].attn.v.A)
    assert torch.equal(tensors["blk.2.ffn_gate.weight.lora_b"], view.blocks[2].mlp.gate.B)


QUESTION = "What is the capital of France?"


def said_by_llama_cpp(xllamacpp, lora=None):
    """{token: log of its probability} of the hundred likeliest first tokens of an answer."""
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(smollm2.path()), 256, 1
    settings.cpuparams.n_threads, settings.warmup = 1, False
    if lora:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    asked = {"prompt": smollm2.conversation(QUESTION), "max_tokens": 1, "temperature": 0.0, "logprobs": 100}
    reply = xllamacpp.Server(settings).handle_completions(asked)
    reply = json.loads(reply) if isinstance(reply, str | bytes) else reply
    likely = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["id"]: entry["logprob"] for entry in likely}


@pytest.mark.skipif(not smollm2.there(), reason="the real model is optional")
def test_llama_cpp_computes_with_it_what_is_computed_here(tmp_path, monkeypatch):
    """It rounds activations to 8 bits, so it is off by 0.1 on the base too; with rows in the wrong order by 1."""
    xllamacpp = pytest.importorskip("xllamacpp")
    model, tokenizer = smollm2.smollm2()
    view = LoRA(rank=4, targets=("q", "k")).attach(model)
    moved(view, [p for name, p in trainable(view).items() if name.endswith("B")], 0.2)
    tokens = torch.tensor([tokenizer.encode(smollm2.conversation(QUESTION))])
    with torch.no_grad():
        before, after = (m(tokens)[0, -1].log_softmax(-1) for m in (model, view))

    def miss(theirs, mine):
        return sum(abs(value - float(mine[token])) for token, value in theirs.items()) / len(theirs)

    lora = tmp_path / "lora.gguf"
    to_gguf_lora(view, lora)
    noise, right = miss(said_by_llama_cpp(xllamacpp), before), miss(said_by_llama_cpp(xllamacpp, lora), after)
    monkeypatch.setattr(ours, "neighbours", lambda rows, heads: rows)
    to_gguf_lora(view, lora)
    wrong = miss(said_by_llama_cpp(xllamacpp, lora), after)
    assert noise < 0.2
    assert right < 0.2
    assert wrong > 0.5
