<<<<<<< HEAD
"""Worlds besides the letters of `tasks`: what a base of another kind learns from, and what it is adapted to."""
=======
"""Worlds besides that of the decoder of letters: for each a kind of task, and what its base is pretrained on."""
>>>>>>> 18b7d2e35056701ec0301f9e25a83852289bd50f
