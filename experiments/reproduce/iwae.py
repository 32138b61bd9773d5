"""Table 1 of Burda et al., and the doubly reparameterized gradient beside it."""

from .tables import Claim, Row, Size, Table, near_published

NAMES = {"vae": "VAE", "iwae": "IWAE", "dreg": "IWAE, DReG gradient"}
# Layers to the file of the experiment.
EXPERIMENTS = {1: "mnist_iwae", 2: "mnist_iwae_two_layers"}


def _row(method: str, samples: int, published: float | None, layers: int = 1) -> Row:
    label = f"{NAMES[method]}, {layers} layer{'s' if layers > 1 else ''}, k = {samples}"
    stated = "Table 1" if published else ""
    return Row(label, EXPERIMENTS[layers], {"method": method, "num_samples": samples}, published, stated)


MODERN = {"recipe": "modern", "batch_size": 100, "learning_rate": 3e-3, "training": {"schedule": "cosine_decay"}}

ROWS = {
    "vae-1": _row("vae", 1, 86.76),
    "vae-5": _row("vae", 5, 86.47),
    "vae-50": _row("vae", 50, 86.35),
    "iwae-5": _row("iwae", 5, 85.54),
    "iwae-50": _row("iwae", 50, 84.78),
    "dreg-5": _row("dreg", 5, None),
    "dreg-50": _row("dreg", 50, None),
    "vae-1-two": _row("vae", 1, 85.33, layers=2),
    "vae-5-two": _row("vae", 5, 85.01, layers=2),
    "vae-50-two": _row("vae", 50, 84.78, layers=2),
    "iwae-5-two": _row("iwae", 5, 83.89, layers=2),
    "iwae-50-two": _row("iwae", 50, 82.90, layers=2),
}

TABLE = Table(
    title="Importance-weighted autoencoders on MNIST",
    source="Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, Table 1. "
    "DReG: Tucker et al. 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.",
    recipe="Dynamic binarization; the first 59,600 images; the test images binarized once. 784-200-200-50 with "
    "tanh, and with two layers of latents 784-200-200-100-100-100-50. "
    "`full` is the recipe of the authors' code, but for the order of the images, which is drawn anew for each epoch. "
    "The others are Adam at 3e-3 with cosine decay on batches of 100. 10 epochs are 0.3 % of the paper's.",
    rows=ROWS,
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {**MODERN, "epochs": 10},
            goals={
                "vae-1": 96.5,
                "vae-5": 95.4,
                "iwae-5": 95.2,
                "dreg-5": 95.2,
                "vae-1-two": 96.8,
                "vae-5-two": 94.2,
                "iwae-5-two": 94.9,
            },
            # 50 samples take a quarter of an hour for a seed, and more.
            rows=[name for name in ROWS if "50" not in name],
        ),
        "long": Size(
            "2 cores, an hour a seed",
            {**MODERN, "epochs": 600},
            goals={"vae-1": 87.36},
            num_seeds=1,
            num_examples=2000,
            rows=["vae-1"],
        ),
        "full": Size(
            "a GPU, the paper's 3,280 epochs",
            {"recipe": "paper", "batch_size": 20, "epochs": 3280},
            goals=near_published(ROWS),
            num_examples=10_000,
            together=True,
        ),
    },
    claims=[
        Claim("iwae-5", "vae-1"),
        Claim("iwae-5", "vae-5"),
        Claim("iwae-50", "iwae-5"),
        Claim("vae-1-two", "vae-1"),
        Claim("iwae-5-two", "vae-1-two"),
        Claim("iwae-50-two", "iwae-5-two"),
        Claim("dreg-5", "iwae-5", strict=False),
        Claim("dreg-50", "iwae-50", strict=False),
    ],
)
