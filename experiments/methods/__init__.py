"""Every method of the README's table, trained on the digits with one small net and compared.

Shows: that each published method is one expression of the building blocks, and what it does: how well test digits
are reconstructed, a bound on ln p(x) where the model has one, and what it generates. A deterministic autoencoder has
no prior, so a mixture of Normals is fitted to its codes afterwards.
Command: make methods; for some of them: python -m experiments.methods --only VAE IWAE --steps 500
Time: 13 minutes on 2 cores that other work shared.
Expected: experiments/methods/RESULTS.md, and the picture experiments/pictures/methods.png.
"""

from .codes import codes
from .core import Method
from .grid import bounds, likelihoods, penalties, priors_and_posteriors
from .players import players
from .structured import structured


def methods() -> dict[str, Method]:
    """All of them, in the order of the table."""
    return penalties() | players() | bounds() | priors_and_posteriors() | likelihoods() | codes() | structured()
