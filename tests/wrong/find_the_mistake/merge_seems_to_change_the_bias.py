# Second: merging is believed to change the bias.
# earns: which tensor does `merge` write to

FIRST = "b"
SECOND = "e"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
