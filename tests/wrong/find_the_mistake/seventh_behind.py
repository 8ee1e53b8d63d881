# SEVENTH: reads F.pad(mask, (n, 0)) as padding at the end and concludes that the prompt stands behind the tokens
# earns: on which side of the mask does `F.pad` add
FIRST = "b"
SECOND = "c"
THIRD = "a"
FOURTH = "b"
FIFTH = "d"
SIXTH = "e"
SEVENTH = "a"
EIGHTH = "c"
NINTH = "d"
TENTH = "b"
