"""Ray Serve's @serve.batch: one replica, called through its DeploymentHandle, without an HTTP proxy."""

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from benchmarks.harness.machine import usable_cores
from benchmarks.serving.inprocess import Client
from benchmarks.serving.load import IN_FLIGHT, Call
from benchmarks.serving.model import Arrays, Batched, Served, module_of


def application(name: str, max_batch_size: int, batch_wait_timeout_s: float) -> Any:
    from ray import serve

    # By default a replica is given five calls at a time, fewer than a batch holds.
    @serve.deployment(max_ongoing_requests=2 * IN_FLIGHT, ray_actor_options={"num_cpus": usable_cores()})
    class Replica:
        def __init__(self) -> None:
            self._run = Batched(module_of(name))
            gc.freeze()

        @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=batch_wait_timeout_s)
        async def __call__(self, calls: list[Arrays]) -> list[Any]:
            return self._run(calls)

    return Replica.bind()


@asynccontextmanager
async def client(served: Served, max_batch_size: int, batch_wait_timeout_s: float) -> AsyncIterator[Call]:
    """Starts the application on the event loop that calls, which the handle's router may then share."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    app = application(served.name, max_batch_size, batch_wait_timeout_s)
    handle = serve.run(app, route_prefix=None, logging_config={"enable_access_log": False})
    arrays = served.arrays
    yield lambda index: handle.remote(arrays[index])
    await asyncio.to_thread(serve.shutdown)


@contextmanager
def ray_serve(
    served: Served, max_batch_size: int = 10, batch_wait_timeout_s: float = 0.01, throughput: bool = False
) -> Iterator[Client]:
    """`throughput` turns on what its guide to performance has: fewer threads between a call and the replica."""
    os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = str(
        int(throughput)
    )  # read when it is imported, here and in replicas
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            yield client(served, max_batch_size, batch_wait_timeout_s)
        finally:
            ray.shutdown()
