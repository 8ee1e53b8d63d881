"""The form in which mistakes are written down: diff blocks scoped to one body, and `mistakes.md` around them."""

import re
import shutil
from pathlib import Path

import pytest

from minipeft.classroom.engine import bank, diffs, exercise
from minipeft.classroom.engine.diffs import diff, edited
from minipeft.classroom.engine.exercise import PACKAGE, exercises
from minipeft.classroom.engine.report import LEVELS

TEXT = """import math


class Layer:
    def forward(self, x):
        y = x + 1

        return y

    @property
    def scale(self):
        y = 2
        return y


RANK = 4
"""


def test_lines_are_replaced_in_the_body_that_is_named():
    block = "@ Layer.scale\n- return y\n+ z = 2 * y\n+ return z"
    assert edited(TEXT, diff(block)) == TEXT.replace(
        "y = 2\n        return y", "y = 2\n        z = 2 * y\n        return z"
    )
    assert edited(TEXT, diff("@ RANK\n- RANK = 4\n+ RANK = 8")) == TEXT.replace("RANK = 4", "RANK = 8")
    assert edited(TEXT, diff("@ layer.py\n  import math\n+ import torch")) == "import math\nimport torch" + TEXT[11:]


@pytest.mark.parametrize("pad", ["", "    ", "        "])
def test_it_does_not_matter_how_far_all_lines_are_indented(pad):
    block = f"@ Layer.forward\n-{pad}y = x + 1\n+{pad}if x:\n+{pad}    y = x + 2\n"
    assert edited(TEXT, diff(block)) == TEXT.replace("y = x + 1\n", "if x:\n            y = x + 2\n")


def test_lines_that_only_tell_the_place_may_be_shared_by_two_edits():
    add = diff("@ Layer.forward\n  y = x + 1\n+ y = y + 1")
    change = diff("@ Layer.forward\n- y = x + 1\n+ y = x + 2")
    assert "y = x + 2\n        y = y + 1" in edited(TEXT, change + add)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ("@ Layer.forwards\n- y\n+ z", r"the file has no 'Layer.forwards'; did you mean 'Layer.forward'\?"),
        ("@ Layer.forward\n- y = x + 2\n+ y", r"`y = x \+ 2` does not stand there; did you mean `y = x \+ 1`\?"),
        ("@ Layer.forward\n- return y\n- y = x + 1\n+ y", "from `return y` on do not stand there in this order"),
        ("@ Layer\n- return y\n+ return 1", r"stands there 2 times, in lines 8, 13; add a line that tells which"),
        ("- y\n+ z", "a diff begins with the body that it changes"),
        ("@ Layer.forward\n+ z", "does not tell the place"),
        ("@ Layer.forward\n  return y", "changes nothing"),
        ("@ Layer.forward\n- return y\nreturn z", "a line of a diff begins with"),
        ("@ RANK\n- RANK = 4\n+ RANK = 5\n@ RANK\n- RANK = 4\n+ RANK = 6", "two hunks change the same lines"),
    ],
)
def test_an_edit_that_does_not_apply_says_why(block, says):
    with pytest.raises(ValueError, match=says):
        edited(TEXT, diff(block))


def test_the_bodies_that_change_are_known():
    names = ("Layer.forward", "Layer.scale", "RANK")
    assert diffs.touched(TEXT, diff("@ Layer.scale\n- return y\n+ return 3"), names) == {"Layer.scale"}
    assert diffs.touched(TEXT, diff("@ Layer\n- y = x + 1\n+ y = x"), names) == {"Layer.forward"}
    assert diffs.touched(TEXT, diff("@ layer.py\n- import math\n+ import torch"), names) == set()


PAGE = """# A bank

## Mistakes

### too much

- looks like: one more than there should be
- ask: what is added
  to x?
- hint: Count.
- any value: output, output twice
- seen: somewhere

```diff
@ Layer.forward
- y = x + 1
+ y = x + 2
```

Or in the other place:

```diff
@ Layer.scale
- y = 2
+ y = 3
```

## Right solutions

### another letter

```diff
@ Layer.forward
- y = x + 1
-
- return y
+ return x + 1
```

## Variants

### two

- rule: two are added

```diff
@ Layer.forward
- y = x + 1
+ y = x + 2
```
"""


def read(text, tmp_path):
    path = tmp_path / "mistakes.md"
    path.write_text(text, encoding="utf-8")
    return bank.read(path)


def test_a_page_is_read(tmp_path):
    found = read(PAGE, tmp_path)
    (mistake,), (right,), (variant,) = found.values()
    assert (mistake.id, mistake.what, mistake.question) == (
        "too much",
        "one more than there should be",
        "what is added to x?",
    )
    assert (mistake.hint, mistake.seen, mistake.any_value) == ("Count.", "somewhere", ("output", "output twice"))
    assert [edited(TEXT, form).count("y = 3") for form in mistake.diffs] == [0, 1]
    assert "return x + 1" in edited(TEXT, right.diffs[0])
    assert variant.rule == "two are added"


OTHER = "### another letter"
TWICE = f"{OTHER}\n\n```diff\n@ A\n- a\n+ b\n```\n\n{OTHER}"
SECTIONS = "there are: Mistakes, Right solutions, Variants"
LINES = "y = x + 1\n-\n- return y\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("- hint: Count.\n", "", "line 5, 'too much': a line \"- hint: …\" is missing"),
        (
            "- hint:",
            "- hints: x\n- hint:",
            "'too much': \"- hints:\" is not known here; there are: looks like, ask, hint",
        ),
        ("## Variants", "## House rules", f"there is no section 'House rules'; {SECTIONS}"),
        (f"- {LINES}+ return x + 1\n", "", "line 30, 'another letter': the diff of Layer.forward does not tell"),
        ("### two", "### two\n\n- rule: none", "'two': a block ```diff is missing"),
        (OTHER, TWICE, "has another letter twice"),
    ],
)
def test_a_page_with_something_missing_says_what_and_where(old, new, says, tmp_path):
    text = PAGE.replace(old, new, 1)
    if "rule: none" in new:
        text = text[: text.index("- rule: two")]
    with pytest.raises(ValueError, match=re.escape(says)):
        read(text, tmp_path)


def test_any_value_has_to_name_an_observation_that_there_is(tmp_path, monkeypatch):
    """Another name would never apply, and nobody would notice."""
    shutil.copytree(exercise.FOLDER / "ia3", tmp_path / "ia3")
    page, text = tmp_path / "ia3" / "mistakes.md", (exercise.FOLDER / "ia3" / "mistakes.md").read_text("utf-8")
    known = exercises()["ia3"].observations[0].name
    monkeypatch.setattr(exercise, "FOLDER", tmp_path)
    page.write_text(text.replace("- hint:", f"- any value: {known}\n- hint:", 1), "utf-8")
    assert exercise.load("ia3").mistakes[0].any_value == (known,)
    page.write_text(text.replace("- hint:", "- any value: ohter\n- hint:", 1), "utf-8")
    with pytest.raises(ValueError, match=r"ia3/mistakes\.md, '.+': there is no observation 'ohter'"):
        exercise.load("ia3")


def test_the_index_for_teachers_lists_every_exercise():
    page = (PACKAGE.parent / "docs" / "exercises.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "](../minipeft/exercises/" in line]
    right = [
        f"| {i} | [`{x.name}`](../minipeft/exercises/{x.name}/mistakes.md) | {x.title} | {x.minutes} "
        f"| {LEVELS[x.difficulty]} | {len(x.groups)} | {len(x.mistakes)} | {len(x.variants)} |"
        for i, x in enumerate(exercises().values(), 1)
    ]
    assert rows == right, "\n".join(["the table should be:", *right])


def test_what_contributing_shows_as_a_mistake_is_one(tmp_path):
    """Somebody who follows the page gets a mistake that the bank reads and whose edit applies."""
    text = (Path(PACKAGE).parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^````markdown\n(.*?)^````$", text, re.MULTILINE | re.DOTALL)
    (mistake,) = read(f"# A bank\n\n## Mistakes\n\n{shown}", tmp_path)["Mistakes"]
    lora = exercises()["lora"]
    assert all(lora.with_edits(form) != lora.plain() for form in mistake.diffs)
