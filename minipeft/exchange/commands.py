"""The commands of exchange: python -m minipeft export | import."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from minipeft import deltas
from minipeft.arithmetic import compress
from minipeft.bases import FOLDER, base
from minipeft.exchange.gguf import from_gguf_lora, to_gguf_lora
from minipeft.exchange.merged import from_transformers, to_transformers
from minipeft.exchange.names import family_of
from minipeft.exchange.reading import from_peft
from minipeft.exchange.writing import to_peft
from minipeft.files import place
from minipeft.published import smollm2
from minipeft.views import merge

Force = Annotated[bool, typer.Option("--force", help="Overwrite also a file that minipeft did not write.")]
BASE = "A shipped base, 'smollm2', or a folder of transformers with a GPT-2, BERT or Llama."
WRITTEN = {  # the files of each format
    "peft": ("adapter_model.safetensors", "adapter_config.json"),
    "transformers": ("model.safetensors", "config.json"),
}


def export(
    path: Annotated[Path, typer.Argument(metavar="DELTA", help="A delta that `train` or `save` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder for peft and transformers; the file for gguf.")],
    to: Annotated[
        Literal["peft", "transformers", "gguf"],
        typer.Option(help="An adapter for peft; the merged model for transformers; a LoRA for llama.cpp."),
    ] = "peft",
    base_name: Annotated[
        str | None, typer.Option("--base", help=f"{BASE} It is found if it is one of the first two.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Write the nearest LoRA of this rank, whatever method changed the weights."),
    ] = None,
    force: Force = False,
):
    """Write a delta as a file that another library opens."""
    delta = deltas.read(path)
    model, more = opened(base_name or base_of(delta, path))
    if rank:
        delta = compress(model, delta, rank)
        worst = max(delta.notes["error"], key=delta.notes["error"].get)
        typer.echo(
            f"The LoRA of rank {rank} misses at most {delta.notes['error'][worst]:.1%} of a ΔW, that of {worst}."
        )
    view = deltas.load(delta, model)
    for name in WRITTEN.get(to, ("",)):
        place(out / name, "export", force, inputs=(path,))
    if to == "gguf":
        size, opens = to_gguf_lora(view, out), f"llama-cli -m MODEL.gguf --lora {out}"
    elif to == "transformers":
        size = to_transformers(merge(view), out, more)
        opens = f"AutoModel.from_pretrained({str(out)!r}), or the class of it that config.json names"
    else:
        there = "the same base in transformers" if family_of(model) else "minipeft's own base"
        folder = base_name if base_name and Path(base_name).is_dir() else None
        size, opens = to_peft(view, out, folder), f"PeftModel.from_pretrained(model, {str(out)!r}), model: {there}"
    typer.echo(f"Wrote {size:,} bytes to {out}\nTo open: {opens}")


def import_(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder of peft, or a .gguf file with a LoRA.")],
    base_name: Annotated[str, typer.Option("--base", help=f"What the adapter was trained on. {BASE}")],
    out: Annotated[Path, typer.Option(help="Where the delta is saved.")] = Path("deltas/delta.safetensors"),
    force: Force = False,
):
    """Read an adapter of peft or llama.cpp, and save it as a delta."""
    model, _ = opened(base_name)
    place(out, "delta", force)
    delta = (from_gguf_lora if source.suffix == ".gguf" else from_peft)(source, model)
    size = deltas.write(delta, out)
    said = f"; it says that its base is {delta.notes['base']}" if delta.notes.get("base") else ""
    typer.echo(f"{delta.method.__class__.__name__} from {source}{said}\nSaved {size:,} bytes to {out}")


def opened(name):
    """The base of this name, and what a config.json should say of it besides."""
    if (Path(name) / "config.json").is_file():
        return from_transformers(name), {}
    return base(name), {"eos_token_id": smollm2.tokenizer().end} if name == "smollm2" else {}


def base_of(delta, path):
    """The name of the base that a delta belongs to. Raises DeltaError if it is not shipped, and not "smollm2"."""
    if delta.notes.get("base") == "smollm2":
        return "smollm2"
    for card in sorted(FOLDER.glob("*.json")):
        if deltas.fingerprint(base(card.stem)) == delta.base:
            return card.stem
    raise deltas.DeltaError(f"{path} belongs to no shipped base ({delta.base[:12]}): say which it is with --base")
