# ninth: the mask is believed to be transposed.
# earns: which of T and S comes first

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "c"
TENTH = "b"
