"""The methods, one file each. To be registered is to be listed here: `compare`, `load` and the command line follow."""

from minipeft.methods.full import Full
from minipeft.methods.lora import LoRA

METHODS = {method.__name__: method for method in (Full, LoRA)}
