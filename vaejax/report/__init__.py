"""Pictures and pages."""

from vaejax.report import browser, explorer, figures, latent_figures, page

__all__ = ["browser", "explorer", "figures", "latent_figures", "page"]
