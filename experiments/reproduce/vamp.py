"""The VampPrior against a standard normal prior on static MNIST, one layer of latents."""

from .tables import Claim, Row, Size, Table

TABLE = Table(
    title="VampPrior on static MNIST",
    source="Tomczak and Welling 2018, VAE with a VampPrior.",
    recipe="MNIST as Larochelle binarized it, its 50,000 training images. Here 784-200-200-40 with rectifiers and 200 "
    "pseudo-inputs, Adam at 1e-3 with cosine decay on batches of 128; there gated layers of 300, 500 pseudo-inputs, a "
    "warm-up and early stopping. So what is compared is the margin between the rows, not the rows with the paper's.",
    rows={
        "standard": Row("VAE, standard prior", "static_mnist_vae", {}, 88.56),
        "vamp": Row("VAE, VampPrior", "static_mnist_vamp", {}, 85.57),
    },
    sizes={"quick": Size("2 cores, minutes a seed", {"epochs": 20, "training": {"schedule": "cosine_decay"}})},
    claims=[Claim("vamp", "standard")],
)
