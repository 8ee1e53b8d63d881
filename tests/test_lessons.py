"""The lessons: each notebook is its source, executed, within its budgets; each source runs as a script."""

import ast
import importlib.util
import json
import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from minipeft.classroom import questions, using
from minipeft.classroom.engine import reading
from minipeft.classroom.engine.exercise import get_exercise
from minipeft.published import smollm2

FOLDER = Path(__file__).parents[1] / "lessons"
KILOBYTES, CELLS, WORDS, LINES = 300, 50, 80, 20

spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

each_lesson = pytest.mark.parametrize("source", build.sources(), ids=lambda path: path.stem)


def built(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(cell):
    """The words of a Markdown cell, without those in code fences."""
    return re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL).split()


def test_there_are_lessons_and_no_notebook_without_a_source():
    assert build.sources()
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in build.sources()}


@each_lesson
def test_the_notebook_is_its_source(source):
    def inputs(notebook):
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells]

    assert inputs(built(source)) == inputs(build.notebook(source)), (
        f"build it again: python run.py lessons {source.stem}"
    )


@each_lesson
def test_the_notebook_is_executed_from_top_to_bottom(source):
    cells = code(built(source))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], "a warning in the notebook"
        figures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        assert figures == cell.source.count("plt.show()"), f"a figure is missing after {cell.source[:60]!r}"


@each_lesson
def test_every_picture_has_words_for_those_who_do_not_see_it(source):
    for cell in code(built(source)):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"].split()) >= 5


def test_every_lesson_ran_within_a_minute_when_it_was_built_and_with_the_real_model_within_three():
    times = json.loads(build.TIMES.read_text())
    assert set(times) == {source.stem for source in build.sources()}
    for source in build.sources():
        assert times[source.stem] <= (180 if build.needs_the_real_model(source) else 60), (
            f"{source.stem}: shorter, or on a quiet machine"
        )


def test_without_the_real_model_its_lessons_are_not_built(monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "there", lambda: False)
    monkeypatch.setattr(build, "execute", None)  # nothing is
    build.main(["22", "23", "24", "25"])
    assert capsys.readouterr().out.count("is left out: it needs the real language model") == 4


@each_lesson
def test_the_notebook_keeps_no_pairing(source):
    notebook = built(source)
    assert list(notebook.metadata) == ["kernelspec"]
    for cell in notebook.cells:
        hidden = build.HIDDEN in cell.metadata.get("tags", ())
        assert set(cell.metadata) == {"tags", "jupyter"} if hidden else set(cell.metadata) <= {"tags"}
    assert "jupytext" not in json.dumps([notebook.metadata, [cell.metadata for cell in notebook.cells]])


@each_lesson
def test_the_notebook_keeps_its_budgets(source):
    notebook = built(source)
    assert source.with_suffix(".ipynb").stat().st_size <= 1000 * KILOBYTES
    assert len(notebook.cells) <= CELLS
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= LINES, cell.source
        else:
            assert len(prose(cell)) <= WORDS, cell.source


@each_lesson
def test_the_lesson_runs_as_a_script(source, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIPEFT_FAST", "1")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    try:
        if build.needs_the_real_model(source) and not smollm2.there():
            with pytest.raises(ModuleNotFoundError, match=r"python run\.py real"):
                runpy.run_path(str(source), run_name="__main__")
            return
        runpy.run_path(str(source), run_name="__main__")
        assert not plt.get_fignums(), "a figure is drawn but not shown"
    finally:
        plt.close("all")


def visible(source):
    return [cell.source for cell in code(build.notebook(source)) if build.HIDDEN not in cell.metadata.get("tags", ())]


@each_lesson
def test_what_a_reader_sees_holds_no_assert_no_fast_dial_and_no_parsing(source):
    for cell in visible(source):
        found = re.findall(r"^\s*assert\b|\bFAST\b|\bjson\b|register_forward", cell, flags=re.MULTILINE)
        assert not found, f"{found} in a visible cell: put it into a hidden one, or into the package\n{cell}"


@each_lesson
def test_the_lesson_ends_with_its_five_questions(source):
    assert any(f'quiz("{source.stem}", answers="")' in cell for cell in visible(source))
    assert len(questions.questions_of(source.stem)) == 5


def checked_in(cell):
    """The exercises that a cell checks."""
    calls = [n for n in ast.walk(ast.parse(cell)) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "check"]
    return [call.args[0].value for call in calls]


def of_checks(cell):
    """What a cell defines and checks, without what it does besides."""
    tree = ast.parse(cell)
    tree.body = [n for n in tree.body if not isinstance(n, ast.Expr) or "check(" in ast.unparse(n)]
    return tree


def solved(cell, exercises):
    """The same with the project's own bodies in place of those that a reader is to write or to mend."""
    tree = of_checks(cell)
    for exercise in exercises:
        ours = reading.functions(exercise.tree())
        for name, (_, node) in reading.functions(tree).items():
            if name in exercise.stubs and isinstance(node, ast.FunctionDef):
                node.args, node.body = ours[name][1].args, ours[name][1].body
    return tree


CHECKS = [
    pytest.param(source, cell, id=f"{source.stem}-{'-'.join(checked_in(cell))}")
    for source in build.sources()
    for cell in visible(source)
    if checked_in(cell)
]


@pytest.mark.parametrize(("source", "cell"), CHECKS)
def test_what_a_lesson_asks_for_is_blank_or_wrong_and_can_end_in_right(source, cell, capsys):
    exercises = [get_exercise(name) for name in checked_in(cell)]
    lesson = ast.parse("\n".join(visible(source)))
    imports = ast.Module([n for n in lesson.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    for tree, wanted in ((of_checks(cell), 0), (solved(cell, exercises), len(exercises))):
        names = {"__name__": "__main__"}
        exec(compile(imports, source.name, "exec"), names)
        exec(ast.unparse(tree), names)
        said = capsys.readouterr().out
        right = [x.name for x in exercises if re.search(rf"^{x.name}: right\b(?! so far)", said, flags=re.MULTILINE)]
        assert len(right) == wanted, said
    using.give_back()


@each_lesson
def test_tables_keep_their_lines(source):
    columns = None
    for line in "\n\n".join(cell.source for cell in built(source).cells if cell.cell_type == "markdown").splitlines():
        if "---|---" in line:
            assert re.fullmatch(r"[|:\- ]+", line), line
            columns = line.count("|")
        elif columns and "|" in line:
            assert re.sub(r"`[^`]*`|\$[^$]*\$|\\\|", "", line).count("|") == columns, line
        else:
            columns = None


@each_lesson
def test_a_verdict_that_a_lesson_links_to_is_the_ledgers(source):
    ledger = (FOLDER / "claims.md").read_text(encoding="utf-8")
    verdicts = dict(re.findall(r"\| \[[^\n]*?\]\(#(\w+)\) \|[^\n]*?\*\*([a-z ]+)\*\*", ledger))
    one_of, lesson = "|".join({*verdicts.values()}), source.read_text(encoding="utf-8")
    said = re.findall(rf"\[({one_of})\]\(claims\.md#(\w+)\)", lesson)
    assert [(verdict, name) for verdict, name in said if verdicts[name] != verdict] == []


@each_lesson
def test_folded_answers_open_and_close_in_one_cell(source):
    for cell in built(source).cells:
        assert cell.source.count("<details") == cell.source.count("</details>"), cell.source


def test_the_interview_has_eighty_questions_and_more():
    assert {source.stem for source in build.sources()} == {*questions.lessons()}
    assert sum(len(questions.questions_of(lesson)) for lesson in questions.lessons()) >= 80


@each_lesson
def test_the_quiz_in_the_notebook_is_what_is_asked_now(source, capsys):
    quiz = next(cell for cell in code(built(source)) if cell.source.startswith("quiz("))
    questions.quiz(source.stem)
    assert quiz.outputs[0].text == capsys.readouterr().out, f"build it again: python run.py lessons {source.stem}"
