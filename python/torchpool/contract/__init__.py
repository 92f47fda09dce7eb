"""What may be done with a model's calls so that each still gets its own result, and how that is found out.

The package `probe` runs the model on samples and gives a `contract`: which dims are rows, lengths or fixed.
`batch_size` measures how many rows a batch should begin with, `shape_checks` makes batches of other sizes for proofs,
and `refusal` says what is wrong with a call that the model does not take.
"""

from torchpool.contract import refusal
from torchpool.contract.batch_size import choose_first_batch, first_and_most
from torchpool.contract.contract import Check, Contract, InputSpec, OutputSpec, PaddingVerdict, Reason, RowsVerdict
from torchpool.contract.fingerprint import Fingerprint
from torchpool.contract.reach import THREAD_STATE, Reach
from torchpool.contract.refusal import brief
from torchpool.contract.rounding import tolerance
from torchpool.contract.shape_checks import (
    Leaves,
    ProofSample,
    ShapeCheck,
    ShapeEqual,
    allows,
    from_one,
    joined,
    lengths_of,
    part_of,
    samples_for_proof,
    taken,
    varied,
    with_lengths,
    with_rows,
)
from torchpool.contract.train_mode import mode_matters, mode_surely_matters

__all__ = [
    "THREAD_STATE",
    "Check",
    "Contract",
    "Fingerprint",
    "InputSpec",
    "Leaves",
    "OutputSpec",
    "PaddingVerdict",
    "ProofSample",
    "Reach",
    "Reason",
    "RowsVerdict",
    "ShapeCheck",
    "ShapeEqual",
    "allows",
    "brief",
    "choose_first_batch",
    "first_and_most",
    "from_one",
    "joined",
    "lengths_of",
    "mode_matters",
    "mode_surely_matters",
    "part_of",
    "refusal",
    "samples_for_proof",
    "taken",
    "tolerance",
    "varied",
    "with_lengths",
    "with_rows",
]
