# First: the bias is looked for in forward, where only the base is called.
# earns: what does `self.base(x)` add

FIRST = "c"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "b"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
