"""Sinkhorn-Knopp over prototype scores, and the loss against prototypes."""

from .balance import sinkhorn, sinkhorn_codes

__all__ = ["sinkhorn", "sinkhorn_codes"]
