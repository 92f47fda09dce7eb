"""Traps for what few models do: folded numbers of rows, sparse sums, searches, windows, statistics."""

from __future__ import annotations

import torch
from rows_traps import floats, ids, leak, safe
from torch.nn import functional as F

# --- numbers of rows as indices ---------------------------------------------------------------------------------------

leak("lookups", "copies picked as if they were pairs", lambda own, x: torch.cat([x, -x])[
     torch.arange(2 * x.shape[0])].view(-1, 2, 8).sum(1))  # fmt: skip
leak("lookups", "every other of copies", lambda own, x: torch.cat([x, -x])[torch.arange(0, 2 * x.shape[0], 2)])
leak("lookups", "half the number", lambda own, x: x[torch.arange(x.shape[0]) // 2])
leak("lookups", "the number in a table of rows", lambda own, x: F.embedding(torch.arange(x.shape[0]).flip(0), x))
leak("lookups", "an index that is too large by one, wrapped", lambda own, x: x[torch.arange(x.shape[0]) - 1])
leak("lookups", "steps of another row", lambda own, x: x.view(-1, 2, 4).flatten(0, 1)[torch.arange(x.shape[0])])
safe("lookups", "every other of pairs", lambda own, x: x.view(-1, 4)[torch.arange(0, 2 * x.shape[0], 2)])
safe("lookups", "each by its number", lambda own, x: x[torch.arange(x.shape[0])] * 2)

# --- sums over lists --------------------------------------------------------------------------------------------------

leak("lookups", "bags of one less", lambda own, tokens: F.embedding_bag(
     tokens.view(-1), own.table, torch.arange(tokens.shape[0]) * 5), calls=ids())  # fmt: skip
leak("lookups", "bags of one", lambda own, tokens: F.embedding_bag(
     tokens.view(-1), own.table, torch.arange(tokens.shape[0])), calls=ids())  # fmt: skip
leak("writes", "reduced among rows", lambda own, x: x.scatter_reduce(0, torch.zeros_like(x).long(), x, "amax"))
leak("writes", "put by a flat place", lambda own, x: x.put((x > 0).long(), x * 2))
leak("writes", "a diagonal of rows", lambda own, x: torch.zeros(x.shape[0], x.shape[0]).scatter(
     1, torch.arange(x.shape[0])[:, None], 1.0).cumsum(0) @ x)  # fmt: skip
safe("lookups", "bags", lambda own, tokens: F.embedding_bag(tokens, own.table), calls=ids())

# --- searches and statistics ------------------------------------------------------------------------------------------

leak("reductions", "in the list of all", lambda own, x: torch.isin((x * 2).round(), (x * 2).round().T[0]).float())
leak("reductions", "between the bounds of rows", lambda own, x: torch.bucketize(x, x[:, 0].sort()[0]).float())
leak("reductions", "counted over all", lambda own, x: torch.histc(x.sigmoid(), 4, 0, 1)[(x > 0).long()])
leak("reductions", "norms of columns", lambda own, x: torch.renorm(x, 2, 1, 1.0))
leak("reductions", "the length of all", lambda own, x: x / torch.linalg.vector_norm(x))
leak("reductions", "whether any is not a number", lambda own, x: torch.where(x.isnan().any(), torch.zeros_like(x), x))
leak("reductions", "differences of rows", lambda own, x: x + torch.diff(x, dim=0, prepend=x[:1]))
leak("reductions", "the count of what is not zero", lambda own, x: x / (1 + (x > 0).count_nonzero()))
leak("reductions", "a spread over rows and columns", lambda own, x: x - torch.logsumexp(x, (0, 1)))
leak("products", "likeness of each with each", lambda own, x: F.cosine_similarity(x[:, None], x[None], dim=-1).sum(1))
safe("reductions", "norms of rows", lambda own, x: F.normalize(x) + torch.linalg.vector_norm(x, dim=1, keepdim=True))
safe("reductions", "differences within", lambda own, x: torch.diff(x, dim=1))

# --- layers over other dims -------------------------------------------------------------------------------------------

leak("layers", "the grid of another row", lambda own, x: F.grid_sample(
     x.view(-1, 1, 2, 4), x.tanh().flip(0).view(-1, 2, 2, 2), align_corners=False))  # fmt: skip
leak("layers", "channels of all shuffled", lambda own, x: F.channel_shuffle(x.view(1, -1, 4, 1), 2).view(-1, 8))
leak("layers", "a deeper pool", lambda own, x: F.max_pool2d(x[None], 3, 1, 1)[0])
leak("layers", "adaptive over rows", lambda own, x: x - F.adaptive_avg_pool1d(x.T, 1).T)
leak("layers", "a bilinear form of neighbours", lambda own, x: F.bilinear(x, x.roll(1, 0), own.table.view(8, 8, 8)))
safe("layers", "the grid of its own", lambda own, x: F.grid_sample(
     x.view(-1, 1, 2, 4), x.tanh().view(-1, 2, 2, 2), align_corners=False))  # fmt: skip
safe("layers", "pixels of each", lambda own, x: F.pixel_shuffle(x.view(-1, 4, 1, 2), 2))
safe("layers", "windows of each", lambda own, x: F.unfold(x.view(-1, 1, 4, 4), 2), calls=floats(16))
