"""Checks of an adapter on disk: can it be read, will it be loaded where it belongs, has it an effect?"""

import torch

from minipeft.checks import not_finite
from minipeft.doctor.adapter_checks import zeros
from minipeft.doctor.adapters import PARTS, fits_name, fits_pattern
from minipeft.doctor.files import CONFIG, PREFIX, module_of, setting
from minipeft.doctor.findings import Finding, count, listed
from minipeft.doctor.setting_checks import ranks, scales, unmatched

HALVES = (torch.float16, torch.bfloat16)
HEADED = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}  # peft's task types with a head that starts at random
LOW_RANK = {"LORA", "ADALORA"}
LEFTOVERS = {"_orig_mod", "module", "_fsdp_wrapped_module"}  # of torch.compile, DataParallel, FSDP


def it_can_be_read(stored):
    """The file can be read as a whole."""
    if stored.unreadable:
        yield Finding(
            "error", f"It cannot be read: {stored.unreadable}.", "Nothing can be loaded from it.",
            "Save the adapter again, or copy it whole: peft's folder has a configuration and the weights.",
        )  # fmt: skip


def the_numbers_are_there(stored):
    """Every tensor holds finite numbers."""
    if empty := [name for name, t in stored.tensors.items() if not t.numel()]:
        yield Finding(
            "error", f"{count(empty, 'tensor is', 'tensors are')} empty.",
            "This is what saving a model gives whose weights are spread over processes (ZeRO-3, FSDP).",
            "Gather the weights before saving.", tuple(empty),
        )  # fmt: skip
    if broken := not_finite({name: t.float() for name, t in stored.tensors.items()}):
        yield Finding(
            "error", f"{count(broken, 'tensor holds', 'tensors hold')} NaN or infinity.",
            "Training diverged before this was saved.",
            "Go back to an earlier checkpoint, or train again with a lower learning rate.", tuple(broken),
        )  # fmt: skip


def the_names_fit(stored):
    """The names are those that will be looked for."""
    if stored.kind not in LOW_RANK or stored.method:
        return
    bare = [name for name in stored.tensors if not name.startswith(PREFIX)]
    if bare:
        yield Finding(
            "error", f"{count(bare, 'name lacks', 'names lack')} the prefix {PREFIX}",
            "PeftModel.from_pretrained does not find these names. It only warns, and the model is exactly the base.",
            f"Put {PREFIX} in front of every name, or save with save_pretrained.", tuple(bare),
        )  # fmt: skip
    if wrapped := [name for name in stored.tensors if name not in bare and LEFTOVERS & {*beginning(name)}]:
        yield Finding(
            "error", f"{count(wrapped, 'name holds', 'names hold')} what a wrapper put there: {module_of(wrapped[0])}.",
            "The model was saved through torch.compile, DataParallel or FSDP. On the plain model these names fit "
            "nothing; peft only warns.",
            f"Take {', '.join(f'{word}.' for word in sorted(LEFTOVERS))} out of the names, or save the model inside.",
            tuple(wrapped),
        )  # fmt: skip
    if twice := [name for name in stored.tensors if module_of(name).startswith(PREFIX)]:
        yield Finding(
            "error", f"{count(twice, 'name has', 'names have')} the prefix {PREFIX} twice.",
            "A PeftModel was put into a PeftModel. On the plain base these names fit nothing; peft only warns.",
            "Attach to the base, or merge the first adapter before the second; here, take one prefix off.",
            tuple(twice),
        )  # fmt: skip
    if named := {pair.name for pair in stored.pairs if pair.name}:
        yield Finding(
            "note", f"The names hold the adapter's own name, {listed(sorted(named))}.",
            "save_pretrained takes it out; older versions of peft do not find names that hold it.",
            "Save with save_pretrained, not with the state_dict of the model.",
        )  # fmt: skip


def beginning(name):
    """The first part of a module's name, and what torch.compile puts anywhere."""
    parts = module_of(name).split(".")
    return [part for i, part in enumerate(parts) if i == 0 or part.startswith("_")]


def both_factors_are_there(stored):
    """To every A there is a B."""
    paired, factors = {name for pair in stored.pairs for name in pair.names}, PARTS - {"A", "B"}
    if alone := [n for n, t in stored.tensors.items() if factors & {*n.split(".")} and n not in paired and t.numel()]:
        yield Finding(
            "error", f"{count(alone, 'factor lacks', 'factors lack')} the other one that fits it.",
            "Where one of A and B is missing, or of another rank, there is no update.",
            "The file was cut or put together from several: save it again.", tuple(alone),
        )  # fmt: skip


def it_has_an_effect(stored):
    """The update is not zero."""
    yield from zeros(stored.pairs)


def settings_are_there(stored):
    """The configuration says what loading needs."""
    if not stored.config:
        return
    needed = ["peft_type"] + (["r", "lora_alpha"] if stored.kind == "LORA" else [])
    needed += ["target_modules"] if stored.kind == "LORA" and not stored.config.get("target_parameters") else []
    if missing := [name for name in needed if stored.config.get(name) is None]:
        yield Finding(
            "error" if "peft_type" in missing else "warning",
            f"{CONFIG} lacks {listed(missing)}.",
            "peft fills in its defaults: r = 8, lora_alpha = 8, and targets by the kind of the model.",
            "Write the values it was trained with into the configuration.",
            tuple(missing),
        )


def ranks_are_as_configured(stored):
    """The shapes have the rank that the configuration says."""
    if stored.kind != "LORA" or stored.config.get("target_parameters"):  # the factors of experts are stacked there
        return
    other = {}
    for pair in stored.pairs:
        said = setting(stored.config, "r", "rank_pattern", module_of(pair.names[0]))
        if said is not None and said != pair.rank:
            other.setdefault((said, pair.rank), []).append(pair.path)
    for (said, rank), paths in other.items():
        yield Finding(
            "error", f"{CONFIG} says r = {said:g}, but {count(paths, 'adapter has', 'adapters have')} rank {rank}.",
            "The shapes do not fit on loading; and s = α/r would be another scale than in training.",
            "Correct r or rank_pattern in the configuration.", tuple(paths),
        )  # fmt: skip


def scales_are_usual(stored):
    """The scale α/r of the updates is a usual one, where it is known."""
    yield from scales(stored.pairs)


def ranks_fit(stored):
    """No rank is larger than its weight."""
    yield from ranks(stored.pairs if not stored.config.get("target_parameters") else [])


def targets_are_in_the_file(stored):
    """The names in the configuration and those in the file agree."""
    targets, adapted = stored.config.get("target_modules"), sorted({module_of(p.names[0]) for p in stored.pairs})
    if not adapted or not targets or targets == "all-linear" or stored.config.get("target_parameters"):
        return
    if isinstance(targets, list):
        yield from unmatched("target_modules", targets, stored.paths)
        outside = [path for path in adapted if not any(fits_name(str(name), path) for name in targets)]
    else:
        outside = [path for path in adapted if not fits_pattern(str(targets), path, whole=True)]
    for what in ("rank_pattern", "alpha_pattern"):
        yield from unmatched(what, stored.config.get(what) or (), adapted, fits_pattern)
    if outside:
        yield Finding(
            "error",
            f"{count(outside, 'module in the file is', 'modules in the file are')} not named in target_modules.",
            "peft makes no adapter for these and drops their numbers without a word.",
            "Name them in target_modules.",
            tuple(outside),
        )


def the_head_is_saved(stored):
    """A head that was trained is in the file."""
    names, wanted = stored.config.get("modules_to_save") or [], stored.config.get("task_type")
    if not stored.config or not stored.tensors or any(fits_name(name, path) for name in names for path in stored.paths):
        return
    if names or (wanted in HEADED and stored.kind in LOW_RANK):
        yield Finding(
            "error",
            f"The file holds no head: modules_to_save is {names or 'not set'}, the task type {wanted}.",
            "The head of the loaded model starts at random, and every answer goes through it.",
            "Train with the task_type set, or name the head in modules_to_save; then save again.",
        )


def types_are_plain(stored):
    """The numbers are stored in full precision."""
    if halves := [name for name, t in stored.tensors.items() if t.dtype in HALVES]:
        kinds = sorted({str(stored.tensors[name].dtype).removeprefix("torch.") for name in halves})
        yield Finding(
            "note", f"{count(halves, 'tensor is', 'tensors are')} in {' and '.join(kinds)}.",
            "peft loads them as float32, so the loaded model differs a little from one that ran in half precision.",
            "For training on, keep float32.",
        )  # fmt: skip


CHECKS = (
    it_can_be_read, the_numbers_are_there, the_names_fit, both_factors_are_there, it_has_an_effect, settings_are_there,
    ranks_are_as_configured, scales_are_usual, ranks_fit, targets_are_in_the_file, the_head_is_saved, types_are_plain,
)  # fmt: skip
