"""Flow posteriors on static MNIST: by the recipe that they came with, and couplings with a modern one."""

from .tables import Claim, Row, Size, Table, near_published

# Negative log-probabilities by the number of planar flows.
PUBLISHED = {0: 89.9, 10: 87.5, 20: 86.5, 40: 85.7, 80: 85.1}

PLANAR = {
    f"planar-{count}": Row(
        f"{count} planar flows" if count else "Normal posterior, the paper's recipe",
        "static_mnist_planar_flow",
        {"flow_layers": count},
        published,
        "Table 2",
    )
    for count, published in PUBLISHED.items()
}

TABLE = Table(
    title="A flow posterior on static MNIST",
    source="Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, Table 2, which bounds the negative "
    "log-probability; Dinh et al. 2017, Density estimation using Real NVP (couplings).",
    recipe="MNIST as Larochelle binarized it, its 50,000 training images. `full` is the paper's recipe: 784-400-40 of "
    "maxout, RMSprop at 1e-5 on 500,000 batches of 100, an annealed joint density. `quick` is 784-200-200-40 with "
    "rectifiers; four affine couplings, which see what the encoder makes of x; Adam at 1e-3 with cosine decay on "
    "batches of 128.",
    rows={
        "normal": Row("VAE, Normal posterior", "static_mnist_vae", {}),
        "flow": Row("VAE, flow posterior", "static_mnist_flow", {}),
        **PLANAR,
    },
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {"epochs": 20, "training": {"schedule": "cosine_decay"}},
            goals={"normal": 98.5, "flow": 96.3},
            rows=["normal", "flow"],
        ),
        "full": Size(
            "a GPU, the paper's 500,000 steps",
            {"epochs": 1000},
            goals=near_published(PLANAR),
            num_examples=10_000,
            together=True,
            rows=list(PLANAR),
        ),
    },
    claims=[Claim("flow", "normal"), Claim("planar-10", "planar-0"), Claim("planar-80", "planar-10")],
)
