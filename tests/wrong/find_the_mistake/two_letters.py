# Two letters, so that one of them is right.
# earns: one of the letters a, b, c, d, e is expected

FIRST = "b"
SECOND = "c"
THIRD = "a or c"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
