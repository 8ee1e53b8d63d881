# The first statement everywhere.
# earns: FIRST has another answer

FIRST = "a"
SECOND = "a"
THIRD = "a"
FOURTH = "a"
FIFTH = "a"
SIXTH = "a"
SEVENTH = "a"
EIGHTH = "a"
NINTH = "a"
TENTH = "a"
