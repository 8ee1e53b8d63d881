"""The index that the search looks through: every heading of the lessons and guides, every claim."""

import json

from lessons.pages.text import plain

LONGEST = 600  # characters of a section's words that are kept


def entries(lessons, ledger, guides):
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
    for guide in guides:
        page = f"{guide.stem}.html"
        found.append((guide.title, guide.title, page, guide.about))
        found += [(guide.title, heading, f"{page}#{anchor}", words) for anchor, heading, words in guide.sections]
    return found


def groups(lessons, guides, found):
    """[(title, [(heading, address)])]: the index as one table of contents, for the page without a script."""
    titles = {f"{lesson.stem}.html": lesson.heading for lesson in lessons}
    titles |= {f"{guide.stem}.html": guide.title for guide in guides} | {"claims.html": "The ledger of claims"}
    made = {}
    for _, heading, address, _ in found:
        made.setdefault(titles[address.partition("#")[0]], []).append((heading, address))
    return list(made.items())


def script(found):
    """A script rather than JSON: a page that was opened from a disk may not read other files, but may run them."""
    rows = [[kind, heading, address, words[:LONGEST]] for kind, heading, address, words in found]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f"globalThis.minipeftIndex = {text};\n"
