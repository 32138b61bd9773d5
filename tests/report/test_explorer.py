"""The latent explorer in a real browser: by mouse, by touch and by keyboard, on a desk and on a phone."""

import base64
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import nets
from vaejax.nets import heads
from vaejax.report import page
from vaejax.report.browser import compile_for_browser
from vaejax.report.explorer import LatentAxis, explorer_html, latent_axes

DESK, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 640}
# Two frames: one in which the change is drawn for certain.
SETTLE = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Read from a copy: a canvas that is read often is no longer the one that people see.
PIXELS = """(selector) => { const canvas = document.querySelector(selector);
  const copy = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  let text = '';
  for (const byte of context.getImageData(0, 0, canvas.width, canvas.height).data) text += String.fromCharCode(byte);
  return [canvas.height, canvas.width, btoa(text)]; }"""


def decoder(model):
    params = jax.tree.map(lambda leaf: 2 * leaf, model.init(jax.random.key(0)))
    return jax.jit(lambda z: model.decode(params, z).mean)


def some(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Model:
    """A decoder, and the page around it."""

    def __init__(self, model, size, **options):
        self.decode = decoder(model)
        axes = options.pop("axes", None) or latent_axes(size)
        self.page = page.page("Latents", "", explorer_html(compile_for_browser(self.decode, (size,)), axes, **options))


@pytest.fixture(scope="module")
def models():
    codes, labels = some(40, 2), np.arange(40) % 3
    plane = nets.mlp((8, 6, 1), 2, hidden_sizes=(16,), likelihood=heads.categorical(17))
    return {
        "plane": Model(
            plane, 2, image_shape=(8, 6, 1), white=16.0, codes=codes, labels=labels, originals=16 * np.ones((40, 8, 6, 1)),
            label_names=("none", "</script><b>one</b>", "two"),
        ),
        "colour": Model(
            nets.conv((12, 20, 3), 5, channels=(4,)), 5, image_shape=(12, 20, 3),
            axes=latent_axes(5, [0.5, 2.0, 0.001, 1.0, 0.0]),
        ),
        "vectors": Model(nets.mlp((7,), 1, hidden_sizes=(5,), likelihood=heads.normal()), 1),
    }  # fmt: skip


@pytest.fixture
def show(browser, models, tmp_path):
    """Opens the page of a model; afterwards nothing may have been asked of the network, nor complained of."""
    requests, complaints, contexts = [], [], []

    def show(name, window=DESK, **options):
        path = tmp_path / f"{name}.html"
        path.write_text(models[name].page, encoding="utf-8")
        context = browser.new_context(viewport=window, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.evaluate(SETTLE)
        return page

    yield show
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts)
    assert all(url.startswith("file:") for url in requests)


def z_of(page):
    page.evaluate(SETTLE)
    return np.array(page.evaluate("vaejaxExplorer.get()"))


def pixels(page, selector=".decoded"):
    page.evaluate(SETTLE)
    height, width, data = page.evaluate(PIXELS, selector)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def expected_pixels(model, z, white):
    mean = np.asarray(model.decode(jnp.asarray(z, jnp.float32)))
    return np.broadcast_to(np.clip(255 * mean / white, 0, 255), (*mean.shape[:2], 3))


@pytest.mark.parametrize(("name", "size"), [("plane", 2), ("colour", 5), ("vectors", 1)])
def test_what_is_decoded_there_is_what_jax_decodes(show, models, name, size):
    page = show(name)
    for z in some(3, size):
        found = np.array(page.evaluate("(z) => Array.from(vaejaxExplorer.decode(z))", z.tolist()))
        expected = np.asarray(models[name].decode(z), np.float64).ravel()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize(("name", "white"), [("plane", 16.0), ("colour", 1.0)])
def test_the_picture_has_the_pixels_of_the_mean(show, models, name, white):
    page = show(name)
    blank = pixels(page)
    z = some(2, len(z_of(page)))[1]
    page.evaluate("(z) => vaejaxExplorer.set(z)", z.tolist())
    shown = pixels(page)
    np.testing.assert_allclose(z_of(page), z)
    assert np.max(np.abs(shown[..., :3] - expected_pixels(models[name], z, white))) <= 0.51
    assert np.any(shown != blank)
    assert np.all(shown[..., 3] == 255)


def test_sliders_by_keyboard(show):
    page = show("colour")
    first = page.locator(".sliders-panel > .sliders input").first
    assert first.get_attribute("id") == "latent-explorer-latent-0"
    assert page.locator("label[for=latent-explorer-latent-0]").text_content() == "z[1]"
    before = pixels(page)
    first.focus()
    page.keyboard.press("ArrowRight")
    np.testing.assert_allclose(z_of(page), [0, 0.05, 0, 0, 0])
    page.keyboard.press("End")
    np.testing.assert_allclose(z_of(page), [0, 3, 0, 0, 0])
    assert first.get_attribute("aria-valuetext") == "z[1] 3.00"
    assert np.any(pixels(page) != before)
    page.keyboard.press("Home")
    np.testing.assert_allclose(z_of(page), [0, -3, 0, 0, 0])
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(z_of(page), [0, -3, 0, -0.05, 0])
    first.dblclick()
    np.testing.assert_allclose(z_of(page), [0, 0, 0, -0.05, 0])
    assert "−0.05" in page.locator(".readout").text_content()


def test_unused_latents_are_put_away_and_can_be_moved(show):
    page = show("colour")
    names = lambda where: page.locator(f"{where} label").all_text_contents()
    assert names(".sliders-panel > .sliders") == ["z[1]", "z[3]", "z[0]"]
    assert names(".unused") == ["z[2]", "z[4]"]
    assert not page.locator(".unused input").first.is_visible()
    page.locator(".unused summary").click()
    page.locator(".unused input").first.focus()
    page.keyboard.press("End")
    np.testing.assert_allclose(z_of(page), [0, 0, 3, 0, 0])


def test_the_plane_by_mouse_and_by_keyboard(show):
    page = show("plane")
    before = pixels(page)
    box = page.locator(".plane").bounding_box()
    at = lambda across, up: (box["x"] + across * box["width"], box["y"] + (1 - up) * box["height"])
    page.mouse.move(*at(0.5, 0.5))
    page.mouse.down()
    page.mouse.move(*at(0.75, 0.9))
    np.testing.assert_allclose(z_of(page), [1.5, 2.4], atol=0.03)
    assert np.any(pixels(page) != before)
    page.mouse.move(*at(2.0, 0.25))
    np.testing.assert_allclose(z_of(page), [3.0, -1.5], atol=0.03)
    page.mouse.up()
    page.mouse.move(*at(0.5, 0.5))
    np.testing.assert_allclose(z_of(page), [3.0, -1.5], atol=0.03)
    page.locator(".handle").focus()
    before = z_of(page)
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    np.testing.assert_allclose(z_of(page) - before, [-0.1, 0.05 - 0.5], atol=1e-6)
    assert page.locator(".handle").get_attribute("aria-valuetext").startswith("z[0] 2.90, z[1] ")
    page.locator(".plane").dblclick(position={"x": 30, "y": 40})
    np.testing.assert_array_equal(z_of(page), [0, 0])


def test_the_far_keys_of_the_plane(show):
    page = show("plane")
    page.set_viewport_size({"width": 1200, "height": 300})
    handle = page.locator(".handle")
    handle.focus()
    scrolled = page.evaluate("scrollY")
    for key, expected in (
        ("PageUp", [0, 0.5]),
        ("Home", [-3, 0.5]),
        ("Shift+ArrowRight", [-2.5, 0.5]),
        ("End", [3, 0.5]),
        ("PageDown", [3, 0]),
        ("PageDown", [3, -0.5]),
    ):
        page.keyboard.press(key)
        np.testing.assert_allclose(z_of(page), expected, atol=1e-6)
    assert page.evaluate("scrollY") == scrolled
    assert handle.get_attribute("aria-valuetext") == "z[0] 3.00, z[1] -0.50"
    assert [handle.get_attribute(f"aria-value{name}") for name in ("min", "now", "max")] == ["-3", "3.00", "3"]
    hint = page.locator(f"#{handle.get_attribute('aria-describedby')}").text_content()
    assert all(key in hint for key in ("Shift", "Page Up", "Page Down", "Home", "End"))
    # What the browser does with a key stays the browser's.
    page.keyboard.press("Control+Home")
    np.testing.assert_allclose(z_of(page), [3, -0.5], atol=1e-6)


def test_what_rounds_to_nothing_has_no_sign(show):
    page = show("plane")
    page.evaluate("vaejaxExplorer.set([-0.001, -0.006])")
    page.evaluate(SETTLE)
    assert page.locator(".readout").text_content() == "z = (0.00, −0.01)"
    assert page.locator(".row .value").all_text_contents() == ["0.00", "−0.01"]
    assert page.locator(".handle").get_attribute("aria-valuetext") == "z[0] 0.00, z[1] -0.01"


def test_on_paper_the_plane_is_drawn_in_the_colours_of_paper(show):
    page = show("plane", color_scheme="dark")
    page.uncheck(".dots")
    # Another size would be drawn anew in any case.
    page.add_style_tag(content=".plane { width: 300px; height: 300px; aspect-ratio: auto !important; }")
    dark, light = (232, 235, 238), (27, 32, 38)
    drawn = lambda ink: bool((pixels(page, ".plane canvas")[..., :3] == ink).all(axis=-1).any())
    assert (drawn(dark), drawn(light)) == (True, False)
    page.emulate_media(media="print", color_scheme="dark")
    assert (drawn(dark), drawn(light)) == (False, True)


def test_the_plane_is_covered_with_what_is_decoded_there(show, models):
    page = show("plane")
    page.uncheck(".dots")
    page.check(".backdrop")
    for _ in range(10):
        page.evaluate(SETTLE)
    sheet = pixels(page, ".plane canvas")[..., :3].astype(float)
    columns, rows, (height, width) = 12, 9, (8, 6)
    for column, row in ((0, 0), (11, 2), (4, 8)):
        z = [-3 + 6 * (column + 0.5) / columns, 3 - 6 * (row + 0.5) / rows]
        across = (column * (width + 1) + np.arange(width) + 0.5) / (columns * (width + 1))
        down = (row * (height + 1) + np.arange(height) + 0.5) / (rows * (height + 1))
        places = np.ix_((down * sheet.shape[0]).astype(int), (across * sheet.shape[1]).astype(int))
        assert np.max(np.abs(sheet[places] - expected_pixels(models["plane"], z, 16.0))) <= 1.01
    np.testing.assert_array_equal(z_of(page), [0, 0])


def test_the_axes_of_the_plane_can_be_chosen(show):
    page = show("colour")
    assert [page.locator(f"select.{name}").input_value() for name in ("across", "up")] == ["0", "1"]
    page.locator("select.up").select_option(label="z[4]")
    box = page.locator(".plane").bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    np.testing.assert_allclose(z_of(page), [0, -1.5, 0, 0, 1.5], atol=0.03)


def test_the_plane_by_touch_on_a_phone(show):
    page = show("plane", PHONE, has_touch=True, is_mobile=True)
    page.locator(".plane").scroll_into_view_if_needed()
    box = page.locator(".plane").bounding_box()
    touch = page.context.new_cdp_session(page)
    point = lambda across, up: {"x": box["x"] + across * box["width"], "y": box["y"] + (1 - up) * box["height"]}
    scrolled = page.evaluate("scrollY")
    for kind, points in (
        ("touchStart", [point(0.5, 0.5)]),
        ("touchMove", [point(0.4, 0.6)]),
        ("touchMove", [point(0.25, 0.75)]),
        ("touchEnd", []),
    ):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    np.testing.assert_allclose(z_of(page), [-1.5, 1.5], atol=0.05)
    assert page.evaluate("scrollY") == scrolled


@pytest.mark.parametrize("name", ["plane", "colour", "vectors"])
@pytest.mark.parametrize("window", [PHONE, {"width": 320, "height": 568}, {"width": 768, "height": 1024}, DESK])
def test_nothing_lies_beside_the_window(show, name, window):
    page = show(name, window, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]
    outside = """(width) => [...document.querySelectorAll('.latent-explorer *')].filter((each) => {
      const box = each.getBoundingClientRect();
      return box.width > 0 && (box.left < -0.5 || box.right > width + 0.5); }).map((each) => each.outerHTML)"""
    assert page.evaluate(outside, window["width"]) == []
    assert page.locator(".decoded").bounding_box()["width"] > 100


def test_examples_reset_and_random(show):
    page = show("plane")
    codes = some(40, 2)
    page.click(".next")
    page.click(".next")
    np.testing.assert_allclose(z_of(page), codes[1], rtol=1e-6)
    # A label is text, whatever is in it.
    assert page.locator(".label").text_content() == "</script><b>one</b>"
    assert page.locator(".legend li").all_text_contents() == ["none", "</script><b>one</b>", "two"]
    assert np.all(pixels(page, ".original") == 255)
    for _ in range(2):
        page.click(".previous")
    np.testing.assert_allclose(z_of(page), codes[39], rtol=1e-6)
    page.fill(".examples input", "17")
    page.keyboard.press("Enter")
    np.testing.assert_allclose(z_of(page), codes[17], rtol=1e-6)
    page.click(".reset")
    np.testing.assert_array_equal(z_of(page), [0, 0])
    assert not page.locator(".original").is_visible()
    # On from the last one.
    page.click(".next")
    np.testing.assert_allclose(z_of(page), codes[18], rtol=1e-6)
    assert page.locator(".original").is_visible()
    draws = np.array(page.evaluate("""() => Array.from({ length: 2000 }, () => {
      document.querySelector('.random').click(); return vaejaxExplorer.get(); })"""))  # fmt: skip
    # 4,000 standard normals: within five standard errors.
    assert abs(draws.mean()) < 5 / 4000**0.5
    assert abs((draws**2).mean() - 1) < 5 * (2 / 4000) ** 0.5


def test_what_moves_z_leaves_the_test_example(show):
    page = show("plane")
    first = lambda selector: page.locator(selector).first
    ways = {
        "slider": lambda: first(".row input").press("ArrowRight"),
        "handle": lambda: first(".handle").press("ArrowRight"),
        "double click": lambda: first(".row label").dblclick(),
        "plane": lambda: first(".plane").click(),
        "random": lambda: first(".random").click(),
        "program": lambda: page.evaluate("vaejaxExplorer.set([0.5, 0.5])"),
        "emptied": lambda: (first(".examples input").fill(""), page.keyboard.press("Enter")),
    }
    said = lambda: (page.input_value(".examples input"), first(".label").text_content())
    below = first(".sliders").bounding_box()
    for index, (way, move) in enumerate(ways.items()):
        page.click(".next")
        assert said() == (str(index), ("none", "</script><b>one</b>", "two")[index % 3])
        assert first(".original").is_visible()
        move()
        assert said() == ("", ""), way
        assert not first(".original").is_visible(), way
        # Nothing jumps under a finger.
        assert first(".sliders").bounding_box() == below
    np.testing.assert_allclose(z_of(page), some(40, 2)[6], rtol=1e-6)


def test_the_newest_z_is_decoded_once_a_frame(show):
    page = show("plane")
    painted = page.evaluate("""async () => {
      let painted = 0;
      const put = CanvasRenderingContext2D.prototype.putImageData;
      CanvasRenderingContext2D.prototype.putImageData = function (...all) { painted++; put.apply(this, all); };
      for (let i = 0; i <= 100; i++) vaejaxExplorer.set([i / 50, 0]);
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      return painted; }""")  # fmt: skip
    assert painted == 1
    np.testing.assert_array_equal(z_of(page), [2, 0])


def test_vectors_are_drawn_as_a_chart(show):
    page = show("vectors", color_scheme="dark")
    picture = lambda: page.evaluate("document.querySelector('.decoded').toDataURL()")
    before = picture()
    page.locator(".row input").focus()
    page.keyboard.press("End")
    page.evaluate(SETTLE)
    assert picture() != before
    assert not page.locator(".plane").is_visible()


def test_axes_are_ordered_by_kl_and_reach_the_codes():
    codes = np.array([[0.1, -4.2], [2.0, 1.0]])
    assert latent_axes(2, [0.5, 1.5], codes) == (
        LatentAxis(1, "z[1]", -4.5, 4.5, 1.5),
        LatentAxis(0, "z[0]", -3.0, 3.0, 0.5),
    )
    assert [axis.kl for axis in latent_axes(3)] == [None] * 3
    # Without KL the codes say which latents are used, z[1] here.
    assert [axis.latent for axis in latent_axes(2, None, codes)] == [1, 0]
    with pytest.raises(ValueError, match=r"kl_per_axis must have shape \(2,\); got \(3,\)"):
        latent_axes(2, [1, 2, 3])


def test_without_a_prior_axes_reach_as_far_as_the_codes():
    codes = np.array([[100.2, 0.001, 7.0, -3.0], [130.1, -0.002, 7.0, 5.0]])
    axes = sorted(latent_axes(4, None, codes, limit=None))
    spans = np.ptp(codes, axis=0)
    assert [axis.low for axis in axes][:2] == [99.0, -0.0021]
    assert [axis.high for axis in axes][:2] == [131.0, 0.0011]
    assert all(
        axis.low < low < high < axis.high and axis.high - axis.low < 1.3 * span
        for axis, low, high, span in list(zip(axes, codes.min(axis=0), codes.max(axis=0), spans, strict=True))[:2]
    )
    # One that is the same everywhere is moved like the widest.
    assert axes[2].high - 7 == 7 - axes[2].low == 15
    same = latent_axes(1, None, [[2.0], [2.0]], limit=None)
    assert (same[0].low, same[0].high) == (1.5, 2.5)
    with pytest.raises(ValueError, match="limit must be a number where there are no codes; got None"):
        latent_axes(2, limit=None)
    with pytest.raises(ValueError, match=r"codes must have shape \(3, 2\); got \(3, 4\)"):
        latent_axes(2, None, np.zeros((3, 4)))


def test_small_ranges_have_digits_and_ticks(browser):
    program = compile_for_browser(lambda z: z, (2,))
    axes = [LatentAxis(0, "a", -0.004, 0.016), LatentAxis(1, "b", 2000.0, 9000.0)]
    page = browser.new_page()
    page.set_content(
        "<script>const words = []; const fill = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (...all) { words.push(all[0]);"
        "fill.apply(this, all); };</script>" + explorer_html(program, axes, mean=[0.01234, 5000.0])
    )
    page.evaluate(SETTLE)
    assert page.locator(".readout").text_content() == "z = (0.0123, 5000.0000)"
    assert {0.005, 0.01, 0.015, 3000, 8000} <= set(page.evaluate("words"))
    page.close()


def test_titles_name_the_law_and_the_heading_has_its_level():
    program = compile_for_browser(lambda z: 2 * z, (2,))
    axes = [LatentAxis(0, "a", kl=0.02), LatentAxis(1, "b", kl=0.05)]
    text = explorer_html(program, axes, law="the codes' <spread>", dead=0.02, heading_level=2)
    assert 'title="to the mean of the codes&#x27; &lt;spread&gt;"' in text
    assert 'title="a draw from the codes&#x27; &lt;spread&gt;"' in text
    assert '<h2 class="title" id="latent-explorer-title">Latent explorer</h2>' in text
    # Not above the threshold: unused.
    assert re.findall(r'"dead":([^,}]+)', text) == ["true", "false", "0.02"]
    plain = explorer_html(program, axes)
    assert 'title="a draw from the prior"' in plain
    assert "<h3" in plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": latent_axes(3)}, "each latent from 0 to 1 once; got 0, 1, 2"),
        ({"axes": [LatentAxis(0, "a"), LatentAxis(0, "b")]}, "each latent from 0 to 1 once; got 0, 0"),
        ({"axes": [LatentAxis(0, "a"), LatentAxis(1, "b", 2.0, 1.0)]}, "from low to high; got b 2"),
        ({"image_shape": (1, 2, 3)}, "1 or 3 channels, 2 in all; got"),
        ({"white": 0.0}, "two finite numbers; got 0.0 and 0.0"),
        ({"codes": np.zeros((4, 3))}, r"codes must have shape \(4, 2\); got \(4, 3\)"),
        ({"codes": np.full((4, 2), np.nan)}, "codes must be finite"),
        ({"codes": np.zeros((4, 2)), "labels": [0, 1]}, r"labels must have shape \(4,\); got \(2,\)"),
        ({"labels": [0, 1]}, "must come with codes"),
        ({"element_id": '"><script>'}, "element_id must be a letter"),
        ({"heading_level": 0}, "heading_level must be from 1 to 6; got 0"),
    ],
)
def test_bad_arguments(options, message):
    program = compile_for_browser(lambda z: 2 * z, (2,))
    with pytest.raises(ValueError, match=message):
        explorer_html(program, **{"axes": latent_axes(2), **options})
