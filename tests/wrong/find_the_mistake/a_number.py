# The number of the statement instead of its letter.
# earns: one of the letters a, b, c, d, e is expected

FIRST = "b"
SECOND = 3
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
