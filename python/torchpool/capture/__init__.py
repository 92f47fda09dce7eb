"""From a module to a program that the extension runs without Python.

`source` says what is to be captured, or why it cannot be (`eval_twin`: since train mode changes it). `process` forks a
child for it, in which `programs` goes the way: `export` (torch.export of a `module_copy`, with the free sizes of
`shapes` and the ops of `rnn_op`), `row_proof`, `passes` over the graph (`linear_choice` measures kernels for them,
`invariant` says what keeps a row's bits), `lower` to the plain data of `program`. Where rows meet, `lifted` has the
graph written anew by `lifting` (with the operators of `per_call`), exported and proven once more. `comparison` holds
the program against the module; `storage` is what weights may be stored in; `written` is a program's form in a file.
torch.export takes a second to import: nothing imports it but what the child runs.
"""

from torchpool.capture.comparison import Difference, Tolerance, compare, compare_calls
from torchpool.capture.eval_twin import same_in_eval
from torchpool.capture.linear_choice import kernels_of_linear
from torchpool.capture.process import capture_elsewhere
from torchpool.capture.program import BODY, CaptureError, Programs, ProvenRows
from torchpool.capture.source import COLLECTING_MARK, Source, refuse_hooks, serves
from torchpool.capture.storage import OF_DTYPE, fp32_of, has_products
from torchpool.capture.written import NotWritten, Reader, Writer, refuse_malformed

__all__ = [
    "BODY",
    "COLLECTING_MARK",
    "OF_DTYPE",
    "CaptureError",
    "Difference",
    "NotWritten",
    "Programs",
    "ProvenRows",
    "Reader",
    "Source",
    "Tolerance",
    "Writer",
    "capture_elsewhere",
    "compare",
    "compare_calls",
    "fp32_of",
    "has_products",
    "kernels_of_linear",
    "refuse_hooks",
    "refuse_malformed",
    "same_in_eval",
    "serves",
]
