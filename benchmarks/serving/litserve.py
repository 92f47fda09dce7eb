"""The client of LitServe, which speaks HTTP only: connections are kept alive, and tensors travel as base64 in JSON,
which costs far less than lists of numbers."""

import asyncio
import base64
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np

from benchmarks.serving.inprocess import Client
from benchmarks.serving.load import IN_FLIGHT, Answer, Call
from benchmarks.serving.model import Served

START = 60.0  # seconds until the server has to answer

Packed = dict[str, Any]


def pack(array: np.ndarray[Any, Any]) -> Packed:
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": array.shape, "data": data}


def unpack(packed: Packed) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(bytearray(base64.b64decode(packed["data"])), packed["dtype"])  # writable, as torch wants it
    return flat.reshape(packed["shape"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def client(served: Served, server: "subprocess.Popen[bytes]", port: int) -> AsyncIterator[Call]:
    import aiohttp

    requests = [{name: pack(array) for name, array in call.items()} for call in served.arrays]
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2 * IN_FLIGHT)) as session:
        start = time.monotonic()
        while not await _healthy(session, url):
            if server.poll() is not None:
                raise RuntimeError(f"the server ended with code {server.returncode} before it answered")
            if time.monotonic() - start > START:
                raise TimeoutError(f"the server did not answer within {START:g} s")
            await asyncio.sleep(0.1)

        async def call(index: int) -> Answer:
            async with session.post(f"{url}/predict", json=requests[index]) as response:
                response.raise_for_status()
                return unpack(await response.json())

        yield call


async def _healthy(session: Any, url: str) -> bool:
    import aiohttp

    try:
        async with session.get(f"{url}/health") as response:
            return bool(response.status == 200)
    except aiohttp.ClientConnectionError:
        return False


@contextmanager
def litserve(served: Served) -> Iterator[Client]:
    """The server's processes end with it, or at the latest when the benchmark ends this process's descendants."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.litserver", served.name, str(port)], stdout=sys.stderr
    )
    try:
        yield client(served, server, port)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
