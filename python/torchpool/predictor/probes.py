"""Has the model run as often as it takes to tell how its calls may be served, and words what that finds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchpool import _core
from torchpool.call import Call, argument_names, replace_tensors
from torchpool.capture import same_in_eval
from torchpool.contract import Contract, Leaves, refusal
from torchpool.contract.probe import Found, PlainDraws, find, padding_fails
from torchpool.predictor.first_runs import FirstRuns
from torchpool.predictor.found import complete
from torchpool.predictor.kinds import Kind
from torchpool.predictor.moving_weights import at_rest, unsettled_by_moving
from torchpool.predictor.own_code import OwnCode
from torchpool.predictor.refusals import Refusals


class Probes:
    """Of one model. Thread-safe."""

    def __init__(
        self,
        target: Callable[..., Any],
        module: torch.nn.Module | None,
        run_plain: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        code: OwnCode,
        first_runs: FirstRuns,
        *,
        batch: Mapping[str, int] | None,
        pad: Mapping[str, float | int | bool] | None,
        dtype: torch.dtype | None,
        max_seconds: float,
        proof_follows: bool,
    ) -> None:
        """`run_plain` runs the target as it is; the rest is as for `torchpool.contract.probe.find`."""
        self._target, self._module, self._run_plain = target, module, run_plain
        self._code, self._first_runs = code, first_runs
        self._batch, self._pad, self._dtype = batch, dict(pad or {}), dtype
        self._arguments = argument_names(target)  # what may be stated of them counts where they are passed
        self._max_seconds, self._proof_follows = max_seconds, proof_follows

    def run_leaves(self, call: Call, leaves: Leaves) -> Any:
        """What the target gives for a call with these tensors."""
        args, kwargs = replace_tensors(call, leaves)
        return self._run_plain(args, kwargs)

    def still_pads(self, kind: Kind, contract: Contract, call: Call, leaves: Leaves) -> bool:
        """Whether a saved contract pads nothing, or this call, cut and padded, gives what it should."""
        if not contract.padded:
            return True
        run = functools.partial(self.run_leaves, call)
        look = functools.partial(padding_fails, run, contract, leaves, module=self._module, reach=self._code.reach)
        try:
            failure = at_rest(kind, self._target, self._module, look)
        except Exception:  # by the model, which the probe tells
            return False
        if failure is not None:
            self._code.note(f"a saved contract is not used, and calls are probed anew: {failure}")
        return failure is None

    def probe(self, kind: Kind, call: Call, samples: list[Leaves], refusals: Refusals) -> Found:
        """What it finds of a kind of calls like this one. Raises Refused when the model refuses the first sample."""
        raised: list[Exception] = []  # by the model, last

        def run(leaves: Leaves) -> Any:
            try:
                return self.run_leaves(call, leaves)
            except Exception as error:
                raised[:] = [error]
                raise

        draws = PlainDraws(self._target)
        noted = self._first_runs.noted(draws.watched(run), lambda: draws.drawn is None)
        pad = {name: value for name, value in self._pad.items() if name in kind.names}
        batch = self._batch and {
            n: dim for n, dim in self._batch.items() if n not in self._arguments or n in kind.names
        }
        search = functools.partial(
            find, noted, samples, kind.names, module=self._module, pad=pad, batch=batch,
            proof_follows=self._proof_follows, reach=self._code.reach, max_seconds=self._max_seconds,
            threads=not _core.on_worker_thread(),  # else another one waits for what may need this very thread
        )  # fmt: skip
        rest, started = functools.partial(at_rest, kind, self._target, self._module), time.monotonic()
        try:
            found = rest(search)
            if found.contract.refused and not found.contract.serial and same_in_eval(self._target, self._module, call):
                found = rest(lambda: search(blame_mode=False))
            if kind.restless:
                found = unsettled_by_moving(found)
        except Exception as error:
            if not any(error is own for own in raised):
                raise
            raise refusal.Refused(refusals.of_kind(kind, call, error) or error) from None
        finally:
            draws.put_back()
            raised.clear()  # an exception must not be held by the frames that it holds
            kind.probes, kind.probed_seconds = kind.probes + 1, kind.probed_seconds + time.monotonic() - started
        if found.contract.refused:
            raise ValueError(
                f"{found.contract.reason}. Results would depend on other calls or on chance: call model.eval() before "
                "wrapping, or wrap with batch=False for the model's own calls"
            )
        return complete(found, kind, self._module, self._dtype, draws.drawn)
