"""Modules for the tests: TorchScript reads their source, so they live in a file."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Four features to three scores."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, hidden)
        self.last = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Words(nn.Module):
    """Token ids to embeddings: integers stay integers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(dim=1)


class Pair(nn.Module):
    """Two inputs, one of them by keyword in the exported program; two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": (x + y) * self.scale, "product": x * y}


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            raise RuntimeError("a fault of the model's own")
        return x
