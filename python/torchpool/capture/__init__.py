"""From a module to a program that the extension runs without Python.

`source` says what is to be captured, or why it cannot be. `process` forks a child for it, in which `programs` goes the
way: `export` (torch.export of a `module_copy`, with the free sizes of `shapes` and the ops of `rnn_op`), `passes` over
the graph, `lower` to the plain data of `program`. `proof` compares the program with the module. torch.export takes a
second to import: nothing imports it but what the child runs.
"""

from torchpool.capture.process import capture_elsewhere
from torchpool.capture.program import BODY, CaptureError
from torchpool.capture.proof import Difference, prove
from torchpool.capture.source import Source, refuse_hooks

__all__ = ["BODY", "CaptureError", "Difference", "Source", "capture_elsewhere", "prove", "refuse_hooks"]
