# First: a statement in words, and the wrong one.
# earns: before any training

FIRST = "The model does not start as the base."
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
