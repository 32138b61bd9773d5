"""How good a model is and what its latents do."""

from vaejax.distributions import kl_per_axis
from vaejax.evaluation.aggregate import Information, Moments, aggregate_log_density, aggregate_moments, information
from vaejax.evaluation.annealing import Annealed, Bidirectional, annealed_log_likelihood, bidirectional
from vaejax.evaluation.bits import bits_per_dimension
from vaejax.evaluation.disentanglement import Dci, Gap, dci, mutual_information_gap, sap
from vaejax.evaluation.fixed_factor import beta_vae_score, factor_vae_score
from vaejax.evaluation.gaps import Gaps, inference_gaps
from vaejax.evaluation.latents import Collapse, Verdict, active_units, judge_collapse
from vaejax.evaluation.likelihood import LogLikelihood, importance_log_likelihood
from vaejax.evaluation.metrics import LABELS, Estimate, Terms, batch_metrics, estimate, evaluate, per_example, unit_of
from vaejax.evaluation.pareto import pareto_k, pareto_threshold
from vaejax.evaluation.representation import Clustering, Probe, clustering, linear_probe

__all__ = [
    "LABELS",
    "Annealed",
    "Bidirectional",
    "Clustering",
    "Collapse",
    "Dci",
    "Estimate",
    "Gap",
    "Gaps",
    "Information",
    "LogLikelihood",
    "Moments",
    "Probe",
    "Terms",
    "Verdict",
    "active_units",
    "aggregate_log_density",
    "aggregate_moments",
    "annealed_log_likelihood",
    "batch_metrics",
    "beta_vae_score",
    "bidirectional",
    "bits_per_dimension",
    "clustering",
    "dci",
    "estimate",
    "evaluate",
    "factor_vae_score",
    "importance_log_likelihood",
    "inference_gaps",
    "information",
    "judge_collapse",
    "kl_per_axis",
    "linear_probe",
    "mutual_information_gap",
    "pareto_k",
    "pareto_threshold",
    "per_example",
    "sap",
    "unit_of",
]
