"""Whether results keep their bits in any company, and what that costs: `python -m benchmarks.invariant`.

Of each model every item is first answered alone, by one worker. Then come mixes: some items by chance, in any order, by
map, by submit and from several threads at once, with 1 to 4 workers. Each result is compared with the lone one, bit by
bit. For comparison some mixes go the same way through a predictor of the default mode. The cost is told as the time of
a map over all items beside that of the default mode, in turn, in one process; and that of a lone call.
"""

import argparse
import contextlib
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

import torchpool
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report
from benchmarks.peers.models import MODELS, Item, Model

NAMES = ("mixed", "lstm", "cnn", "small vit")
WORKERS = (1, 2, 3, 4)
ITEMS = 48
ROUNDS = 7
DEFAULT_MIXES = 1 / 20  # of the mixes, in the default mode


def small_vit() -> Model:
    """Of 4 layers on 64 x 64: a graph of 12 with weights by chance is not within 1e-5 of the module at 5 rows."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (
            ViTForImageClassification(ViTConfig(image_size=64, patch_size=16, **sizes)).eval().requires_grad_(False)
        )
    generator = torch.Generator().manual_seed(1)
    items = [(torch.randn(1, 3, 64, 64, generator=generator),) for _ in range(ITEMS)]
    return Model("ViT, 4 layers, 64 x 64", Logits(module), items, ("x",))


class Logits(nn.Module):
    """Those of an image classifier."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(pixel_values=pixel_values).logits
        return found


ALL: dict[str, Callable[[], Model]] = {**MODELS, "small vit": small_vit}


def differing(found: torch.Tensor, wanted: torch.Tensor) -> int:
    """How many elements have other bits."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return max(found.numel(), wanted.numel())
    as_bits = [tensor.contiguous().view(torch.uint8).reshape(tensor.numel(), -1) for tensor in (found, wanted)]
    return int((as_bits[0] != as_bits[1]).any(-1).sum())


def by_map(predict: Any, items: Sequence[Item]) -> list[torch.Tensor]:
    return list(predict.map(*zip(*items, strict=True)))


def by_submit(predict: Any, items: Sequence[Item]) -> list[torch.Tensor]:
    futures = [predict.submit(*item) for item in items]
    return [future.result() for future in futures]


def by_threads(predict: Any, items: Sequence[Item]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda item: predict(*item), items))


WAYS: tuple[Callable[[Any, Sequence[Item]], list[torch.Tensor]], ...] = (by_map, by_submit, by_threads)


def mix(predict: Any, items: Sequence[Item], alone: Sequence[torch.Tensor], draw: random.Random) -> int:
    """How many elements of one mix's results have other bits than alone."""
    chosen = [draw.randrange(len(items)) for _ in range(draw.randint(2, 12))]
    found = draw.choice(WAYS)(predict, [items[number] for number in chosen])
    return sum(differing(result, alone[number]) for number, result in zip(chosen, found, strict=True))


def items_of(model: Model) -> list[Item]:
    """Some, of which many are of equal lengths."""
    by_size = sorted(model.items, key=lambda item: item[0].shape[1])
    return by_size[:ITEMS]


def measure(name: str, mixes: int) -> dict[str, Any]:
    """The figures of one model."""
    model = ALL[name]()
    items = items_of(model)
    draw = random.Random(name)
    found: dict[str, Any] = {"title": model.title, "mixes": 0, "bits": 0, "default_bits": 0, "default_mixes": 0}
    alone: list[torch.Tensor] = []
    for workers in WORKERS:
        with contextlib.closing(torchpool.Runtime(workers)) as runtime:
            predict = torchpool.wrap(model.module, invariant=True, runtime=runtime)
            predict(*items[0])
            if not alone:
                found["notes"] = predict.explain().notes
                alone = [predict(*item).clone() for item in items]
            for _ in range(mixes // len(WORKERS)):
                found["bits"] += mix(predict, items, alone, draw)
                found["mixes"] += 1
            predict.close()
            plain = torchpool.wrap(model.module, runtime=runtime)
            plain(*items[0])
            plain.ready()
            own = [plain(*item).clone() for item in items]
            for _ in range(int(mixes // len(WORKERS) * DEFAULT_MIXES)):
                found["default_bits"] += mix(plain, items, own, draw)
                found["default_mixes"] += 1
            plain.close()
    return found | costs(model, items)


def costs(model: Model, items: Sequence[Item]) -> dict[str, float]:
    """Times of the invariant mode, in those of the default mode."""
    many = list(items) * max(1, 400 // len(items) if model.items[0][0].numel() < 10_000 else 1)
    ratios: dict[str, list[float]] = {"map": [], "alone": []}
    with torchpool.wrap(model.module, invariant=True) as invariant, torchpool.wrap(model.module) as plain:
        for predict in (invariant, plain):
            predict(*items[0])
            predict.ready()
            by_map(predict, many)

        def seconds(run: Callable[[], Any]) -> float:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start

        for number in range(ROUNDS):
            order = (invariant, plain) if number % 2 else (plain, invariant)
            maps = {predict: seconds(lambda p=predict: by_map(p, many)) for predict in order}  # type: ignore[misc]
            lone = {
                predict: seconds(lambda p=predict: [p(*item) for item in items])  # type: ignore[misc]
                for predict in order
            }
            ratios["map"].append(maps[invariant] / maps[plain])
            ratios["alone"].append(lone[invariant] / lone[plain])
    return {f"{way}_cost": statistics.median(found) for way, found in ratios.items()}


def main() -> int:
    """Prints the figures; the exit code says whether no bit differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=10_000, help="of all models together")
    parser.add_argument("--models", nargs="+", choices=sorted(ALL), default=list(NAMES))
    given = parser.parse_args()
    print(f"{torch.backends.cpu.get_cpu_capability()}, linear layers by {torchpool._core.linear_isa()}")
    figures: list[Figure] = []
    for name in given.models:
        found = in_fresh_process(measure, name, given.mixes // len(given.models))
        for note in found["notes"]:
            print(f"{found['title']}: {note}")
        title = found["title"]
        figures += [
            Figure(f"{title}: elements that differ, {found['mixes']:,} mixes", found["bits"], 0, form="{:,.0f}"),
            Figure(
                f"  the same by default, {found['default_mixes']:,} mixes", found["default_bits"], float("nan"),
                form="{:,.0f}",
            ),
            Figure("  time of a map, in that of the default", found["map_cost"], float("nan")),
            Figure("  time of a lone call, in that of the default", found["alone_cost"], float("nan")),
        ]  # fmt: skip
    return report(figures)


if __name__ == "__main__":
    raise SystemExit(main())
