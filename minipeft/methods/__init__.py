"""The methods, one file each. To be registered is to be listed here; `lab.TUNED_METHODS` adds learning rates."""

import ast
from dataclasses import fields

from minipeft.methods.adalora import AdaLoRA
from minipeft.methods.adapter import Houlsby, ParallelAdapter, Pfeiffer
from minipeft.methods.adapter_fusion import AdapterFusion
from minipeft.methods.bitfit import BitFit
from minipeft.methods.dora import DoRA
from minipeft.methods.full import Full
from minipeft.methods.ia3 import IA3
from minipeft.methods.linear_probe import LinearProbe
from minipeft.methods.lora import LoRA
from minipeft.methods.p_tuning import PTuning
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.pissa import PiSSA
from minipeft.methods.prefix_tuning import PrefixTuning
from minipeft.methods.prompt_tuning import PromptTuning
from minipeft.methods.qlora import QLoRA
from minipeft.methods.vera import VeRA

METHODS = {
    method.__name__: method
    for method in (
        Full, LinearProbe, BitFit, Houlsby, Pfeiffer, ParallelAdapter, AdapterFusion, PromptTuning, PTuning,
        PrefixTuning, PTuningV2, LoRA, AdaLoRA, QLoRA, DoRA, VeRA, PiSSA, IA3,
    )
}  # fmt: skip


def parse(text):
    """A method from its label, `parse("LoRA(rank=4, targets=('q', 'v'))")`; `lora` alone has the default settings.

    Raises ValueError for what is not a method, an unknown method or setting.
    """
    try:
        call = ast.parse(text, mode="eval").body
        name = call.func.id if isinstance(call, ast.Call) else call.id
        if isinstance(call, ast.Call) and call.args:
            raise ValueError
        settings = {k.arg: ast.literal_eval(k.value) for k in call.keywords} if isinstance(call, ast.Call) else {}
    except (SyntaxError, AttributeError, ValueError):
        raise ValueError(
            f"{text!r} is not a method; write one like LoRA(rank=4), with the names of its settings"
        ) from None
    method = {known.lower(): m for known, m in METHODS.items()}.get(name.lower())
    if method is None:
        raise ValueError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    try:
        return method(**settings)
    except TypeError as error:
        names = [f.name for f in sorted(fields(method), key=lambda f: f.kw_only)]
        raise ValueError(f"{text!r}: {error}; {method.__name__} has {', '.join(names)}") from None
