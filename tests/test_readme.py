"""Every block of the README runs, in order, as a reader would run them."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from experiments import methods
from tests.tiers import slow_but

ROOT = Path(__file__).parent.parent


def test_every_block_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_every_file_that_it_names_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"EXPERIMENT=(\w+)", text):
        assert name == "name" or (ROOT / "experiments" / f"{name}.py").is_file(), name


SIZE, LATENT = 6, 8


def namespace_of_the_table():
    """Small things with the names of the table: an encoder of eight latents, a decoder of 8x8 digits, and so on."""
    keys, random = iter(jax.random.split(jax.random.key(0), 3)), np.random.default_rng(0)
    vectors = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    x = jnp.asarray(random.integers(0, 17, (SIZE, 8, 8, 1)))
    up, down = 0.01 * vectors(64, LATENT), 0.3 * vectors(LATENT, 64 * 17)
    mean = lambda x: x.reshape(len(x), 64) @ up
    raw = lambda z: (z.reshape(*z.shape[:-1], LATENT) @ down).reshape(*z.shape[:-1], 8, 8, 1, 17)
    q, d = lambda x: vaejax.Normal(mean(x), 0.5), lambda x: vaejax.Delta(mean(x))
    px = lambda z: vaejax.Categorical(raw(z), 3)
    key = jax.random.key(1)
    flow = lambda make: make(next(keys), LATENT)
    normals = vaejax.Normal(vectors(5, LATENT), 1.0)
    top = lambda above, p: vaejax.Normal(mean(x)[:, :2], 0.5)
    return vars(vaejax) | {
        "A": partial(vaejax.autoencode, key, x), "E": partial(vaejax.elbo, key, x),
        "I": partial(vaejax.importance_bound, key, x), "key": key, "x": x, "q": q, "d": d, "px": px,
        "p0": vaejax.standard_normal, "N": 1437, "frozen_q": q, "frozen_px": px, "multiplier": 2.0,
        "D": lambda z: z.sum(-1), "features": lambda x: x.reshape(SIZE, 64) / 16.0, "vmap": jax.vmap,
        "pseudo_inputs": x[:3], "weights": jnp.zeros(5), "normals": normals,
        "base": vaejax.standard_normal.expand((LATENT,)), "coupling": flow(vaejax.coupling_flow),
        "maf": flow(vaejax.masked_autoregressive_flow), "iaf": flow(vaejax.inverse_autoregressive_flow),
        "planar": vaejax.Planar(vectors(SIZE, LATENT), vectors(SIZE, LATENT), vectors(SIZE)),
        "radial": vaejax.Radial(vectors(SIZE, LATENT), vectors(SIZE), vectors(SIZE)),
        "loc": mean(x), "scale_tril": 0.5 * jnp.eye(LATENT), "concentration": jnp.full(SIZE, 3.0), "step_size": 0.1,
        "log_joint": lambda z: px(z).log_prob(x) + vaejax.standard_normal.log_prob(z),
        "logits": vectors(SIZE, 2, 4), "uniform": jnp.zeros((2, 4)), "px_relaxed": lambda z: px(z.reshape(SIZE, 8)),
        "centre": lambda z: 8 + raw(z)[..., 0], "width": 2.0,
        "centres": lambda z: 8 + raw(z)[..., :3], "widths": 2.0 * jnp.ones(3), "log_rate": lambda z: raw(z)[..., 0],
        "rate": lambda z: jnp.exp(raw(z)[..., 0]), "dispersion": 2.0, "codebook": vectors(7, LATENT),
        "average": vectors(7, LATENT), "codebooks": vectors(2, 7, LATENT), "levels": (5,) * LATENT,
        "priors": [lambda above: vaejax.standard_normal, lambda above: vaejax.Normal(jnp.tile(above[0], (1, 3)), 1.0)],
        "q_layers": lambda x: [top, lambda above, p: vaejax.Normal(mean(x)[:, :6], 0.5)],
        "px_layers": lambda z: px(jnp.concatenate(z, axis=-1)), "y": jnp.arange(SIZE) % 3 - 1,
        "all_labels": jnp.arange(3), "q_of": lambda x, y: vaejax.Normal(mean(x) + jnp.mean(y), 0.5),
        "px_of": lambda z, y: px(z + jnp.mean(y)), "classify": lambda x: mean(x)[:, :3], "observed": x > 3,
    }  # fmt: skip


def rows_of_the_table():
    text = (ROOT / "README.md").read_text()
    return re.findall(r"^\| ([^|]+) \| `([^|`]+)` \| [^|]+ \|", text, flags=re.MULTILINE)


def test_the_table_is_that_of_the_methods():
    found = []
    # Traced, since some make arrays, and none is looked at.
    jax.eval_shape(lambda: found.extend((name, method.expression) for name, method in methods.methods().items()))
    assert rows_of_the_table() == found
    results = (ROOT / "experiments" / "methods" / "RESULTS.md").read_text()
    table = [line for line in results.splitlines() if line.startswith("|")]
    assert "\n".join(table) in (ROOT / "README.md").read_text()


# A row of each kind.
QUICK = {
    "VAE",
    "beta-TC-VAE",
    "AAE, WAE-GAN",
    "PIWAE",
    "VampPrior",
    "planar posterior",
    "logistic mixture",
    "FSQ",
    "M2",
}


@pytest.mark.parametrize(
    "name", slow_but(QUICK, [name for name, _ in rows_of_the_table()], "another row of the same kind")
)
def test_every_expression_of_the_table_runs(name):
    expression = dict(rows_of_the_table())[name]

    @jax.jit
    def values():
        namespace = namespace_of_the_table()
        if "weights(z)" in expression:
            namespace["weights"] = lambda z: jnp.zeros((*z.shape[:-1], 8, 8, 1, 3))
        results = eval(expression, namespace)
        return [terms.value for terms in (results if type(results) is tuple else [results])]

    with jax.debug_key_reuse(False):  # one key for all of a row's calls
        for value in values():
            assert value.shape == (SIZE,)
            assert np.all(np.isfinite(value))
