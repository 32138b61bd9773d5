"""What regularising the latent space buys: an autoencoder beside a variational one.

Shows: the same net on the same digits with the same two latents, once as the deterministic
autoencoder and once as a VAE: where the codes lie, what random codes decode to, and what lies on the
way from one digit to another. The picture of the README.
Command: make figures
Time: a minute on 2 cores.
Expected: experiments/pictures/ae_beside_vae.png. The autoencoder's codes spread without scale, with
  holes between them; the VAE's fill the prior. With three seeds, the squared distance from decoded
  random codes to the nearest training digit is 1.4 for the autoencoder and 1.0 for the VAE.
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
from vaejax.program import optimize
from vaejax.report import figures, latent_figures
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

    return autoencoder._replace(
        model=model, objective=objective, prior=lambda params: vaejax.standard_normal.expand((2,))
    )


def codes_and_source(trained: experiment.Experiment, params: Params) -> tuple[Array, vaejax.types.Distribution]:
    """Codes of the test set, and where random codes come from.

    The autoencoder has no prior; the fairest stand-in is a Normal fitted to its codes.
    """
    x = trained.prepare(jax.random.key(0), trained.dataset.test.examples)
    codes = trained.model.encode(params, x).mean
    fitted = vaejax.MultivariateNormal(jnp.mean(codes, 0), jnp.linalg.cholesky(jnp.cov(codes.T)))
    return codes, trained.prior(params) if trained.prior else fitted


def distances(trained: experiment.Experiment, params: Params) -> dict[str, float]:
    """How far decoded codes are from any digit: the squared distance to the nearest training image."""
    codes, source = codes_and_source(trained, params)
    digits = trained.prepare(jax.random.key(0), trained.dataset.train.examples).reshape(-1, 64)

    def distance(z: Array) -> float:
        images = trained.model.decode(params, z).mean.reshape(-1, 1, 64)
        return float(jnp.mean(jnp.min(jnp.sum((images - digits) ** 2, axis=-1), axis=1)))

    first, second = jax.random.randint(jax.random.key(2), (2, 500), 0, len(codes))
    return {
        "random codes": distance(source.sample(jax.random.key(1), (500,))),
        "halfway between two test digits": distance((codes[first] + codes[second]) / 2),
    }


def draw_row(figure: Figure, row: int, name: str, trained: experiment.Experiment, params: Params) -> None:
    """Codes of the test set, decoded random codes, and walks between digits."""
    decode = partial(trained.model.decode, params)
    codes, source = codes_and_source(trained, params)
    labels = trained.dataset.test.labels
    said = "z ~ p(z)" if trained.prior else "z ~ Normal fitted to the codes"
    # The typical image of each digit stands for it: the one whose code is nearest to the median.
    ends = {}
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        distance = jnp.linalg.norm(codes[rows] - jnp.median(codes[rows], axis=0), axis=-1)
        ends[digit] = codes[rows[int(jnp.argmin(distance))]]
    walks = jnp.concatenate([jnp.linspace(ends[a], ends[b], STEPS) for a, b in PAIRS])

    latents, samples, interpolations = (figure.add_subplot(2, 3, 3 * row + column) for column in (1, 2, 3))
    latent_figures.draw_latents(latents, codes, labels, f"{name}: codes of the test set, and the walks")
    for a, b in PAIRS:
        latents.plot(*np.stack([ends[a], ends[b]]).T, color="black", linewidth=0.8, marker="o", markersize=3)
    figures.draw_images(samples, decode(source.sample(jax.random.key(1), (81,))).mean, 9, title=f"{name}: {said}")
    title = f"{name}: walks {', '.join(f'{a} to {b}' for a, b in PAIRS)}"
    figures.draw_images(interpolations, decode(walks).mean, STEPS, title=title)


def main() -> None:
    """Train both from a few seeds, draw the first and print how far each is from digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    module = experiment.load_experiment(str(Path(__file__).parent / "digits_ae.py"))
    figure = Figure(figsize=(14, 8), dpi=110, layout="constrained")
    for seed in range(arguments.seeds):
        settings = module.Settings(epochs=arguments.epochs, latent_size=2, hidden_sizes=(128, 128), seed=seed)
        autoencoder = module.build(settings)
        contestants = {"autoencoder": autoencoder, "VAE": variational(autoencoder, settings)}
        for row, (name, trained) in enumerate(contestants.items()):
            params = optimize(trained, settings).params
            if seed == 0:
                draw_row(figure, row, name, trained, params)
            parts = [f"{what} {value:.2f}" for what, value in distances(trained, params).items()]
            print(f"seed {seed}  {name:<12}squared distance to the nearest training digit: {', '.join(parts)}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
