# Sixth: D is believed to read x.
# earns: what is handed to `self.D`

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "a"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
