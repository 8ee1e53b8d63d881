"""The exercises, a folder each: a card, observations, and a bank of known mistakes. `classroom` reads them.

models      the small models that observations look at
measuring   how many numbers and bytes, measured, for exercises that predict them
"""
