"""From sample calls to a contract, by running the model on them.

`probing` goes the way: `run` runs the model and keeps the limits of time and memory, `state` sees what it changes of
itself, `layout` lists where rows may be, `rows` refutes what is wrong with what `perturb` disturbs, `ragged` finds
the dims that vary, and `lengths` proves that they may be padded. `values` tells whether what a result holds beside
tensors may belong to one call, `context` which context variables the model may read, and `draws` whether it draws from
other generators than torch's, as far as its code, or what is `reachable` from it, shows. `recheck` looks at the
padding of contracts that were saved.
"""

from torchpool.contract.probe.context import context_variables, variables_read
from torchpool.contract.probe.draws import PlainDraws
from torchpool.contract.probe.probing import Found, find, probe
from torchpool.contract.probe.reachable import modules_of
from torchpool.contract.probe.recheck import padding_fails
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.probe.values import unshown
from torchpool.contract.probe.watch import Drew, Stopped

__all__ = [
    "Drew",
    "Found",
    "ModuleState",
    "PlainDraws",
    "Stopped",
    "context_variables",
    "find",
    "modules_of",
    "padding_fails",
    "probe",
    "unshown",
    "variables_read",
]
