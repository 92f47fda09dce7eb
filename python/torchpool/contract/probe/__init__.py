"""From sample calls to a contract, by running the model on them.

`probing` goes the way: `run` runs the model and keeps the limits of time and memory, `state` sees what it changes of
itself, `layout` lists where rows may be, `rows` refutes what is wrong with what `perturb` disturbs, `ragged` finds
the dims that vary, and `lengths` proves that they may be padded. `values` tells whether what a result holds beside
tensors may belong to one call.
"""

from torchpool.contract.probe.probing import Found, find, probe
from torchpool.contract.probe.values import unshown

__all__ = ["Found", "find", "probe", "unshown"]
