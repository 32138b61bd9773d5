"""What is exported is the model's to rounding, for any number of rows, and needs nothing of its code."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from tests.parameters import random_params
from vaejax import export, making, nets
from vaejax.experiment import load_experiment

pytest.importorskip("safetensors")
pytest.importorskip("flatbuffers")

HERE = Path(__file__)
ROWS = (1, 7, 100)
digits_vae, digits_ae = (load_experiment(str(HERE.parent.parent / f"experiments/digits_{k}.py")) for k in ("vae", "ae"))
kinds = load_experiment(str(HERE.with_name("kinds.py")))
SMALL = {"latent_size": 3, "hidden_sizes": (5,)}
KEY = jax.random.key(3)


class Case:
    """An experiment, its weights, and what was exported of them."""

    def __init__(self, experiment, folder, about=None):
        self.experiment, self.folder = experiment, folder
        self.params = random_params(experiment.model, 0.1)
        export.export_run(experiment, self.params, folder, about=about or {})
        self.exported = export.load_export(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    experiment = digits_vae.build(digits_vae.Settings(**SMALL))
    return Case(experiment, tmp_path_factory.mktemp("digits") / "export", {"run": "runs/digits/001", "steps": 3})


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return Case(digits_ae.build(digits_ae.Settings(**SMALL)), tmp_path_factory.mktemp("ae") / "export")


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def of_the_model(digits):
    """Codes, decoded codes and samples of the model itself: of as many rows as any export is called with."""
    x, model = digits.experiment.dataset.test.examples[: max(ROWS)], digits.experiment.model

    @jax.jit
    def compute(params, x):
        q = model.encode(params, x)
        return q.mean, q.variance, model.decode(params, q.mean).mean

    mean, variance, decoded = map(np.asarray, compute(digits.params, x))
    drawn, means = (
        next(making.generate(KEY, digits.experiment, digits.params, max(ROWS) + 2, draw=draw)) for draw in (True, False)
    )
    samples = {"z": drawn["z"][2:], "mean": means["x"][2:], "draw": drawn["x"][2:]}
    return {"mean": mean, "variance": variance}, {"mean": decoded}, samples


@pytest.mark.parametrize(
    "rows", [pytest.param(rows, marks=pytest.mark.slow("another number")) if rows == 1 else rows for rows in ROWS]
)
def test_functions_are_those_of_the_model_for_any_number_of_rows(digits, of_the_model, rows):
    codes, decoded, samples = ({name: array[:rows] for name, array in each.items()} for each in of_the_model)
    assert_close(digits.exported.encode(digits.experiment.dataset.test.examples[:rows]), codes)
    assert_close(digits.exported.decode(codes["mean"]), decoded)
    made = digits.exported.generate(KEY, np.arange(rows) + 2)
    assert_close(made, samples)
    assert not np.array_equal(made["mean"], made["draw"])


def test_levels_come_as_integers_of_any_kind(digits):
    x = digits.experiment.dataset.test.examples[:3]
    assert digits.exported.about["x"] == {
        "shape": [8, 8, 1],
        "dtype": "uint8",
        "what": "one example as experiment.prepare makes it; digits stores intensity from 0 to 16 as uint8",
    }
    for kind in (np.int32, np.int64, np.float32):
        assert_close(digits.exported.encode(x.astype(kind)), digits.exported.encode(x))
    assert_close(jax.jit(digits.exported.encode)(jnp.asarray(x)), digits.exported.encode(x))


def test_what_is_said_of_an_export(digits, autoencoder):
    about = digits.exported.about
    assert about["about"] == {"run": "runs/digits/001", "steps": 3}
    assert about["z"] == {"shape": [3], "dtype": "float32"}
    assert {name: set(results) for name, results in about["functions"].items()} == {
        "encode": {"mean", "variance"},
        "decode": {"mean"},
        "generate": {"z", "mean", "draw"},
    }
    assert about["left_out"] == {}
    assert about["versions"]["jax"] == jax.__version__
    for name in ("encode", "decode", "generate"):
        artifact = jax.export.deserialize(bytearray((digits.folder / f"{name}.jax").read_bytes()))
        assert artifact.platforms == ("cpu", "cuda", "tpu")
    assert autoencoder.exported.about["left_out"] == {"generate": "the experiment has no prior p(z)"}
    assert not (autoencoder.folder / "generate.jax").exists()


def test_a_deterministic_autoencoder_has_no_generate(autoencoder):
    x = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
    code = jax.jit(lambda x: autoencoder.experiment.model.encode(autoencoder.params, x).mean)(x)
    np.testing.assert_allclose(autoencoder.exported.encode(x)["mean"], code, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="no generate: the experiment has no prior"):
        autoencoder.exported.generate(KEY, np.arange(3))


def test_weights_have_the_names_of_the_tree(digits):
    flat = {
        ".".join(str(getattr(part, "key", getattr(part, "idx", None))) for part in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(digits.params)
    }
    assert_close(digits.exported.params, flat)
    assert "decoder.layers.0.kernel" in flat


def test_weights_in_any_memory_order_and_half_precision(tmp_path):
    """A matrix that is transposed lies in memory as another does."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"w": np.asfortranarray(matrix), "b": jnp.ones(4, jnp.bfloat16), "s": jnp.float32(0.5)}
    model = nets.Model(
        None,
        lambda p, x: vaejax.Normal(x @ p["w"].T * p["s"], 1.0),
        lambda p, z: vaejax.Bernoulli(z @ p["w"] + p["b"][0]),
    )
    experiment = kinds.build(kinds.Settings(kind="vectors"))
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    split = experiment.dataset.test._replace(examples=vectors)
    dataset = experiment.dataset._replace(train=split, test=split)
    experiment = experiment._replace(model=model, dataset=dataset)
    export.export_run(experiment, params, tmp_path / "e", about={})
    exported = export.load_export(tmp_path / "e")
    np.testing.assert_array_equal(exported.params["w"], matrix)
    assert exported.params["b"].dtype == jnp.bfloat16
    np.testing.assert_allclose(exported.encode(vectors)["mean"], 0.5 * vectors @ matrix.T, rtol=1e-5)


def test_a_posterior_without_a_mean_and_a_likelihood_without_draws(tmp_path):
    plain = kinds.build(kinds.Settings(kind="vectors"))
    params = random_params(plain.model)
    shift = vaejax.distributions.ElementwiseAffine(np.full(2, 5.0, np.float32), np.zeros(2, np.float32))
    model = plain.model._replace(
        encode=lambda params, x: vaejax.distributions.Transformed(plain.model.encode(params, x), shift),
        decode=lambda params, z: vaejax.distributions.OptimalNormal(plain.model.decode(params, z).mean),
    )
    export.export_run(plain._replace(model=model), params, tmp_path / "e", about={})
    exported = export.load_export(tmp_path / "e")
    x = plain.dataset.test.examples[:6]
    q = jax.jit(plain.model.encode)(params, x)
    mean, variance = np.asarray(q.loc), np.square(q.scale)
    # The mean of 256 draws.
    error = np.abs(exported.encode(x)["mean"] - (mean + 5)) / np.sqrt(variance / 256)
    assert error.max() < 5
    assert exported.generate(KEY, [0, 1] * np.ones(2, int)).keys() == {"z", "mean"}
    assert exported.about["left_out"] == {"generate: draw": "p(x|z) cannot be drawn from"}


def run_without(modules, code, folder):
    """What a fresh Python says in an empty folder, where some modules cannot be imported."""
    block = f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", block + code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


HEAVY = [
    "flax",
    "optax",
    "orbax",
    "matplotlib",
    "sklearn",
    "grain",
    "vaejax.nets",
    "vaejax.training",
    "vaejax.experiment",
]

LOADED = """
import json, pathlib, sys
import jax, jax.export, numpy as np
from vaejax.export import load_export

folder = pathlib.Path(sys.path[-1])
light = load_export(folder).generate(jax.random.key(3), np.arange(2))["mean"].tolist()

# With JAX and safetensors alone: all that is vaejax's is gone.
for name in [name for name in sys.modules if name.partition(".")[0] == "vaejax"]:
    sys.modules[name] = None
from safetensors.numpy import load_file

about = json.loads((folder / "export.json").read_text())
params = load_file(folder / "weights.safetensors")
load = lambda name: jax.export.deserialize(bytearray((folder / f"{name}.jax").read_bytes())).call
encode, decode, generate = map(load, about["functions"])
codes = encode(params, np.zeros((3, *about["x"]["shape"]), about["x"]["dtype"]))["mean"]
assert decode(params, codes)["mean"].shape == (3, 8, 8, 1)
bare = generate(params, jax.random.key_data(jax.random.key(3)), np.arange(2, dtype=np.uint32))["mean"].tolist()
print(json.dumps([light, bare]))
"""


@pytest.mark.slow("a process of its own")
def test_an_export_is_loaded_without_the_code_of_the_model(digits, tmp_path):
    found = run_without(HEAVY, f"sys.path.append({str(digits.folder)!r})\n" + LOADED, tmp_path)
    made = digits.exported.generate(KEY, np.arange(2))["mean"]
    for how, each in zip(("by vaejax.export", "by jax.export"), found, strict=True):
        np.testing.assert_allclose(each, made, rtol=1e-5, atol=1e-6, err_msg=how)


def damaged(digits, folder, name, change):
    """A copy of the export in which a file was changed, or is missing."""
    folder.mkdir()
    for path in digits.folder.iterdir():
        content = path.read_bytes()
        content = change(content) if path.name == name else content
        if content is not None:
            (folder / path.name).write_bytes(content)
    return folder


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def edited(**changes):
    return lambda content: json.dumps(json.loads(content) | changes).encode()


FILES = ["weights.safetensors", "encode.jax", "decode.jax", "generate.jax"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, flip, f"{name} is damaged: its checksum is not that in export.json") for name in FILES),
        *((name, lambda content: None, f"{name} is missing") for name in FILES),
        ("weights.safetensors", lambda content: content[:-9], "is damaged"),
        ("export.json", lambda content: content[:-9], "export.json is damaged"),
        ("export.json", lambda content: b"[]", "export.json is damaged"),
        ("export.json", lambda content: b"{}", "export.json is damaged"),
        ("export.json", edited(x={}), "export.json is damaged"),
        ("export.json", edited(files={}), "export.json is damaged: it does not say what the files are"),
        ("export.json", edited(functions={"../../encode": {}}), "export.json is damaged"),
        ("export.json", edited(format=2), "is an export of format 2, and this is vaejax of format 1"),
    ],
)
def test_a_damaged_export_is_refused(digits, tmp_path, name, change, message):
    with pytest.raises(ValueError, match=message) as failure:
        export.load_export(damaged(digits, tmp_path / "e", name, change))
    assert "\n" not in str(failure.value)


def test_a_folder_that_is_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is no export: there is no such folder"):
        export.load_export(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"is no export: it has no export.json"):
        export.load_export(tmp_path)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (
            "encode",
            [np.zeros((8, 8, 1), np.uint8)],
            ValueError,
            r"x must be of shape \[N, 8, 8, 1\].*got shape \(8, 8, 1\)",
        ),
        ("encode", [np.zeros((2, 8, 8, 3), np.uint8)], ValueError, r"got shape \(2, 8, 8, 3\)"),
        ("encode", [np.zeros((0, 8, 8, 1), np.uint8)], ValueError, "N at least 1"),
        ("encode", [np.full((1, 8, 8, 1), 0.5)], ValueError, "x must hold whole numbers from 0 to 255"),
        ("encode", [np.full((1, 8, 8, 1), 256)], ValueError, "x must hold whole numbers from 0 to 255"),
        ("encode", ["x"], TypeError, "x must be an array"),
        ("decode", [np.zeros((2, 4), np.float32)], ValueError, r"z must be of shape \[N, 3\]"),
        ("decode", [np.zeros((2, 3), int)], TypeError, "z must be float32, as export.json says; got int64"),
        ("generate", [jax.random.key(0), 5], ValueError, r"numbers must be of shape \[N\]"),
        ("generate", [jax.random.key(0), np.array([-1])], ValueError, "numbers must hold whole numbers from 0"),
        ("generate", [0, np.arange(3)], TypeError, "key must be a typed PRNG key"),
        (
            "generate",
            [jax.random.key(0, impl="rbg"), np.arange(3)],
            ValueError,
            "key must be of the kind threefry2x32; got rbg",
        ),
    ],
)
def test_what_does_not_fit_is_named(digits, function, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(digits.exported, function)(*arguments)


def test_what_is_in_the_way_and_what_cannot_be_said(digits, tmp_path):
    redo = lambda folder, **how: export.export_run(digits.experiment, digits.params, folder, **({"about": {}} | how))
    with pytest.raises(FileExistsError, match="exists: name another folder or --overwrite"):
        redo(digits.folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="never replaced"):
        redo(tmp_path / "notes", overwrite=True)
    with pytest.raises(TypeError, match="about must be a dict that JSON can say"):
        redo(tmp_path / "e", about={"key": KEY})
    with pytest.raises(TypeError, match="params: w must be an array; got str"):
        export.export_run(digits.experiment, {"w": "x"}, tmp_path / "e", about={})
    with pytest.raises(ValueError, match="names that differ when they are joined by dots"):
        export.flatten_params({"a": {"b": np.ones(1)}, "a.b": np.ones(1)})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "notes"]
    old = damaged(digits, tmp_path / "old", "encode.jax", flip)
    redo(old, overwrite=True, about={"new": True})
    assert export.load_export(old).about["about"] == {"new": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "old"]
