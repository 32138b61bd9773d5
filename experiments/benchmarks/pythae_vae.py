"""The VAE of dense layers in pythae, trained by its own trainer over its own data loader."""

import logging
import tempfile

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from .timing import Advance
from .torch_vaes import perceptron

# What it says on the way says nothing here.
logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.ERROR)


class Encoder(BaseEncoder):
    """Mean and log-variance."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.net(x.flatten(1)).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Probabilities of pixels, which its loss takes."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


def mlp(images: np.ndarray, batch: int, hidden: int, latents: int) -> Advance:
    """Rounds of its `train_step`, which is a pass over a set: of as many examples as the steps of a round want."""
    pixels = images[0].size
    config = VAEConfig(input_dim=(pixels,), latent_dim=latents, reconstruction_loss="bce")
    nets = Encoder(perceptron(pixels, hidden, 2 * latents)), Decoder(perceptron(latents, hidden, pixels))
    model = VAE(config, *nets)
    floats = torch.from_numpy(images.reshape(len(images), -1)).float().div_(255)
    with tempfile.TemporaryDirectory() as folder:
        wanted = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=batch, optimizer_cls="Adam", learning_rate=1e-3
        )
        trainer = BaseTrainer(model, BaseDataset(floats, torch.zeros(len(floats))), training_config=wanted)
    trainer.prepare_training()
    # A bar on the terminal costs time and says nothing here.
    trainer.callback_handler.callbacks = []

    def advance(steps: int) -> None:
        some = floats[: steps * batch]
        trainer.train_loader = trainer.get_train_dataloader(BaseDataset(some, torch.zeros(len(some))))
        trainer.train_step(epoch=1)

    return advance
