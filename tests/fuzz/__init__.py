"""Damaged and hostile input, made at random: `python -m tests.fuzz --minutes 30`.

Every module `targets_*.py` names what is tried in its `TARGETS`. `mutation` makes
inputs, `running` tries them in processes with limits of time and memory, `__main__` is
the program. `tests/test_fuzz.py` tries a few inputs of every target within `make test`.
"""
