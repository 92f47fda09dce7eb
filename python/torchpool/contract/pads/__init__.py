"""Proves on an exported graph that padding a length changes nothing that is kept.

A second abstract interpretation beside `rows`, one length at a time. `domain` says what can be claimed of a value,
`registry` which function makes the claim for an operator, and a module holds the rules of one class of operators.
`proof` goes through a graph, and `verdict` says what came of it.
"""
