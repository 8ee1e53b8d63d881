"""What other libraries compute with a folder: logits that ours can be compared with.

peft and transformers are optional; they are imported when one of these functions is called.
"""

import logging
import warnings
from importlib.util import find_spec

import torch

NAMES = "peft", "transformers"


def there():
    """Are peft and transformers installed?"""
    return all(find_spec(name) is not None for name in NAMES)


@torch.no_grad()
def in_transformers(folder, tokens):
    """The logits of a causal model that transformers opens from a folder, for tokens (B, T)."""
    return quietly(open_model, folder)[0](tokens).logits


@torch.no_grad()
def in_peft(folder, base, tokens):
    """The logits of an adapter folder on the base in another folder, for tokens (B, T); and what peft warns of."""
    opened, said = quietly(open_adapter, folder, base)
    return opened(tokens).logits, said


def open_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def open_adapter(folder, base):
    from peft import PeftModel

    return PeftModel.from_pretrained(open_model(base), folder).eval()


def quietly(function, *arguments):
    """What the function returns, and [the text of each UserWarning]; without progress bars, other warnings and logs.

    Raises ModuleNotFoundError, with the command that installs them, if the libraries are not there.
    """
    if not there():
        raise ModuleNotFoundError(f"{' and '.join(NAMES)} are optional and not installed: python run.py parity")
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    shown, level = is_progress_bar_enabled(), logging.root.manager.disable
    disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = function(*arguments)
    finally:
        logging.disable(level)
        if shown:
            enable_progress_bar()
    return result, [str(one.message) for one in said if one.category is UserWarning]
