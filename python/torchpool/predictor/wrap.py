"""wrap(): from a model to a predictor."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Unpack, overload

import torch

from torchpool import _core
from torchpool.predictor import saving
from torchpool.predictor.entered import entrance_of
from torchpool.predictor.misuse import refuse_unknown_options, tells_misuse
from torchpool.predictor.options import Batch, Options, check_runtime, read_options, same_options
from torchpool.predictor.predictor import Predictor
from torchpool.predictor.typed import Forward, LoadOptions, P, R, WrapOptions
from torchpool.runtime import Runtime


@overload
def wrap(model: Forward[P, R], **options: Unpack[WrapOptions]) -> Predictor[P, R]: ...
@overload
def wrap(model: Callable[P, R], **options: Unpack[WrapOptions]) -> Predictor[P, R]: ...
@tells_misuse
def wrap(
    model: Any,
    *,
    example: Any = None,
    batch: Batch = None,
    pad: Any = None,
    dtype: torch.dtype | None = None,
    weights: Literal["bf16", "int8"] | None = None,
    backend: Literal["auto", "graph", "python", "torchscript"] = "auto",
    max_batch: int | None = None,
    max_delay: float = 0.0,
    weight: float = 1.0,
    queue_size: int | None = None,
    queue_bytes: int | None = None,
    overflow: Literal["block", "reject"] = "block",
    runtime: Runtime | None = None,
    name: str | None = None,
    prove: Literal["auto", "required", "verify", "trust"] = "auto",
    verify: float = 0.01,
    probe_timeout: float = 20.0,
    cache: bool = False,
    invariant: bool = False,
) -> Predictor:
    """A predictor of a model: called like it from any thread, with the same results, in shared batches.

    model: an nn.Module or ScriptModule in eval mode, a bound method of one, or any callable from tensors to tensors.
    example: one call's arguments (a tensor; a tuple is positional, a mapping is keywords), or a list of calls that
        shows which lengths vary. Without it a module's contract is learned from its first call; a plain callable is
        probed (run about a dozen times) only when `example` or `batch` is given, and runs alone otherwise.
    batch: None finds which dims hold rows; a mapping {input or output name: dim} states it (None as dim: shared by all
        rows), and is taken on trust unless probing refutes it; an Explanation (or its `to_dict()`) skips probing; False
        turns merging off.
    pad: {input name: value} for right-padding calls of different lengths, or a tokenizer; used only where proven.
    dtype: what graphs compute in, such as torch.bfloat16; inputs and outputs keep theirs. Where the processor has no
        products of it, or they are measured to be slower, graphs compute in float32 with weights of linear layers that
        are stored in it. explain() says which, and how far the results are from the module's own, which serves in its
        own dtype where there is no graph.
    weights: in what graphs store the weights of linear layers of float32: "bf16", or "int8" with a scale for each
        output and 64 inputs. They compute in float32: small batches wait less for memory. Layers that are measured to
        be slower so keep theirs. explain() and a line in the log say how far the results are from the module's.
    backend: "auto" captures a module as a graph (torch.export, in a forked child) that runs in C++ without the
        interpreter's lock; the module itself serves until the graph is proven equal, and where there can be none:
        explain() says which and why, ready() waits for it. A graph runs no Python: what the module does beside its
        result (prints, counters) no longer happens. "graph" is the same, but with `example` captures at once, and
        raises where that cannot be. "python" always calls the module; with `example` wrap() waits for the proof that
        its batches need, 20 s at most. ScriptModules are served by "torchscript".
    max_batch: most rows of a batch. Below it a batch has as many rows as make an item cheapest, which is learned while
        calls are served; the default allows eight times what takes about 8 ms when it is measured, up to 1,024.
    max_delay: how many seconds a call may be held for others to join its batch, while a worker is idle, where one more
        arrival is expected sooner than it saves time. 0: never.
    weight: this predictor's share of the workers' time when others on the same runtime have work, too.
    queue_size, queue_bytes: rows and bytes that may wait (4,096 rows, 256 MiB).
    overflow: what a call does that finds the queue full: "block" until there is room, or "reject" with QueueFull.
    runtime: the workers to run on; by default those that all predictors of the process share.
    prove: on what calls are merged. "auto": on a proof, on the exported graph, that rows of a batch do not meet; until
        it is there, and where there is none, calls run alone, side by side, and explain() names the operator and the
        line. "required": the same, and ValueError at the first call of a kind without a proof. "verify": also without a
        proof; the calls of each batch are run alone as well and compared before results go out, until 1,000 rows agreed
        for batches of a size, and then for the share `verify` of batches. That can be wrong: a model may let values
        that were not seen yet decide that rows meet. "trust": also without a proof, and without a look, on your word.
    verify: share of the time that merged batches take which may be spent on running calls alone, too, and comparing, as
        an alarm; 0 turns it off. A difference ends merging for such calls, with a warning in the log.
    probe_timeout: most seconds that a kind of call is probed. Where that does not suffice, calls run alone, and probing
        is tried again after 10 s, 20 s, 40 s and so on, up to an hour.
    cache: keep what is learned in a folder of the user's own ($TORCHPOOL_CACHE, else torchpool in $XDG_CACHE_HOME or
        ~/.cache), and start from what another process has learned of a model like this one, as `load` does.
    invariant: a call's result has the same bits whoever shares its batch, alone or merged, with any number of workers.
        Graphs then compute rows by kernels that keep their bits, and all other operators row by row; only calls of
        equal lengths share batches. The first call of a kind, or of new sizes, waits for its graph; a deadline ends the
        wait. Where there can be none, explain() names the operator, and the module runs each call alone, on one thread.

    An accelerated module gives its predictor, if it is given no options, or the same.

    Raises TypeError or ValueError for options that make no sense, for a model that is in train mode where that
    changes results, for a `batch` that the proof contradicts, and for a required graph that cannot be.
    """
    check_runtime(runtime)
    options = read_options(
        model,
        example=example,
        batch=batch,
        pad=pad,
        dtype=dtype,
        weights=weights,
        backend=backend,
        max_batch=max_batch,
        max_delay=max_delay,
        weight=weight,
        queue_size=queue_size,
        queue_bytes=queue_bytes,
        overflow=overflow,
        name=name,
        prove=prove,
        verify=verify,
        probe_timeout=probe_timeout,
        cache=cache,
        invariant=invariant,
    )
    entrance = entrance_of(model)
    if entrance is not None and entrance.keeper is not None:
        return _shared(model, entrance, options, runtime)
    return Predictor(model, options, runtime)


def options_of_wrap(model: Callable[..., Any], options: Mapping[str, Any]) -> tuple[Options, Runtime | None]:
    """What wrap(model, **options) would make of them. Raises TypeError and ValueError as it does."""
    signature = inspect.signature(wrap)
    refuse_unknown_options(options, list(signature.parameters)[1:], "accelerate()")
    bound = signature.bind(model, **options)
    bound.apply_defaults()
    all_options = dict(bound.arguments)
    check_runtime(runtime := all_options.pop("runtime"))
    return read_options(all_options.pop("model"), **all_options), runtime


def _shared(model: Any, entrance: _core.Entrance, options: Options, runtime: Runtime | None) -> Predictor:
    """The predictor of an accelerated module: another one would have packed weights and batches of its own."""
    keeper = entrance.keeper
    given = any(same_options(options, one) for one in (keeper.options, options_of_wrap(model, {})[0]))
    if not given or runtime not in (None, keeper.runtime):
        raise ValueError(
            f"{options.name} is accelerated, with other options than these: torchpool.predictor_of(model) is its "
            "predictor; torchpool.restore(model) first for one with options of its own"
        )
    opened = entrance.open()
    if opened is None:
        raise ValueError(f"{options.name} is accelerated, and has no predictor yet: {keeper.why_none()}")
    return opened  # type: ignore[no-any-return]


@overload
def load(path: str | os.PathLike[str], model: Forward[P, R], **options: Unpack[LoadOptions]) -> Predictor[P, R]: ...
@overload
def load(path: str | os.PathLike[str], model: Callable[P, R], **options: Unpack[LoadOptions]) -> Predictor[P, R]: ...
def load(path: str | os.PathLike[str], model: Any, **options: Any) -> Predictor[Any, Any]:
    """A predictor of the model that starts from what `Predictor.save` has written: nothing is probed or captured again.

    The file names no code and holds no weights; reading it imports and runs nothing of its own. It is for a model with
    the same code, settings and names and shapes of weights, whose values may be others: graphs are compared with the
    module on the first call, which waits for that. On a processor with other instructions graphs are made anew.

    options: `max_batch`, `max_delay`, `weight`, `queue_size`, `queue_bytes`, `overflow`, `name`, `verify`,
    `probe_timeout` and `runtime` as in `wrap`; those that are not given are as saved.

    Raises ValueError for a file that is damaged, of another version, or for another model, saying how that differs;
    OSError where it cannot be read; TypeError for options that what was learned depends on.
    """
    runtime = options.get("runtime")
    check_runtime(runtime)
    changed = {name: value for name, value in options.items() if name != "runtime"}
    knowledge, read = saving.read(path, model, changed)
    return Predictor(model, read, runtime, knowledge)
