"""The two-layer perceptron of a transformer layer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """An MLP with a shortcut and a norm after it."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.reduce = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        for linear in (self.expand, self.reduce):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Float[Tensor, "*_ C"]) -> Float[Tensor, "*_ C"]:
        return self.norm(x + self.reduce(F.relu(self.expand(x), inplace=True)))
