"""How an accelerated module is copied and pickled: as the plain one that it was, which knows nothing of torchpool."""

from __future__ import annotations

import copyreg
from typing import Any


def as_plain(reduced: Any, made: type, plain: type) -> Any:
    """What __reduce_ex__ gave for an object of the class `made`, for one of the class `plain`."""
    if not isinstance(reduced, tuple):
        return reduced
    make, args, *rest = reduced
    if make is made:
        make = plain
    if make is getattr(copyreg, "__newobj__") and args[0] is made:  # noqa: B009 - a name that a class would mangle
        # pickle wants that function's class to be the object's.
        if len(args) == 1:
            return (copyreg._reconstructor, (plain, object, None), *rest)  # type: ignore[attr-defined]
        return (plain.__new__, (plain, *args[1:]), *rest)
    return (make, tuple(plain if argument is made else argument for argument in args), *rest)
