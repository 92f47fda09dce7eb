"""Models whose rows meet, lifted so that calls share batches: `python -m benchmarks.lifting`.

The module serves 8 or 32 calls one by one, as it must; the lifted graph runs them as one batch, by the interpreter that
serves. Both have one thread, as each worker has, and alternate in one process; the best of many rounds counts. The
largest difference is from the calls alone, as a part of their largest value.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.models import build
from benchmarks.harness.wanted import Figure, report

CALLS = (8, 32)
WANTED_SPEEDUP = 2.0
MAX_DIFFERENCE = 1e-5
ROUNDS = {"bert": 5, "experts": 50, "quantised": 50}
TOKENS = 16


class ScaledLinear(nn.Linear):
    """On an input that is brought to the range of the whole tensor, as for a narrow type with one scale."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max() + 1e-6
        return super().forward(x / scale) * scale


def bert() -> tuple[nn.Module, Callable[[int], Tensor]]:
    """Six layers with 37 linear layers, each on a scale of its own."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = build(lambda: BertModel(config))
    for part in model.modules():
        if type(part) is nn.Linear:
            part.__class__ = ScaledLinear
    return model, lambda seed: torch.randint(1, 1000, (1, TOKENS), generator=torch.Generator().manual_seed(seed))


class Experts(nn.Module):
    """Each takes its share of the tokens; those beyond pass by unchanged."""

    def __init__(self, count: int = 4, width: int = 16) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        chosen = nn.functional.one_hot(self.gate(tokens).argmax(-1), len(self.experts))
        place = (chosen.cumsum(0) - 1) * chosen
        kept = chosen * (place < math.ceil(tokens.shape[0] / len(self.experts)))
        out = tokens
        for number, expert in enumerate(self.experts):
            out = out + kept[:, number : number + 1] * expert(tokens)
        return out.view_as(x)


def experts() -> tuple[nn.Module, Callable[[int], Tensor]]:
    return build(Experts), lambda seed: torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(seed))


class Quantised(nn.Module):
    """Activations rounded to int8 steps of the whole tensor's range."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(100, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids).mean(1)
        step = h.abs().max() / 127
        return self.head((h / step).round() * step)


def quantised() -> tuple[nn.Module, Callable[[int], Tensor]]:
    return build(Quantised), lambda seed: torch.randint(1, 100, (1, 6), generator=torch.Generator().manual_seed(seed))


MODELS = {"bert": bert, "experts": experts, "quantised": quantised}
TITLES = {"bert": "BERT-6 with 37 scales", "experts": "experts with a capacity", "quantised": "one quantised layer"}


def lifted(model: nn.Module, call: Tensor) -> tuple[Any, str]:
    """The lifted graph of a model's calls like this one, and what is known of its rows."""
    from torchpool import _core
    from torchpool.capture import Source, capture_elsewhere
    from torchpool.contract.probe import find

    def run(leaves: list[Tensor]) -> Any:
        with torch.no_grad():
            return model(*leaves)

    candidate = find(run, [[call]], ["x"], module=model).candidate
    assert candidate is not None
    programs = capture_elsewhere(Source.of(model, model, ((call,), {}), [[call]], candidate, proof_needed=True))
    assert programs.rows.verdict.kind == "lifted" and programs.rows.call_rows == 1
    bound = programs.bound(model)
    return _core.GraphBackend(bound.packed, bound.plain), programs.rows.verdict.text


def times(name: str) -> dict[str, Any]:
    """Milliseconds for so many calls, each way."""
    model, draw = MODELS[name]()
    graph, text = lifted(model, draw(0))
    torch.set_num_threads(1)
    found: dict[str, Any] = {"text": text}
    with torch.inference_mode():
        for count in CALLS:
            calls = [draw(seed) for seed in range(count)]
            batch = torch.cat(calls)
            ways: dict[str, Callable[[], Any]] = {
                "alone": lambda calls=calls: [_first(model(call)) for call in calls],
                "lifted": lambda batch=batch: graph.run([batch])[0],
            }
            together, alone = ways["lifted"](), torch.cat(ways["alone"]())
            found[f"difference_{count}"] = float((together - alone).abs().max() / alone.abs().max())
            best = dict.fromkeys(ways, math.inf)
            for _ in range(ROUNDS[name]):
                for way, run in ways.items():
                    start = time.perf_counter()
                    run()
                    best[way] = min(best[way], time.perf_counter() - start)
            found |= {f"{way}_ms_{count}": seconds * 1e3 for way, seconds in best.items()}
    return found


def _first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else next(iter(result.values()))


def measure() -> dict[str, dict[str, Any]]:
    return {name: in_fresh_process(times, name) for name in MODELS}


def describe(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"  {'ms for 8 and 32 calls':28}{'alone':>18}{'lifted':>18}{'times faster':>18}"]
    for name, record in found.items():
        alone, together = ([record[f"{way}_ms_{count}"] for count in CALLS] for way in ("alone", "lifted"))
        ratios = [one / other for one, other in zip(alone, together, strict=True)]
        columns = [" / ".join(f"{value:.2f}" for value in column) for column in (alone, together, ratios)]
        lines += [f"  {TITLES[name]:28}" + "".join(f"{column:>18}" for column in columns), f"    {record['text']}"]
    return "\n".join(lines)


def figures(found: dict[str, dict[str, Any]]) -> list[Figure]:
    made = []
    for name, record in found.items():
        for count in CALLS:
            speedup = record[f"alone_ms_{count}"] / record[f"lifted_ms_{count}"]
            made.append(Figure(f"{TITLES[name]}, {count} calls: times faster", speedup, WANTED_SPEEDUP, at_least=True))
        worst = max(record[f"difference_{count}"] for count in CALLS)
        made.append(Figure(f"{TITLES[name]}: largest difference", worst, MAX_DIFFERENCE, form="{:.0e}"))
    return made


def main() -> int:
    found = measure()
    print(describe(found), flush=True)
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
