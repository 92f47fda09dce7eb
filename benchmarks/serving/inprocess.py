"""Layers that batch in the process that calls them: torchpool, the `batched` package, and none at all (the generator's
own cost)."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

from benchmarks.serving.load import Answer, Call
from benchmarks.serving.model import Batched, Served

Client = AbstractAsyncContextManager[Call]  # entered on the event loop that calls


@contextmanager
def echo(served: Served) -> Iterator[Client]:
    """Answers on the loop's next turn with what is expected."""

    async def call(index: int) -> Answer:
        await asyncio.sleep(0)  # as a call that waits, it comes back by way of the event loop
        return served.expected[index]

    yield nullcontext(call)


@contextmanager
def torchpool(served: Served) -> Iterator[Client]:
    """Wrapped with three examples, and no other option."""
    import torchpool

    with torchpool.wrap(served.module, example=served.examples) as predict:
        list(predict.starmap(served.items[:32]))
        predict.ready()
        yield nullcontext(lambda index: predict.acall(**served.items[index]))


@contextmanager
def batched(served: Served, **options: float) -> Iterator[Client]:
    """`batched.aio.dynamically` on a plain function, which it runs in a thread."""
    from batched import aio

    run = Batched(served.module)
    answer = aio.dynamically(run.__call__, **options)
    arrays = served.arrays
    yield nullcontext(lambda index: answer(arrays[index]))
