"""A variational autoencoder with two latents, so that the whole latent space can be looked at.

Shows: the decoded plane at quantiles of the prior, and the posterior means coloured by digit; how
much two numbers can say of a digit, and that classes come apart without a label being seen.
Command: make train EXPERIMENT=digits_vae_2d
Time: 18 seconds on 2 cores, 9 of them training.
Expected: test -ELBO 97.9 +- 0.8 nats: reconstruction 93.0, KL 4.9; both units active.
Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, appendix A.
"""

import dataclasses
from pathlib import Path

from vaejax import experiment

digits_vae = experiment.load_experiment(str(Path(__file__).parent / "digits_vae.py"))


@dataclasses.dataclass(frozen=True)
class Settings(digits_vae.Settings):
    """Those of digits_vae with two latents."""

    epochs: int = 200
    """Passes over the training data."""
    latent_size: int = 2
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""


build = digits_vae.build
