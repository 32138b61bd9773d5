"""The commands as a new user gives them, right and wrong: what is printed where, and the exit code."""

import contextlib
import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import rich.console
from PIL import Image

import vaejax.__main__
from vaejax import cli, data, findings, progress, run, training
from vaejax.assess import Assessment
from vaejax.cli import commands
from vaejax.export import load_export

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def limited(size):
    """A context in which no file grows beyond a size, which looks to a program like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def answer(capsys, *words):
    """The standard output of a command that must succeed."""
    assert cli.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refusal(capsys, *words, says=()):
    """The one line that a command says which must fail, having printed nothing else but what it reads."""
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *before, last = err.splitlines()
    assert [line for line in before if not line.startswith("reading ")] == [*says], err
    assert last.startswith("vaejax: error: ")
    return last


def test_there_is_help_for_every_command(capsys):
    usage = answer(capsys, "--help")
    assert "digits_vae" in usage
    for name, summary in commands.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", usage, re.MULTILINE)
        said = answer(capsys, name, "--help")
        assert said.startswith(f"usage: vaejax {name} ")
        assert "--json" in said
        # Without a word it says what is missing.
        first = commands.make_parser(name, commands.load(name))._get_positional_actions()[0].metavar
        message = f"vaejax: error: the following arguments are required: {first} (see vaejax {name} --help)"
        assert refusal(capsys, name) == message
    assert cli.main([]) == 2
    assert capsys.readouterr().out == usage
    assert "vaejax --version" in usage
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", answer(capsys, "--version"))


def test_the_settings_of_an_experiment_are_in_its_help(capsys):
    for command, own in (("train", "settings:"), ("sweep", "--seeds")):
        with pytest.raises(SystemExit) as exit:
            cli.main([command, "digits_vae", "--help"])
        assert exit.value.code == 0
        out = capsys.readouterr().out
        assert own in out
        assert "--learning-rate" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute", "x"], "unknown command evalute: perhaps evaluate; see vaejax --help"),
        (["nonsense"], "unknown command nonsense: see vaejax --help"),
        (["train", "--epochs", "3"], "name the experiment first: vaejax train EXPERIMENT --epochs 3"),
        (["generate", "run", "--cuont", "3"], r"unrecognized arguments: --cuont 3 \(see vaejax generate --help\)"),
        (["generate", "run", "--count", "many"], "count must be a whole number; got many"),
        (["generate", "run", "--count", "4294967296"], "count must be at most 4,294,967,295; got 4294967296"),
        *(([name, "run", "--seed", seed], f"seed must be at {most}; got {seed}")
          for name in ("generate", "reconstruct", "encode")
          for seed, most in (("-1", "least 0"), ("2147483648", "most 2,147,483,647"))),
        (["generate", "run", "--mixture", "0"], "mixture must be at least 1; got 0"),
        (["traverse", "run", "--steps", "1"], "steps must be at least 2; got 1"),
        (["traverse", "run", "--start", "-1"], "start must be at least 0; got -1"),
        (["traverse", "run", "--axes", "x"], "axes must be numbers and ranges such as 3,10-19; got x"),
        (["traverse", "run", "--axes", "0-99999999"], "axes must name at most 10,000,000 latents; got 0-99999999"),
        (["traverse", "run", "--low", "3", "--high", "1"], "low must be below high, and both finite; got 3.0 and 1.0"),
        (["interpolate", "run", "--between", "1"], "between must be two numbers of examples such as 3,17; got 1"),
        (["reconstruct", "run", "--examples", "9-3"], "examples must have ranges from low to high; got 9-3"),
        (["encode", "run", "--input", "x.npy", "--split", "train "], "--split: not allowed with argument --input"),
        (["generate", "run", "--output", "x.gif"], "x.gif must end in .npy, .npz or .png, or be a folder"),
        *((["encode", "run", "--output", name], f"output must end in .npz, since codes are several arrays; got {name}")
          for name in ("codes.npy", "c.png", "folder/", "codes")),
        *(([name, "run", *others, "--output", "README.md/x.png"], "README.md/x.png cannot be written: README.md is a f")
          for name, others in (("generate", ()), ("compare", ("run",)), ("export", ()), ("data", ()))),
        *(([name, "run", *others, "--output", "experiments/pictures/methods.png"], "methods.png exists: name another fi")
          for name, others in (("generate", ()), ("compare", ("run",)), ("data", ()))),
        (["export", "run", "--output", "README.md"], "README.md exists and is something else, which is never replaced"),
        (["generate", "run", "--mean", "--draw"], "argument --draw: not allowed with argument --mean"),
        (["generate", "run", "--count", "0"], "count must be at least 1; got 0"),
        (["generate", "run", "--count", "-3"], "count must be at least 1; got -3"),
        (["evaluate", "run", "--samples", "1"], "error: samples must be at least 2; got 1"),
        (["evaluate", "run", "--examples", "0"], "error: examples must be at least 1; got 0"),
        (["sweep", "digits_vae", "--seeds", "0"], "seeds must be at least 1; got 0"),
        (["train", "digits_vae", "--epochs", "many"], "r: Error parsing --epochs: .*many'? .see vaejax train digits_"),
        (["train", "digits_vae", "--learning-rat", "1"], "r: Unrecognized options: --learning-rat, 1: perhaps --learn"),
        (["train", "nowhere/own.py"], "unknown experiment nowhere/own.py: there is no file /.*/nowhere/own.py"),
        (["completion", "powershell"], "argument SHELL: invalid choice: 'powershell'"),
        *(([name, "nowhere"], "nowhere is no run folder: there is no such folder") for name in
          ("evaluate", "report", "generate", "reconstruct", "interpolate", "traverse", "encode", "export", "replay")),
        (["evaluate", "tests"], "tests is no run folder: it has no config.json"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_one_line(words, message, capsys):
    assert re.search(message, refusal(capsys, *words))


def test_generated_arrays_are_those_of_the_seed_and_a_file_in_the_way_stays(finished_run, tmp_path, capsys):
    path = tmp_path / "x.npz"
    said = answer(capsys, "generate", finished_run, "--count", 10, "--seed", 3, "--output", path)
    assert said == f"10 means of p(x|z), z from the prior, seed 3, temperature 1\n{path}\n"
    first = dict(np.load(path))
    assert (first["x"].shape, first["z"].shape) == ((10, 8, 8, 1), (10, 3))
    before = path.read_bytes()
    assert f"{path} exists" in refusal(capsys, "generate", finished_run, "--output", path)
    assert path.read_bytes() == before
    words = ["generate", finished_run, "--count", 7, "--draw", "--seed", 3, "--batch-size", 2, "--overwrite", "--json"]
    content = json.loads(answer(capsys, *words, "--output", path))
    assert content == {
        "what": "7 draws from p(x|z), z from the prior, seed 3, temperature 1", "count": 7, "path": str(path)
    }  # fmt: skip
    second = dict(np.load(path))
    np.testing.assert_allclose(second["z"], first["z"][:7], rtol=1e-6)
    assert np.array_equal(second["x"], second["x"].round())
    assert not np.array_equal(first["x"], first["x"].round())


def test_pictures_go_to_the_run_folder_by_default(finished_run, capsys):
    words = {"generate": ["--count", 6], "reconstruct": ["--examples", "3,5-7"], "interpolate": ["--steps", 3]}
    sizes = {}
    for name, more in words.items():
        path = Path(answer(capsys, name, finished_run, *more).splitlines()[-1])
        assert path.parent == finished_run
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert set(sizes) == {"generated.png", "reconstructed.png", "interpolated.png"}
    # Three columns and six rows of squares, and gaps.
    width, height = sizes["interpolated.png"]
    assert height / width == pytest.approx(2, abs=0.05)


def test_codes_hold_what_is_known_of_the_examples(finished_run, capsys):
    said = answer(capsys, "encode", finished_run, "--draw", "--examples", 3, "--output", finished_run / "one.NPZ")
    labels = "labels from 0 on: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert said.splitlines()[0] == f"means of q(z|x) of 1 test example and a draw of each, seed 0; {labels}"
    content = json.loads(answer(capsys, "encode", finished_run, "--draw", "--json"))
    assert (content["label_names"], content["factor_names"]) == ([str(digit) for digit in range(10)], [])
    codes = dict(np.load(content["path"]))
    assert content["count"] == 360 == len(codes["mean"])
    assert {"index", "mean", "variance", "kl_per_axis", "draw", "label"} <= set(codes)
    np.testing.assert_array_equal(codes["index"], np.arange(360))
    np.testing.assert_allclose(codes["mean"], np.load(finished_run / "measured.npz")["means"], atol=1e-5)
    spread = (codes["draw"] - codes["mean"]) / np.sqrt(codes["variance"])
    assert abs(spread.mean()) < 5 / spread.size**0.5


def test_a_file_of_examples_is_taken_in_place_of_the_data(finished_run, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "own.npy", images)
    path = tmp_path / "out.npz"
    said = answer(capsys, "reconstruct", finished_run, "--input", tmp_path / "own.npy", "--output", path)
    assert said.startswith(f"5 examples of {tmp_path / 'own.npy'}, each beside")
    np.testing.assert_array_equal(np.load(path)["x"], images)
    words = ["reconstruct", finished_run, "--input", tmp_path / "own.npy", "--examples", "3,1"]
    said = answer(capsys, *words, "--output", tmp_path / "alone.NPY")
    assert said.startswith(f"2 examples of {tmp_path / 'own.npy'}, the means of p(x|z), z being")
    np.testing.assert_allclose(np.load(tmp_path / "alone.NPY"), np.load(path)["reconstruction"][[3, 1]], atol=1e-5)
    message = f"examples must be from 0 to 4, the {tmp_path / 'own.npy'} examples; got 5"
    assert message in refusal(capsys, *words[:-1], "5", "--output", tmp_path / "y.npz")
    np.save(tmp_path / "odd.npy", images[:, :4])
    message = refusal(capsys, "encode", finished_run, "--input", tmp_path / "odd.npy")
    assert "examples must be of shape [N, 8, 8, 1]" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["traverse", "--axes", "9"], "axes must be from 0 to 2, the 3 latents of the model; got 9"),
        (["traverse", "--start", "360"], "start must be from 0 to 359, the test examples; got 360"),
        (["traverse", "--low", "99"], "low must be below high: the codes go from"),
        (["interpolate", "--between", "1,400"], "between must be from 0 to 359, the test examples; got 400"),
        (["reconstruct", "--examples", "400"], "examples must be from 0 to 359, the test examples; got 400"),
        (["generate", "--mixture", "1437"], "mixture must be below 1,437, the codes that it is fitted to; got 1437"),
        (["generate", "--count", "5000", "--mixture", "2"], "must hold at most 4,096 images and"),
        (["reconstruct", "--examples", "0-359,0-359,0-359,0-359,0-359,0-359"], "got 4,320 images and"),
        (["reconstruct", "--split", "tset"], "split must be one of train, test; got 'tset'"),
        (["reconstruct", "--input", "nowhere.npy"], "nowhere.npy"),
        (["generate", "--temperature", "0"], "temperature must be positive"),
        (["generate", "--batch-size", "0"], "batch-size must be at least 1; got 0"),
        (["generate", "--output", "/proc/nowhere/x.png"], "/proc/nowhere"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_do_is_one_line_and_writes_nothing(words, message, finished_runs, capsys):
    before = [sorted(each.iterdir()) for each in (finished_runs[0], Path())]
    assert message in refusal(capsys, words[0], finished_runs[0], *words[1:])
    assert [sorted(each.iterdir()) for each in (finished_runs[0], Path())] == before


@pytest.mark.slow("traverses another run three times")
def test_a_dead_latent_is_named_and_shown_when_that_is_meant(finished_runs, tmp_path, capsys):
    """With a beta of 50 nothing is told by any latent."""
    words = ["traverse", finished_runs[1], "--axes", "1", "--output", tmp_path / "x.png"]
    message = refusal(capsys, *words)
    assert re.search(r"latent 1 is dead: its KL is \S+ nats.* \(--dead shows it all the same\)", message)
    assert "z[1] from -3 to 3 in a row each, the others at the code of test example 7" in answer(
        capsys, *words, "--dead", "--low", -3, "--high", 3, "--start", 7
    )
    # Where none is named, those that tell nothing are left out.
    said = answer(capsys, "traverse", finished_runs[1], "--output", tmp_path / "y.png")
    assert "z[1]" not in said
    assert (
        "from the 1st percentile to the 99th percentile of its test codes in a row each, the others at the median"
        in said
    )


def test_an_export_loads_and_decodes_as_the_run_does(finished_run, tmp_path, capsys):
    content = json.loads(answer(capsys, "export", finished_run, "--json"))
    exported = load_export(content["path"])
    path = tmp_path / "x.npz"
    answer(capsys, "generate", finished_run, "--count", 5, "--output", path)
    drawn = np.load(path)
    np.testing.assert_allclose(exported.decode(drawn["z"])["mean"], drawn["x"], atol=1e-5)
    assert "exists" in refusal(capsys, "export", finished_run)


def test_an_evaluation_and_the_report_say_the_same(finished_run, capsys):
    quick = ["--samples", 20, "--examples", 30, "--gaps", 0, "--simulated", 0]
    content = json.loads(answer(capsys, "evaluate", finished_run, *quick, "--json"))
    stored = json.loads((finished_run / "evaluation.json").read_text())
    assert set(stored) == {"test", "likelihood", "latents", "labels"} == set(content["findings"])
    assert stored["likelihood"]["figures"] == content["findings"]["likelihood"]["figures"]
    assert len(np.load(finished_run / "evaluation.npz")["log_likelihood"]) == 30
    page = (finished_run / "report.html").read_text()
    assert content["report"] == str(finished_run / "report.html")
    assert "ln p(x), importance sampling" in page
    assert "Not evaluated yet" not in page
    # Drawn again from what is in the folder, the page is the same.
    (finished_run / "report.html").unlink()
    assert answer(capsys, "report", finished_run) == f"report: {finished_run / 'report.html'}\n"
    assert (finished_run / "report.html").read_text() == page


def test_a_run_whose_data_are_gone_says_so(finished_run, capsys, monkeypatch):
    """Also where it only draws and decodes: what its data were is read from them."""

    def gone():
        raise FileNotFoundError("there is no file or folder table.npy")

    monkeypatch.setattr(data, "load_digits", gone)
    for words in (["generate"], ["report"], ["replay", "--step", "3"]):
        said = refusal(capsys, words[0], finished_run, *words[1:])
        assert f"{finished_run} " in said
        assert "files of its data set: there is no file or folder table.npy" in said


def test_a_run_that_is_not_what_it_was_says_so(finished_run, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert "there is no browser here" in refusal(capsys, "report", finished_run, "--open")
    config = json.loads((finished_run / "config.json").read_text())
    older = config | {"versions": config["versions"] | {"jax": "0.1.2"}}
    (finished_run / "config.json").write_text(json.dumps(older))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(["report", str(finished_run)]) == 0
    assert re.search(r"vaejax: warning: .*versions.jax is 0.1.2 there and", capsys.readouterr().err)
    older = {name: each for name, each in config.items() if name != "prng"}
    (finished_run / "config.json").write_text(json.dumps(older))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(["encode", str(finished_run), "--examples", "3"]) == 0
    (finished_run / "codes.npz").unlink()
    assert f"prng is not said there and {config['prng']} here" in capsys.readouterr().err
    (finished_run / "config.json").write_text(json.dumps(config | {"data": {"name": "digits", "sha256": "0"}}))
    assert "was made with other data: data.sha256 is 0 there" in refusal(capsys, "encode", finished_run)
    settings = config["settings"] | {"latent_size": 4}
    (finished_run / "config.json").write_text(json.dumps(config | {"settings": settings}))
    assert "checkpoint" in refusal(capsys, "encode", finished_run)
    settings = config["settings"] | {"gamma": 4}
    (finished_run / "config.json").write_text(json.dumps(config | {"settings": settings}))
    message = (
        f"{ROOT / 'experiments' / 'digits_vae.py'} has no setting gamma: the run was made by another version of it"
    )
    assert message in refusal(capsys, "encode", finished_run, "--overwrite")
    for name in ("experiment", "settings", "data", "versions", "devices"):
        lacking = {each: value for each, value in config.items() if each != name}
        (finished_run / "config.json").write_text(json.dumps(lacking))
        for words in (["report", finished_run], ["compare", finished_run, "x", "--output", finished_run / "c.html"]):
            assert f"config.json is damaged: it does not say {name}" in refusal(capsys, *words)
    (finished_run / "config.json").write_text(json.dumps(config | {"members": {}}))
    message = "is a sweep, whose members are not runs: vaejax train digits_vae with the seed and settings of one"
    assert message in refusal(capsys, "generate", finished_run)
    (finished_run / "config.json").write_text(json.dumps(config))
    (finished_run / "results.json").unlink()
    assert "is not finished: it has no results.json" in refusal(capsys, "report", finished_run)
    shutil.rmtree(finished_run / "checkpoints")
    message = f"{finished_run} holds no checkpoint: the run has not come to its first one yet"
    assert message in refusal(capsys, "generate", finished_run)


def test_a_run_is_opened_from_the_folder_it_was_trained_in(finished_run, tmp_path, capsys, monkeypatch):
    loads = []
    load = run.load_experiment
    monkeypatch.setattr(run, "load_experiment", lambda name: loads.append(name) or load(name))
    run.open_run(finished_run)
    assert loads == ["digits_vae"]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "experiments" / "digits_vae.py"
    assert refusal(capsys, "generate", finished_run) == (
        f"vaejax: error: {finished_run} is a run of digits_vae, and there is no file {file}: run this from the folder in "
        "which it was trained"
    )


def test_what_was_measured_is_shown_where_it_cannot_be_kept(finished_run, capsys, monkeypatch):
    quick = ["evaluate", str(finished_run)]
    figure = findings.Figure("-ln p(x), at most", 90.0, 0.5, "nats")
    measured = Assessment({"likelihood": findings.section_of("ln p(x)", [("negative_log_likelihood", figure)])}, {})
    monkeypatch.setattr("vaejax.cli.evaluate.assess", lambda *_: measured)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("vaejax.folder.write_durably", full)
        assert cli.main(quick) == 2
    out, err = capsys.readouterr()
    assert "-ln p(x), at most  90.00 ± 0.50 nats" in out
    assert err.splitlines()[-1].startswith("vaejax: error: [Errno 28] No space left on device: ")
    monkeypatch.setattr("vaejax.cli.evaluate.assess", lambda *_: pytest.fail("nothing is measured that cannot be kept"))
    with limited(1000):
        message = refusal(capsys, *quick)
    assert message == f"vaejax: error: [Errno 27] File too large: '{finished_run}'"


@pytest.fixture
def no_progress(monkeypatch):
    """On a slow machine a command says besides how far it is."""
    monkeypatch.setattr(progress, "LINES", 0)


@pytest.fixture
def no_handlers():
    """As a shell starts a program: under nohup SIGHUP would be ignored."""
    kept = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("no_progress", "no_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_command_and_leaves_nothing(number, finished_run, capsys, monkeypatch):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    contents = sorted(finished_run.iterdir())

    def killed(*_):
        os.kill(os.getpid(), number)
        time.sleep(1)
        pytest.fail("the signal has not stopped it")

    monkeypatch.setattr("vaejax.sinks.pictures._tile", killed)
    assert cli.main(["generate", str(finished_run)]) == 128 + number
    assert capsys.readouterr().err.splitlines()[1:] == [f"vaejax: error: stopped by {signal.Signals(number).name}"]
    assert sorted(finished_run.iterdir()) == contents
    assert {each: signal.getsignal(each) for each in before} == before


def test_an_interruption_while_the_command_is_loaded_is_a_line(capsys, monkeypatch):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "vaejax.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "vaejax.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert vaejax.__main__.main() == 130
    assert capsys.readouterr().err == "vaejax: error: interrupted\n"


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), ([], 2), (["evalute"], 2)])
def test_what_can_be_said_without_jax_does_not_wait_for_it(words, code):
    program = "import sys; sys.modules['jax'] = None; from vaejax.__main__ import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", program, *words], check=False, capture_output=True, cwd=ROOT)
    assert result.returncode == code, result.stderr


@pytest.mark.slow("a process of its own")
def test_the_first_step_does_not_wait_for_what_is_needed_at_the_end():
    program = (
        "import sys, vaejax.cli.train; assert not {'matplotlib', 'tensorboardX', 'urllib.request'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_an_interruption_while_jax_is_loaded_is_a_line():
    program = """
import sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "jax":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from vaejax.__main__ import main
sys.exit(main())
"""
    words = [sys.executable, "-c", program, "generate", "run"]
    result = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (130, "vaejax: error: interrupted\n")


def test_samples_and_the_mixture_have_keys_of_their_own(finished_run, tmp_path, capsys, monkeypatch):
    """The key of the fit is that of a number that no sample has."""
    keys = []
    monkeypatch.setattr(
        "vaejax.cli.generate.code_prior",
        lambda key, *_: keys.append(key) or vaejax.standard_normal.expand((3,)),
    )
    words = ["generate", finished_run, "--mixture", 1, "--seed", 5, "--output", tmp_path / "x.npz"]
    assert "z from 1 Normal fitted to codes" in answer(capsys, *words)
    expected = jax.random.fold_in(jax.random.key(5), 2**32 - 1)
    assert jax.random.key_data(keys[0]).tolist() == jax.random.key_data(expected).tolist()


@pytest.mark.slow("three commands for what they say meanwhile")
@pytest.mark.usefixtures("no_progress")
def test_what_takes_seconds_says_so_in_a_line_each(finished_runs, finished_run, tmp_path, capsys):
    a, b = finished_runs
    said = {
        ("generate", finished_run, "--mixture", 2): [
            f"reading {finished_run}",
            "fitting 2 Normals to the codes of 1,437 ",
        ],
        ("compare", a, b, "--output", tmp_path / "c.html"): ["comparing 2 runs"],
        ("report", finished_run, "--json"): [f"reading {finished_run}"],
    }
    for words, lines in said.items():
        assert cli.main([str(word) for word in words]) == 0
        err = capsys.readouterr().err.splitlines()
        assert len(err) == len(lines)
        assert all(line.startswith(start) for line, start in zip(err, lines, strict=True))


def test_a_contact_sheet_is_not_overwritten_unasked(tmp_path, capsys, monkeypatch):
    words = ["data", "digits", "--output", tmp_path / "sheet.png"]
    answer(capsys, *words)
    before = (tmp_path / "sheet.png").read_bytes()
    assert f"{tmp_path / 'sheet.png'} exists: name another file or --overwrite" in refusal(capsys, *words)
    answer(capsys, *words, "--overwrite")
    with limited(len(before) // 2):
        assert str(tmp_path / "full.png") in refusal(capsys, "data", "digits", "--output", tmp_path / "full.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    # That of no name of its own is drawn again.
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert answer(capsys, "data", "digits").endswith("contact sheet: runs/data/digits.png\n")


def test_a_reader_that_has_gone_is_no_error():
    command = [sys.executable, "-m", "vaejax", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_settings(tmp_path, capsys):
    (tmp_path / "vaejax.bash").write_text(answer(capsys, "completion", "bash"))
    complete = 'source vaejax.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_vaejax; echo "${COMPREPLY[@]}"'

    def completed(*words):
        command = ["bash", "-c", complete, "bash", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()

    assert completed("vaejax", "ev") == ["evaluate"]
    assert completed("vaejax", "train", "digits_vae", "--learning") == ["--learning-rate"]
    assert completed("vaejax", "sweep", "digits_vae", "--ov") == ["--over"]
    assert sorted(completed("vaejax", "reconstruct", "run", "--split", "")) == ["test", "train", "validation"]
    assert completed("vaejax", "data", "bina") == ["binarized_mnist"]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own_vae.py").touch()
    assert completed("vaejax", "train", "ow") == ["own_vae"]
    assert completed("vaejax", "sweep", "experiments/o") == ["experiments/own_vae.py"]
    assert "--temperature" in completed("vaejax", "generate", "runs", "--")
    for shell in ("zsh", "fish"):
        assert "evaluate" in answer(capsys, "completion", shell)


def test_a_terminal_without_colours_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    console = rich.console.Console(force_terminal=True, file=io.StringIO(), width=80)
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress.step_progress("making", 20, console) as advance:
        for _ in range(20):
            advance(1)
    # The first was before the first second.
    assert capsys.readouterr().err.splitlines() == [f"making {count}/20" for count in range(4, 21, 2)]
    report = training.Report(5, 5, {"kl": np.float32(1)}, seconds_per_step=0.1, skipped=0)
    with progress.TrainingProgress(10, 1, console) as shown:
        shown.update(report)
    assert capsys.readouterr().err.startswith("step 5/10  KL 1.00")
    assert console.file.getvalue() == ""


def test_progress_elsewhere_is_ten_lines_after_a_second(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.step_progress("making", 1000) as advance:
        for _ in range(1000):
            advance(1)
    assert capsys.readouterr().err == ""
    with progress.step_progress("making", 1000) as advance:
        now[0] = 2.0
        for _ in range(100):
            advance(10)
    assert capsys.readouterr().err.splitlines() == [f"making {part * 100:,}/1,000" for part in range(1, 11)]
