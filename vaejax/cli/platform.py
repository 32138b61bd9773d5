"""Which devices there are."""

import os

import jax


def check_platform() -> None:
    """Raise where JAX has no device of the platform that was asked for; it never falls back to another.

    JAX_PLATFORMS is how a person asks for one, as `make train ACCEL=gpu` does.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX fails an assertion where not even the wheels for the platform are installed.
        asked = os.environ.get("JAX_PLATFORMS", "any platform")
        reason = next(iter(str(error).splitlines()), "its wheels are not installed")
        raise OSError(f"JAX finds no device for {asked}: {reason}") from error
