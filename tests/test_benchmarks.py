"""The benchmarks: what is made of seconds, that a contestant who fails ends nothing, and that all do the same work."""

import inspect
import json
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import library, matrix, mlp, plain, report, timing
from vaejax import nets


def contest(**seconds):
    return timing.Contest({name: timing.Timing(10, each) for name, each in seconds.items()}, {})


def test_a_step_takes_the_median_of_the_rounds():
    assert timing.Timing(10, [1.0, 100.0, 2.0]).per_step == 0.2


def test_a_ratio_is_of_rounds_of_the_same_turn_and_of_steps():
    """Rounds that were slow for both say the same as the others; steps of different number count as what they are."""
    slow, fast = timing.Timing(10, [2.0, 20.0, 2.0]), timing.Timing(30, [3.0, 30.0, 3.0])
    assert timing.times_faster(fast, slow) == pytest.approx(2.0)
    assert timing.times_faster(slow, fast) == pytest.approx(0.5)


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = np.array([3, 5, 11, 40])
    assert timing.exponent(sizes, 7.0 * sizes**power) == pytest.approx(power)


def test_an_exponent_wants_two_sizes():
    with pytest.raises(ValueError, match=r"two.*1 and 1"):
        timing.exponent([1], [1])


def missing():
    raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")


def test_who_is_missing_or_fails_is_left_out_with_the_reason_and_the_others_arrive():
    made, turns = [], []

    def fails_in_the_end(steps):
        turns.append(steps)
        if len(turns) == 5:
            raise RuntimeError("out of breath\nand more")

    contestants = {"missing": missing, "weak": lambda: fails_in_the_end, "good": lambda: made.append}
    found = timing.race(contestants, 64, timing.Budget(rounds=3))
    assert found.left_out == {
        "missing": "the package elsewhere is not installed",
        "weak": "RuntimeError: out of breath",
    }
    # Three to begin with and two rounds: nobody fails twice.
    assert len(turns) == 5
    assert list(found.timings) == ["good"]
    # What is begun is a whole round, so that those that count begin where an epoch begins.
    assert made == [1, 2, 61, 64, 64, 64]
    assert found.timings["good"].steps == 64
    assert len(found.timings["good"].seconds) == 3


def test_the_slow_make_fewer_steps_in_a_round():
    found = timing.race({"slow": lambda: lambda steps: time.sleep(0.01 * steps)}, 64, timing.Budget(1, longest=0.05))
    assert 1 <= found.timings["slow"].steps <= 5


def part():
    raced = contest(PyTorch=[1.0, 2.0, 3.0], good=[0.5, 1.0, 1.5])
    raced.left_out["absent"] = "the package absent is not installed"
    lines = [report.Line("batch 5", name, report.figures_of(raced, name, 5)) for name in raced.timings]
    extra = report.Line("batch 5", "other", {"MiB": 7.0})
    return report.Part("Title", [*lines, extra], {"batch 5": raced}, notes=["A note."])


def test_the_table_has_a_column_for_each_figure_and_says_who_is_absent():
    header, pytorch, good, other = report.cells_of(part())
    assert header == ["case", "contestant", "examples/s", "ms per step", "times PyTorch", "MiB"]
    assert pytorch == ["batch 5", "PyTorch", "25", "200", "1", ""]
    assert good == ["batch 5", "good", "50", "100", "2", ""]
    assert other == ["batch 5", "other", "", "", "", "7"]
    text = report.as_text(part())
    assert "A note." in text
    assert "batch 5: absent is left out: the package absent is not installed" in text


def test_everything_is_written_also_of_nobody(tmp_path):
    nobody = report.Part("Nobody", [], {"case": timing.Contest({}, {"a": "b"})})
    curves = report.Part("Curves", [], {}, curves=[report.Curve("batch: 1.00", [1.0, 2.0], [3.0, 6.0])])
    about = report.environment()
    report.write(tmp_path, {"one": part(), "none": nobody, "curves": curves}, about, "command")
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["environment"]["versions"]["jax"] == jax.__version__
    assert read["parts"]["one"]["rounds"]["batch 5"]["timings"]["good"] == {"steps": 10, "seconds": [0.5, 1.0, 1.5]}
    markdown = (tmp_path / "results.md").read_text()
    assert "| batch 5 | good | 50 | 100 | 2 |  |" in markdown
    assert "- case: a is left out: b" in markdown
    assert (tmp_path / "benchmarks.png").stat().st_size > 1000


def test_folders_are_numbered(tmp_path):
    assert benchmarks.next_folder(tmp_path / "none").name == "001"
    for name in ("007", "010", "notes"):
        (tmp_path / name).mkdir()
    assert benchmarks.next_folder(tmp_path).name == "011"


NETS = matrix.Perceptrons((32, 16, 8), (4, 24, 32), batch=8, samples=3)


def test_the_products_are_those_of_a_gradient():
    """Half the squared output of a linear autoencoder has its own output as the gradient there."""
    x = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    encoder, decoder = (matrix._weights(sizes, seed) for seed, sizes in enumerate((NETS.encoder, NETS.decoder)))

    def loss(encoder, decoder):
        raw = x @ encoder[0] @ encoder[1]
        # The second half of what the encoder says has a gradient of the same shape, as log-scales have.
        z = raw[:, :4] + raw[:, 4:] - jax.lax.stop_gradient(raw[:, 4:])
        return 0.5 * jnp.sum((jnp.tile(z, (3, 1)) @ decoder[0] @ decoder[1]) ** 2)

    expected = jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(encoder, decoder))
    found = jax.tree.leaves(jax.jit(matrix._step, static_argnums=3)(x, encoder, decoder, 3))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_the_compiled_products_are_all_that_are_counted():
    """Nothing is taken out by the compiler, and little else is computed."""
    weights = [matrix._weights(sizes, 0) for sizes in (NETS.encoder, NETS.decoder)]
    compiled = jax.jit(partial(matrix._step, samples=3)).lower(jnp.ones((8, 32)), *weights).compile()
    assert compiled.cost_analysis()["flops"] == pytest.approx(NETS.flops(), rel=0.02)


@pytest.mark.parametrize(
    "make", [partial(matrix.products, NETS), partial(matrix.passes, (4, 24, 32), rows=12, at_once=4)]
)
def test_the_loop_of_products_goes_on(make):
    """What it carries is another in each turn, so that no product can be taken out of it."""
    advance = make()
    seen = []
    for steps in (1, 1, 2):
        advance(steps)
        (carried,) = inspect.getclosurevars(advance).nonlocals["carry"]
        seen.append(np.asarray(jax.tree.leaves(carried[1])[0]))
    assert all(np.all(np.isfinite(each)) for each in seen)
    assert not np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[1], seen[2])


def test_passes_are_the_rows_of_a_step():
    """Three turns of four rows, each with its own result as the start of the next."""
    advance, weights = matrix.passes((4, 24, 32), rows=12, at_once=4), matrix._weights((4, 24, 32), 0)
    ((x, _),) = inspect.getclosurevars(advance).nonlocals["carry"]
    x = np.asarray(x)
    for _ in range(3):
        made = matrix._forward(x, weights)[-1]
        x = jnp.asarray(x).at[0, 0].set(jnp.sin(made[0, 0]))
    advance(1)
    ((last, product),) = inspect.getclosurevars(advance).nonlocals["carry"]
    np.testing.assert_allclose(last, x, rtol=1e-5)
    np.testing.assert_allclose(product, made, rtol=1e-5)


def test_the_bare_loop_has_the_same_optimizer_and_the_same_terms():
    drawn = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    params, gradients, optimizer = {"w": drawn[0]}, [{"w": each} for each in drawn[1:]], optax.adam(1e-3)
    x = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], np.float32)

    @jax.jit
    def compute(params, gradients):
        state, expected, expected_state = plain.initial_state(params), params, optimizer.init(params)
        for gradient in gradients:
            state = plain.adam(state, gradient)
            updates, expected_state = optimizer.update(gradient, expected_state)
            expected = optax.apply_updates(expected, updates)
        logits, mean, log_scale = (each["w"] for each in gradients)
        ours = state[1]["w"], plain.bernoulli_cost(x, logits), plain.kl_to_standard(mean, log_scale)
        q = vaejax.Normal(mean, jnp.exp(log_scale), 1)
        divergence = vaejax.kl_divergence(q, vaejax.standard_normal)
        return ours, (expected["w"], -vaejax.Bernoulli(logits, 1).log_prob(x), divergence)

    ours, theirs = compute(params, gradients)
    for one, other, tolerance in zip(ours, theirs, (1e-5, 1e-5, 1e-4), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance)


@pytest.mark.slow("compiles two loops")
def test_both_bare_loops_learn_the_same():
    images, start = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), {"w": np.zeros(3, np.float32)}
    loss = lambda params, key, images: jnp.mean((images @ params["w"] - jax.random.normal(key)) ** 2)
    states = {}
    for name, way in (("bare", plain.BARE), ("by hand", plain.BY_HAND)):
        states[name] = way.begin(start)
        for _ in range(4):
            states[name] = way.step(loss, states[name], images)
    np.testing.assert_allclose(states["bare"][1]["w"], states["by hand"][1]["w"], rtol=1e-4)
    assert states["bare"][0] == states["by hand"][0] == 4
    assert np.any(states["bare"][1]["w"])


@pytest.mark.slow("compiles each contestant")
def test_each_way_of_training_makes_as_many_steps_as_are_asked_for():
    model = nets.Model(
        lambda key: {"w": np.ones((16, 2), np.float32)},
        lambda params, x: vaejax.Normal(x.reshape(len(x), 16) @ params["w"], 1.0),
        lambda params, z: vaejax.Bernoulli((z @ params["w"].T).reshape(*z.shape[:-1], 4, 4, 1), 3),
    )
    built = library.compose(library.noise_images(24, (4, 4, 1)), model, vaejax.elbo, latents=2)
    made = []
    counting = optax.stateless(lambda updates, params: jax.debug.callback(lambda: made.append(1)) or updates)
    built = built._replace(optimizer=optax.chain(counting, optax.sgd(0.1)))
    for way in (library.scanned, library.per_step, library.streamed):
        advance = way(built, 8)
        for steps in (1, 4, 2):
            made.clear()
            advance(steps)
            jax.effects_barrier()
            assert len(made) == steps, way


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((mlp.LOOP, matrix.PRODUCTS), marks=pytest.mark.slow("compiles and times each contestant")),
        pytest.param((mlp.SCANNED, mlp.LOOP, matrix.PRODUCTS), marks=pytest.mark.slow("another contestant")),
    ],
    ids=len,
)
def test_a_part_from_the_command_to_its_files(tmp_path, capsys, monkeypatch, names):
    monkeypatch.setattr(mlp, "HIDDEN", 8)
    everyone = mlp.contestants
    chosen = lambda *given: {name: everyone(*given)[name] for name in names}
    monkeypatch.setattr(mlp, "contestants", lambda *given: chosen(*given) | {"absent": missing})
    benchmarks.main(["--only", "mlp", "--quick", "--output", str(tmp_path)])
    read = json.loads((tmp_path / "results.json").read_text())["parts"]["mlp"]
    figures = {line["contestant"]: line["figures"] for line in read["lines"]}
    assert set(figures) == set(names)
    rounds = {name: timing.Timing(**each) for name, each in read["rounds"]["batch 128"]["timings"].items()}
    for name, each in figures.items():
        share = timing.times_faster(rounds[name], rounds[matrix.PRODUCTS])
        assert each["% of matrix rate"] == pytest.approx(100 * share)
    for each in figures.values():
        assert each["examples/s"] * each["ms per step"] == pytest.approx(128 * 1e3)
        assert each["GFLOP/s"] == pytest.approx(mlp.shape(128).flops() / each["ms per step"] / 1e6)
    said = capsys.readouterr().out
    assert "batch 128: absent is left out: the package elsewhere is not installed" in said
    assert str(tmp_path / "benchmarks.png") in said
