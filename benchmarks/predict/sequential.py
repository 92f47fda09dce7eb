"""A plain loop with one caller, on the model and on the wrapped model: `python -m benchmarks.predict.sequential`.

The wrapped loop must not have less throughput, at MiniLM's 256 tokens too.
"""

import argparse

from benchmarks.harness.compare import compare
from benchmarks.harness.contenders import SEQUENTIAL
from benchmarks.run import duration

ROUNDS = {"lstm": 7, "cnn": 7, "documents": 3, "short": 3, "long": 3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    args = parser.parse_args()
    failed = False
    print(f"{'':12}{'plain':>10}{'wrapped':>10}{'throughput':>12}{'difference':>12}")
    for workload in args.workloads:
        results = compare(workload, ["plain", SEQUENTIAL], ROUNDS[workload])
        plain, wrapped = results["plain"], results[SEQUENTIAL]
        if wrapped.failure:
            print(f"{workload:12}failed: {wrapped.failure}")
            failed = True
            continue
        print(
            f"{workload:12}{duration(plain.best):>10}{duration(wrapped.best):>10}"
            f"{plain.best / wrapped.best:>11.2f}x{wrapped.difference:>12.1e}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
