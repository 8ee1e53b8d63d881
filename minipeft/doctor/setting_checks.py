"""Checks of the settings of low-rank adapters: the scale α/r, the rank, and the names of what should be adapted."""

from minipeft.attach import attachments
from minipeft.doctor.adapters import fits_name, fits_pattern
from minipeft.doctor.findings import Finding, count, counted, listed

WEAK, STRONG, UNSET = 1 / 8, 32, 8  # usual scales lie between the first two; a rank at which α = 1 looks like a default


def scales_are_usual(patient):
    """The scale α/r of the updates is a usual one, where it is known."""
    yield from scales(patient.pairs)


def scales(pairs):
    """Findings on α and the scale s."""
    kinds = {}
    for pair in pairs:
        if pair.scale is not None:
            kinds.setdefault((pair.scale, pair.rank, pair.alpha), []).append(pair.path)
    for (scale, rank, alpha), paths in kinds.items():
        where = tuple(paths)
        if scale == 0:
            yield Finding(
                "error", f"The scale is 0 in {counted(len(paths), 'adapter')}: they have no effect.",
                "The update is s·BA, and s = α/r.", "Set α (lora_alpha) above 0; r or 2r is usual.", where,
            )  # fmt: skip
        elif alpha is not None and abs(alpha - 1) < 1e-6 and rank >= UNSET:
            yield Finding(
                "warning",
                f"α is 1 with rank {rank}, so the scale is {scale:.3g}: it looks as if lora_alpha was never set.",
                "The update is divided by the rank and learns as much slower.",
                "Set α to r or 2r, or raise the learning rate on purpose.",
                where,
            )
        elif abs(scale) > STRONG:
            yield Finding(
                "warning",
                f"The scale is {scale:.4g} (α = {alpha:g}, r = {rank}).",
                "The first steps change the model very much; training may diverge at the usual learning rates.",
                "Set α to r or 2r. Was α given where the scale belongs, or the other way round?",
                where,
            )
        elif abs(scale) < WEAK:
            yield Finding(
                "note", f"The scale is small: {scale:.3g} (α = {alpha:g}, r = {rank}).",
                "The larger the rank, the more α/r damps the update.",
                "If α was not chosen on purpose, set it to r or 2r, or use rsLoRA (α/√r).", where,
            )  # fmt: skip


def ranks_fit(patient):
    """No rank is larger than its weight."""
    yield from ranks(patient.pairs)


def ranks(pairs):
    if wide := [pair for pair in pairs if pair.rank > min(pair.sides)]:
        pair = wide[0]
        yield Finding(
            "warning",
            f"The rank is larger than the weight in {counted(len(wide), 'adapter')}: {pair.rank} > {min(pair.sides)}.",
            f"A change of a {pair.sides[1]} × {pair.sides[0]} weight has at most rank {min(pair.sides)}: A and B then "
            "hold more numbers than the weight itself.",
            "Lower the rank there (rank_pattern), or train the weight itself.",
            tuple(p.path for p in wide),
        )


def names_match(patient):
    """Every name that should be adapted is."""
    adapted = {path for path, m in patient.paths.items() if hasattr(m, "base_layer")}
    adapted |= {pair.path.removeprefix("base_model.model.") for pair in patient.pairs}
    for name, config in patient.configs.items():
        wanted = getattr(config, "target_modules", None)
        yield from unmatched(f"target_modules of {name!r}", listing(wanted), patient.paths)
        for what in ("rank_pattern", "alpha_pattern"):
            yield from unmatched(what, getattr(config, what, None) or (), adapted, fits_pattern)
    yield from unmatched("targets", patient.targets, patient.paths)
    reached = [name for name in patient.targets if any(fits_name(name, path) for path in patient.paths)]
    known = bool(patient.pairs) or bool(attachments(patient.model))
    changed = adapted | {path for entry in attachments(patient.model) for path in entry.layers}
    if idle := [name for name in reached if known and not any(fits_name(name, path) for path in changed)]:
        yield Finding(
            "warning", f"{count(idle, 'of the targets has', 'of the targets have')} no adapter: {listed(idle)}.",
            "These modules stay as they are.", "Name them when you attach.", tuple(idle),
        )  # fmt: skip


def listing(wanted):
    """target_modules as names. A text is one regular expression, which peft has matched already."""
    return () if wanted is None or isinstance(wanted, str) else sorted(wanted)


def unmatched(what, names, paths, fits=fits_name):
    """Findings on names that fit none of these paths."""
    if missing := [name for name in names if not any(fits(name, path) for path in paths)]:
        ends = sorted({path.split(".")[-1] for path in paths if not path.split(".")[-1].isdigit()})
        yield Finding(
            "warning",
            f"{what}: {listed(missing)} {'matches' if len(missing) == 1 else 'match'} nothing.",
            "A name that matches nothing is passed over in silence as long as another one matches: what was meant "
            "there is not done.",
            f"Correct the name; names here end in {listed(ends, 12)}.",
            tuple(missing),
        )


CHECKS = (scales_are_usual, ranks_fit, names_match)
