"""Table 1 of Rainforth et al.: bounds that give the encoder a gradient of less noise."""

from .iwae import MODERN
from .tables import Claim, Row, Size, Table, near_published


def _row(label: str, published: float, method: str, **settings: float) -> Row:
    return Row(label, "mnist_iwae", {"method": method, "num_samples": 64, **settings}, published)


ROWS = {
    "vae": _row("VAE, mean over all samples", 86.21, "vae"),
    "iwae": _row("IWAE", 84.52, "iwae"),
    "miwae": _row("MIWAE", 84.97, "miwae", groups=8),
    "piwae": _row("PIWAE", 84.46, "piwae", groups=8),
    "ciwae": _row("CIWAE, beta = 0.5", 85.24, "ciwae", elbo_share=0.5),
    "ciwae-low": _row("CIWAE, beta = 0.05", 84.57, "ciwae", elbo_share=0.05),
    "miwae-4": _row("MIWAE, 4 groups of 16", 84.56, "miwae", groups=4),
}

TABLE = Table(
    title="Tighter bounds for one net and looser ones for the other, on MNIST",
    source="Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, Table 1, as the READMEs of "
    "github.com/madhubabuv/TightIWAE and github.com/clementchadebec/benchmark_VAE quote it.",
    recipe="Data, nets and recipes of the table `iwae`, of which theirs is taken to be. `full` has their 64 samples, "
    "in 8 groups of 8 where there are groups and nothing else is said; `quick` has 6 in 3 groups of 2.",
    rows=ROWS,
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {**MODERN, "epochs": 10, "num_samples": 6, "groups": 3},
            goals={"vae": 95.3, "iwae": 94.9, "miwae": 94.6, "piwae": 94.3, "ciwae": 94.5},
            num_examples=500,
            rows=["vae", "iwae", "miwae", "piwae", "ciwae"],
        ),
        "full": Size(
            "a GPU, the 3,280 epochs of Burda et al.",
            {"recipe": "paper", "batch_size": 20, "epochs": 3280},
            goals=near_published(ROWS),
            num_examples=10_000,
            together=True,
        ),
    },
    claims=[
        Claim("iwae", "vae"),
        Claim("miwae", "vae"),
        Claim("ciwae", "vae"),
        Claim("piwae", "iwae", strict=False),
    ],
)
