"""MiniLM's forward pass beside other engines and what the machine can do: `python -m benchmarks.graph.forward`.

Texts come tokenised, in the order of their lengths, in batches of 8 padded to their longest. The graph backend gets
such a batch as one call, so that its two workers run whole batches side by side; OpenVINO has two streams, ONNX Runtime
two threads (on two cores). The limit is the fastest of three ways to multiply 1024x1024 matrices on all cores, a packed
one among them (torch.mm's share is shown beside it), and of the model's work only what its real tokens need is
counted: neither padding nor what is not a matrix product.
"""

import argparse
import math
from typing import Any

from benchmarks.graph import gemm
from benchmarks.harness import peers
from benchmarks.harness.compare import Result, compare
from benchmarks.harness.contenders import LABELS
from benchmarks.harness.wanted import Figure, all_good, share, table
from benchmarks.harness.workloads import BATCH, BATCHES, load

OURS = "torchpool-map"
ROUNDS = {"documents": 5, "short": 9}
WANTED_OF_OPENVINO = 0.95
WANTED_OF_GEMM = {"documents": 0.75, "short": 0.85}
MAX_DIFFERENCE = 1e-4


def multiply_adds(config: Any, length: int) -> int:
    """Of one text of so many tokens: four square projections, two of the feed-forward part, attention, the pooler."""
    width, inner = config.hidden_size, config.intermediate_size
    per_token = 4 * width * width + 2 * width * inner + 2 * length * width
    return config.num_hidden_layers * length * per_token + width * width


def work_of(name: str) -> dict[str, Any]:
    """What one pass over the workload has to do."""
    work = load(name + BATCHES)
    lengths = [int(length) for batch in work.items for length in batch["attention_mask"].sum(1)]
    return {
        "texts": len(lengths),
        "tokens": sum(lengths),
        "padded_tokens": sum(batch["input_ids"].numel() for batch in work.items),
        "gflop": sum(2 * multiply_adds(work.model.config, length) for length in lengths) / 1e9,
    }


def measure(name: str, rounds: int | None = None) -> dict[str, Any]:
    """Texts a second of each contender that is installed, from its best pass, and our shares."""
    found: dict[str, Any] = work_of(name)
    missing = {peer: why for peer in peers.PEERS if (why := peers.missing(peer))}
    chosen = ["plain", OURS, *(peer for peer in peers.PEERS if peer not in missing)]
    results = compare(name + BATCHES, [*chosen, *gemm.GEMMS], rounds or ROUNDS[name])
    gemms = {key: gemm.FLOP / results[key].best / 1e9 for key in gemm.GEMMS}
    limit, plain = (
        max((gemms[key] for key in keys if gemms[key] == gemms[key]), default=math.nan)
        for keys in (gemm.GEMMS, gemm.PLAIN)
    )
    contenders = {key: _record(results[key], found["gflop"] / found["texts"], limit) for key in chosen}
    ours = contenders[OURS]
    found |= {
        "rounds": rounds or ROUNDS[name],
        "missing": missing,
        "gemm_gflop_per_s": gemms,
        "contenders": contenders,
        "share_of_gemm": ours["share_of_gemm"],
        "share_of_torch_mm": ours["share_of_gemm"] * limit / plain,
        "largest_difference": ours["largest_difference"],
    }
    for peer in peers.PEERS:
        theirs = contenders.get(peer, {}).get("texts_per_s", float("nan"))
        found[f"share_of_{peer}"] = ours["texts_per_s"] / theirs
    return found


def _record(result: Result, gflop_per_text: float, limit: float) -> dict[str, Any]:
    texts_per_s = BATCH / result.best
    return {
        "texts_per_s": texts_per_s,
        "share_of_gemm": texts_per_s * gflop_per_text / limit,
        "all_passes": result.seconds_per_item,
        "largest_difference": result.difference,
        **({"failure": result.failure} if result.failure else {}),
    }


def describe(found: dict[str, Any]) -> str:
    lines = [f"  {'':34}{'texts/s':>9}{'of GEMM':>9}{'difference':>12}"]
    for key, record in found["contenders"].items():
        if "failure" in record:
            lines.append(f"  {LABELS[key]:34}failed: {record['failure']}")
            continue
        lines.append(
            f"  {LABELS[key]:34}{record['texts_per_s']:9.0f}{record['share_of_gemm']:9.0%}"
            f"{record['largest_difference']:12.1e}"
        )
    lines += [f"  {LABELS[key]:34}{why}" for key, why in found["missing"].items()]
    lines += [f"  {LABELS[key]:34}{speed:9.0f} GFLOP/s" for key, speed in found["gemm_gflop_per_s"].items()]
    return "\n".join(lines)


def figures(name: str, found: dict[str, Any]) -> list[Figure]:
    absent = "no openvino" if "openvino" in found["missing"] else "failed"
    return [
        share(f"{name}: share of OpenVINO's texts/s", found["share_of_openvino"], WANTED_OF_OPENVINO, absent),
        share(f"{name}: share of the machine's GEMM speed", found["share_of_gemm"], WANTED_OF_GEMM[name]),
        share(f"{name}: share of the speed of torch.mm", found["share_of_torch_mm"], math.nan),
        Figure(f"{name}: largest difference from eager", found["largest_difference"], MAX_DIFFERENCE, form="{:.0e}"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    good = True
    for name in args.texts:
        found = measure(name, args.rounds)
        print(f"{name}: {found['texts']} texts, {found['tokens']} tokens ({found['padded_tokens']} padded)")
        print(describe(found), table(figures(name, found)), sep="\n", flush=True)
        good &= all_good(figures(name, found))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
