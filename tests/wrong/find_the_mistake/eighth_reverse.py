# EIGHTH: notices that the heads are mixed up, but takes it for a reversed order
# earns: an order of heads that is taken for reversed
FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "e"
NINTH = "d"
TENTH = "b"
