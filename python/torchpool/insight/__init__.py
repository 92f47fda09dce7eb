"""What users are told of a predictor, made of plain records that it hands over.

`explanation` is what explain() returns, `listing` makes the text of a graph's program.
"""

from torchpool.insight.explanation import IN_ORDER, ON_THEIR_THREADS, SIDE_BY_SIDE, Explanation, KindRecord, explain
from torchpool.insight.listing import Timing, program_listing

__all__ = [
    "IN_ORDER",
    "ON_THEIR_THREADS",
    "SIDE_BY_SIDE",
    "Explanation",
    "KindRecord",
    "Timing",
    "explain",
    "program_listing",
]
