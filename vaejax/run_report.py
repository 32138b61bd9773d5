"""What is known of a run as one page for a browser, with a latent space to walk in."""

import math
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import is_image
from vaejax.distributions import Normal
from vaejax.durable import write_durably
from vaejax.evaluation import LABELS, Verdict, unit_of
from vaejax.experiment import Experiment
from vaejax.findings import Figure, Findings, Section
from vaejax.outcome import Measured, evaluation_keys, mean_of, prepare_example, shades_of
from vaejax.report import page
from vaejax.report.browser import UnsupportedOperation, compile_for_browser
from vaejax.report.explorer import explorer_html, latent_axes
from vaejax.results import RunResult
from vaejax.types import Params, Shape

REPORT = "report.html"
TONES = {Verdict.NONE: "good", Verdict.PARTIAL: "warn", Verdict.FULL: "bad", Verdict.UNKNOWN: "warn"}
HEADLINES = {
    Verdict.NONE: "The latents are in use.",
    Verdict.PARTIAL: "The latents have collapsed in part.",
    Verdict.FULL: "The latents have collapsed.",
    Verdict.UNKNOWN: "Whether the latents are in use is not known.",
}
# What the pictures show, in the order in which they are read.
CAPTIONS = {
    "reconstructions.png": "Test examples, and the means of p(x|z) at their posterior means.",
    "samples.png": "Drawn from the prior: the mean of p(x|z), and a draw from it.",
    "traversals.png": "One latent moved at a time, over the range of the test codes.",
    "interpolations.png": "The straight way between the latents of two test examples.",
    "manifold.png": "The plane of latents, decoded at quantiles of the prior.",
    "latents.png": "Posterior means of the test set.",
    "kl_per_axis.png": "How far the posteriors of each latent are from the prior, greatest first.",
    "curves.png": "The parts of the objective while training.",
}
# Codes that the explorer shows, and latents that it has sliders for.
MAX_CODES, MAX_SLIDERS = 500, 128
# Bytes of test examples beside their codes.
MAX_ORIGINALS = 2**21


def write_report(
    folder: Path,
    config: Mapping[str, Any],
    experiment: Experiment,
    params: Params,
    result: RunResult,
    measured: Measured,
    findings: Findings,
) -> Path:
    """Write `report.html`, which needs no network and no other file."""
    dataset = experiment.dataset
    title = f"{Path(config['experiment']).stem}, {'/'.join(folder.resolve().parts[-2:])}"
    shown = findings or {"test": _test(result, measured)}
    parts = [
        page.headline(judge(result, measured, findings)),
        page.section("Figures, mean per test example ± standard error", page.cards(_cards(shown))),
        page.section("Walk in the latent space", explorer(experiment, params, measured)),
        page.section("Pictures", page.pictures(_pictures(result))),
        page.section("How it was made", "".join(page.details(*each) for each in _origins(config, result))),
        page.footer(f"Written by vaejax {config['versions']['vaejax']}; this page needs no network."),
    ]
    path = folder / REPORT
    subtitle = (
        f"{dataset.name}: {' x '.join(map(str, dataset.shape))}, {len(dataset.train.examples):,} training examples"
    )
    write_durably(path, page.page(title, subtitle, *parts).encode())
    return path


def judge(result: RunResult, measured: Measured, findings: Findings) -> page.Headline:
    """What a reader should know first."""
    status, text = _collapse(measured, findings)
    sentences = [text, *_on_the_bound(findings)]
    if not findings:
        command = f"vaejax evaluate {shlex.quote(str(result.folder))}"
        sentences.append(f"Not evaluated yet: {command} measures ln p(x) and what the latents hold.")
    if result.measured_step != result.steps:
        sentences.append(
            f"Measured at step {result.measured_step:,} of {result.steps:,}, the best on validation examples."
        )
    if result.skipped:
        sentences.append(f"{result.skipped} steps were not finite and were left out.")
    return page.Headline(HEADLINES[status], sentences, TONES[status])


def _collapse(measured: Measured, findings: Findings) -> tuple[Verdict, str]:
    """Whether the latents have collapsed, by the mutual information where it was measured."""
    found = findings.get("latents")
    if found is not None and found.status:
        return Verdict(found.status), found.remarks[0]
    collapse = measured.collapse()
    return collapse.status, collapse.text


def _on_the_bound(findings: Findings) -> Iterator[str]:
    """How far the ELBO is from ln p(x), and why."""
    found = {name: section.figures for name, section in findings.items()}
    if figures := found.get("likelihood"):
        cost, loose = figures["negative_log_likelihood"].words(), figures["bound_gap"].words()
        yield f"-ln p(x) is at most {cost}; the ELBO is at least {loose} below ln p(x)."
        share = figures.get("share_unreliable")
        if share is not None and share.value:
            yield f"For {share.words()} of the examples the importance weights are too uneven to trust the figure."
    if gaps := found.get("gaps"):
        yield (
            f"On some of them the encoder loses {gaps['amortization'].words()}, and the family of its posteriors "
            f"{gaps['approximation'].words()}."
        )
    if sides := found.get("simulated"):
        yield f"On data that the model has drawn, ln p(x) is known from both sides to {sides['width'].words()}."


def _test(result: RunResult, measured: Measured) -> Section:
    """The test figures of a run that has not been evaluated."""
    figures = {
        name: Figure(label, float(each.mean), float(each.standard_error), unit_of(name))
        for name, label in LABELS.items()
        if (each := result.test.get(name)) is not None
    }
    units = Figure("active units", result.active_units, None, f"of {np.prod(measured.means.shape[1:])}")
    return Section(f"Test set, {len(measured.means):,} examples", {**figures, "active_units": units})


def _cards(findings: Findings) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    for section in findings.values():
        yield section.title, {figure.label: figure.words() for figure in section.figures.values()}, section.remarks


def _pictures(result: RunResult) -> list[tuple[bytes, str, str]]:
    order = list(CAPTIONS)
    known = sorted((path for path in result.pictures if path.name in order), key=lambda path: order.index(path.name))
    return [(path.read_bytes(), CAPTIONS[path.name], _alt(path.stem)) for path in known if path.is_file()]


def _alt(stem: str) -> str:
    """What stands for a picture where it is not seen."""
    return f"picture of {stem.replace('_', ' ')}"


def _origins(config: Mapping[str, Any], result: RunResult) -> Iterator[tuple[str, dict[str, str]]]:
    """Tables of what the run was made of and with."""
    settings = {name: each for name, each in config["settings"].items() if not isinstance(each, dict)}
    yield "Settings", _words(settings)
    yield "Training", _words(config["settings"].get("training", {}))
    yield "Data", _words(config["data"])
    speed = {"steps": f"{result.steps:,}", "training": f"{result.seconds:.1f} s"}
    speed["speed"] = f"{result.examples_per_second:,.0f} examples/s, median over the epochs"
    memory = {f"{name} memory": f"at most {size / 2**20:,.0f} MiB" for name, size in result.peak_memory.items()}
    yield "Environment", {**speed, **memory, "devices": ", ".join(config["devices"]), **_words(config["versions"])}


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    return {name.replace("_", " "): str(value) for name, value in values.items()}


def explorer(experiment: Experiment, params: Params, measured: Measured) -> str:
    """The latent explorer of a model, or a sentence that says why there is none."""
    finite = np.flatnonzero(measured.finite())
    means, shown = measured.means[finite], finite[:MAX_CODES]
    if not len(finite):
        return "<p>None: the codes of the test examples are not finite.</p>\n"
    if means.ndim != 2 or means.shape[1] > MAX_SLIDERS:
        return f"<p>None: there are sliders for up to {MAX_SLIDERS} latents in one axis.</p>\n"
    try:
        program = compile_for_browser(lambda z: mean_of(experiment.model.decode(params, z)), (means.shape[1],))
    except UnsupportedOperation as error:
        return f"<p>None: {escape(str(error))}.</p>\n"
    kl = None if measured.kl_per_axis is None else measured.kl_per_axis[finite].mean(axis=0)
    low, high, _ = shades_of(experiment)
    dataset = experiment.dataset
    labels = dataset.test.labels
    return explorer_html(
        program,
        latent_axes(means.shape[1], kl, means, limit=3.0 if experiment.prior else None),
        image_shape=dataset.shape if is_image(dataset.shape) and program.output_shape == dataset.shape else None,
        black=low,
        white=high,
        codes=measured.means[shown],
        labels=None if labels is None else np.asarray(labels)[shown],
        label_names=dataset.label_names,
        originals=_originals(experiment, program.output_shape, shown, low),
        **_law(experiment, params, means),
    )


def _law(experiment: Experiment, params: Params, means: np.ndarray) -> dict[str, Any]:
    """What random latents come of: a Normal prior, or a Normal with the spread of the codes; and its name."""
    prior = experiment.prior(params) if experiment.prior else None
    if isinstance(prior, Normal):
        return {"mean": np.asarray(prior.mean), "scale": np.sqrt(np.asarray(prior.variance)), "law": "the prior"}
    return {"mean": means.mean(axis=0), "scale": means.std(axis=0), "law": "a Normal with the spread of the codes"}


def _originals(experiment: Experiment, shape: Shape, numbers: np.ndarray, black: float) -> np.ndarray | None:
    """Test examples as the model sees them, where they are like what it decodes and take little room.

    What is missing of them is black.
    """
    if 4 * len(numbers) * math.prod(shape) > MAX_ORIGINALS:
        return None
    prepare = jax.vmap(partial(prepare_example, experiment, evaluation_keys()))
    x = prepare(jnp.asarray(numbers), jnp.asarray(experiment.dataset.test.examples[numbers]))
    return np.nan_to_num(np.asarray(x), nan=black) if x.shape[1:] == shape else None
