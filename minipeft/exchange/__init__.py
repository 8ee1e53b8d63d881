"""Files that other libraries write and open."""

from minipeft.exchange.reading import from_peft
from minipeft.exchange.writing import to_peft

__all__ = ["from_peft", "to_peft"]
