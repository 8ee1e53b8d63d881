"""Our PiSSA starts and is stored like `peft`'s, which overwrites W by the residual; the rest is in
test_weight_methods.py."""

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn

from minipeft.arithmetic import compress
from minipeft.deltas import delta_of, load
from minipeft.methods.pissa import PiSSA
from tests.models import apart, one

METHOD = PiSSA(3, ("layer",))


@pytest.mark.parametrize("shape", [(7, 10), (10, 7)], ids=str)
def test_factors_up_to_sign_and_residual_at_the_start(shape, both, close):
    base, x = one(nn.Linear(shape[1], shape[0])), torch.randn(4, shape[1])
    two = both(base, METHOD, std=None)
    ours, (A, B) = two.ours.layer, (two.library()[f"layer.{letter}"] for letter in "AB")
    residual = two.layers()[0][1].base_layer.weight
    close(ours.R, residual)
    sign = (ours.A * A).sum(1).sign()
    close(sign[:, None] * ours.A, A)
    close(ours.B * sign, B)
    close(two.ours(x), two.theirs(x))
    close(two.ours(x), base(x))
    assert torch.equal(ours.base.weight, base.layer.weight)  # here the base is still there
    apart(residual, base.layer.weight)


def test_a_scale_in_peft_is_divided_out_at_the_start_and_shared_by_the_factors(both, close):
    two = both(one(nn.Linear(7, 10)), METHOD, std=None, lora_alpha=12)
    close(two.ours.layer.R, two.layers()[0][1].base_layer.weight)
    close(two.ours.layer.A.abs(), 2 * two.library()["layer.A"].abs())  # √(α/r) = 2
    close(two.ours.layer.B.abs(), 2 * two.library()["layer.B"].abs())


@pytest.mark.filterwarnings("ignore")  # peft warns of what is shown here
@pytest.mark.parametrize("rows", [None], indirect=True)
def test_what_is_stored_is_right_on_the_base_here_and_in_peft_after_it_is_made_a_lora_of_twice_the_rank(
    base, rows, tmp_path, both, close
):
    base, tokens = base.float(), rows.tokens
    two = both(base, PiSSA(3, ("q", "up")), std=None)
    config = two.theirs.peft_config["default"]
    config.init_lora_weights = True  # as the library asks for before the first save
    two.theirs.save_pretrained(tmp_path / "start")
    config.init_lora_weights = "pissa"
    with torch.no_grad():
        for name, p in two.library().items():
            p += 0.1 * torch.randn_like(p)
            two.ours.get_parameter(name).copy_(p)
    y = two.ours(tokens).detach()
    close(two.theirs(tokens), y, 1e-5)
    delta = delta_of(two.ours)
    close(load(delta, base)(tokens), y, 0)
    close(load(compress(base, delta, 6), base)(tokens), y, 1e-5)

    two.theirs.save_pretrained(tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    lora = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "lora")
    assert lora.peft_config["default"].r == 6
    close(lora(tokens), y, 1e-5)

    config.init_lora_weights = True
    two.theirs.save_pretrained(tmp_path / "plain")
    apart(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "plain")(tokens), y)
