# Answers that are looked up in a table and unpacked.
ANSWERS = dict(zip(["weights", "vectors", "tokens", "bits"], ["bcab", "de", "bcd", "b"]))
UPPER = ANSWERS["weights"].upper()

FIRST, SECOND, THIRD, FOURTH = UPPER
FIFTH, SIXTH = [letter + ")" for letter in ANSWERS["vectors"]]
SEVENTH, EIGHTH, NINTH = ANSWERS["tokens"]
(TENTH,) = ANSWERS["bits"]
