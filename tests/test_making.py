"""What is made of a model is a function of the key and the number of a row, whatever is made at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import data, making, nets, outcome
from vaejax.experiment import Experiment

N = 23
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 17, (N, 2, 2, 1)).astype(np.uint8)
LABELS = RANDOM.integers(0, 5, N)
FACTORS = RANDOM.integers(0, 9, (N, 2))
# The second latent is dead, the third tells more than the first.
GAIN, SCALE = np.float32([0.5, 0.0, 3.0]), np.float32([0.6, 1.0, 0.2])


def encode(params, x):
    flat = jnp.asarray(x, jnp.float32).reshape(*x.shape[:-3], 4)
    return vaejax.Normal((flat @ params["encoder"] - 0.5) * GAIN, SCALE)


def decode(params, z):
    logits = (z @ params["decoder"]).reshape(*z.shape[:-1], 2, 2, 1)
    return vaejax.Bernoulli(logits, event_ndims=3)


def experiment_of(examples=IMAGES, **changes):
    """A linear model of binarized images, whose x are drawn by number."""
    split = data.Split(examples, LABELS, FACTORS)
    values = {
        "dataset": data.Dataset("grey", split, split, 16),
        "model": nets.Model(None, encode, decode),
        "prepare": lambda key, images: data.binarize(key, images, max_value=16),
        "objective": None,
        "optimizer": None,
        "prior": lambda params: vaejax.standard_normal.expand((3,)),
    }
    return Experiment(**(values | changes))


EXPERIMENT = experiment_of()
PARAMS = {
    "encoder": RANDOM.normal(size=(4, 3)).astype(np.float32),
    "decoder": RANDOM.normal(size=(3, 4)).astype(np.float32),
}


def seven():
    """The key of what is drawn."""
    return jax.random.key(7)


def whole(chunks, at_most=None):
    """All rows of the chunks, by name."""
    parts = list(chunks)
    assert at_most is None or max(len(array) for part in parts for array in part.values()) <= at_most
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prepared(numbers):
    """x of test examples, one by one."""
    return np.stack([prepared_one(outcome.evaluation_keys(), n, IMAGES[n]) for n in numbers])


prepared_one = jax.jit(partial(outcome.prepare_example, EXPERIMENT))
mean_of_decoder = jax.jit(lambda z: decode(PARAMS, z).mean)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def read():
    """What a traversal reads of the codes of the test examples."""
    return making.read_codes(EXPERIMENT, PARAMS)


def counted():
    """The experiment, and a list that grows with each trace of its decoder."""
    traces = []

    def counting(params, z):
        traces.append(z.shape)
        return decode(params, z)

    return experiment_of(model=nets.Model(None, encode, counting)), traces


@pytest.fixture(scope="module")
def samples_and_traces():
    experiment, traces = counted()
    return whole(making.generate(seven(), experiment, PARAMS, 103, draw=True)), len(traces)


@pytest.fixture(scope="module")
def samples(samples_and_traces):
    return samples_and_traces[0]


other_batch = pytest.mark.slow("another size of a batch")


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=other_batch), 10, pytest.param(103, marks=other_batch)])
def test_samples_are_the_same_whatever_is_made_at_once(samples_and_traces, batch_size):
    """All chunks are one program."""
    samples, traces_of_whole = samples_and_traces
    experiment, traces = counted()
    chunks = making.generate(seven(), experiment, PARAMS, 103, draw=True, batch_size=batch_size)
    assert_same(whole(chunks, at_most=batch_size), samples)
    assert len(traces) == traces_of_whole


def test_a_sample_does_not_depend_on_how_many_there_are_and_all_differ(samples):
    assert_same(
        whole(making.generate(seven(), EXPERIMENT, PARAMS, 5, draw=True)),
        {name: rows[:5] for name, rows in samples.items()},
    )
    assert len(np.unique(samples["z"], axis=0)) == 103


def test_samples_are_draws_of_the_prior_and_of_the_likelihood_or_its_means():
    count = 4000
    drawn = whole(making.generate(seven(), EXPERIMENT, PARAMS, count, draw=True, batch_size=2000))
    means = whole(making.generate(seven(), EXPERIMENT, PARAMS, count, draw=False, batch_size=2000))
    np.testing.assert_array_equal(drawn["z"], means["z"])
    np.testing.assert_allclose(means["x"], mean_of_decoder(means["z"]), rtol=1e-5)
    assert set(np.unique(drawn["x"])) == {0, 1}
    noise = (drawn["x"] - means["x"]) / np.sqrt(means["x"] * (1 - means["x"]))
    # Standardized: no mean, unit variance, and nothing to do with z.
    assert np.abs(noise.mean(axis=0)).max() < 5 / np.sqrt(count)
    z = drawn["z"]
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(count)
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 5 * np.sqrt(2 / count)
    assert np.abs(noise.reshape(count, -1).T @ z / count).max() < 6 / np.sqrt(count)


def test_temperature_and_another_prior(samples):
    plain = samples["z"][:9]
    cool = whole(making.generate(seven(), EXPERIMENT, PARAMS, 9, draw=False, temperature=0.5))
    np.testing.assert_allclose(cool["z"], 0.5 * plain, rtol=1e-6)
    far = vaejax.Normal(np.full(3, 100.0, np.float32), 1.0).expand((3,))
    other = whole(making.generate(seven(), EXPERIMENT, PARAMS, 9, draw=False, prior=far))
    np.testing.assert_allclose(other["z"], plain + 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"count": 0}, ValueError, "^count .*got 0"),
        ({"count": -3}, ValueError, "^count .*got -3"),
        ({"count": 2**32}, ValueError, "^count .*4,294,967,295"),
        ({"count": 10**30}, ValueError, "^count .*4,294,967,295"),
        ({"count": 2.5}, TypeError, "^count .*got float 2.5"),
        ({"batch_size": 0}, ValueError, "^batch_size .*got 0"),
        ({"temperature": 0.0}, ValueError, "^temperature .*0.0"),
        ({"temperature": float("nan")}, ValueError, "^temperature .*nan"),
        ({"temperature": np.ones(2)}, ValueError, "^temperature must"),
        ({"prior": 3}, TypeError, "^prior must"),
        ({"prior": vaejax.standard_normal.expand((4,))}, (TypeError, ValueError), "4"),
        ({"experiment": experiment_of(prior=None)}, ValueError, "no prior .*code_prior"),
    ],
)
def test_what_cannot_be_generated_is_said_at_once(changes, error, message):
    wanted = {"experiment": EXPERIMENT, "params": PARAMS, "count": 3, "draw": True} | changes
    with pytest.raises(error, match=message):
        making.generate(seven(), **wanted)


def test_a_prior_is_fitted_to_the_codes_of_training_examples():
    codes = making.encode_means(EXPERIMENT, PARAMS, making.choose(EXPERIMENT.dataset, "train"))
    prior = making.code_prior(seven(), experiment_of(prior=None), PARAMS, 2)
    # What expectation maximisation gives has the mean of the points.
    np.testing.assert_allclose(prior.mean, codes.mean(axis=0), atol=1e-5)
    drawn = whole(making.generate(seven(), experiment_of(prior=None), PARAMS, 3, draw=False, prior=prior))
    assert drawn["x"].shape == (3, 2, 2, 1)


NUMBERS = [5, 3, 5, 22, 0]


mean_of_encoder = jax.jit(lambda x: encode(PARAMS, x).mean)


def reconstructions(x):
    """What is made of x of the examples `NUMBERS`."""
    return {"index": NUMBERS, "x": x, "reconstruction": mean_of_decoder(mean_of_encoder(x))}


@pytest.mark.parametrize("batch_size", [2, pytest.param(9, marks=other_batch)])
def test_reconstructions_are_of_the_x_that_is_measured(batch_size):
    chosen = making.choose(EXPERIMENT.dataset, "test", NUMBERS)
    found = whole(making.reconstruct(seven(), EXPERIMENT, PARAMS, chosen, draw=False, batch_size=batch_size))
    drawn = whole(making.reconstruct(seven(), EXPERIMENT, PARAMS, chosen, draw=True, batch_size=batch_size))
    x = prepared(NUMBERS)
    draw = jax.jit(lambda x, n: encode(PARAMS, x).sample(jax.random.fold_in(seven(), n)))
    z = np.stack([draw(x[i], n) for i, n in enumerate(NUMBERS)])
    expected = reconstructions(x)
    assert_same(found, expected)
    assert_same(drawn, expected | {"reconstruction": mean_of_decoder(z)})


@pytest.mark.parametrize("batch_size", [7, pytest.param(100, marks=other_batch)])
def test_codes_and_what_is_known_of_them(batch_size):
    chosen = making.choose(EXPERIMENT.dataset, "test")
    found = whole(making.encode(seven(), EXPERIMENT, PARAMS, chosen, draw=True, batch_size=batch_size), batch_size)
    mean, variance = codes(), np.broadcast_to(SCALE**2, (N, 3))
    assert_same(
        {name: found[name] for name in found if name != "draw"},
        {
            "index": np.arange(N),
            "mean": mean,
            "variance": variance,
            "kl_per_axis": 0.5 * (mean**2 + variance - 1 - np.log(variance)),
            "label": LABELS,
            "factors": FACTORS,
        },
    )
    noise = (found["draw"] - mean) / np.sqrt(variance)
    assert len(np.unique(noise)) == 3 * N
    assert abs(noise.mean()) < 5 / np.sqrt(3 * N)


def test_rows_keep_their_labels_in_any_order():
    chosen = making.choose(EXPERIMENT.dataset, "test", NUMBERS)
    found = whole(making.encode(seven(), EXPERIMENT, PARAMS, chosen, draw=False, batch_size=2))
    np.testing.assert_array_equal(found["label"], LABELS[NUMBERS])
    np.testing.assert_array_equal(found["factors"], FACTORS[NUMBERS])
    assert "draw" not in found


def test_a_point_has_no_kl():
    point = nets.Model(None, lambda params, x: vaejax.Delta(encode(params, x).mean), decode)
    chosen = making.choose(EXPERIMENT.dataset, "test", [0])
    (chunk,) = making.encode(seven(), experiment_of(model=point), PARAMS, chosen, draw=False)
    assert not {"kl_per_axis", "variance"} & set(chunk)
    found = making.read_codes(experiment_of(model=point), PARAMS)
    assert found.kl is None
    assert making.live_axes(found).tolist() == [0, 1, 2]
    no_posterior = nets.Model(None, lambda params, x: (x, x), decode)
    with pytest.raises(TypeError, match="encode must return a distribution"):
        making.encode(seven(), experiment_of(model=no_posterior), PARAMS, chosen, draw=False)


def test_lazy_examples_are_read_once_and_a_part_at_a_time():
    reads = []

    def read(rows):
        reads.append(rows.tolist())
        return IMAGES[rows]

    lazy = experiment_of(data.Lazy(read, IMAGES.shape, IMAGES.dtype, ""))
    chosen = making.choose(lazy.dataset, "test", NUMBERS)
    found = whole(making.reconstruct(seven(), lazy, PARAMS, chosen, draw=False, batch_size=2))
    assert reads == [[5, 3], [5, 22], [0]]
    assert_same(found, reconstructions(prepared(NUMBERS)))


def test_splits_have_x_of_their_own():
    each = [
        whole(making.reconstruct(seven(), EXPERIMENT, PARAMS, making.choose(EXPERIMENT.dataset, split), draw=False))[
            "x"
        ]
        for split in ("train", "test")
    ]
    # The same images, binarized by other noise.
    assert not np.array_equal(*each)


def test_examples_of_a_persons_own():
    own = making.given(EXPERIMENT.dataset, IMAGES.astype(np.int64))
    stored = making.choose(EXPERIMENT.dataset, "test")
    assert_same(*(whole(making.reconstruct(seven(), EXPERIMENT, PARAMS, each, draw=False)) for each in (own, stored)))
    for examples, error, message in [
        (
            IMAGES[0],
            ValueError,
            r"examples must be of shape \[N, 2, 2, 1\], N at least 1; got shape \(2, 2, 1\)",
        ),
        (IMAGES[:0], ValueError, "of shape .N"),
        (IMAGES / 16, TypeError, "as grey stores them, uint8 from 0 to 16; got float64"),
        (IMAGES + 10, ValueError, "from 0 to 16, as grey stores them; got numbers from 10 to 26"),
        (IMAGES.astype(int) - 1, ValueError, "got numbers from -1"),
        ("x", TypeError, "examples must be an array"),
    ]:
        with pytest.raises(error, match=message):
            making.given(EXPERIMENT.dataset, examples)


def test_what_is_missing_of_x_is_black_in_a_picture_and_what_is_made_of_it_stays():
    from vaejax.cli import reconstruct

    nothing = np.full((1, 2, 2, 1), np.nan)
    (shown,) = reconstruct._with_black(iter([{"x": nothing, "reconstruction": nothing}]), -1.0)
    assert (shown["x"] == -1).all()
    assert np.isnan(shown["reconstruction"]).all()


def test_examples_of_a_persons_own_may_lack_numbers_where_those_of_the_data_set_do():
    own = np.where(np.eye(2, dtype=bool)[None, ..., None], np.nan, 3.0)
    split = data.Split(own.astype(np.float32))
    dataset = data.Dataset("some", split, split, 16, missing=True)
    np.testing.assert_array_equal(making.given(dataset, own).examples, own)
    for refused in (dataset._replace(missing=False), dataset._replace(max_value=2)):
        with pytest.raises(ValueError, match=r"examples must.*as some stores them"):
            making.given(refused, own)


@pytest.mark.parametrize(
    ("meaning", "low", "high"),
    [(data.Meaning.REAL, -50, 50), (data.Meaning.COUNTS, 0, 50), (data.Meaning.INTENSITY, 0, 16)],
)
def test_examples_may_be_beyond_those_of_the_data_set_where_its_meaning_has_no_end(meaning, low, high):
    split = data.Split(IMAGES.astype(np.float32))
    dataset = data.Dataset("some", split, split, 16, meaning)
    for value in (low, high):
        making.given(dataset, np.full((1, 2, 2, 1), value))
    for value in (low - 1, high + 1, np.nan, np.inf):
        if meaning is data.Meaning.INTENSITY or value in (np.inf, -1) or np.isnan(value):
            with pytest.raises(ValueError, match="as some stores them; got numbers from"):
                making.given(dataset, np.full((1, 2, 2, 1), value))


@pytest.mark.parametrize(
    ("split", "numbers", "error", "message"),
    [
        ("tests", None, ValueError, "split must be one of train, test; got 'tests'"),
        ("test", [0, 23], ValueError, "numbers must be from 0 to 22, the test examples; got 23"),
        ("test", [-1], ValueError, "got -1"),
        ("test", [], ValueError, "at least one"),
        ("test", [1.5], TypeError, "must be integers"),
        ("test", [[1]], TypeError, "must be integers, .N.; got int64 of shape"),
    ],
)
def test_examples_that_there_are_not(split, numbers, error, message):
    with pytest.raises(error, match=message):
        making.choose(EXPERIMENT.dataset, split, numbers)


@pytest.mark.parametrize(
    "spherical", [False, pytest.param(True, marks=pytest.mark.slow("another way between the same ends"))]
)
def test_interpolations_end_at_the_reconstructions(spherical):
    pairs = [[0, 1], [2, 2], [4, 3]]
    found = whole(making.interpolate(EXPERIMENT, PARAMS, pairs, 5, spherical=spherical, batch_size=4), at_most=4)
    assert found["pair"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert found["position"].tolist() == [0, 0.25, 0.5, 0.75, 1] * 3
    for step, side in ((0, 0), (4, 1)):
        chosen = making.choose(EXPERIMENT.dataset, "test", [pair[side] for pair in pairs])
        expected = whole(making.reconstruct(seven(), EXPERIMENT, PARAMS, chosen, draw=False))["reconstruction"]
        np.testing.assert_allclose(found["x"][step::5], expected, rtol=1e-5)
    np.testing.assert_allclose(found["x"], mean_of_decoder(found["z"]), rtol=1e-5)
    way = making.great_circle if spherical else making.straight_line
    quarter = way(found["z"][::5], found["z"][4::5], np.full(3, 0.25))
    np.testing.assert_allclose(found["z"][1::5], quarter, atol=1e-6)


def test_a_great_circle_turns_and_grows_evenly():
    first, last = np.array([[3.0, 0.0, 4.0]]), np.array([[-1.0, 2.0, 0.5]])
    t = np.linspace(0, 1, 9)
    path = making.great_circle(np.repeat(first, 9, 0), np.repeat(last, 9, 0), t)
    norms = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(norms, (1 - t) * 5 + t * np.linalg.norm(last), rtol=1e-12)
    unit = path / norms[:, None]
    angles = np.arccos(np.sum(unit[1:] * unit[:-1], axis=1))
    np.testing.assert_allclose(angles, np.arccos(unit[0] @ unit[-1]) / 8, rtol=1e-7)
    assert abs(np.linalg.det(unit[[0, 4, 8]])) < 1e-12  # in one plane
    # The ends to the bit, also where there is no circle.
    np.testing.assert_array_equal(path[[0, -1]], np.concatenate([first, last]))
    for other in (2 * first, -first, 0 * first):
        middle = making.great_circle(first, other, np.array([0.5]))
        np.testing.assert_allclose(middle, (first + other) / 2, atol=1e-12)


@pytest.mark.parametrize(
    ("pairs", "num_steps", "message"),
    [
        ([0, 1], 5, r"pairs must be of shape \[P, 2\]"),
        ([[0, 23]], 5, "from 0 to 22"),
        ([[0, 1]], 1, "at least 2; got 1"),
    ],
)
def test_interpolations_that_there_are_not(pairs, num_steps, message):
    with pytest.raises(ValueError, match=message):
        making.interpolate(EXPERIMENT, PARAMS, pairs, num_steps)


def test_a_traversal_moves_one_latent_at_a_time_those_first_that_tell_most(read):
    found = whole(making.traverse(EXPERIMENT, PARAMS, codes=read, num_steps=4, low=-2, high=1, batch_size=3), at_most=3)
    assert found["axis"].tolist() == [2] * 4 + [0] * 4  # and the second is dead
    assert found["value"].tolist() == [-2, -1, 0, 1] * 2
    expected = np.tile(np.median(codes(), axis=0), (8, 1))
    expected[np.arange(8), found["axis"]] = found["value"]
    np.testing.assert_allclose(found["z"], expected, atol=1e-7)
    np.testing.assert_allclose(found["x"], mean_of_decoder(found["z"]), rtol=1e-5)


def test_a_traversal_starts_where_it_is_told(read):
    code = making.encode_means(EXPERIMENT, PARAMS, making.choose(EXPERIMENT.dataset, "test", [4]))[0]
    range_ = {"low": -3, "high": 3, "num_steps": 2, "codes": read}
    of_example = whole(making.traverse(EXPERIMENT, PARAMS, axes=[1], start=4, **range_))["z"]
    np.testing.assert_allclose(of_example, [[code[0], -3, code[2]], [code[0], 3, code[2]]], rtol=1e-6)
    of_latent = whole(making.traverse(EXPERIMENT, PARAMS, axes=[0], start=np.array([9.0, 8.0, 7.0]), **range_))["z"]
    assert of_latent.tolist() == [[-3, 8, 7], [3, 8, 7]]


def codes():
    """The posterior means of all test examples."""
    return (prepared(range(N)).reshape(N, 4) @ PARAMS["encoder"] - 0.5) * GAIN


def test_a_traversal_goes_over_what_the_codes_have(read):
    found = whole(making.traverse(EXPERIMENT, PARAMS, axes=[2, 0], num_steps=3))
    ends = np.percentile(codes(), [1, 99], axis=0)[:, [2, 0]].T
    expected = np.stack([ends[:, 0], ends.mean(axis=1), ends[:, 1]], axis=1).ravel()
    np.testing.assert_allclose(found["value"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["z"][:3, 2], expected[:3], rtol=1e-5)
    low = whole(making.traverse(EXPERIMENT, PARAMS, axes=[2, 0], low=-50, num_steps=2, codes=read))["value"]
    np.testing.assert_allclose(low, [-50, ends[0, 1], -50, ends[1, 1]], rtol=1e-5)
    with pytest.raises(ValueError, match=r"low must be below high: .*; got 50 and None"):
        making.traverse(EXPERIMENT, PARAMS, low=50, codes=read)


def test_the_codes_are_read_once():
    reads = []

    def read(rows):
        reads.extend(rows.tolist())
        return IMAGES[rows]

    lazy = experiment_of(data.Lazy(read, IMAGES.shape, IMAGES.dtype, ""))
    found = making.read_codes(lazy, PARAMS)
    np.testing.assert_allclose(found.means, codes(), rtol=1e-5, atol=1e-6)
    whole(making.traverse(lazy, PARAMS, start=2, num_steps=2, codes=found))
    assert reads == list(range(N))


def test_dead_latents_are_named(read):
    kl, variance = read.kl, SCALE**2
    each = 0.5 * (codes() ** 2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(kl, each.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert making.dead_axes(kl) == [1]
    assert making.live_axes(read).tolist() == [2, 0]
    assert making.dead_axes([0.01, 0.011, np.nan]) == [0, 2]
    making.check_live([0, 2], kl)
    with pytest.raises(ValueError, match=r"^latent 1 is dead: its KL is 0 nats.*; live are 2, 0$"):
        making.check_live([0, 1], kl)
    collapsed = nets.Model(None, lambda params, x: vaejax.Normal(0 * encode(params, x).mean, 1.0), decode)
    with pytest.raises(ValueError, match="all 3 latents are dead"):
        making.traverse(experiment_of(model=collapsed), PARAMS)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"axes": [3]}, ValueError, "axes must be from 0 to 2, the 3 latents of the model; got 3"),
        ({"axes": [-1]}, ValueError, "got -1"),
        ({"axes": []}, ValueError, "at least one"),
        ({"axes": [0.5]}, TypeError, "axes must be integers"),
        ({"axes": [0], "low": 3, "high": -3}, ValueError, "low must be below high.*got 3 and -3"),
        ({"axes": [0], "num_steps": 1}, ValueError, "num_steps must be at least 2"),
        ({"axes": [0], "start": np.zeros(2)}, ValueError, r"start must be one finite latent of shape \(3,\)"),
        ({"axes": [0], "start": 23}, ValueError, "start must be from 0 to 22, the test examples; got 23"),
    ],
)
def test_traversals_that_there_are_not(read, wanted, error, message):
    with pytest.raises(error, match=message):
        making.traverse(EXPERIMENT, PARAMS, codes=read, **wanted)
