# Seventh: expand is believed to give rows different prompts.
# earns: how many prompts does `expand` read

FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "c"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
