"""The site: lessons, ledger and questions as static pages that need no network. Built by `python run.py site`.

Everything can be read without JavaScript; it adds the search, the ledger's filter and where one is in the contents.

    text.py        Markdown to HTML: formulas as MathML, headings that can be linked to, tables that scroll
    lesson.py      a notebook, as the blocks of a page
    ledger.py      lessons/claims.md, as a list of claims
    code.py        Python in colours
    questions.py   the questions of a lesson, for its page and for interview.html
    guide.py       a page of docs/, such as the one for teachers, or the glossary
    search.py      the index that the search page looks through
    repository.py  where the project lives, if the build can know it: badges and notebooks for Colab
    progress.py    what the reader has done, if there is a book of it
    site.py        puts them into templates/ and writes site/
"""

from lessons.pages.site import build

__all__ = ["build"]
