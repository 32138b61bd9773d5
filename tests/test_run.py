"""Experiments as a user runs them: the command line, the run folder, and what goes wrong."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import rich.console
from PIL import Image

from vaejax import cli, experiment, outcome, pictures, program, progress, run, training
from vaejax.data.binarized_mnist import COUNTS
from vaejax.data.idx import FILES
from vaejax.results import read_measured

ROOT = Path(__file__).parent.parent
QUICK = ["--epochs", "2", "--hidden-sizes", "8"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VAEJAX_TRACEBACK", "")


@pytest.fixture(scope="module")
def mnist_folder(tmp_path_factory):
    """Four files of MNIST's shapes, with noise in them."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for name, file in FILES.items():
        shape = (60_000 if "train" in name else 10_000, *([28, 28] if "images" in name else []))
        header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
        content = rng.integers(0, 256 if "images" in name else 10, shape, np.uint8)
        (folder / file).write_bytes(header + content.tobytes())
    parts = {name: rng.integers(0, 2, (count, 784), np.uint8) for name, count in COUNTS.items()}
    np.savez(folder / "binarized_mnist.npz", **parts)
    return folder


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """300 small images in colour, of two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(300):
        path = folder / ("light" if number % 2 else "dark") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256 if number % 2 else 99, (7, 9, 3), np.uint8)).save(path)
    return folder


GENERATIVE = {
    "reconstructions.png", "samples.png", "traversals.png", "interpolations.png", "latents.png", "kl_per_axis.png",
    "curves.png",
}  # fmt: skip
PICTURES = {
    "vae": GENERATIVE,
    "digits_vae": GENERATIVE,
    "digits_ae": {"reconstructions.png", "curves.png", "traversals.png", "interpolations.png", "latents.png"},
    "digits_vae_2d": GENERATIVE | {"manifold.png"},
    "mnist_vae": GENERATIVE,
    "mnist_aevb": GENERATIVE,
    "mnist_ladder": GENERATIVE - {"kl_per_axis.png"},
    "dsprites_vae": GENERATIVE,
    "mnist_iwae": GENERATIVE,
    "mnist_iwae_two_layers": GENERATIVE - {"kl_per_axis.png"},
    **{f"static_mnist_{method}": GENERATIVE for method in ("vae", "iwae")},
    # No closed divergence: no bars.
    **{
        f"static_mnist_{method}": GENERATIVE - {"kl_per_axis.png"}
        for method in ("vamp", "flow", "planar_flow", "vampprior")
    },
    "static_mnist_vampprior_two_levels": GENERATIVE - {"kl_per_axis.png"},
}
LARGE = {
    "mnist_vae": [],
    "mnist_aevb": [],
    "mnist_ladder": ["--latent-size", "4", "--upper-sizes", "3", "--hidden-sizes", "8", "6"],
    "dsprites_vae": [],
    "mnist_iwae": ["--num-samples", "2"],
    "mnist_iwae_two_layers": ["--num-samples", "2"],
    "static_mnist_vae": ["--report-samples", "2"],
    "static_mnist_iwae": ["--report-samples", "2", "--num-samples", "2"],
    "static_mnist_vamp": ["--report-samples", "2", "--pseudo-inputs", "3"],
    "static_mnist_flow": ["--report-samples", "2", "--flow-hidden-size", "8"],
    "static_mnist_planar_flow": ["--report-samples", "2", "--flow-layers", "2", "--hidden-sizes", "8"],
    "static_mnist_vampprior": ["--report-samples", "2", "--pseudo-inputs", "3", "--hidden-sizes", "8", "6"],
    "static_mnist_vampprior_two_levels": ["--report-samples", "2", "--pseudo-inputs", "3", "--hidden-sizes", "8", "6"],
}


def test_every_experiment_is_tested():
    assert set(experiment.experiment_names()) == set(PICTURES)


# What is called mnist must be MNIST, and these take nothing else.
REAL = {"mnist_iwae", "mnist_iwae_two_layers", "dsprites_vae"}
# The run of the fixture `finished_runs`, with all its pictures and its page.
FAST = {"digits_vae"}


def experiments():
    for name in PICTURES:
        slow = pytest.mark.slow("trains on 60,000 images" if name in LARGE else "another experiment, the same command")
        yield pytest.param(name, marks=() if name in FAST else slow)


@pytest.mark.parametrize("name", [*experiments()])
def test_every_experiment_runs_and_writes_its_folder(name, request, tmp_path, capsys):
    if name == "digits_vae":
        folder, _ = request.getfixturevalue("finished_runs")
        out, err = (folder.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
    else:
        folder = tmp_path / "run"
        run_experiment(name, folder, request)
        out, err = capsys.readouterr()
    assert {p.name for p in folder.glob("*.png")} == PICTURES[name]
    for picture in folder.glob("*.png"):
        assert str(picture) in out
        assert picture.read_bytes().startswith(b"\x89PNG")
    # The bar, or its lines: step, the parts and the speed.
    assert re.search(r"step \d+/\d+  .*reconstruction [\d.]+  .*[\d,]+ examples/s", err)
    assert re.search(r"reconstruction +[\d.]+ \+- [\d.]+  nats", out)

    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"] == name
    assert config["settings"]["epochs"] == 2
    assert len(config["data"]["sha256"]) == 64
    assert config["versions"]["jax"] == jax.__version__
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert {"step", "loss", "reconstruction", "gradient_norm"} <= set(lines[0])
    # A flow and a hierarchy have no mean and no closed divergence, and a bound of several samples only estimates one.
    without_mean = (
        "static_mnist_flow", "static_mnist_planar_flow", "mnist_iwae_two_layers", "static_mnist_vampprior_two_levels", "mnist_ladder",
    )  # fmt: skip
    assert ("active_units" in lines[0]) == (name not in without_mean)
    if name in ("digits_vae", "digits_vae_2d", "mnist_vae", "static_mnist_vae"):
        np.testing.assert_allclose(sum(lines[1]["kl_per_axis"]), lines[1]["kl"], rtol=1e-4)
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["reconstruction"]["standard_error"] > 0


def run_experiment(name, folder, request):
    """Two epochs of an experiment, on data that look like its own."""
    extra = []
    if name == "vae":
        extra = ["--dataset", str(request.getfixturevalue("few_images"))]
    if name in LARGE:
        if name in REAL and "VAEJAX_DATA" not in os.environ:
            pytest.skip("VAEJAX_DATA names no folder")
        request.getfixturevalue("optimized")
        files = os.environ["VAEJAX_DATA"] if name in REAL else str(request.getfixturevalue("mnist_folder"))
        # A set of one's own is named by its path.
        where = "--dataset" if name in ("mnist_vae", "mnist_aevb", "mnist_ladder") else "--folder"
        extra = [where, files, "--batch-size", "5000", *LARGE[name]]
    assert cli.main(["train", name, *QUICK, *extra, "--output", str(folder)]) == 0


def test_a_run_reloads_and_measures_the_same(finished_runs):
    folder, _ = finished_runs
    trained, settings, state = run.load_run(folder)
    assert (settings.latent_size, settings.hidden_sizes) == (3, (8,))
    assert state.step == 2 * (1437 // 128)
    measured = outcome.measure(trained, state.params)
    results = json.loads((folder / "results.json").read_text())
    found = float(measured.estimates()["negative_elbo"].mean)
    np.testing.assert_allclose(found, results["test"]["negative_elbo"]["mean"], rtol=1e-6)
    assert measured.active_units() == results["active_units"]
    stored = read_measured(folder)
    chex.assert_trees_all_close(stored, measured, rtol=1e-5)
    np.testing.assert_array_equal(stored.fingerprints, measured.fingerprints)
    np.testing.assert_allclose(results["kl_per_axis"], measured.kl_per_axis.mean(axis=0), rtol=1e-4)
    page = (folder / "report.html").read_text()
    assert results["report"] == "report.html"
    assert '<div class="verdict' in page
    assert page.count("data:image/png;base64,") == len(results["pictures"])


def test_beta_is_not_in_the_figures(finished_runs):
    plain, heavy = (json.loads((folder / "results.json").read_text())["test"] for folder in finished_runs)
    np.testing.assert_allclose(
        heavy["negative_elbo"]["mean"], heavy["reconstruction"]["mean"] + heavy["kl"]["mean"], rtol=1e-6
    )
    assert heavy["kl"]["mean"] < 0.5 * plain["kl"]["mean"]


@pytest.mark.slow("trains once more; test_faults proves it for processes")
def test_the_seed_is_the_run(bank):
    """The members of a sweep that differ in the seed alone have other figures; that a member is a run is proved there."""
    members = json.loads((bank("swept") / "results.json").read_text())["members"]
    seeds = [each for each in members if each["values"] | {"seed": 0} == members[0]["values"] | {"seed": 0}]
    assert [each["values"]["seed"] for each in seeds] == [0, 1]
    assert seeds[0]["test"] != seeds[1]["test"]


@pytest.mark.slow("trains for what is proved of the members of a sweep")
@pytest.mark.usefixtures("without_pictures")
def test_another_seed_is_another_run(tmp_path, bank):
    assert cli.main(["train", str(ROOT / "tests" / "tiny.py"), "--seed", "2", "--output", str(tmp_path)]) == 0
    one, other = (json.loads((folder / "results.json").read_text())["test"] for folder in (bank("plain"), tmp_path))
    assert one != other


BAD = {
    "unknown experiment": (["digits_va"], "unknown experiment digits_va: perhaps digits_vae; there are digits_ae"),
    "no experiment": (["__init__.py"], "unknown experiment __init__.py"),
    "a file that is none": (["tests/conftest.py"], "is no experiment: it must define Settings and build"),
    "zero epochs": (["digits_vae", "--epochs", "0"], "epochs must be at least 1; got 0"),
    "negative seed": (["digits_vae", "--seed", "-1"], "seed must be at least 0; got -1"),
    "rate of zero": (["digits_vae", "--learning-rate", "0"], "learning_rate must be positive and finite; got 0.0"),
    "rate of NaN": (["digits_vae", "--learning-rate", "nan"], "learning_rate must be positive and finite; got nan"),
    "zero latents": (["digits_vae", "--latent-size", "0"], "latent_size must be at least 1; got 0"),
    "zero width": (["digits_vae", "--hidden-sizes", "0"], "hidden_sizes must be at least 1; got 0"),
    "zero samples": (["digits_vae", "--num-samples", "0"], "num_samples must be at least 1; got 0"),
    "negative beta": (["digits_vae", "--beta", "-1"], "beta must be at least 0 and finite; got -1.0"),
    "a huge seed": (["digits_vae", "--seed", "99999999999999999999"], r"seed must be below 2\*\*31; got 9999999"),
    "a norm of zero": (["digits_vae", "--clip-norm", "0"], "clip_norm must be positive; got values down to 0.0"),
    "no device": (["digits_vae", "--devices", "0"], "devices must be at least 1; got 0"),
    "too many devices": (["digits_vae", "--devices", "100"], "num_devices must be at most the 1 devices there are"),
    "parts that do not divide": (["digits_vae", "--micro-batches", "3"], "micro_batches must divide the batch_size 128"),
    "a schedule without a length": (["digits_vae", "--kl-epochs", "nan"], "kl_epochs must be at least 0 and finite"),
    "an unknown optimizer": (["digits_vae", "--optimizer", "adm"], "adm"),
    "patience for nothing": (["digits_vae", "--patience", "2"], "patience needs a validation_size"),
    "all held out": (["digits_vae", "--validation-size", "1437"], "validation_size must be below the 1437 training"),
    "half a cluster": (["digits_vae", "--coordinator", "localhost:1"], "num_hosts, host_index must be given with coor"),
    "infinite beta": (["digits_vae", "--beta", "inf"], "beta must be at least 0 and finite; got inf"),
    "parts that do not divide all examples": (
        ["digits_vae", "--batch-size", "5000", "--micro-batches", "5"], "micro_batches must divide the 1437 .*got 5"
    ),
    "no folder": (["mnist_vae"], "mnist needs t10k-images-idx3-ubyte.gz and 3 more, in none of .*downloads, and https"),
    "a folder without the files": (["mnist_vae", "--folder", "tests"], "in none of tests, .* put it into one of"),
    "an unknown data set": (["mnist_vae", "--dataset", "mnits"], "unknown data set mnits: perhaps .*mnist"),
    "colours for a Bernoulli": (
        ["mnist_vae", "--dataset", "experiments/pictures"], "all images must be alike; .*give size=.height, width."
    ),
    "a file that is not there": (["vae", "--dataset", "none.npz"], "there is no file or folder none.npz"),
    "no meaning": (["vae", "--dataset", "x.npy", "--meaning", "gray"], "gray.*--meaning"),
}  # fmt: skip


def no_network(*_, **__):
    raise OSError("the network is unreachable")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, capsys, monkeypatch):
    words, message = BAD[case]
    monkeypatch.delenv("VAEJAX_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    output = [] if words[0] in ("digits_va", "__init__.py", "tests/conftest.py") else ["--output", str(tmp_path / "x")]
    assert cli.main(["train", *words, *output]) == 2
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("vaejax: error: ")
    assert re.search(message, last)
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["digits_vae", "--learning-rat", "1"], ["digits_vae", "--epochs", "many"]])
def test_a_bad_override_is_named(words, capsys):
    assert cli.main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert "learning-rat" in err or "many" in err
    assert err.startswith("vaejax: error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.slow("diverges by itself, after what test_trainer.py proves of a poisoned step")
@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_diverges_says_so_and_keeps_nothing_that_is_not_finite(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "digits_vae", *QUICK, "--learning-rate", "1e30", "--output", str(folder)]
    assert cli.main(words) == 1
    assert re.search(r"vaejax: error: the loss is .* at step \d+", capsys.readouterr().err)
    assert not (folder / "results.json").exists()
    module = experiment.load_experiment("digits_vae")
    settings = module.Settings(hidden_sizes=(8,))
    like = program.make_program(module.build(settings), settings).like().state
    failed = training.load_checkpoint(folder / "failed", like)
    chex.assert_tree_all_finite(failed._replace(key=()))


def test_loading_what_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config.json"):
        run.load_run(tmp_path)


def test_data_outside_the_support_are_refused_before_training():
    module = experiment.load_experiment("digits_vae")
    settings = module.Settings()
    built = module.build(settings)
    grey = built._replace(model=built.model, prepare=lambda key, images: jax.numpy.asarray(images) / 16.0)
    with pytest.raises(ValueError, match=r"data set digits .*Categorical; got"):
        program.check_fit(grey, settings)


def test_the_plane_is_read_as_it_is_drawn():
    """The first image is top left: least z_1, greatest z_2; quantiles of the prior at equal steps."""
    grid = np.asarray(jax.jit(pictures.quantile_grid, static_argnums=0)(3)).reshape(3, 3, 2)
    quantiles = [-0.9674216, 0.0, 0.9674216]
    np.testing.assert_allclose(grid[:, :, 0], [quantiles] * 3, atol=1e-5)
    np.testing.assert_allclose(grid[:, 0, 1], quantiles[::-1], atol=1e-5)
    np.testing.assert_allclose(grid[:, 2, 1], quantiles[::-1], atol=1e-5)


def test_an_experiment_runs_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = experiment.load_experiment(str(ROOT / "experiments" / "digits_vae_2d.py"))
    assert module.Settings().latent_size == 2
    assert experiment.experiment_names() == []
    with pytest.raises(ValueError, match="unknown experiment digits_vae: there are none"):
        experiment.load_experiment("digits_vae")


def test_the_bar_has_room_on_a_narrow_terminal():
    metrics = {"negative_elbo": 104.56, "reconstruction": 78.12, "kl": 26.44}
    values = {name: np.float32(value) for name, value in metrics.items()}
    report = training.Report(4680, 468, values, seconds_per_step=1.5 / 468, skipped=0)
    text = progress.describe(report, 46800, 128)
    assert text == "step 4680/46800  -ELBO 104.56  reconstruction 78.12  KL 26.44  39,936 examples/s"
    console = rich.console.Console(width=80, force_terminal=True, file=io.StringIO())
    bar = progress.TrainingProgress(46800, 128, console)
    with bar:
        bar.update(report)
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert text in screen
    assert "10%" in screen
    assert max(len(line.rstrip()) for line in screen.replace("\r", "\n").splitlines()) <= 80


@pytest.mark.slow("processes of their own")
def test_the_light_installation_names_what_the_command_needs():
    hidden = "import sys; sys.modules['tyro'] = None; from vaejax.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", hidden]
    result = subprocess.run([*command, "train", "digits_vae"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == 'vaejax: error: train needs tyro: pip install "vaejax[train]"\n'
    # Which commands there are is said without what they need.
    assert (
        "train an experiment" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    )


HAS_GPU = shutil.which("nvidia-smi") is not None


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("Unknown backend: 'abacus'\nand more"), "Unknown backend: 'abacus'"),
        # JAX fails an assertion where not even the wheels for the platform are installed.
        (AssertionError(), "its wheels are not installed"),
    ],
)
def test_an_accelerator_that_jax_does_not_find_is_an_error(monkeypatch, capsys, failure, reason):
    def devices():
        raise failure

    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    monkeypatch.setattr(jax, "devices", devices)
    assert cli.main(["train", "digits_vae"]) == 2
    assert capsys.readouterr().err == f"vaejax: error: JAX finds no device for abacus: {reason}\n"


@pytest.mark.slow("a process of its own")
@pytest.mark.parametrize("platform", ["nonesuch", "cuda"])
def test_an_accelerator_that_is_not_there_is_an_error(platform):
    if platform == "cuda" and HAS_GPU:
        pytest.skip("there is one")
    result = subprocess.run(
        [sys.executable, "-m", "vaejax", "train", "digits_vae"],
        env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 2
    assert f"vaejax: error: JAX finds no device for {platform}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--dry-run", "ACCEL=abacus"], "ACCEL=abacus is unknown"), (["device-gpu", "ACCEL=gpu"], "no NVIDIA GPU")],
)
def test_make_refuses_an_accelerator_that_it_cannot_have(words, message):
    if "ACCEL=gpu" in words and HAS_GPU:
        pytest.skip("there is one")
    result = subprocess.run(["make", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


@pytest.mark.slow("trains an autoencoder and a VAE on digits in a process of its own")
def test_the_picture_of_the_readme_is_drawn(tmp_path):
    script = ROOT / "experiments" / "ae_beside_vae.py"
    picture = tmp_path / "picture.png"
    subprocess.run(
        [sys.executable, script, "--epochs", "1", "--seeds", "1", "--output", picture], check=True, capture_output=True
    )
    assert picture.stat().st_size > 20_000


@pytest.mark.slow("trains ten epochs of MNIST")
@pytest.mark.data
@pytest.mark.usefixtures("optimized")
@pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")
def test_mnist_reaches_the_published_figure(tmp_path):
    """The -ELBO of 104 nats after ten epochs that flax's example of the same net reports."""
    assert cli.main(["train", "mnist_vae", "--output", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["negative_elbo"]["mean"] < 104.0
