"""The VampPrior against a standard normal prior on static MNIST, with one level of latents and with two."""

from .tables import Claim, Row, Size, Table, near_published

ONE, TWO = "static_mnist_vampprior", "static_mnist_vampprior_two_levels"

ROWS = {
    "standard": Row("VAE, standard prior", ONE, {"prior": "standard"}, 88.56),
    "vamp": Row("VAE, VampPrior", ONE, {"prior": "vamp"}, 85.57),
    "standard-two": Row("two levels, standard prior", TWO, {"prior": "standard"}, 86.05),
    "vamp-two": Row("two levels, VampPrior", TWO, {"prior": "vamp"}, 83.19),
}

TABLE = Table(
    title="VampPrior on static MNIST",
    source="Tomczak and Welling 2018, VAE with a VampPrior.",
    recipe="MNIST as Larochelle binarized it, its 50,000 training images. Two gated layers for each net and 40 latents "
    "for each level. `full` is the recipe of the authors' code: layers of 300, 500 pseudo-inputs, Adam at 5e-4 on "
    "normalised gradients, batches of 100, a warm-up of 100 epochs, the end 50 epochs after the best of those on the "
    "validation images, at most 2,000. It departs from it in two things that the experiment's file names. `quick` has "
    "layers of 200, 200 pseudo-inputs and Adam at 2e-3 with cosine decay.",
    rows=ROWS,
    sizes={
        "quick": Size(
            "2 cores, minutes a seed",
            {
                "recipe": "modern",
                "hidden_sizes": (200, 200),
                "pseudo_inputs": 200,
                "learning_rate": 2e-3,
                "epochs": 10,
                "training": {"schedule": "cosine_decay"},
            },
            goals={"standard": 94.9, "vamp": 92.2, "standard-two": 93.0, "vamp-two": 91.1},
            num_examples=500,
        ),
        "full": Size(
            "a GPU, the paper's recipe",
            {
                "recipe": "paper",
                "epochs": 2000,
                "kl_epochs": 100,
                "training": {"validation_size": 10_000, "patience": 50, "patience_warm_up": 100},
            },
            goals=near_published(ROWS),
            num_examples=10_000,
        ),
    },
    claims=[
        Claim("vamp", "standard"),
        Claim("vamp-two", "standard-two"),
        Claim("standard-two", "standard"),
        Claim("vamp-two", "vamp"),
    ],
)
