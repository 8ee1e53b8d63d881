"""Pages (HTML): one for each student, to give back, and one of the class for the teacher. No script, no network."""

import html
import os
from datetime import datetime

from minipeft.classroom.engine.exercise import get_exercise
from minipeft.classroom.grading.journal import GRADED

GENERATOR = '<meta name="generator" content="minipeft">'
FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{generator}
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: {width}; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; overflow-wrap: break-word }}
h1 {{ line-height: 1.2; overflow-wrap: anywhere }}
h2 {{ margin-top: 2.5rem; border-top: 1px solid #888; padding-top: 1rem }}
pre {{ background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px }}
ul.groups {{ list-style: none; padding: 0 }}
.right {{ color: #07624a }} .wrong {{ color: #a1201a }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse }}
caption {{ text-align: left; padding-bottom: .4rem }}
th, td {{ border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }}
tbody th {{ max-width: 16rem; overflow-wrap: anywhere; font-weight: normal }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums }}
a {{ color: #0b4f9e }} a:focus, summary:focus, .scroll:focus {{ outline: 3px solid #0b4f9e }}
</style></head><body><main>
{body}
</main></body></html>
"""

say = html.escape


def is_page(path):
    """Did minipeft write this page?"""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(400)


def amount(value):
    """7, or 6.4 where a part of a point was taken."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def counted(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def remarks(mark):
    """What changed the points of an exercise, in sentences for the student."""
    if mark.reason:
        yield f"Your teacher gave {amount(mark.points)} points: {mark.reason}"
    if mark.late:
        cost = f" This takes {amount(mark.cost)} % of the points." if mark.cost else ""
        yield f"Handed in late: within {counted(mark.late, 'day')} after the deadline.{cost}"


def remark(row):
    """All remarks of a student in one text."""
    return "\n".join(f"{name}: {text}" for name, mark in row.marks.items() if mark for text in remarks(mark))


# -- a student -------------------------------------------------------------------------------------------------------


def page(book, row):
    """A student's page, whole in itself: points, which groups are right, the diagnosis, what the code printed."""
    body = [f"<h1>{say(row.shown)}</h1>", f"<p><b>{amount(row.points)} of {amount(book.of)} points</b></p>"]
    for name, mark in row.marks.items():
        body.append(f"<h2>{say(get_exercise(name).title)}</h2>")
        body += section(book, mark) if mark else ["<p>Not graded yet.</p>"]
    return FRAME.format(generator=GENERATOR, title=f"{say(row.shown)}: points", width="46rem", body="\n".join(body))


def section(book, mark):
    result = mark.result
    yield f"<p><b>{amount(mark.points)} of {amount(mark.of)} points</b></p>"
    yield from (f"<p>{say(text)}</p>" for text in remarks(mark))
    if result.state == GRADED:
        yield '<ul class="groups">'
        for group, right in result.groups.items():
            kind, sign = ("right", "✓") if right else ("wrong", "✗")
            yield f'<li class="{kind}"><span aria-hidden="true">{sign}</span> {say(group)}: {kind}</li>'
        yield "</ul>"
    yield f"<pre>{say(book.told(result))}</pre>"
    if result.output.strip():
        yield f"<details><summary>What your code printed</summary><pre>{say(result.output)}</pre></details>"


# -- the class -------------------------------------------------------------------------------------------------------


def overview(book, feedback=None):
    """The teacher's page: points, what to look at, the commonest mistakes, what is nearly the same.

    feedback: the folder of the students' pages, as it is reached from this page.
    """
    when = datetime.now().strftime("%Y-%m-%d %H:%M")
    body = [
        "<h1>The class</h1>",
        f"<p>{counted(len(book.students), 'student')}, as of {when}. This page is for the teacher.</p>",
    ]
    body += [*points(book, feedback), *to_look_at(book), *same(book)]
    for name in book.names:
        body += statistics(book, name)
    return FRAME.format(generator=GENERATOR, title="The class", width="70rem", body="\n".join(body))


def points(book, feedback):
    yield "<h2>Points</h2>"
    head = ["student", *book.names, "points"]
    rows = []
    for row in book.rows():
        link = f'<a href="{say((feedback / row.page).as_posix())}.html">{say(row.shown)}</a>' if feedback else None
        cells = [amount(m.points) + (" (late)" if m.late else "") if m else "…" for m in row.marks.values()]
        rows.append([link or say(row.shown), *cells, f"<b>{amount(row.points)}</b>"])
    rows.append(["can be had", *(amount(book.full(name)) for name in book.names), amount(book.of)])
    yield from table("Points of each exercise. An ellipsis: not graded yet.", head, rows)


def to_look_at(book):
    """What a teacher should know: refused files, names that look alike, a killed grader, flags of the sandbox."""
    flags = [(row.shown, flag) for row in book.rows() for flag in row.flags]
    yield "<h2>To look at</h2>"
    if not flags:
        yield "<p>There is nothing to look at.</p>"
        return
    yield "<ul>"
    yield from (f"<li><b>{say(name)}</b>: {say(flag)}</li>" for name, flag in flags)
    yield "</ul>"


def same(book):
    groups = book.alike()
    yield "<h2>Nearly the same</h2>"
    if not groups:
        yield "<p>No two solutions are nearly the same.</p>"
        return
    yield "<p>Names of local variables, comments and what the given file brings do not count. Right solutions of a"
    yield "short exercise are often alike: this is a reason to look, not a proof. Wrong solutions come first.</p><ul>"
    yield from (f"<li>{say(likeness(book, group))}</li>" for group in groups)
    yield "</ul>"


def likeness(book, group):
    """One group of nearly identical solutions in a sentence."""
    names = ", ".join(sorted(book.shown[student] for student in group.students))
    how = "byte for byte the same" if group.whole else "nearly the same"
    ours = ", and as in minipeft's own file" if group.ours else ""
    return f"{group.exercise}: {names}: {how}{ours}; {'all right' if group.right else 'not all right'}"


def statistics(book, name):
    """One exercise: the commonest mistakes, how many have each body and each group right."""
    results, x = book.graded(name), get_exercise(name)
    right = sum(all(r.groups.values()) for r in results)
    yield f"<h2>{say(x.title)}</h2>"
    yield f"<p>{len(results)} of {len(book.students)} handed in a file that could be graded; {right} are all right.</p>"
    if found := book.mistakes(name):
        yield "<h3>Commonest mistakes</h3>"
        rows = [[str(count), say(what), say(hint)] for count, what, hint in found]
        yield from table("By the first thing that is wrong.", ["students", "looks like", "hint"], rows)
    if results:
        yield "<h3>Bodies and groups</h3>"
        bodies = [[f"<code>{say(b)}</code>", str(there), str(ok)] for b, (there, ok) in book.bodies(name).items()]
        yield from table("Bodies to write.", ["body", "written", "right"], bodies)
        groups = [[say(group), str(ok)] for group, ok in book.groups(name).items()]
        yield from table("Groups of observations, a point each.", ["group", "right"], groups)


def table(caption, head, rows):
    """A table with a caption and headings; cells are HTML. Those that begin with a digit stand to the right."""
    yield '<div class="scroll" tabindex="0"><table>'
    yield f"<caption>{say(caption)}</caption><thead><tr>"
    yield "".join(f'<th scope="col">{say(cell)}</th>' for cell in head) + "</tr></thead><tbody>"
    for first, *rest in rows:
        cells = "".join(('<td class="number">' if is_number(cell) else "<td>") + f"{cell}</td>" for cell in rest)
        yield f'<tr><th scope="row">{first}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def is_number(cell):
    return cell.removeprefix("<b>")[:1].isdigit()


def relative(folder, start):
    return os.path.relpath(folder.resolve(), start.resolve())
