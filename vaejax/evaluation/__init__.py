"""How good a model is and what its latents do."""

from vaejax.evaluation.latents import active_units, kl_per_axis
from vaejax.evaluation.metrics import LABELS, Estimate, batch_metrics, evaluate, per_example

__all__ = ["LABELS", "Estimate", "active_units", "batch_metrics", "evaluate", "kl_per_axis", "per_example"]
