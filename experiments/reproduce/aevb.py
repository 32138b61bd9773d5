"""Figure 2 of Kingma and Welling, its MNIST half: the bound against the training examples seen."""

from .tables import Claim, Row, Size, Table

LATENTS = (3, 5, 10, 20, 200)
HELD_OUT = {"validation_size": 10_000}

TABLE = Table(
    title="Auto-encoding variational Bayes on MNIST",
    source="Kingma and Welling 2014, Auto-Encoding Variational Bayes, Figure 2, which has curves and no numbers.",
    recipe="784-500-latents with tanh, Adagrad at 0.02, batches of 100, one draw; the experiment's file says what the "
    "paper leaves open. 10,000 of the training images are held out, on which the bound is measured after each epoch. "
    "The paper goes to 1e8 training examples.",
    rows={f"latents-{size}": Row(f"{size} latents", "mnist_aevb", {"latent_size": size}) for size in LATENTS},
    sizes={
        "quick": Size(
            "2 cores, 1e6 training examples",
            {"epochs": 20, "training": {"optimizer": "adagrad", **HELD_OUT}},
            # With many latents a run falls by ten nats at once, sooner or later, so that 1e6 examples say little.
            goals={"latents-3": 153, "latents-5": 136, "latents-10": 121, "latents-20": 130, "latents-200": 190},
        ),
        "full": Size("1e8 training examples", {"epochs": 2000, "training": {"optimizer": "adagrad", **HELD_OUT}}),
    },
    claims=[
        Claim("latents-5", "latents-3"),
        Claim("latents-10", "latents-5"),
        Claim("latents-20", "latents-10"),
        Claim("latents-200", "latents-20", strict=False),
    ],
    measure="bound",
)
