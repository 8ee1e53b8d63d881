# FIFTH: takes a vector of zeros for one without gradient, as A is behind B = 0 in LoRA; ∂l = W x + b is not zero
# earns: a gradient that is believed to be zero
FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "e"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
