"""What users are told of a predictor, made of plain records that it hands over.

`explanation` is what explain() returns, `headline` its first line, `listing` makes the text of a graph's program, and
`table` that of counts and times.
"""

from torchpool.insight.explanation import IN_ORDER, ON_THEIR_THREADS, SIDE_BY_SIDE, Explanation, KindRecord, explain
from torchpool.insight.headline import Batched, Gain, measured_gain
from torchpool.insight.listing import Timing, program_listing
from torchpool.insight.table import Stats, html_table, seconds

__all__ = [
    "IN_ORDER",
    "ON_THEIR_THREADS",
    "SIDE_BY_SIDE",
    "Batched",
    "Explanation",
    "Gain",
    "KindRecord",
    "Stats",
    "Timing",
    "explain",
    "html_table",
    "measured_gain",
    "program_listing",
    "seconds",
]
