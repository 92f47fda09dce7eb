"""One call: taken apart into tensors and put together again, the state of the thread that makes it, and its future.

`arguments` finds the tensors of a call in the order in which the extension does, `tree` takes results apart and
rebuilds them, `ambient` keeps what a thread has set (grad mode, autocast, context variables) for another that makes the
call later, and `futures` holds what `submit` returns. Knows nothing of models.
"""

from torchpool.call import futures, tree
from torchpool.call.ambient import Ambient, must_stay_here
from torchpool.call.arguments import (
    Call,
    argument_names,
    as_call,
    parameter_names,
    parameters,
    readable_names,
    replace_tensors,
    tensors,
    values,
)
from torchpool.call.futures import Future, without_our_frame
from torchpool.call.intra_op import one_intra_op_thread

__all__ = [
    "Ambient",
    "Call",
    "Future",
    "argument_names",
    "as_call",
    "futures",
    "must_stay_here",
    "one_intra_op_thread",
    "parameter_names",
    "parameters",
    "readable_names",
    "replace_tensors",
    "tensors",
    "tree",
    "values",
    "without_our_frame",
]
