"""What the `adapters` library computes on a tiny BERT and a tiny GPT-2, written down for test_adapter*.py to read.

The library wants an older transformers than the other parity tests, so it runs here, in an environment of its own, and
the tests read what it left in fixtures/. To make the files again:

    python -m venv .venv-adapters
    .venv-adapters/bin/pip install adapters==1.3.0 transformers==4.57.6 torch==2.13.0 "numpy<3"
    .venv-adapters/bin/python tests/parity/make_adapter_fixtures.py

For each model one safetensors file: `base.*` (its state dict), the input, and for each case the random adapter weights
`<case>.weight.*`, the logits and the gradients `<case>.grad.*`, under the library's own names. fixtures/adapters.json
tells versions, settings and counts. Everything is in double precision, so that a difference is a mistake; all weights
are random and none is at its start. A gradient is that of Σ logits·`direction` over real tokens.
"""

import json
import platform
from pathlib import Path

import adapters
import torch
import transformers
from adapters import DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from adapters.composition import Fuse
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

FIXTURES = Path(__file__).parent / "fixtures"
VOCAB, DIM, LAYERS, HEADS, FF, CONTEXT = 20, 12, 2, 3, 20, 16
SIZE = 5  # of the bottleneck: the library wants it as a reduction of the width
CONFIGS = {
    "houlsby": lambda: DoubleSeqBnConfig(reduction_factor=DIM / SIZE, non_linearity="gelu"),  # its default is swish
    "pfeiffer": lambda: SeqBnConfig(reduction_factor=DIM / SIZE),
    "parallel": lambda: ParBnConfig(reduction_factor=DIM / SIZE, scaling=2.5),
}
NAMES = ("one", "two", "three")  # what the fusion fuses


def bert():
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FF,
            max_position_embeddings=CONTEXT,
            hidden_dropout_prob=0,
            attention_probs_dropout_prob=0,
            attn_implementation="eager",
        )
    )


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=DIM,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=FF,
            n_positions=CONTEXT,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            attn_implementation="eager",
        )
    )


def randomise(parameters, std):
    with torch.no_grad():
        for p in parameters:
            p.normal_(std=std)


def fresh(make):
    """The same randomised model every time: norms and biases are random too."""
    torch.manual_seed(0)
    model = make()
    randomise(model.parameters(), 0.2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight += 1
    return model.double().eval()


def logits_and_gradients(model, names, inputs):
    """Run, differentiate, and return {logits, grad.*} for the parameters with these names."""
    parameters = {name: p.requires_grad_() for name, p in model.named_parameters() if name in names}
    logits = model(inputs["tokens"], attention_mask=inputs["mask"].long()).logits
    real = inputs["mask"][..., None]
    grads = torch.autograd.grad((logits * inputs["direction"] * real).sum(), list(parameters.values()))
    found = {f"grad.{name}": grad for name, grad in zip(parameters, grads, strict=True)}
    return {"logits": logits.detach() * real} | found


def single(make, case, inputs):
    model = fresh(make)
    adapters.init(model)
    model.add_adapter(case, config=CONFIGS[case]())
    model.train_adapter(case)
    model.double().eval()
    own = {name: p for name, p in model.named_parameters() if f".{case}." in name}
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name in ("weight", "bias")
    }
    facts = {
        "trainable": sum(p.numel() for p in own.values() if p.requires_grad),
        "norms trainable": any(
            p.requires_grad for n, p in model.named_parameters() if n in norms and not n.startswith("cls.")
        ),
    }
    before = model(inputs["tokens"], attention_mask=inputs["mask"].long()).logits
    torch.manual_seed(1)
    randomise(own.values(), 0.5)
    found = logits_and_gradients(model, own.keys() | (norms if case == "houlsby" else set()), inputs)
    facts["moved at the start"] = (before - inputs["base logits"])[inputs["mask"]].abs().max().item()
    return found | {f"weight.{name}": p.detach() for name, p in own.items()}, facts


def fusion(make, inputs):
    model = fresh(make)
    adapters.init(model)
    for name in NAMES:
        model.add_adapter(name, config=CONFIGS["pfeiffer"]())
    model.add_adapter_fusion(Fuse(*NAMES))
    model.train_adapter_fusion(Fuse(*NAMES))
    model.double().eval()
    fused = {name: p for name, p in model.named_parameters() if "adapter_fusion_layer" in name}
    own = {name: p for name, p in model.named_parameters() if any(f".adapters.{n}." in name for n in NAMES)}
    facts = {"trainable": sum(p.numel() for p in (own | fused).values() if p.requires_grad)}
    torch.manual_seed(2)
    randomise([*own.values(), *fused.values()], 0.4)
    found = logits_and_gradients(model, set(fused), inputs)
    with torch.no_grad():
        attended = model(
            inputs["tokens"], attention_mask=inputs["mask"].long(), output_adapter_fusion_attentions=True
        ).adapter_fusion_attentions
    (maps,) = attended.values()
    for layer, places in maps.items():
        (weights,) = places.values()
        found[f"weights.{layer}"] = torch.as_tensor(weights)
    facts["regularization"] = model.get_fusion_regularization_loss().item()
    return found | {f"weight.{name}": p.detach() for name, p in (own | fused).items()}, facts


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    FIXTURES.mkdir(exist_ok=True)
    about = {
        "versions": {
            "adapters": adapters.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "size": SIZE,
        "heads": HEADS,
        "scale": 2.5,
    }
    for make in (bert, gpt2):
        torch.manual_seed(3)
        tokens, direction = torch.randint(VOCAB, (3, 7)), torch.randn(3, 7, VOCAB, dtype=torch.double)
        mask = torch.arange(7) < torch.tensor([7, 4, 6])[:, None]
        inputs = {"tokens": tokens, "mask": mask, "direction": direction}
        model = fresh(make)
        with torch.no_grad():
            inputs["base logits"] = model(tokens, attention_mask=mask.long()).logits
        tied = {"cls.predictions.decoder.bias"}  # the same tensor as cls.predictions.bias; safetensors wants it once
        tensors = {f"base.{n}": t.clone() for n, t in model.state_dict().items() if n not in tied} | inputs
        about[make.__name__] = {}
        for case in (*CONFIGS, "fusion"):
            found, facts = fusion(make, inputs) if case == "fusion" else single(make, case, inputs)
            tensors |= {f"{case}.{name}": t.clone().contiguous() for name, t in found.items()}
            about[make.__name__][case] = facts
        save_file(tensors, FIXTURES / f"adapters_{make.__name__}.safetensors")
    (FIXTURES / "adapters.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
