"""The class that an accelerated module has in place of its own, so that its calls come by an entrance.

It is made for one module, as torch's parametrizations make theirs, and goes by the name of the class that it stands
for. Where a module cannot have another class, or its code could not bear it, its own class is entered (`own_class`).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from torchpool import _core
from torchpool.inplace.own_class import enter_in_class, is_entered
from torchpool.inplace.own_type import bears_subclass
from torchpool.inplace.reduced import as_plain
from torchpool.inplace.whole_class import plain_method

ENTRANCE = "_torchpool_entrance"
_PLAIN = "_torchpool_plain_class"
_compiling = torch.compiler.is_dynamo_compiling


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before one was made for it, or for one that it was copied from."""
    cls = type(module)
    return vars(cls).get(_PLAIN, cls)  # type: ignore[no-any-return]


def enter_by(module: nn.Module, keeper: Any) -> Callable[[], None]:
    """Has calls of the module come by an entrance, which asks `keeper` for the predictor. Gives what undoes it."""
    cls = plain_class(module)
    if not _takes_no_other(module, cls):
        try:
            made = _make(module, cls, keeper)
            object.__setattr__(module, "__class__", made)
        except TypeError:  # a class that allows no subclass, or none made in this way
            pass
        else:
            return functools.partial(_leave, weakref.ref(module))
    own = type(module)
    return enter_in_class(module, own, functools.partial(_entrance_in_class, module, own, keeper))


def _takes_no_other(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a subclass would be in the way: torch changes such classes after they were made, by the object's type; or
    code of the class would do something else."""
    if isinstance(module, torch.fx.GraphModule) or parametrize.is_parametrized(module):
        return True
    return is_entered(cls) or not bears_subclass(cls)


def _make(module: nn.Module, cls: type[nn.Module], keeper: Any) -> type[nn.Module]:
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__annotations__": vars(cls).get("__annotations__", {}),
        _PLAIN: cls,
    }
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, (cls,), namespace)
    entrance = _core.Entrance(module, made, functools.partial(_plain_of, cls), keeper, True)
    for name, value in _methods(cls, entrance, keeper).items():
        setattr(made, name, value)

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        return as_plain(super(made, self).__reduce_ex__(protocol), made, cls)

    def __prepare_scriptable__(self: nn.Module) -> nn.Module:  # torch.jit.script compiles the source of forward
        plain: nn.Module = object.__new__(cls)
        object.__setattr__(plain, "__dict__", self.__dict__)
        return plain

    made.__reduce_ex__ = __reduce_ex__
    if not hasattr(cls, "__prepare_scriptable__"):
        made.__prepare_scriptable__ = __prepare_scriptable__
    if issubclass(cls, LazyModuleMixin) and cls.cls_to_become is not None:
        made.cls_to_become = property(lambda self: _become(self, made, cls, keeper))
    entrance.watch()
    keeper.entrance = entrance
    return made  # type: ignore[no-any-return]


def _become(module: nn.Module, made: Any, cls: Any, keeper: Any) -> type[nn.Module]:
    """What a lazy module becomes once it has its weights: as before, with calls that come by an entrance."""
    own = vars(made)[ENTRANCE].module is module
    return _make(module, cls.cls_to_become, keeper) if own else cls.cls_to_become


def _methods(cls: type[nn.Module], entrance: _core.Entrance, keeper: Any) -> dict[str, Any]:
    """What has calls come by an entrance."""
    methods = {
        ENTRANCE: entrance,
        "__call__": _entering(cls, "__call__", entrance.call),
        "forward": _entering(cls, "forward", entrance.forward),
    }
    if not hasattr(cls, "__enter__"):
        methods["__enter__"] = lambda self: self
        methods["__exit__"] = lambda self, *exc_info: keeper.restore()
    return methods


def _entering(cls: type[nn.Module], name: str, enter: Callable[..., Any]) -> Any:
    """The method, by way of an entrance."""

    @functools.wraps(plain_method(cls, name))
    def method(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if _compiling():  # torch.compile follows Python only
            return getattr(cls, name)(self, *args, **kwargs)
        return enter(self, args, kwargs)

    return method


def _plain_of(cls: Any) -> tuple[Callable[..., Any], Callable[..., Any], bool]:
    """The methods as they are now, and whether a call does more than torch has it do."""
    return _with_own_call(cls, plain_method(cls, "__call__"), plain_method(cls, "forward"))


def _with_own_call(cls: Any, call: Any, forward: Any) -> tuple[Callable[..., Any], Callable[..., Any], bool]:
    return call, forward, call is not nn.Module.__call__ or cls._call_impl is not nn.Module._call_impl


def _entrance_in_class(module: nn.Module, cls: type[nn.Module], keeper: Any, plain: Callable[[str], Any]) -> Any:
    """By which its calls come from its own class, whose methods without that `plain` finds."""
    find = lambda: _with_own_call(cls, plain("__call__"), plain("forward"))  # noqa: E731
    entrance = _core.Entrance(module, cls, find, keeper, False)
    entrance.watch()
    keeper.entrance = entrance
    return entrance


def _leave(ref: weakref.ref[nn.Module]) -> None:
    module = ref()
    if module is not None and _PLAIN in vars(
        type(module)
    ):  # else it has got yet another class, whose calls pass the entrance
        module.__class__ = plain_class(module)
