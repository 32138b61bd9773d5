"""The beta-VAE family on dSprites, scored by the factors that are known."""

from .tables import Claim, Row, Size, Table


def _row(label: str, method: str, weight: float) -> Row:
    return Row(label, "dsprites_vae", {"method": method, "weight": weight})


TABLE = Table(
    title="Disentanglement on dSprites",
    source="Locatello et al. 2019, Challenging Common Assumptions in the Unsupervised Learning of Disentangled "
    "Representations, which shows the scores of many seeds and weights in figures; the methods' papers are those "
    "that the experiment's file names.",
    recipe="dSprites, or the part of it that is there: the data of a row say which. 10 latents, one weight of the "
    "study's six for each method. The mutual information gap is that of the study: means of the posteriors in 20 bins, "
    "all factors. `full` has the study's optimizers and its 300,000 steps on convolutions of 32, 32, 64 and 64 "
    "channels; `quick` has layers of 200, and Adam at 1e-3 with cosine decay on batches of 32.",
    rows={
        "vae": _row("VAE", "vae", 1.0),
        "beta": _row("beta-VAE, 4", "beta_vae", 4.0),
        "annealed": _row("annealed VAE, 25 nats", "annealed_vae", 25.0),
        "beta-tc": _row("beta-TC-VAE, 6", "beta_tc_vae", 6.0),
        "factor": _row("Factor VAE, 30", "factor_vae", 30.0),
        "dip-i": _row("DIP-VAE I, 10", "dip_vae_i", 10.0),
        "dip-ii": _row("DIP-VAE II, 10", "dip_vae_ii", 10.0),
    },
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {
                "epochs": 10,
                "batch_size": 32,
                "hidden_sizes": (200, 200),
                "learning_rate": 1e-3,
                "training": {"schedule": "cosine_decay"},
                "discriminator_sizes": (200, 200, 200),
                "discriminator_rate": 1e-3,
            },
            # A seed tells little of a method: these are what all but an unlucky three of them reach.
            goals={
                "vae": 0.02,
                "beta": 0.02,
                "annealed": 0.05,
                "beta-tc": 0.1,
                "factor": 0.02,
                "dip-i": 0.02,
                "dip-ii": 0.03,
            },
        ),
        "full": Size("a GPU, 300,000 steps on the original", {"epochs": 29, "channels": (32, 32, 64, 64)}, num_seeds=5),
    },
    claims=[Claim("beta", "vae"), Claim("beta-tc", "vae"), Claim("factor", "vae")],
    measure="disentanglement",
)
