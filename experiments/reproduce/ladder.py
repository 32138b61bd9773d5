"""A ladder of five layers of latents against a posterior that goes upwards."""

from .tables import Claim, Row, Size, Table

TABLE = Table(
    title="A ladder of five layers of latents on MNIST",
    source="Sonderby et al. 2016, Ladder Variational Autoencoders. Its best figure is that of a ladder with batch "
    "normalisation and fine-tuning, as Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive "
    "Flow, Table 1, quote it.",
    recipe="Dynamic binarization; latents of 64, 32, 16, 8 and 4 units, nets of two layers of 512 to 32 leaky "
    "rectifiers between them; no batch normalisation. The weight of the KL term rises for 200 of 2,000 epochs in "
    "`full`, with Adam at 1e-3 and cosine decay on batches of 256, and for 4 of 10 in `quick`, at 2e-3.",
    rows={
        "upwards": Row("VAE, five layers", "mnist_ladder", {"posterior": "upwards"}),
        "ladder": Row("ladder VAE, five layers", "mnist_ladder", {"posterior": "ladder"}, 81.74),
    },
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {"epochs": 10, "kl_epochs": 4.0, "learning_rate": 2e-3, "training": {"schedule": "cosine_decay"}},
            goals={"upwards": 91.9, "ladder": 93.3},
            num_examples=500,
        ),
        "full": Size(
            "a GPU, 2,000 epochs",
            {"epochs": 2000, "kl_epochs": 200.0, "learning_rate": 1e-3, "training": {"schedule": "cosine_decay"}},
            num_examples=10_000,
            together=True,
        ),
    },
    claims=[Claim("ladder", "upwards")],
)
