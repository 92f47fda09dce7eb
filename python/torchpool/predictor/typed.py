"""What type checkers and editors are told: a predictor is called as its model is, and gives what that gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import torch

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    from torchpool.predictor.options import Batch
    from torchpool.runtime import Runtime

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
    R_co = TypeVar("R_co", covariant=True, default=Any)
else:  # before Python 3.13 defaults need a package that a type checker has, and nobody needs when it runs
    from typing import ParamSpec, TypeVar

    P, R, R_co = ParamSpec("P"), TypeVar("R"), TypeVar("R_co", covariant=True)


class Forward(Protocol[P, R_co]):
    """A module, by its forward: of its call torch says nothing but that there is one."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What a call of the module gives."""


class LoadOptions(TypedDict, total=False):
    """The options of load(): those of wrap() that what was learned does not depend on."""

    max_batch: int | None
    max_delay: float
    weight: float
    queue_size: int | None
    queue_bytes: int | None
    overflow: Literal["block", "reject"]
    runtime: Runtime | None
    name: str | None
    verify: float
    probe_timeout: float


class WrapOptions(LoadOptions, total=False):
    """The options of wrap(), which has their defaults and says what they mean."""

    example: Any
    batch: Batch
    pad: Any
    dtype: torch.dtype | None
    weights: Literal["bf16", "int8"] | None
    backend: Literal["auto", "graph", "python", "torchscript"]
    prove: Literal["auto", "required", "verify", "trust"]
    cache: bool
    invariant: bool
