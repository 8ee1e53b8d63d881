# fourth: what is frozen is believed to be left out of the pass.
# earns: what does `requires_grad = False` stop

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "c"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
