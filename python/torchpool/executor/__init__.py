"""The standard library's executor with a native queue, native futures and predictors as its fast path.

`executor` is the class and `view` the same one at another priority; `threads` is what its threads run, `map` its map,
`hooks` what the extension calls. Tasks at given times come by `timer` and `periodic`. Calls of predictors are no tasks:
`predictor_calls` sends them to the predictor at once and sees them through, `predictor_map` has those of a map sent by
and by, `late_calls` are those that are held or have to be learned from first, and `entered_calls` those of accelerated
modules, which go the same way where the module's predictor would answer them.
"""

from torchpool.executor.executor import ThreadPoolExecutor

__all__ = ["ThreadPoolExecutor"]
