"""Files that other libraries write and open."""

from minipeft.exchange.gguf import from_gguf_lora, to_gguf_lora
from minipeft.exchange.merged import from_transformers, to_transformers
from minipeft.exchange.reading import from_peft
from minipeft.exchange.writing import to_peft

__all__ = ["from_gguf_lora", "from_peft", "from_transformers", "to_gguf_lora", "to_peft", "to_transformers"]
