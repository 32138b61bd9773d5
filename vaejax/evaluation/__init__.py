"""How good a model is and what its latents do."""

from vaejax.distributions import kl_per_axis
from vaejax.evaluation.bits import bits_per_dimension
from vaejax.evaluation.latents import active_units
from vaejax.evaluation.metrics import LABELS, Estimate, Terms, batch_metrics, estimate, evaluate, per_example

__all__ = [
    "LABELS",
    "Estimate",
    "Terms",
    "active_units",
    "batch_metrics",
    "bits_per_dimension",
    "estimate",
    "evaluate",
    "kl_per_axis",
    "per_example",
]
