"""What runs and commands write and print is JSON as its standard has it, whatever the numbers are."""

import json
import math

import numpy as np
import pytest

from vaejax import findings, results, sweep_report, training
from vaejax.cli.command import Answer, show
from vaejax.evaluation import Estimate
from vaejax.folder import differences, write_json
from vaejax.writers import JsonLines

NAN, INF = math.nan, math.inf


def strictly(text):
    """What a parser makes of it that has no NaN and no Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_result_of_a_run(tmp_path):
    result = results.RunResult(
        tmp_path, {"kl": Estimate(np.float32(2.5), np.float32(NAN))}, 0, 1.0, INF, {}, 3, 3, 0, [], [0.5, NAN]
    )
    results.write_result(result)
    found = strictly((tmp_path / "results.json").read_text())
    assert found["test"] == {"kl": {"mean": 2.5, "standard_error": None}}
    assert found["kl_per_axis"] == [0.5, None]
    read = results.read_result(tmp_path)
    assert read.test["kl"].mean == 2.5
    assert np.isnan(read.test["kl"].standard_error)
    np.testing.assert_array_equal(read.kl_per_axis, [0.5, NAN])


def test_the_other_files_of_a_run(tmp_path):
    figure = findings.Figure("k", NAN, -INF)
    findings.write_findings(tmp_path, {"odd": findings.Section("Odd", {"k": figure})})
    assert strictly((tmp_path / "evaluation.json").read_text())["odd"]["figures"]["k"]["value"] is None
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write(1, {"loss": np.float32(NAN), "kl": np.array([INF, 1.0])})
    lines.close()
    assert strictly((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "kl": [None, 1.0]}
    training.save_checkpoint(tmp_path / "a", {"x": np.ones(2)}, {"cost": NAN, "sizes": (1, INF)})
    assert strictly((tmp_path / "a" / "seal.json").read_text())["content"]["about"] == {
        "cost": None,
        "sizes": [1, None],
    }


def test_a_run_is_found_again_by_settings_that_json_lacks(tmp_path):
    config = {"settings": {"rate": INF, "sizes": (1, 2)}}
    write_json(tmp_path / "config.json", config)
    assert differences(strictly((tmp_path / "config.json").read_text()), config, with_soft=True) == []


@pytest.mark.parametrize("value", [NAN, np.float32(INF), np.array([NAN, 1.0])])
def test_the_answer_of_a_command(value, capsys):
    show(Answer("", {"path": {"value": value}, "mean": Estimate(value, 0.5)}), as_json=True)
    found = strictly(capsys.readouterr().out)
    assert found["path"]["value"] == ([None, 1.0] if np.ndim(value) else None)
    assert found["mean"]["standard_error"] == 0.5


def test_a_sweep_shows_figures_that_json_lacks():
    tests = [{"kl": {"mean": mean, "standard_error": None}} for mean in (None, 2.0)]
    members = [{"values": {"seed": seed, "beta": 1.0}, "test": test} for seed, test in enumerate(tests)]
    assert sweep_report.table(members)[1] == ["1", "2", "nan ± nan"]
