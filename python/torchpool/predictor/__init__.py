"""A model's stand-in that answers calls in shared batches.

`wrap` reads `options` and makes a `predictor`, which is called in the ways of `calls` (`mapping` and `schedule` for
many in order, `aio` to await them). Calls of a kind that is not known yet go to the `learner`, which has them probed
(`probes`, again where `retries` says so), or looked at in their first run where they are not to be (`looks`); `graphs`
has their module captured behind them. `answers` is how the extension finds all of these.
"""

from torchpool.predictor import mapping
from torchpool.predictor.calls import Callee, Calls, View
from torchpool.predictor.options import check_options
from torchpool.predictor.predictor import Predictor
from torchpool.predictor.wrap import wrap

__all__ = ["Callee", "Calls", "Predictor", "View", "check_options", "mapping", "wrap"]
