"""Imports every module of rules: each enters its own into the registry."""

from torchpool.contract.rows import (
    products,  # noqa: F401
)
