"""A model's stand-in that answers calls in shared batches.

`wrap` reads `options` and makes a `predictor`, which is called in the ways of `calls` (`mapping` and `schedule` for
many in order, which `inputs` reads from `sources` and by `conversion`, `aio` to await them). Calls of a kind that is
not known yet go to the `learner`, which has them probed (`probes`, again where `retries` says so), or looked at in
their first run where they are not to be (`looks`); `graphs` has their module captured behind them. What came of it is
`knowledge`, which `saving` and `cache` keep in a `saved_file`. `answers` is how the extension finds all of these.
"""

from torchpool.predictor import mapping
from torchpool.predictor.calls import Callee, Calls, View
from torchpool.predictor.entered import Entered, entrance_of
from torchpool.predictor.lazy_weights import has_lazy_weights
from torchpool.predictor.options import Options, check_options, same_options
from torchpool.predictor.predictor import Predictor
from torchpool.predictor.wrap import load, options_of_wrap, wrap

__all__ = [
    "Callee",
    "Calls",
    "Entered",
    "Options",
    "Predictor",
    "View",
    "check_options",
    "entrance_of",
    "has_lazy_weights",
    "load",
    "mapping",
    "options_of_wrap",
    "same_options",
    "wrap",
]
