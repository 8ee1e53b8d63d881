"""Worlds besides that of the decoder of letters: for each a kind of task, and what its base is pretrained on."""
