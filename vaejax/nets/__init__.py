"""Small encoders and decoders, written with Flax NNX layers and handed out as pure functions."""

from vaejax.nets import heads, likelihoods, posteriors
from vaejax.nets.conv import conv
from vaejax.nets.dense import Dense
from vaejax.nets.heads import Head
from vaejax.nets.mlp import mlp
from vaejax.nets.model import Model, make_model
from vaejax.nets.net import Net, make_net
from vaejax.nets.precision import in_precision, rematerialize

__all__ = [
    "Dense",
    "Head",
    "Model",
    "Net",
    "conv",
    "heads",
    "in_precision",
    "likelihoods",
    "make_model",
    "make_net",
    "mlp",
    "posteriors",
    "rematerialize",
]
