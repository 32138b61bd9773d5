"""Oracles for `vaejax.testing.LinearGaussian`, in NumPy and double precision: nothing is compiled for them."""

import numpy as np


def marginal_covariance(oracle):
    """That of p(x), `W W^T + s^2 I`; its mean is the bias."""
    weight = np.asarray(oracle.weight, np.float64)
    return weight @ weight.T + np.float64(oracle.scale) ** 2 * np.eye(len(weight))


def posterior(oracle, x):
    """The means `[..., Z]` of p(z|x), and their common covariance `(I + W^T W / s^2)^-1`."""
    weight, variance = np.asarray(oracle.weight, np.float64), np.float64(oracle.scale) ** 2
    covariance = np.linalg.inv(np.eye(weight.shape[1]) + weight.T @ weight / variance)
    return (x - oracle.bias) @ weight @ covariance / variance, covariance
