"""The commands as a new user gives them, right and wrong: what is printed where, and the exit code."""

import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rich.console
from PIL import Image

from vaejax import cli, progress
from vaejax.export import load_export

ROOT = Path(__file__).parent.parent


def answer(capsys, *words):
    """The standard output of a command that must succeed."""
    assert cli.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refusal(capsys, *words):
    """The one line that a command says which must fail, having printed nothing else."""
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("vaejax: error: ")
    return err


def test_there_is_help_for_every_command(capsys):
    usage = answer(capsys, "--help")
    assert "digits_vae" in usage
    for name, summary in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", usage, re.MULTILINE)
        said = answer(capsys, name, "--help")
        assert said.startswith(f"usage: vaejax {name} ")
        assert "--json" in said
        # Without a word it says the same, and that this is no answer.
        assert cli.main([name]) == 2
        assert capsys.readouterr().out == said
    assert cli.main([]) == 2
    assert capsys.readouterr().out == usage
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
        (["generate", "run", "--count", "many"], "argument --count: invalid int value: 'many'"),
        (["generate", "run", "--mean", "--draw"], "argument --draw: not allowed with argument --mean"),
        (["generate", "run", "--count", "0"], "count must be at least 1; got 0"),
        (["generate", "run", "--count", "-3"], "count must be at least 1; got -3"),
        (["evaluate", "run", "--samples", "0"], "num_samples must be at least 1; got 0"),
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
    content = json.loads(answer(capsys, "encode", finished_run, "--draw", "--json"))
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
    np.save(tmp_path / "odd.npy", images[:, :4])
    message = refusal(capsys, "encode", finished_run, "--input", tmp_path / "odd.npy")
    assert "examples must be of shape [N, 8, 8, 1]" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["traverse", "--axes", "9"], "axes must be from 0 to 2, the 3 latents of the model; got 9"),
        (["traverse", "--axes", "x"], "axes must be numbers and ranges such as 3,10-19; got x"),
        (["traverse", "--low", "3", "--high", "1"], "low must be below high, and both finite; got 3.0 and 1.0"),
        (["interpolate", "--between", "1"], "between must be two numbers of examples such as 3,17; got 1"),
        (["interpolate", "--between", "1,400"], "numbers must be from 0 to 359, the test examples; got 400"),
        (["reconstruct", "--examples", "9-3"], "examples must have ranges from low to high; got 9-3"),
        (["reconstruct", "--split", "tset"], "split must be one of train, test; got 'tset'"),
        (["reconstruct", "--input", "nowhere.npy"], "nowhere.npy"),
        (["encode", "--output", "codes.npy"], "codes are several arrays: name an .npz file"),
        (["generate", "--output", "x.gif"], "x.gif must end in .npy, .npz or .png, or be a folder"),
        (["generate", "--temperature", "0"], "temperature must be positive"),
        (["generate", "--batch-size", "0"], "batch-size must be at least 1; got 0"),
        (["generate", "--output", "/proc/nowhere/x.png"], "/proc/nowhere"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_do_is_one_line_and_writes_nothing(words, message, finished_runs, capsys):
    before = [sorted(each.iterdir()) for each in (finished_runs[0], Path())]
    assert message in refusal(capsys, words[0], finished_runs[0], *words[1:])
    assert [sorted(each.iterdir()) for each in (finished_runs[0], Path())] == before


def test_a_dead_latent_is_named_and_shown_when_that_is_meant(finished_runs, tmp_path, capsys):
    """With a beta of 50 nothing is told by any latent."""
    words = ["traverse", finished_runs[1], "--axes", "1", "--output", tmp_path / "x.png"]
    message = refusal(capsys, *words)
    assert re.search(r"latent 1 is dead: its KL is \S+ nats.* \(--dead shows it all the same\)", message)
    assert "z[1] from -3 to 3" in answer(capsys, *words, "--dead")
    # Where none is named, those that tell nothing are left out.
    assert "z[1]" not in answer(capsys, "traverse", finished_runs[1], "--output", tmp_path / "y.png")


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
    (finished_run / "config.json").write_text(json.dumps(config | {"data": {"name": "digits", "sha256": "0"}}))
    assert "was made with other data: data.sha256 is 0 there" in refusal(capsys, "encode", finished_run)
    settings = config["settings"] | {"latent_size": 4}
    (finished_run / "config.json").write_text(json.dumps(config | {"settings": settings}))
    assert "checkpoint" in refusal(capsys, "encode", finished_run)
    settings = config["settings"] | {"gamma": 4}
    (finished_run / "config.json").write_text(json.dumps(config | {"settings": settings}))
    assert "has no setting gamma: the run was made by another version of it" in refusal(capsys, "encode", finished_run)
    (finished_run / "config.json").write_text(json.dumps(config))
    (finished_run / "results.json").unlink()
    assert "is not finished: it has no results.json" in refusal(capsys, "report", finished_run)


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
    assert "--temperature" in completed("vaejax", "generate", "runs", "--")
    for shell in ("zsh", "fish"):
        assert "evaluate" in answer(capsys, "completion", shell)


def test_a_terminal_without_colours_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = rich.console.Console(force_terminal=True, file=io.StringIO(), width=80)
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress.step_progress("making", 20, console) as advance:
        for _ in range(20):
            advance(1)
    assert "\x1b" not in console.file.getvalue()


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
