"""Proves on an exported graph that the rows of a batch do not meet.

`domain` says what can be claimed of a value, `registry` which function makes the claim for an operator. A module holds
the rules of one class of operators; each gets an `op` and gives a claim. `proof` goes through a graph, `memory` follows
what is written in place, and `verdict` says what came of it.
"""
