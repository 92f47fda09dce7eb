"""Ray Serve's @serve.batch: one replica, called through its DeploymentHandle, without an HTTP proxy."""

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from benchmarks.machine import usable_cores
from benchmarks.serving_inprocess import Client
from benchmarks.serving_load import IN_FLIGHT
from benchmarks.serving_model import Arrays, Batched, Served, module_of


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


@contextmanager
def ray_serve(served: Served, max_batch_size: int = 10, batch_wait_timeout_s: float = 0.01) -> Iterator[Client]:
    import ray
    from ray import serve

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
            serve.start(proxy_location="Disabled")
            handle = serve.run(application(served.name, max_batch_size, batch_wait_timeout_s), route_prefix=None)
            arrays = served.arrays
            yield nullcontext(lambda index: handle.remote(arrays[index]))
            serve.shutdown()
        finally:
            ray.shutdown()
