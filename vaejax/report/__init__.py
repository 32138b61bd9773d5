"""Pictures of a run."""

from vaejax.report import figures

__all__ = ["figures"]
