# tenth: the two codes of a byte are believed to be added.
# earns: do the bits of the two codes overlap

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "e"
