"""A posterior that is moved by a flow against a Normal one on static MNIST."""

from .tables import Claim, Row, Size, Table

TABLE = Table(
    title="A flow posterior on static MNIST",
    source="Rezende and Mohamed 2015, Variational Inference with Normalizing Flows (the method); Dinh et al. 2017, "
    "Density estimation using Real NVP (the layers).",
    recipe="MNIST as Larochelle binarized it, its 50,000 training images. 784-200-200-40 with rectifiers; four affine "
    "couplings, which see what the encoder makes of x; Adam at 1e-3 with cosine decay on batches of 128.",
    rows={
        "normal": Row("VAE, Normal posterior", "static_mnist_vae", {}),
        "flow": Row("VAE, flow posterior", "static_mnist_flow", {}),
    },
    sizes={"quick": Size("2 cores, minutes a seed", {"epochs": 20, "training": {"schedule": "cosine_decay"}})},
    claims=[Claim("flow", "normal")],
)
