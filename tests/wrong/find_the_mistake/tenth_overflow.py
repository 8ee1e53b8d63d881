# TENTH: thinks that << 4 on uint8 overflows like a signed byte, so that codes above 7 become negative
# earns: a sign that uint8 does not have
FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "a"
