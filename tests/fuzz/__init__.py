"""Random calls of every operator, compared with its oracle.

    python -m tests.fuzz --minutes 2 --seed 20250101

A case is named `op:seed:index`, and everything about it follows from the name. What fails is shrunk
and printed with the command that replays it.
"""
