"""Table 1 of Burda et al., one layer of latents; and the doubly reparameterized gradient beside it."""

from .tables import Claim, Row, Size, Table

EXPERIMENT = "mnist_iwae"


def _row(method: str, samples: int, published: float | None, stated: str = "Table 1") -> Row:
    name = {"vae": "VAE", "iwae": "IWAE", "dreg": "IWAE, DReG gradient"}[method]
    settings = {"method": method, "num_samples": samples}
    return Row(f"{name}, k = {samples}", EXPERIMENT, settings, published, stated if published else "")


MODERN = {"recipe": "modern", "batch_size": 100, "learning_rate": 3e-3, "training": {"schedule": "cosine_decay"}}

TABLE = Table(
    title="Importance-weighted autoencoders on MNIST",
    source="Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, Table 1, one layer of latents. "
    "DReG: Tucker et al. 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.",
    recipe="Dynamic binarization; 784-200-200-50 with tanh; the first 59,600 images; the test images binarized once. "
    "`full` is the recipe of the authors' code, but for the order of the images, which is drawn anew for each epoch. "
    "The others are Adam at 3e-3 with cosine decay on batches of 100.",
    rows={
        "vae-1": _row("vae", 1, 86.76),
        "vae-5": _row("vae", 5, 86.47),
        "vae-50": _row("vae", 50, 86.35),
        "iwae-5": _row("iwae", 5, 85.54),
        "iwae-50": _row("iwae", 50, 84.78),
        "dreg-5": _row("dreg", 5, None),
        "dreg-50": _row("dreg", 50, None),
    },
    sizes={
        "quick": Size("2 cores, minutes a row", {**MODERN, "epochs": 10}, goals={"vae-1": 92.5, "iwae-5": 91.5}),
        "long": Size(
            "2 cores, an hour a seed", {**MODERN, "epochs": 600}, goals={"vae-1": 87.36}, num_seeds=1, num_examples=2000
        ),
        "full": Size(
            "a GPU, the paper's 3,280 epochs",
            {"recipe": "paper", "batch_size": 20, "epochs": 3280},
            goals={"vae-1": 87.01, "vae-5": 86.72, "vae-50": 86.60, "iwae-5": 85.79, "iwae-50": 85.03},
            num_examples=10_000,
            together=True,
        ),
    },
    claims=[
        Claim("iwae-5", "vae-1"),
        Claim("iwae-5", "vae-5"),
        Claim("iwae-50", "iwae-5"),
        Claim("dreg-5", "iwae-5", strict=False),
        Claim("dreg-50", "iwae-50", strict=False),
    ],
)
