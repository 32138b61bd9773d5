"""Exact oracles, public, so that users can test objectives and nets of their own against them."""

from vaejax.testing.linear_gaussian import LinearGaussian, linear_gaussian

__all__ = ["LinearGaussian", "linear_gaussian"]
