"""The index that the search looks through: every heading of the lessons, every claim, every word of the glossary."""

import json

from lessons.pages.text import plain

LONGEST = 600  # characters of a section's words that are kept


def entries(lessons, ledger, glossary):
    """[(kind, heading, address, words)]"""
    found = []
    for lesson in lessons:
        page, kind = f"{lesson.stem}.html", f"lesson {lesson.number}"
        found.append((kind, lesson.title, page, plain(lesson.promise)))
        found += [(kind, heading, f"{page}#{anchor}", words) for anchor, heading, words in lesson.sections]
    found += [
        (f"ledger: {claim.verdict}", plain(claim.says), f"claims.html#{claim.name}", plain(claim.found))
        for claim in ledger.claims
    ]
    return found + [("glossary", heading, f"glossary.html#{anchor}", words) for anchor, heading, words in glossary]


def groups(lessons, found):
    """[(title, [(heading, address)])]: the index as one table of contents, for the page without a script."""
    titles = {f"{lesson.stem}.html": lesson.heading for lesson in lessons}
    titles |= {"claims.html": "The ledger of claims", "glossary.html": "Glossary"}
    made = {}
    for _, heading, address, _ in found:
        made.setdefault(titles[address.partition("#")[0]], []).append((heading, address))
    return list(made.items())


def script(found):
    """A script rather than JSON: a page that was opened from a disk may not read other files, but may run them."""
    rows = [[kind, heading, address, words[:LONGEST]] for kind, heading, address, words in found]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f"globalThis.minipeftIndex = {text};\n"
