"""What happens to runs that are killed, starved of disk space, or disturbed.

    python -m tests.faults [NAME ...] [--seed N]

Each scenario runs the real programs on tiny models and checks what is left. A row of
the table says what was tried, how often, and what came of it; the table is printed and
written to `build/faults/table.md`. The exit code is 1 if a scenario failed.

`driver` runs and kills programs, `killed`, `disk` and `disturbed` hold the scenarios.
"""
