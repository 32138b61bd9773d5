"""Small encoders and decoders, written with Flax NNX layers and handed out as pure functions."""

from vaejax.nets import heads, likelihoods, posteriors
from vaejax.nets.conv import conv
from vaejax.nets.heads import Head
from vaejax.nets.mlp import mlp
from vaejax.nets.model import Model, make_model
from vaejax.nets.precision import in_precision, rematerialize

__all__ = [
    "Head",
    "Model",
    "conv",
    "heads",
    "in_precision",
    "likelihoods",
    "make_model",
    "mlp",
    "posteriors",
    "rematerialize",
]
