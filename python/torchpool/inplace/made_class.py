"""The class that an accelerated module has in place of its own, so that its calls come by an entrance.

It is made for one module, as torch's parametrizations make theirs, and goes by the name of the class that it stands
for. Where a module cannot have another class, or its code could not bear it, the methods of its own class come by the
entrance: other objects of that class pass at once.
"""

from __future__ import annotations

import dis
import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from torchpool import _core
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
    return _enter_in_class(module, type(module), keeper)


def _takes_no_other(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a subclass would be in the way: torch changes such classes after they were made, by the object's type; or
    code that names the object's own type as where to go on from would come back to itself."""
    if isinstance(module, torch.fx.GraphModule) or parametrize.is_parametrized(module):
        return True
    return any(_goes_on_from_own_type(function) for function in _functions(cls))


def _make(module: nn.Module, cls: type[nn.Module], keeper: Any) -> type[nn.Module]:
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        _PLAIN: cls,
    }
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, (cls,), namespace)
    for name, value in _methods(module, cls, made, keeper).items():
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
    return made  # type: ignore[no-any-return]


def _become(module: nn.Module, made: Any, cls: Any, keeper: Any) -> type[nn.Module]:
    """What a lazy module becomes once it has its weights: as before, with calls that come by an entrance."""
    own = vars(made)[ENTRANCE].module is module
    return _make(module, cls.cls_to_become, keeper) if own else cls.cls_to_become


def _methods(module: nn.Module, cls: type[nn.Module], made: type[nn.Module], keeper: Any) -> dict[str, Any]:
    """What has calls come by a new entrance."""
    call, forward = plain_method(cls, "__call__"), plain_method(cls, "forward")
    own_call = call is not nn.Module.__call__ or cls._call_impl is not nn.Module._call_impl
    entrance = _core.Entrance(module, made, call, forward, keeper, own_call)
    keeper.entrance = entrance
    methods = {
        ENTRANCE: entrance,
        "__call__": _entering(call, entrance.call),
        "forward": _entering(forward, entrance.forward),
    }
    if not hasattr(cls, "__enter__"):
        methods["__enter__"] = lambda self: self
        methods["__exit__"] = lambda self, *exc_info: keeper.restore()
    return methods


def _entering(plain: Any, enter: Callable[..., Any]) -> Any:
    """The plain method, by way of an entrance."""

    @functools.wraps(plain)
    def method(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        if _compiling():  # torch.compile follows Python only
            return plain(self, *args, **kwargs)
        return enter(self, args, kwargs)

    return method


def _leave(ref: weakref.ref[nn.Module]) -> None:
    module = ref()
    if module is not None and _PLAIN in vars(
        type(module)
    ):  # else it has got yet another class, whose calls pass the entrance
        module.__class__ = plain_class(module)


# In the module's own class.

_MISSING = object()


def _enter_in_class(module: nn.Module, cls: Any, keeper: Any) -> Callable[[], None]:
    before = {}
    methods = _methods(module, cls, cls, keeper)
    for name, value in methods.items():
        before[name] = vars(cls).get(name, _MISSING)
        setattr(cls, name, value)

    def leave() -> None:
        for name, value in methods.items():
            if vars(cls).get(name) is not value:
                continue  # somebody has changed it since
            if before[name] is _MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, before[name])

    return leave


def _functions(cls: type) -> Iterator[types.FunctionType]:
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for name, member in list(vars(base).items()):
            if isinstance(member, types.FunctionType) and name != "__init__":  # which has run
                yield member


def _goes_on_from_own_type(function: types.FunctionType) -> bool:
    """Whether it says super(type(self), self) or super(self.__class__, self): in a subclass that never ends."""
    code = function.__code__
    if "super" not in code.co_names or not {"type", "__class__"} & set(code.co_names):
        return False
    steps = [
        (step.opname, step.argval)
        for step in dis.get_instructions(code)
        if step.opname not in ("PUSH_NULL", "PRECALL", "CACHE", "RESUME", "EXTENDED_ARG", "COPY_FREE_VARS")
    ]
    for at, (op, name) in enumerate(steps[:-2]):
        if op != "LOAD_GLOBAL" or name != "super":
            continue
        follows = steps[at + 1], steps[at + 2]
        if follows[0] == ("LOAD_GLOBAL", "type") or follows[1] == ("LOAD_ATTR", "__class__"):
            return True
    return False
