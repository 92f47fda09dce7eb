"""LitServe's server, one worker behind one HTTP process: `python -m benchmarks.serving.litserver MODEL PORT`."""

import gc
import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.serving.litserve import Packed, pack, unpack
from benchmarks.serving.model import Arrays, Batched, module_of

MAX_BATCH_SIZE = 32
BATCH_TIMEOUT = 0.01  # seconds


class Api(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """Answers batches as they come: nothing is stacked before the model's own padding."""

    def __init__(self, name: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT)
        self._name = name

    def setup(self, device: str) -> None:
        self._run = Batched(module_of(self._name))
        gc.freeze()

    def decode_request(self, request: dict[str, Packed]) -> Arrays:
        return {name: unpack(packed) for name, packed in request.items()}

    def batch(self, inputs: list[Arrays]) -> list[Arrays]:
        return inputs

    def predict(self, x: list[Arrays]) -> list[np.ndarray[Any, Any]]:
        return self._run(x)

    def unbatch(self, output: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        return output

    def encode_response(self, output: np.ndarray[Any, Any]) -> Packed:
        return pack(output)


def main() -> None:
    name, port = sys.argv[1:]
    # The queue that its documentation advises for more than 100 requests a second.
    server = litserve.LitServer(Api(name), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=int(port), log_level="error", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
