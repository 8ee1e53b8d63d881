"""The classroom: write a method yourself, and be told which mistake it looks like.

exercise   what an exercise is; `bank/` holds them, one file each
source     emptying bodies, taking definitions from a student's file, putting them into the reference
checking   observing, comparing, saying in words what is wrong
models     the small models that observations look at
"""

from minipeft.classroom.checking import check, expect

__all__ = ["check", "expect"]
