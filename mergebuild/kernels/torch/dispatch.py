"""All operations that torch has a kernel for: importing this registers them."""

from __future__ import annotations

from mergebuild.kernels.torch import matrices, order_statistics, place_maps, place_statistics
from mergebuild.kernels.torch.maps import write
from mergebuild.kernels.torch.statistics import gather

__all__ = ["gather", "matrices", "order_statistics", "place_maps", "place_statistics", "write"]
