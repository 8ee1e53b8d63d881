"""Python in colours, and what kind of cell a piece of it is."""

import ast
import textwrap

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

PLACES = [".code", ".highlight"]


def coloured(source):
    return highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")


def colours(style):
    """Rules for a style sheet."""
    return HtmlFormatter(style=style).get_token_style_defs(PLACES)


def parsed(source):
    """The statements of a piece of Python; none if it is no Python: a magic command, a table."""
    try:
        return ast.parse(textwrap.dedent(source)).body
    except SyntaxError:
        return []


def mostly_imports(source):
    """Does a cell begin with an import, and do at least half of its statements import?"""
    imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in parsed(source)]
    return bool(imports) and imports[0] and sum(imports) >= len(imports) / 2
