"""Runs beside each other: differences are paired, and what cannot be compared says why."""

import json
import shutil

import numpy as np
import pytest

from vaejax import cli, comparison
from vaejax.results import read_measured, write_assessed, write_measured


def test_differences_are_those_of_the_examples(finished_runs):
    first, second = map(read_measured, finished_runs)
    found = comparison.compare(comparison.read_runs(finished_runs))
    each = second.figures["negative_elbo"].astype(float) - first.figures["negative_elbo"]
    difference = found.differences[str(finished_runs[1])]["negative_elbo"]
    np.testing.assert_allclose(difference.value, each.mean(), rtol=1e-5)
    np.testing.assert_allclose(difference.standard_error, each.std(ddof=1) / len(each) ** 0.5, rtol=1e-5)
    # What makes an example hard is in both: unpaired, the error would be larger.
    apart = [found.figures[str(run)]["negative_elbo"].standard_error for run in finished_runs]
    assert difference.standard_error < 0.7 * np.hypot(*apart)
    assert found.remarks == []
    assert found.settings == {
        str(run): {"beta": beta} for run, beta in zip(finished_runs, ("1.0", "50.0"), strict=True)
    }


def test_runs_on_other_x_have_no_differences(finished_runs, finished_run):
    measured = read_measured(finished_run)
    changed = measured.fingerprints.copy()
    changed[-1] += 1
    write_measured(finished_run, measured._replace(fingerprints=changed))
    found = comparison.compare(comparison.read_runs([finished_runs[0], finished_run]))
    assert found.differences[str(finished_run)] == {}
    assert "not measured on the same x as" in found.remarks[0]
    assert "the data are prepared differently" in found.remarks[0]
    config = json.loads((finished_run / "config.json").read_text())
    config["data"] = {"name": "others", "sha256": "0"}
    (finished_run / "config.json").write_text(json.dumps(config))
    found = comparison.compare(comparison.read_runs([finished_runs[0], finished_run]))
    assert "the data are others and digits" in found.remarks[0]


def assessed_of(values, fingerprints, num_samples=100):
    return {"log_likelihood": values, "fingerprint": fingerprints, "num_samples": np.array(num_samples)}


def test_the_likelihood_is_compared_on_the_examples_that_both_have(finished_runs, finished_run, tmp_path):
    prints = read_measured(finished_run).fingerprints
    values = np.linspace(-90, -80, 20)
    write_assessed(finished_run, assessed_of(values, prints[:20]))
    one = comparison.compare(comparison.read_runs([finished_run, finished_runs[1]]))
    assert one.figures[str(finished_run)]["negative_log_likelihood"].value == pytest.approx(85.0)
    assert "-ln p(x) is not known of" in one.remarks[0]
    copy = shutil.copytree(finished_runs[1], tmp_path / "copy")
    write_assessed(copy, assessed_of(values[:10] + 2, prints[:10]))
    both = comparison.compare(comparison.read_runs([finished_run, copy]))
    assert both.differences[str(copy)]["negative_log_likelihood"].value == pytest.approx(-2.0)
    assert both.differences[str(copy)]["negative_log_likelihood"].standard_error == pytest.approx(0.0, abs=1e-5)


def test_likelihoods_of_unlike_estimates_are_not_compared(finished_runs, finished_run, tmp_path):
    prints, values = read_measured(finished_run).fingerprints[:20], np.linspace(-90, -80, 20)
    write_assessed(finished_run, assessed_of(values, prints))
    copy = shutil.copytree(finished_runs[1], tmp_path / "copy")
    write_assessed(copy, assessed_of(values, prints, num_samples=5000))
    found = comparison.compare(comparison.read_runs([finished_run, copy]))
    assert "negative_log_likelihood" not in found.differences[str(copy)]
    assert "not estimated alike" in found.remarks[0]
    assert f"{copy} on 20 examples with 5,000 samples" in found.remarks[0]
    # What was evaluated and has no p(x) is not sent to be evaluated again.
    write_assessed(finished_run, {})
    (finished_run / "evaluation.json").write_text("{}")
    assert comparison.compare(comparison.read_runs([finished_run, copy])).remarks == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "results.json",
            '{"test": {"kl": {"mean": "x", "standard_error": 1}}, "pictures": []}',
            "results.json is damaged",
        ),
        ("results.json", '{"test": {}, "pictures": [], "foo": 1}', "has foo: it was written by another version"),
        ("metrics.jsonl", "", "holds no report of the run"),
        ("measured.npz", "no", "measured.npz"),
        ("evaluation.npz", None, "evaluation.npz lacks fingerprint: it was written by another version"),
    ],
)
def test_a_file_of_another_version_or_a_damaged_one_is_named(
    name, content, message, finished_runs, finished_run, capsys
):
    if content is None:
        write_assessed(finished_run, {"other": np.zeros(3)})
    else:
        (finished_run / name).write_text(content)
    words = ["compare", str(finished_runs[0]), str(finished_run), "--output", str(finished_run / "page.html")]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert message in err


def test_the_command_writes_a_page_and_refuses_to_write_over_one(finished_runs, tmp_path, capsys):
    page = tmp_path / "deep" / "page.html"
    words = ["compare", *map(str, finished_runs), "--output", str(page)]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "paired differences. Below 0" in out
    assert str(page) in out
    text = page.read_text()
    assert text.count("<img ") == 3 + 2 * 3
    before = page.read_bytes()
    assert cli.main(words) == 2
    assert "page.html exists" in capsys.readouterr().err
    assert page.read_bytes() == before
    assert cli.main([*words, "--overwrite", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["figures"]) == set(map(str, finished_runs))


def test_what_cannot_be_compared_is_one_line(finished_runs, finished_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    empty = tmp_path / "empty"
    empty.mkdir()
    (finished_run / "results.json").unlink()
    for words, message in [
        ([finished_runs[0]], "name two runs or more"),
        ([finished_runs[0], finished_runs[0]], "each run must be named once"),
        ([finished_runs[0], empty], "is no run folder: it has no config.json"),
        ([finished_runs[0], tmp_path / "nowhere"], "there is no such folder"),
        ([finished_runs[0], finished_run], "is not finished: it has no results.json"),
    ]:
        assert cli.main(["compare", *map(str, words), "--output", str(page)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert message in err
        assert not page.exists()
