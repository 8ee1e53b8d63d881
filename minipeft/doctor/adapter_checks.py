"""Checks of the adapters in a model: do they have an effect, and are they on?

Only low-rank pairs are looked at here, ours and others' (see adapters.py), and the layers of peft, told by what they
have: `merged_adapters`, `active_adapters`, `_disable_adapters`.
"""

from minipeft.doctor.findings import Finding, count, counted, listed


def adapters_have_an_effect(patient):
    """The adapters change the model, or are about to."""
    active = [pair for pair in patient.pairs if pair.active]
    yield from zeros(active, patient.trained, steps_taken(patient.optimizer))


def zeros(pairs, trained=(), steps=0):
    """Findings on pairs with BA = 0.

    trained: the names of what is trained; a fresh start is healthy there. steps: how many the optimizer has taken.
    """
    dead = [pair for pair in pairs if pair.dead]
    if dead:
        yield Finding(
            "error",
            f"{count(dead, 'adapter is', 'adapters are')} dead: A = 0 and B = 0.",
            "The gradient of A has a factor B and the gradient of B a factor A: both stay zero for ever.",
            "Start A at random numbers and only B at zero.",
            tuple(pair.path for pair in dead),
        )
    for group in dict.fromkeys(pair.group for pair in pairs):
        together = [pair for pair in pairs if pair.group == group]
        still = [pair for pair in together if pair.zero and not pair.dead]
        waiting = steps < 2 and any({*pair.names} & {*trained} for pair in still)
        where = tuple(pair.path for pair in still)
        if still and len(still) == len(together) and not waiting:
            known = f"The optimizer has taken {counted(steps, 'step')}, but " if steps else ""
            yield Finding(
                "error",
                f"{known or 'The adapter has no effect: '}BA = 0 in {all_of(together)}: the model is exactly the base.",
                "B never moved. Either it was not trained at all, or the names in the file did not fit (without the "
                "prefix base_model.model. peft loads nothing, and only warns).",
                "Compare the names in the file with those of the model, or train again and look at the gradient of B.",
                where,
            )
        elif still and len(still) < len(together):
            yield Finding(
                "warning",
                f"B moved only in some layers: BA = 0 in {len(still)} of {len(together)} adapters.",
                "These layers were not trained or not loaded: the forward pass does not reach them (it reads their "
                "weight instead of calling them), their gradient is cut, or their names did not fit.",
                "Examine the model with a loss: that tells which adapters get no gradient.",
                where,
            )


def all_of(pairs):
    return "its only layer" if len(pairs) == 1 else f"all {len(pairs)} layers"


def steps_taken(optimizer):
    """How many steps an optimizer has taken, as far as its state tells."""
    states = optimizer.state.values() if optimizer is not None else ()
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def adapters_are_on(patient):
    """The adapters are active, and not merged while they are trained."""
    if off := [name for name, m in patient.model.named_modules() if vars(m).get("_disable_adapters") is True]:
        yield Finding(
            "error" if patient.to_be_trained else "warning",
            f"The adapters of {counted(len(off), 'layer')} are disabled.",
            "The model computes what the base computes, and the adapters get no gradient.",
            "Enable them: model.enable_adapter_layers(), or leave `with model.disable_adapter()`.",
            tuple(off),
        )
    merged = {name: merged_in(m) for name, m in patient.model.named_modules() if merged_in(m)}
    if merged:
        yield Finding(
            "error" if patient.to_be_trained else "note",
            f"{count(merged, 'adapter layer is', 'adapter layers are')} merged into the base weights.",
            "Merged, only the base weight is used: A and B get no gradient, and what the optimizer does to them shows "
            "only after the next merge.",
            "Unmerge before training (peft: unmerge_adapter(); loralib: model.train()).",
            tuple(merged),
        )
    if twice := [name for name, names in merged.items() if len(set(names)) < len(names)]:
        yield Finding(
            "error", f"An adapter is merged twice in {counted(len(twice), 'layer')}.", "ΔW is added twice.",
            "Load the base and the adapter again, and merge once.", tuple(twice),
        )  # fmt: skip
    yield from inactive(patient)


def merged_in(module):
    """The names of the adapters that are merged into this layer's weight."""
    own = vars(module)
    if isinstance(own.get("merged_adapters"), list):
        return own["merged_adapters"]
    return [""] if own.get("merged") is True and "lora_A" in module._parameters else []


def inactive(patient):
    """Findings on adapters that are there and do not take part."""
    there, active = {}, {pair.name for pair in patient.pairs if pair.active}
    for pair in patient.pairs:
        there.setdefault(pair.name, []).append(pair)
    asleep = sorted(there.keys() - active)
    if there and not active:
        yield Finding(
            "error", f"No adapter is active: the model has {listed(asleep)}.", "It computes what the base computes.",
            f"Call model.set_adapter({asleep[0]!r}).",
        )  # fmt: skip
    elif unseen := [name for name in asleep if any(pair.learns for pair in there[name])]:
        yield Finding(
            "warning", f"The adapter {unseen[0]!r} is trained but not active.", "It gets no gradient.",
            f"Call model.set_adapter({unseen[0]!r}); what the optimizer holds must be that adapter's parameters.",
            tuple(pair.path for pair in there[unseen[0]]),
        )  # fmt: skip
    elif asleep:
        yield Finding(
            "note",
            f"{count(asleep, 'adapter is', 'adapters are')} loaded but not active: {listed(asleep)}.",
            f"Active is {listed(sorted(active))}.",
            f"Call model.set_adapter({asleep[0]!r}) if that was meant.",
        )


CHECKS = (adapters_have_an_effect, adapters_are_on)
