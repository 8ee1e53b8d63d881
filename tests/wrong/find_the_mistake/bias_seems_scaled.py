# Third: m is believed to scale the bias.
# earns: on which side of the product

FIRST = "b"
SECOND = "c"
THIRD = "e"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
