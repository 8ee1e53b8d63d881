# eighth: some numbers of P are believed lost.
# earns: how many numbers go in, and how many come out

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "b"
NINTH = "d"
TENTH = "b"
