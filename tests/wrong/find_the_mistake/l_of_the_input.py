# Fifth: l is believed to be as long as the input.
# earns: how long is l

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "a"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
