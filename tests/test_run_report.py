"""The report of a run, in a real browser: it asks for nothing, and its explorer decodes what JAX decodes."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import outcome, run, run_report
from vaejax.findings import Figure, Section
from vaejax.results import read_measured, read_result

DESK, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 640}


@pytest.fixture
def show(browser, finished_runs):
    """Opens the report in a window of a size; nothing may be asked of the network, nor complained of."""
    requests, complaints, contexts = [], [], []

    def show(window):
        contexts.append(browser.new_context(viewport=window))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((finished_runs[0] / "report.html").as_uri())
        page.wait_for_function("window.vaejaxExplorer !== undefined")
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file://", "data:"))] == []


def test_the_explorer_decodes_as_jax_does(show, finished_runs):
    opened = run.open_run(finished_runs[0])
    page = show(DESK)
    zs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = page.evaluate("(zs) => zs.map((z) => Array.from(vaejaxExplorer.decode(z)))", zs.tolist())
    expected = outcome.mean_of(opened.experiment.model.decode(opened.params, jnp.asarray(zs)))
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-4)


def test_a_slider_moves_by_keyboard_and_the_picture_with_it(show):
    page = show(PHONE)
    slider = page.locator("input[type=range]").first
    picture = "() => document.querySelector('#latent-explorer canvas').toDataURL()"
    before, z = page.evaluate(picture), page.evaluate("vaejaxExplorer.get().slice()")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"(before) => ({picture})() !== before", arg=before)
    after = page.evaluate("vaejaxExplorer.get().slice()")
    moved = [axis for axis in range(3) if after[axis] != z[axis]]
    assert len(moved) == 1
    assert after[moved[0]] > z[moved[0]]


@pytest.mark.parametrize("window", [DESK, PHONE])
def test_nothing_is_wider_than_the_window(show, window):
    page = show(window)
    assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]
    assert page.locator("img").count() == 7
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_the_verdict_says_what_was_found(finished_runs):
    result, measured = read_result(finished_runs[0]), read_measured(finished_runs[0])
    spread = np.random.default_rng(0).normal(size=measured.means.shape)
    measured = measured._replace(means=spread, variances=0.1 + 0 * spread, kl_per_axis=np.ones_like(spread))
    said = run_report.judge(result, measured, {})
    assert (said.tone, said.text) == ("good", "The latents are in use.")
    assert said.sentences[-1].startswith(f"Not evaluated yet: vaejax evaluate {finished_runs[0]}")
    collapsed = run_report.judge(
        result, measured._replace(means=0 * spread, variances=1 + 0 * spread, kl_per_axis=0 * spread), {}
    )
    assert (collapsed.tone, collapsed.text) == ("bad", "The latents have collapsed.")
    nats = lambda value: Figure("", value, 0.5, "nats")
    findings = {
        "likelihood": Section(
            "",
            {
                "negative_log_likelihood": nats(90.0),
                "bound_gap": nats(3.0),
                "share_unreliable": Figure("", 12.5, None, "%"),
            },
        ),
        "gaps": Section("", {"approximation": nats(1.0), "amortization": nats(2.0)}),
        "simulated": Section("", {"width": nats(0.25)}),
    }
    text = " ".join(run_report.judge(result, measured, findings).sentences)
    for words in ("at most 90.00 ± 0.50 nats", "at least 3.00 ± 0.50 nats below", "12.50 %", "loses 2.00 ± 0.50 nats"):
        assert words in text, words
    # What was evaluated has the word: the mutual information may be less than its bound.
    findings["latents"] = Section("", {}, ["Nearly collapsed: in words."], "partial")
    evaluated = run_report.judge(result, measured, findings)
    assert (evaluated.text, evaluated.tone) == ("The latents have collapsed in part.", "warn")
    assert evaluated.sentences[0] == "Nearly collapsed: in words."
    best = run_report.judge(result._replace(measured_step=1, skipped=3), measured, {})
    assert re.search(r"Measured at step 1 of .*3 steps were not finite", " ".join(best.sentences))


def test_a_decoder_that_no_browser_can_run_says_why(finished_runs):
    opened, measured = run.open_run(finished_runs[0]), read_measured(finished_runs[0])
    decode = lambda params, z: opened.experiment.model.decode(params, jnp.sort(z))
    model = opened.experiment.model._replace(decode=decode)
    said = run_report.explorer(opened.experiment._replace(model=model), opened.params, measured)
    assert said.startswith("<p>None: ")
    assert "sort" in said
    wide = measured._replace(means=np.zeros((2, 500), np.float32), variances=None, kl_per_axis=None)
    assert "up to 128 latents" in run_report.explorer(opened.experiment, opened.params, wide)


def test_codes_that_are_not_finite_cost_no_report(finished_runs):
    opened, measured = run.open_run(finished_runs[0]), read_measured(finished_runs[0])
    means = measured.means.copy()
    means[::2, 0] = np.nan
    some = measured._replace(means=means)
    assert measured._replace(means=means[1::2], variances=measured.variances[1::2],
                             kl_per_axis=measured.kl_per_axis[1::2]).collapse() == some.collapse()  # fmt: skip
    assert run_report.explorer(opened.experiment, opened.params, some).startswith("<section")
    none = measured._replace(means=np.full_like(means, np.nan))
    assert none.collapse().status == "full"
    assert "not finite" in run_report.explorer(opened.experiment, opened.params, none)
