"""The classroom: write a method yourself, and be told which mistake it looks like.

exercise   what an exercise is; `bank/` holds them, one file each
source     emptying bodies, taking definitions from a student's file, putting them into the reference
observing  what is seen of a student's work
comparing  what is different, in words
checking   the diagnosis: what is wrong, and which mistake it looks like
models     the small models that observations look at
sandbox    a child process for a student's code, with limits
desk       a student's folder: start an exercise, check a file, see the progress
using      the student's file drives the course
grading    a class: points, table, JUnit, a page for each student
"""

from minipeft.classroom.checking import check, expect
from minipeft.classroom.using import use

__all__ = ["check", "expect", "use"]
