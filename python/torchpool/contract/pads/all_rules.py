"""Imports every module of rules: each enters its own into the registry."""

from torchpool.contract.pads import (
    attention,  # noqa: F401
    creation,  # noqa: F401
    layers,  # noqa: F401
    lookups,  # noqa: F401
    parts,  # noqa: F401
    pointwise,  # noqa: F401
    products,  # noqa: F401
    reductions,  # noqa: F401
    reshaping,  # noqa: F401
)
