"""The classroom: write a method yourself, and be told which mistake it looks like.

engine     the checker: source (taking bodies from a file), observe (what is seen of them), diagnose (what that means)
grading    a class: sandbox and confine (child processes, and what they may do), grade, journal, book, pages
commands   start, check and grade on the command line
desk       a student's folder: start an exercise, check a file, see the progress
using      the student's file drives the course
models     the small models that observations look at
"""

from minipeft.classroom.engine.check import check, diagnose, expect
from minipeft.classroom.engine.recognise import with_mistake
from minipeft.classroom.questions import quiz
from minipeft.classroom.using import use

__all__ = ["check", "diagnose", "expect", "quiz", "use", "with_mistake"]
