"""Many devices: eight that are forced on a CPU, in a process of their own, give what one device gives."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import evaluation, nets, training

CACHE = Path(__file__).parent.parent.parent / ".pytest_cache" / "jax_of_eight"
OTHERS = pytest.mark.slow("objectives, moves, optimizers and precisions on eight devices, half a minute of programs")


def run_on_eight(folder, tier):
    """What `eight_devices.py` computed, with the settings of the other tests."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DEBUG_KEY_REUSE": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    script = Path(__file__).with_name("eight_devices.py")
    run = subprocess.run(
        [sys.executable, script, folder, tier], env=os.environ | settings, capture_output=True, text=True, timeout=500,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    with np.load(folder / "found.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("eight")


@pytest.fixture(scope="module")
def found(folder):
    return run_on_eight(folder, "fast")


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """What only slow tests look at."""
    return run_on_eight(tmp_path_factory.mktemp("eight_more"), "slow")


def of(found, prefix):
    """The entries below a prefix, the one of one device apart."""
    below = {name.removeprefix(f"{prefix}/"): value for name, value in found.items() if name.startswith(f"{prefix}/")}
    assert len(below) > 1
    return below


def check_runs(found, prefix, ways, tolerance):
    """Every way to run the steps gives what one device gives; what is drawn is equal to the bit."""
    entries = of(found, prefix)
    assert {name.split("/")[0] for name in entries} == ways
    for name, value in entries.items():
        way, what = name.split("/")
        expected = entries[f"one/{what}"]
        if what == "draws":
            np.testing.assert_array_equal(value, expected, way)
        else:
            relative = {"params": {"rtol": 0, "atol": tolerance}, "metrics": {"rtol": tolerance}}[what]
            np.testing.assert_allclose(value, expected, **relative, err_msg=f"{prefix}: {way}, {what}")


def check_draws(draws, num_steps):
    """Each example in each step has numbers of its own."""
    assert draws.shape == (num_steps, 64, 3)
    assert len(np.unique(draws.reshape(-1, 3), axis=0)) == num_steps * 64
    # So has each of its latents; of more numbers in single precision some would be equal by chance.
    assert len(np.unique(draws[:2])) == 2 * 64 * 3


def test_steps_are_those_of_one_device(found):
    """SGD, which a gradient that is eight times too large moves eight times too far."""
    check_runs(found, "example/sgd", {"one", "micro4_pmap", "shard_map"}, 1e-6)
    one = found["example/sgd/one/params"]
    # Far more than the tolerance away from where it began.
    assert np.max(np.abs(one - found["start"])) > 1e-3
    check_draws(found["example/sgd/one/draws"], 3)


@OTHERS
@pytest.mark.parametrize("objective", ["beta_tc_vae", "info_vae"])
def test_an_objective_that_couples_the_batch_sees_all_of_it(more, objective):
    check_runs(more, f"batch/{objective}", {"one", "mesh"}, 1e-6)
    check_draws(more[f"batch/{objective}/one/draws"], 5)


@OTHERS
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("loss", ["batch", "example"])
def test_twenty_steps_are_those_of_one_device(more, loss, optimizer):
    ways = {"one", "mesh"} if loss == "batch" else {"one", "mesh", "pmap", "shard_map"}
    if (loss, optimizer) == ("example", "sgd"):
        ways |= {"micro2", "micro4", "micro8", "micro4_mesh", "micro4_pmap", "micro4_shard_map"}
    check_runs(more, f"{loss}/{optimizer}", ways, 1e-6)
    check_draws(more[f"{loss}/{optimizer}/one/draws"], 20)
    # Far more than the tolerance away from the other optimizer.
    one = more[f"{loss}/{optimizer}/one/params"]
    assert np.max(np.abs(one - more[f"{loss}/{'adam' if optimizer == 'sgd' else 'sgd'}/one/params"])) > 1e-3


@OTHERS
@pytest.mark.parametrize("loss", ["batch", "example"])
def test_in_double_precision_they_agree_to_twelve_digits(more, loss):
    assert more[f"{loss}/x64/one/params"].dtype == np.float64
    check_runs(more, f"{loss}/x64", {"one", "mesh"} if loss == "batch" else {"one", "mesh", "pmap", "shard_map"}, 1e-12)


@OTHERS
def test_a_run_moves_between_one_device_and_many_through_a_checkpoint(more):
    entries = of(more, "moved")
    moves = {"one_to_mesh", "mesh_to_one", "one_to_cut", "cut_to_one", "cut_to_mesh"}
    assert entries.keys() == {"one", "mesh", "cut"} | moves
    for name, value in entries.items():
        np.testing.assert_allclose(value, entries["one"], rtol=0, atol=1e-6, err_msg=name)


def check_parts(parts):
    shapes = json.loads(str(parts))
    assert {name: part for name, (whole, part) in shapes.items() if part != whole} == {
        "params.up": [64, 32], "opt_state.0.mu.up": [64, 32], "opt_state.0.nu.up": [64, 32]
    }  # fmt: skip
    assert shapes["params.up"][0] == [64, 256]
    assert len(shapes) == 20


@OTHERS
@pytest.mark.parametrize("where", ["begin", "fit", "data_parallel"])
def test_large_leaves_are_cut_and_small_ones_are_whole(more, where):
    check_parts(more[f"shapes/{where}"])


def test_the_state_that_goes_in_is_used_up(found):
    assert found["compiled/gone"].all()


@pytest.mark.parametrize("where", ["fresh", "loaded", "committed"])
def test_one_program_makes_all_steps_wherever_the_state_was(found, where):
    entries = of(found, "compiled")
    assert entries["heard"]
    assert entries[f"{where}/counts"].tolist() == [1, 0]
    np.testing.assert_array_equal(entries[f"{where}/params"], entries["fresh/params"])


def test_a_batch_that_the_devices_do_not_divide_is_refused(found):
    assert str(found["compiled/refused"]) == "the examples of a batch must be a multiple of the 8 devices; got 12"


def test_a_checkpoint_of_another_device_loads_here(found, folder):
    loaded = training.load_checkpoint(folder / "of_device_3", {"w": jax.ShapeDtypeStruct((3,), np.float32)})
    np.testing.assert_array_equal(loaded["w"], np.arange(3.0))
    assert loaded["w"].devices() == {jax.devices()[0]}


# What one device can show.


def whole_batch(params, key, x):
    return jnp.mean((x - params) ** 2), {}


def test_a_loss_of_the_whole_batch_is_refused_where_it_would_be_cut():
    for options, name in [({"axis_name": "data"}, "axis_name"), ({"num_micro_batches": 2}, "num_micro_batches")]:
        with pytest.raises(
            TypeError, match=rf"{name} needs a loss of single examples, training.per_example\(loss_fn\)"
        ):
            training.make_train_step(whole_batch, optax.sgd(0.1), **options)


@pytest.mark.parametrize(
    ("recipe", "options"), [("beta_tc_vae", {"dataset_size": 100}), ("info_vae", {"weight": 10.0})]
)
def test_an_objective_that_couples_the_batch_refuses_single_examples(recipe, options):
    objective = getattr(vaejax.recipes, recipe)(**options)

    def loss_fn(params, key, x):
        encode = lambda x: vaejax.Normal(x @ params, jnp.ones(2))
        loss, _ = vaejax.negative_mean(objective(key, x, encode, lambda z: vaejax.Normal(z @ params.T, 1.0)))
        return loss, {}

    with pytest.raises(ValueError, match=r"(tc_decomposition|mmd_to) couples the examples of a batch"):
        trace_one_step(loss_fn, np.ones((3, 2)), np.ones((4, 3)))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.ones(6), "num_micro_batches must divide the 6 examples of a batch; got 4"),
        ((np.ones(4), np.ones(8)), r"batch must be arrays of one length; got shapes \[\(4,\), \(8,\)\]"),
        (np.ones(()), "batch must be arrays of one length"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_named(batch, message):
    with pytest.raises(ValueError, match=message):
        trace_one_step(lambda params, key, x: (params, {}), np.ones(()), batch, num_micro_batches=4)


def trace_one_step(loss_fn, params, batch, **options):
    """A step with a loss of single examples, traced and not run."""
    optimizer = optax.sgd(0.1)
    step = training.make_train_step(training.per_example(loss_fn), optimizer, **options)
    begin = lambda params: training.init_state(jax.random.key(0), params, optimizer)
    jax.eval_shape(lambda params, batch: step(begin(params), batch), params, batch)


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=rf"num_devices must be at most the {jax.device_count()} devices"):
        training.data_mesh(jax.device_count() + 1)


@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-3), ("highest", 1e-5)])
def test_an_accelerator_agrees_with_the_cpu(precision, tolerance):
    if jax.default_backend() == "cpu":
        pytest.skip("there is no accelerator")
    model = nets.mlp((784,), 20, hidden_sizes=(256,))
    x = np.random.default_rng(0).integers(0, 2, (64, 784)).astype(np.float32)

    def loss_fn(params, key, x):
        loss, terms = vaejax.negative_elbo(key, x, partial(model.encode, params), partial(model.decode, params))
        return loss, evaluation.batch_metrics(terms)

    def gradient_on(device):
        with jax.default_device(device), jax.default_matmul_precision(precision):
            params = jax.device_put(start, device)
            (loss, _), gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, jax.random.key(1), x)
            return jax.device_get((loss, *jax.tree.leaves(gradient)))

    with jax.default_device(jax.devices("cpu")[0]):
        start = model.init(jax.random.key(0))
    for ours, theirs in zip(*map(gradient_on, (jax.devices()[0], jax.devices("cpu")[0])), strict=True):
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
