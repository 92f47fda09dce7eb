"""More functions of padded calls, see pads_traps: about places, layers and products."""

from __future__ import annotations

import torch
from pads_traps import leak, places, safe, sometimes
from torch.nn import functional as F

# --- places -----------------------------------------------------------------------------------------------------------

leak("places", "from the end", lambda own, x, mask, ids: x + own.table[x.shape[1] - 1 - places(x)])
leak("places", "shares of the length", lambda own, x, mask, ids: x * (places(x) / x.shape[1])[:, None])
leak("places", "nearly equally far apart", lambda own, x, mask, ids: x + (places(x) / (x.shape[1] + 1))[:, None])
leak("places", "scaled by the length", lambda own, x, mask, ids: x * x.shape[1])
leak("places", "filled with the length", lambda own, x, mask, ids: torch.full_like(x[:, 0], x.shape[1]))
leak("places", "the last places of a table", lambda own, x, mask, ids: x + own.table[-x.shape[1] :])
leak("places", "the last place", lambda own, x, mask, ids: own.linear(x)[:, -1])
leak("places", "the place in the middle", lambda own, x, mask, ids: own.linear(x)[:, x.shape[1] // 2])
leak("places", "turned around", lambda own, x, mask, ids: own.linear(x).flip(1))
leak("places", "turned around and back in a sum", lambda own, x, mask, ids: own.linear(x) + own.linear(x).flip(1))
leak("places", "rolled", lambda own, x, mask, ids: x.roll(1, 1))
leak(
    "places",
    "the place of the first zero",
    lambda own, x, mask, ids: x[torch.arange(x.shape[0]), (mask == 0).int().argmax(1)],
)
leak("places", "the place of the least", lambda own, x, mask, ids: x[torch.arange(x.shape[0]), mask.argmin(1)])
leak("places", "summed from the end", lambda own, x, mask, ids: x.flip(1).cumsum(1).flip(1))
leak("places", "sorted", lambda own, x, mask, ids: own.linear(x).sort(1).values)
leak("places", "the two largest", lambda own, x, mask, ids: own.linear(x).topk(1, 1).values)
leak("places", "read as other places", lambda own, x, mask, ids: x.transpose(1, 2).reshape(x.shape))
leak("places", "something behind", lambda own, x, mask, ids: torch.cat([x, x[:, :1]], 1))
leak("places", "an eye", lambda own, x, mask, ids: x + torch.eye(x.shape[1])[:, -1][None, :, None])
sometimes(
    "places", "a counted last place", lambda own, x, mask, ids: x[torch.arange(x.shape[0]), (mask != 0).sum(1) - 1]
)
sometimes(
    "places",
    "gathered",
    lambda own, x, mask, ids: own.linear(x).gather(1, ((mask != 0).sum(1) - 1)[:, None, None].expand(x.shape[0], 1, 8)),
)
safe("places", "the first place", lambda own, x, mask, ids: own.linear(x)[:, 0])
safe("places", "a table", lambda own, x, mask, ids: x + own.table[: x.shape[1]])
safe("places", "by number", lambda own, x, mask, ids: x + own.table[places(x)])
safe(
    "places",
    "something before",
    lambda own, x, mask, ids: torch.cat([own.table[:2].expand(x.shape[0], 2, 8), own.linear(x)], 1),
)
safe("places", "all but the first", lambda own, x, mask, ids: own.linear(x)[:, 1:])
safe("places", "summed so far", lambda own, x, mask, ids: own.linear(x).cumsum(1))
safe("places", "tokens in a row", lambda own, x, mask, ids: own.linear(x.reshape(-1, 8)).view(x.shape))
safe(
    "places",
    "the largest id's place",
    lambda own, x, mask, ids: (x + own.words(ids))[torch.arange(x.shape[0]), ids.argmax(1)],
)
safe(
    "places",
    "the last that is not masked",
    lambda own, x, mask, ids: x[torch.arange(x.shape[0]), (places(x) * (mask != 0)).argmax(1)],
)
safe("places", "words", lambda own, x, mask, ids: own.words(ids))

# --- layers -----------------------------------------------------------------------------------------------------------

leak("layers", "the last state", lambda own, x, mask, ids: own.gru(x)[1])
leak("layers", "both ways", lambda own, x, mask, ids: own.both(x)[0])
leak("layers", "a convolution", lambda own, x, mask, ids: own.conv(x.transpose(1, 2)).transpose(1, 2))
leak(
    "layers",
    "a convolution of masked ones, twice",
    lambda own, x, mask, ids: own.conv(own.conv((x * mask.unsqueeze(2)).transpose(1, 2))),
)
leak(
    "layers",
    "in steps of two",
    lambda own, x, mask, ids: F.conv1d(x.transpose(1, 2), own.valid.weight, stride=2, padding=2),
)
leak("layers", "a pool", lambda own, x, mask, ids: F.adaptive_avg_pool1d(x.transpose(1, 2), 1))
leak("layers", "windows", lambda own, x, mask, ids: F.avg_pool1d(own.linear(x).transpose(1, 2), 3, 1, 1))
leak("layers", "a norm of planes", lambda own, x, mask, ids: F.instance_norm(x.transpose(1, 2)))
leak("layers", "a norm of groups", lambda own, x, mask, ids: F.group_norm(x.transpose(1, 2), 2))
leak("layers", "a norm over the length", lambda own, x, mask, ids: F.normalize(own.linear(x), dim=1))
leak("layers", "zeros behind", lambda own, x, mask, ids: F.pad(own.linear(x), (0, 0, 0, 1)))
leak("layers", "a product over the length", lambda own, x, mask, ids: own.linear(x).transpose(1, 2) @ own.linear(x))
leak(
    "layers",
    "a product with half a mask",
    lambda own, x, mask, ids: torch.einsum("bld,ble->bde", own.linear(x) * (mask + 0.5).unsqueeze(2), own.linear(x)),
)
safe("layers", "states", lambda own, x, mask, ids: own.gru(x)[0])
safe("layers", "the first state", lambda own, x, mask, ids: own.gru(x)[0][:, 0])
safe(
    "layers",
    "a convolution of masked ones",
    lambda own, x, mask, ids: own.conv((x * mask.unsqueeze(2)).transpose(1, 2)).transpose(1, 2),
)
safe(
    "layers",
    "masked between convolutions",
    lambda own, x, mask, ids: own.conv(own.conv((x * mask.unsqueeze(2)).transpose(1, 2)) * mask.unsqueeze(1)),
)
safe("layers", "a causal convolution", lambda own, x, mask, ids: own.valid(F.pad(x.transpose(1, 2), (2, 0))))
safe("layers", "norms", lambda own, x, mask, ids: own.norm(x) + own.bn(x.transpose(1, 2)).transpose(1, 2))
safe("layers", "a norm of features", lambda own, x, mask, ids: F.normalize(own.linear(x), dim=2))
safe("layers", "a root mean square", lambda own, x, mask, ids: x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))
safe("layers", "zeros behind zeros", lambda own, x, mask, ids: F.pad(x * mask.unsqueeze(2), (0, 0, 0, 1)))
safe(
    "layers",
    "a product over the masked",
    lambda own, x, mask, ids: torch.einsum("bld,ble->bde", own.linear(x) * mask.unsqueeze(2), own.linear(x)),
)
safe("layers", "linear without a bias", lambda own, x, mask, ids: own.flat(x * mask.unsqueeze(2)).sum(1))
