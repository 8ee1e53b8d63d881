"""Every claim of the papers, put to a measured test in the toy world: python run.py claims writes lessons/claims.md.

lab.py runs experiments and keeps their results; ledger.py has claims, verdicts and the page; the other files hold the
claims themselves, one function each, by subject.
"""
