"""What was found out, as words and as a file."""

import math

import pytest

from vaejax.findings import Figure, Section, read_findings, text, write_findings

FOUND = {
    "test": Section(
        "Test set", {"kl": Figure("KL", 9.9419, 0.0802, "nats"), "units": Figure("active", 8, None, "of 8")}
    ),
    "odd": Section("Odd", {"k": Figure("k", math.nan), "far": Figure("far", -math.inf, math.nan)}, ["A remark."]),
}


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (93.9166, 0.6412, "93.92 ± 0.64"),
        (9.9419, 0.0802, "9.942 ± 0.080"),
        (1234567.0, 321.0, "1,234,567 ± 321"),
        (103.55, 12.4, "104 ± 12"),
        (0.0000123, 0.0000004, "0.000012 ± 0.000000"),
        (0.5, None, "0.5"),
        (0.73456, None, "0.735"),
        (53.139, None, "53.14"),
        (5000.0, None, "5,000"),
        (2.5, 0.0, "2.50"),
        (2.5, math.nan, "2.50"),
        (math.nan, None, "nan"),
    ],
)
def test_a_number_has_as_many_digits_as_its_error_knows(value, error, words):
    assert Figure("x", value, error).words() == words


def test_findings_are_lines():
    assert text(FOUND) == (
        "Test set\n  KL      9.942 ± 0.080 nats\n  active  8 of 8\n\nOdd\n  k    nan\n  far  -inf\n  A remark."
    )


def test_findings_come_back_from_their_file(tmp_path):
    assert read_findings(tmp_path) == {}
    write_findings(tmp_path, FOUND)
    found = read_findings(tmp_path)
    assert found["test"] == FOUND["test"]
    assert (found["odd"].title, found["odd"].remarks) == ("Odd", ["A remark."])
    # JSON has neither NaN nor infinity.
    assert math.isnan(found["odd"].figures["k"].value)
    assert math.isnan(found["odd"].figures["far"].value)
    assert found["odd"].figures["far"].standard_error is None


@pytest.mark.parametrize("content", ["[1]", '{"test": 1}', '{"test": {"title": "x", "figures": {"a": {}}}}', "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        read_findings(tmp_path)
