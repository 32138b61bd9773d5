"""What regularising the latent space buys: an autoencoder beside a variational one.

Shows: the same net on the same digits with the same two latents, once as the deterministic
autoencoder and once as a VAE: where the codes lie, what random codes decode to, and what lies on the
way from one digit to another. The picture of the README.
Command: make figures
Time: half a minute on 2 cores.
Expected: experiments/pictures/ae_beside_vae.png. The autoencoder's codes spread without scale, with
  holes between them; the VAE's fill the prior, and the way between two digits stays on digits.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import vaejax
from vaejax import experiment, nets
from vaejax.report import figures
from vaejax.run import optimize
from vaejax.types import Array, ElboTerms, Params

PICTURE = Path(__file__).parent / "pictures" / "ae_beside_vae.png"
# Pairs of digits to walk between.
PAIRS = [(0, 1), (2, 7), (3, 6), (4, 9), (5, 8)]
STEPS = 11


def variational(autoencoder: experiment.Experiment, settings: experiment.Settings) -> experiment.Experiment:
    """The same experiment with a Normal posterior, a learned scale of the likelihood, and the KL term."""
    model = nets.mlp(
        autoencoder.dataset.shape,
        settings.latent_size,
        hidden_sizes=settings.hidden_sizes,
        likelihood=nets.heads.learned_normal(),
    )

    def objective(params: Params, key: Array, x: Array) -> ElboTerms:
        return vaejax.elbo(key, x, partial(model.encode, params), partial(model.decode, params))

    return autoencoder._replace(model=model, objective=objective, prior=vaejax.standard_normal.expand((2,)))


def draw_row(figure: Figure, row: int, name: str, trained: experiment.Experiment, params: Params) -> None:
    """Codes of the test set, decoded random codes, and walks between digits."""
    encode, decode = partial(trained.model.encode, params), partial(trained.model.decode, params)
    x, labels = trained.prepare(jax.random.key(0), trained.dataset.test.images), trained.dataset.test.labels
    codes = encode(x).mean
    # Without a prior, the fairest random codes are those of a Normal fitted to the codes.
    fitted = vaejax.MultivariateNormal(jnp.mean(codes, 0), jnp.linalg.cholesky(jnp.cov(codes.T)))
    source, said = (trained.prior, "z ~ p(z)") if trained.prior else (fitted, "z ~ Normal fitted to the codes")
    # The typical image of each digit stands for it: the one whose code is nearest to the median.
    ends = {}
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        distance = jnp.linalg.norm(codes[rows] - jnp.median(codes[rows], axis=0), axis=-1)
        ends[digit] = codes[rows[int(jnp.argmin(distance))]]
    walks = jnp.concatenate([jnp.linspace(ends[a], ends[b], STEPS) for a, b in PAIRS])

    latents, samples, interpolations = (figure.add_subplot(2, 3, 3 * row + column) for column in (1, 2, 3))
    figures.draw_latents(latents, codes, labels, f"{name}: codes of the test set, and the walks")
    for a, b in PAIRS:
        latents.plot(*np.stack([ends[a], ends[b]]).T, color="black", linewidth=0.8, marker="o", markersize=3)
    figures.draw_images(samples, decode(source.sample(jax.random.key(1), (81,))).mean, 9, title=f"{name}: {said}")
    title = f"{name}: walks {', '.join(f'{a} to {b}' for a, b in PAIRS)}"
    figures.draw_images(interpolations, decode(walks).mean, STEPS, title=title)


def main() -> None:
    """Train both and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    module = experiment.load_experiment(str(Path(__file__).parent / "digits_ae.py"))
    settings = module.Settings(epochs=arguments.epochs, latent_size=2)
    autoencoder = module.build(settings)
    figure = Figure(figsize=(13, 8), dpi=110, layout="constrained")
    for row, (name, trained) in enumerate(
        {"autoencoder": autoencoder, "VAE": variational(autoencoder, settings)}.items()
    ):
        draw_row(figure, row, name, trained, optimize(trained, settings).params)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
