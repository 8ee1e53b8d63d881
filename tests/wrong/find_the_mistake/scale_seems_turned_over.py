# First: alpha / rank is read as r/α.
# earns: which of the two, α or r, is divided by the other

FIRST = "a"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
