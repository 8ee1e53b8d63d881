"""Every claim of the papers, put to a measured test in the toy world: python run.py claims writes lessons/claims.md.

ledger.py says what a claim is and how it gets its verdict, statistics.py has the tests, page.py writes the page, and
demo.py the README's table. The other files hold the claims themselves, one function each, by subject. `minipeft.lab`
makes the runs, and runs.jsonl holds them.
"""
