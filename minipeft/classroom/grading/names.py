"""Names of students: how they are shown, under which id they are listed, and which of them look alike.

A name is that of a folder or a file, so it may hold anything that a file system allows.
"""

import hashlib
import re
import unicodedata

LONGEST = 80  # characters of an id; a file system allows 255 bytes, and endings are added
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
TWINS = dict(zip("аеорсухіјѕԁһοερτικυν01l|", "aeopcyxijsdhoeptikuvoiii", strict=True))  # Cyrillic, Greek, digits


def shown(name):
    """The name without what cannot be printed: bytes that are no UTF-8, control characters, marks of direction."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def id_of(name):
    """A stable id: the name itself if every system and every table can hold it, else what is left of it and a hash.

    It depends on nothing but the name. Two names have two ids, because no plain name that ends as a hash is kept.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*", name) and not re.search(r"\.$|-[0-9a-f]{10}$", name)
    if plain and len(name) <= LONGEST and name.partition(".")[0].lower() not in DEVICES:
        return name
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^A-Za-z0-9]+", "-", letters).strip("-")[:40].strip("-")
    return f"{kept or 'student'}-{mark(name)}"


def mark(name):
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:10]


def pages_of(ids):
    """{id: name of a page, without .html}: different also where large and small letters are one."""
    lower = [i.lower() for i in ids]
    return {i: f"{i}-{mark(i)}" if lower.count(i.lower()) > 1 else i for i in ids}


def look_alikes(names):
    """{name: the others that a reader could take for it}"""
    found = {}
    for name in names:
        found.setdefault(looks(name), []).append(name)
    return {name: [n for n in twins if n != name] for twins in found.values() if len(twins) > 1 for name in twins}


def looks(name):
    """What is left of a name for somebody who reads it in haste."""
    plain = unicodedata.normalize("NFKD", name).casefold().translate(str.maketrans(TWINS))
    plain = "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Cf", "Cc", "Cs"))
    return " ".join(plain.split()).rstrip(". ")
