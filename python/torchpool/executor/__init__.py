"""The standard library's executor with a native queue, native futures and predictors as its fast path.

`executor` is the class and `view` the same one at another priority; `threads` is what its threads run, `map` its map,
`hooks` what the extension calls. Tasks at given times come by `timer` and `periodic`. Calls of predictors are no tasks:
`streams` keeps them, those of submit() in a `backlog`, those of map() in a `map_stream` that `map_feed` feeds.
"""

from torchpool.executor.executor import ThreadPoolExecutor

__all__ = ["ThreadPoolExecutor"]
