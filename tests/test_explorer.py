"""The pooling explorer: its formulas against minidl's, and the page itself, in a real browser.

The page's own functions compute every drawn geometry in one call of the browser, so hundreds of
them take seconds. Skipped without Chromium, its driver (Debian: chromium, chromium-driver) or
Selenium.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F
from minidl.functional.pooling import basic
from tests.helpers.browser import chromium

PAGE = Path(__file__).parent.parent / "chapters" / "site" / "explorer.html"

MINUS = "\u2212"  # as the page writes numbers

EACH = 30
"""Geometries drawn for each kind."""

WEIGHTS = {"gated_pool2d", "attention_pool2d", "conv2d", "conv_pool2d", "conv2d_relu_max_pool2d"}
RANDOM = {"stochastic_pool2d", "fractional_max_pool2d"}
LEARNED = {"gem_pool2d": "p", "softmax_pool2d": "beta", "mixed_pool2d": "alpha"}
WINDOWS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

KINDS = {
    "max_pool2d": WINDOWS,
    "avg_pool2d": (*WINDOWS[:3], "ceil_mode", "count_include_pad", "divisor_override"),
    "min_pool2d": WINDOWS,
    "lp_pool2d": ("kernel_size", "stride", "ceil_mode", "norm_type"),
    "global_max_pool2d": (),
    "global_avg_pool2d": (),
    "adaptive_max_pool2d": ("output_size",),
    "adaptive_avg_pool2d": ("output_size",),
    "spatial_pyramid_pool2d": ("levels", "mode"),
    "fractional_max_pool2d": ("fractional_mode", "overlapping"),
    "stochastic_pool2d": (*WINDOWS[:3], "ceil_mode", "training"),
    "channel_max_pool": ("size",),
    "channel_avg_pool": ("size",),
    "mixed_pool2d": (*WINDOWS[:3], "ceil_mode", "alpha"),
    "gated_pool2d": WINDOWS[:3],
    "gem_pool2d": (*WINDOWS[:3], "p", "eps"),
    "softmax_pool2d": (*WINDOWS[:3], "ceil_mode", "beta"),
    "attention_pool2d": (),
    "blur_pool2d": ("stride", "filter_size"),
    "max_blur_pool2d": ("kernel_size", "stride", "filter_size"),
    "conv_pool2d": (*WINDOWS[:4], "pool_size", "pool_stride", "mode"),
    "conv2d_relu_max_pool2d": (
        *(*WINDOWS[:4], "pool_size", "pool_stride"),
        *("pool_padding", "pool_dilation", "ceil_mode"),
    ),
    "max_unpool2d": WINDOWS[:3],
    "conv2d": WINDOWS[:4],
}

# Runs in the page: its formulas, for all cases in one call. JSON has no infinity and no NaN.
ANSWER = """
const revive = (_, value) => (value === "inf" ? Infinity : value);
const write = (_, value) =>
  typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
const cases = JSON.parse(arguments[0], revive);
return JSON.stringify(cases.map(({ name, shape, values, a, gradient }) => {
  const grid = Pooling.channels(...shape, values);
  try {
    const stages = Pooling.run(name, grid, a);
    const { gradients, params } = Pooling.backward(stages, gradient);
    const out = [...stages[stages.length - 1].grid.values];
    const program = Kinds.program(name, grid, a);
    const draws = Pooling.drawsOf(name, grid, a).count;
    return { out, gradient: [...gradients[0]], params, program, draws };
  } catch (error) {
    if (error instanceof Pooling.PoolError) return { error: error.message };
    throw error;
  }
}), write);
"""


# The browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, closed after the module's tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(browser):
    """The explorer, opened from its file; it may not write to the console."""
    browser.get(PAGE.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


# Geometries -------------------------------------------------------------------------------------


def pair(rng, low, high):
    """Draw an integer or a pair, mostly valid."""
    if rng.random() < 0.03:
        return [-1, 0, 1.5][rng.integers(3)]
    one, other = (int(n) for n in rng.integers(low, high + 1, 2))
    return one if rng.random() < 0.5 else [one, other]


def draw_arguments(rng, name, shape):
    """Draw a kind's arguments; a few are invalid."""
    c, h, w = shape
    choices: dict[str, Any] = {
        "kernel_size": lambda: pair(rng, 1, 6 if rng.random() < 0.2 else 3),
        "stride": lambda: pair(rng, 1, 3),
        "padding": lambda: pair(rng, 0, 1) if rng.random() < 0.7 else pair(rng, 0, 2),
        "dilation": lambda: pair(rng, 1, 2),
        "ceil_mode": lambda: bool(rng.random() < 0.5),
        "count_include_pad": lambda: bool(rng.random() < 0.5),
        "divisor_override": lambda: int(rng.integers(0, 5)),
        "norm_type": lambda: rng.choice([1, 2, 3, 4, 1.5, 0.5, math.inf, -1.5]).item(),
        "output_size": lambda: [pair(rng, 1, 6), [None, 2], None][rng.choice(3, p=(0.8, 0.1, 0.1))],
        "levels": lambda: [int(n) for n in rng.integers(rng.integers(0, 2), 5, rng.integers(0, 4))],
        "mode": lambda: rng.choice(["max", "avg", "mean"], p=(0.45, 0.45, 0.1)).item(),
        "fractional_mode": lambda: rng.choice(["pseudorandom", "random"]).item(),
        "overlapping": lambda: bool(rng.random() < 0.5),
        "training": lambda: bool(rng.random() < 0.7),
        "size": lambda: int(rng.integers(0, c + 1)),
        "alpha": lambda: rng.choice([0, 0.25, 0.7, 1, 1.5]).item(),
        "p": lambda: rng.choice([0.5, 1, 2.5, 3, 20, -0.5]).item(),
        "eps": lambda: rng.choice([1e-6, 0.5, -0.5], p=(0.6, 0.3, 0.1)).item(),
        "beta": lambda: rng.choice([-2, 0, 0.5, 3, 200]).item(),
        "filter_size": lambda: int(rng.integers(0, 6)),
        "pool_size": lambda: pair(rng, 1, 3),
        "pool_stride": lambda: pair(rng, 1, 3),
        "pool_padding": lambda: pair(rng, 0, 1),
        "pool_dilation": lambda: pair(rng, 1, 2),
    }
    optional = {"stride", "divisor_override", "pool_stride", "filter_size"}
    a = {key: choices[key]() for key in KINDS[name] if not (key in optional and rng.random() < 0.3)}
    if name == "gem_pool2d" and rng.random() < 0.3:
        del a["kernel_size"]  # the whole image
    if name == "fractional_max_pool2d":
        if rng.random() < 0.5:
            a["kernel_size"] = pair(rng, 1, 3)
        if rng.random() < 0.7:
            a["output_size"] = pair(rng, 1, max(1, min(h, w) - 1))
        if rng.random() < 0.4:
            a["output_ratio"] = round(rng.uniform(0.1, 1.05), 2)
    if name in WEIGHTS - {"attention_pool2d"} and isinstance(a["kernel_size"], (float, int)):
        a["kernel_size"] = max(0, int(a["kernel_size"]))  # it becomes a shape
    return a


def draw_values(rng, name, a, count):
    """Draw pixels: half of them small integers, so that several are often equal."""
    ties = rng.random() < 0.5
    values = rng.integers(-3, 4, count).astype(float) if ties else rng.normal(0, 2, count)
    p = a.get("norm_type", 2)
    if p in (0.5, 1.5):  # fractional powers are for positive numbers
        return np.abs(values) + 0.125
    return np.abs(values) if (name == "gem_pool2d" or p == 3) and rng.random() < 0.8 else values


def draw_case(rng, name):
    most = 4 if name.startswith(("channel", "attention")) else 2
    shape = [
        int(rng.integers(1, most + 1)),
        *(int(n) for n in rng.integers(1 if rng.random() < 0.1 else 4, 9, 2)),
    ]
    a = draw_arguments(rng, name, shape)
    values = draw_values(rng, name, a, math.prod(shape))
    case = {"name": name, "shape": shape, "a": a, "values": values.tolist()}
    if name in WEIGHTS:
        kernel = a.get("kernel_size")
        kernel = kernel if isinstance(kernel, list) else [kernel, kernel]
        sizes = {"attention_pool2d": [shape[0]], "gated_pool2d": [1, 1, *kernel]}
        case["weight"] = sizes.get(name, [1, shape[0], *kernel])
        a["weight"] = rng.normal(0, 1, case["weight"]).ravel().tolist()
    if name.startswith("conv"):
        a["bias"] = round(rng.normal(), 3)
    case["seed"] = int(rng.integers(2**31))
    return case


# minidl's answers -------------------------------------------------------------------------------


def give_draws(case):
    """Add the numbers that minidl will draw from a generator with the case's seed."""
    name, a, (c, h, w) = case["name"], case["a"], case["shape"]
    shape = operation(case, image(case), {}).shape  # an error ends here
    rng = np.random.default_rng(case["seed"])
    if name == "stochastic_pool2d" and a["training"]:
        kernel = a["kernel_size"]
        taps = math.prod(kernel) if isinstance(kernel, list) else kernel**2
        if taps > 24:  # a time for each pixel
            a["draws"] = rng.standard_exponential((1, c, h, w)).ravel().tolist()
        else:
            a["draws"] = rng.random(shape, np.float32).astype(float).ravel().tolist()
    elif name == "fractional_max_pool2d" and a["fractional_mode"] == "pseudorandom":
        a["draws"] = rng.random((c, 2)).ravel().tolist()
    elif name == "fractional_max_pool2d":
        steps = [out - ("kernel_size" in a) for out in shape[2:]]
        orders = (np.tile(np.arange(n), (c, 1)) for n in steps)
        a["draws"] = [int(n) for order in orders for n in rng.permuted(order, axis=1).ravel()]


def as_python(a):
    return {key: tuple(value) if isinstance(value, list) else value for key, value in a.items()}


def image(case):
    return Tensor(
        np.array(case["values"]).reshape(1, *case["shape"]), dtype="float64", requires_grad=True
    )


def operation(case, x, parameters):
    """Call minidl with a case's arguments."""
    name, a = case["name"], as_python(case["a"])
    draws = a.pop("draws", None)
    a.pop("bias", None)
    if a.pop("weight", None) is not None:
        a.pop("kernel_size", None)
    a |= parameters
    if name == "max_unpool2d":
        values, indices = F.max_pool2d(x, **a, return_indices=True)
        return F.max_unpool2d(values, indices, **a, output_size=x.shape[2:])
    if "fractional_mode" in a:
        a["mode"] = a.pop("fractional_mode")
        if a["mode"] == "pseudorandom" and draws is not None:
            a["_random_samples"] = np.reshape(draws, (1, -1, 2))
    if name in ("fractional_max_pool2d", "stochastic_pool2d"):
        a["rng"] = np.random.default_rng(case["seed"])
    return getattr(F, name)(x, **a)


@np.errstate(invalid="ignore")  # roots of negative numbers, which are NaN in the page as well
def answer(case):
    """Return minidl's output, gradients and parameters' gradients, or its error."""
    x, a, parameters = image(case), case["a"], {}
    if "weight" in case:
        weight = np.array(a["weight"]).reshape(case["weight"])
        parameters["weight"] = Tensor(weight, dtype="float64", requires_grad=True)
    if "bias" in a:
        parameters["bias"] = Tensor([a["bias"]], dtype="float64", requires_grad=True)
    try:
        if case["name"] in RANDOM:
            give_draws(case)
        out = operation(case, x, parameters)
    except ValueError as error:
        case["gradient"] = []
        return {"error": str(error)}
    learned = LEARNED.get(case["name"])
    if learned in a:  # a number so far, to be checked; a tensor gets a gradient
        parameters[learned] = Tensor([float(a[learned])], dtype="float64", requires_grad=True)
        np.testing.assert_allclose(
            operation(case, image(case), parameters).numpy(), out.numpy(), rtol=1e-12
        )
        out = operation(case, x, parameters)
    gradient = np.random.default_rng(case["seed"]).normal(0, 1, out.shape)
    case["gradient"] = gradient.ravel().tolist()
    (out * Tensor(gradient, dtype="float64")).sum().backward()
    slopes = {name: p.grad.numpy().ravel() for name, p in parameters.items()}
    return {"out": out.numpy().ravel(), "gradient": x.grad.numpy().ravel(), "params": slopes}


def in_page(browser, cases):
    def write(value):
        if isinstance(value, dict):
            return {key: write(inner) for key, inner in value.items()}
        return "inf" if value == math.inf else value

    sent = [write(case) for case in cases]
    return json.loads(browser.execute_script(ANSWER, json.dumps(sent)))


def close(found, expected):
    """Check equality to 1e-9, NaN included; the page's infinities and NaN come as text."""
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-9, atol=1e-9)


# Tests ------------------------------------------------------------------------------------------


def test_formulas_agree_with_minidl(page):
    rng = np.random.default_rng(24)
    cases = [draw_case(rng, name) for name in KINDS for _ in range(EACH)]
    expected = [answer(case) for case in cases]
    valid = dict.fromkeys(KINDS, 0)
    for case, right, found in zip(cases, expected, in_page(page, cases), strict=True):
        try:
            assert found.get("error") == right.get("error")
            if "error" not in right:
                valid[case["name"]] += 1
                close(found["out"], right["out"])
                close(found["gradient"], right["gradient"])
                for name, slopes in right["params"].items():
                    close(found["params"][name], slopes)
                assert found["draws"] == len(case["a"].get("draws", []))
        except AssertionError as error:
            raise AssertionError(f"{case}\nminidl: {right}\npage: {found}") from error
    assert min(valid.values()) >= 8, valid
    assert sum("error" in right for right in expected) >= 40


def test_programs_shown_compute_the_same(page):
    rng = np.random.default_rng(5)
    cases = [draw_case(rng, name) for name in KINDS for _ in range(8)]
    expected = [answer(case) for case in cases]
    ran = set()
    for case, right, found in zip(cases, expected, in_page(page, cases), strict=True):
        if "error" in right:
            continue
        names: dict[str, Any] = {}
        exec(found["program"].replace("default_rng()", f"default_rng({case['seed']})"), names)
        close(names["out"].numpy().ravel(), right["out"])
        assert names["x"].grad is not None
        ran.add(case["name"])
    assert ran == set(KINDS)


def test_every_kind_of_the_table_is_in_the_page_with_its_formulas(page):
    rows = re.findall(r"^\| (\w+)(?:, (\w+))? \| `(.*?)` \| (.*?) \|", basic.__doc__, re.M)
    table = [(name, when, formula, slope.strip("`")) for name, when, formula, slope in rows]
    shown = page.execute_script(
        "return Object.entries(Kinds.KINDS).flatMap(([name, { formulas }]) =>"
        " formulas.map((formula) => [name, ...formula]))"
    )
    assert len(table) > 20
    assert sorted(tuple(row) for row in shown if row[0] != "conv2d") == sorted(table)
    assert set(page.execute_script("return Pooling.NAMES")) == set(KINDS)


# The page itself --------------------------------------------------------------------------------


def choose(page, name):
    page.execute_script(
        "const kind = document.getElementById('kind'); kind.value = arguments[0];"
        "kind.dispatchEvent(new Event('change'))",
        name,
    )


def texts(page, selector):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)",
        selector,
    )


OUTPUTS = "#stages figure:last-child button.cell"


# Chooses every kind, goes to its last window and shows all gradients, by the page's own controls.
TOUR = """
const $ = (id) => document.getElementById(id);
const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
const radio = (value) => document.querySelector(`input[value=${value}]`);
return Object.keys(Kinds.KINDS).map((name) => {
  $("kind").value = name;
  $("kind").dispatchEvent(new Event("change"));
  const found = { name, error: texts("#error")[0], uses: Kinds.KINDS[name].uses };
  found.before = texts(arguments[0]);
  $("last").click();
  found.after = texts(arguments[0]);
  radio("all").click();
  found.gradient = texts("#stages figure:first-child .g").filter((text) => text);
  radio("fill").click();
  found.program = texts("#program")[0];
  found.why = Object.fromEntries(Kinds.GEOMETRY.filter((one) => $(`argument-${one}`).disabled).map(
    (one) => [one, texts(`#reason-${one}`)[0]]));
  return found;
});
"""


def numbers(shown):
    return [float(text.replace(MINUS, "-")) for text in shown]


def test_every_kind_can_be_chosen_stepped_and_reversed(page):
    found = page.execute_script(TOUR, f"{OUTPUTS} .v")
    assert [kind["name"] for kind in found if kind["error"]] == []
    assert {kind["name"] for kind in found} == set(KINDS)
    for kind in found:
        assert kind["before"][0] != "?"
        assert set(kind["before"][1:]) <= {"?"}
        names: dict[str, Any] = {}
        exec(kind["program"], names)
        out, gradient = (array.numpy().ravel() for array in (names["out"], names["x"].grad))
        assert len(kind["after"]) == len(out)
        if "rng=rng" not in kind["program"]:  # three digits are shown
            np.testing.assert_allclose(numbers(kind["after"]), out, rtol=6e-3)
            np.testing.assert_allclose(numbers(kind["gradient"]), gradient, rtol=6e-3, atol=1e-9)
        # An argument of windows is off if and only if the kind lacks it, and says why.
        assert set(kind["why"]) == set(WINDOWS) - set(kind["uses"])
        assert all(why.endswith(".") for why in kind["why"].values())


def test_keys_step_windows_and_edit_pixels(page):
    from selenium.webdriver.common.keys import Keys

    choose(page, "max_pool2d")
    first = page.find_element("css selector", f"{OUTPUTS}")
    first.click()
    sentence = texts(page, "#sentence")[0]
    assert sentence == (
        "Window 1 of 4, for the output at row 1, column 1: the largest of 1, 3, 5, 7 is 7."
    )
    first.send_keys(Keys.ARROW_RIGHT)
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.accessible_name == "output row 2, column 2: 8"
    page.switch_to.active_element.send_keys(Keys.HOME)
    assert texts(page, "#position-label") == ["Window 1 of 4"]
    page.find_element("id", "position").send_keys(Keys.ARROW_RIGHT)
    assert texts(page, "#position-label") == ["Window 2 of 4"]
    pixel = page.find_element("css selector", '[aria-label="row 1, column 3"]')
    pixel.clear()
    pixel.send_keys("-2.5", Keys.ARROW_DOWN)
    assert page.switch_to.active_element.get_attribute("aria-label") == "row 2, column 3"
    assert f"the largest of {MINUS}2.5, 0, 1, 0 is 1" in texts(page, "#sentence")[0]


def test_a_click_sends_the_gradient_back(page):
    choose(page, "avg_pool2d")
    page.find_element("css selector", "input[value=one]").click()
    page.find_elements("css selector", OUTPUTS)[3].click()
    gradients = texts(page, "#stages figure:first-child .g")
    assert gradients == ["0"] * 10 + ["0.25"] * 2 + ["0"] * 2 + ["0.25"] * 2
    assert "0.25 to row 3, column 3; 0.25 to row 3, column 4" in texts(page, "#sentence")[0]
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert page.execute_script("return document.querySelectorAll('#lines polyline').length") == 4


def test_play_fills_the_output_and_stops(page):
    page.execute_async_script(
        "const done = arguments[0]; const play = document.getElementById('play'); play.click();"
        "const look = () => play.textContent === 'Play' ? done() : setTimeout(look, 50); look()"
    )
    assert texts(page, f"{OUTPUTS} .v") == ["7", "2", "4", "8"]
    assert page.find_element("id", "sentence").get_attribute("aria-live") == "polite"


def test_impossible_windows_show_the_words_of_minidl(page):
    choose(page, "max_pool2d")
    window = page.find_element("id", "argument-kernel_size")
    window.clear()
    window.send_keys("9")
    with pytest.raises(ValueError, match="spans 9") as error:
        F.max_pool2d(Tensor(np.ones((1, 1, 4, 4))), 9)
    assert texts(page, "#error") == [str(error.value)]
    assert window.get_attribute("aria-invalid") == "true"
    assert texts(page, f"{OUTPUTS} .v") == []
    window.clear()
    window.send_keys("2")
    assert texts(page, "#error") == [""]


# Types anything into any control, for every kind; returns how often the page showed an error.
TYPE = """
const $ = (id) => document.getElementById(id);
let seed = 1;
const below = (n) => (seed = (seed * 48271) % 2147483647) % n;
const sizes = ["", "0", "-1", "1", "2", "3", "1.5", "1e9"];
const typed = [...sizes, "2, 3", "3,1", "1,2,3", "x", "inf", "0.5"];
let errors = 0;
for (const name of Object.keys(Kinds.KINDS)) {
  $("kind").value = name;
  $("kind").dispatchEvent(new Event("change"));
  const controls = [...document.querySelectorAll(
    "#settings :is(input, select):enabled, #settings textarea, #stages input, #gradient"
  )].filter((one) => one.id !== "kind");
  for (let i = 0; i < 60; i++) {
    const one = controls[below(controls.length)];
    if (one.type === "checkbox") one.checked = !one.checked;
    else if (one.options) one.selectedIndex = below(one.options.length);
    else if (one.type === "number") one.value = sizes[below(sizes.length)];
    else one.value = typed[below(typed.length)];
    one.dispatchEvent(new Event("input", { bubbles: true }));
    document.querySelectorAll("input[name=mode]")[below(3)].click();
    ["first", "previous", "next", "last"].forEach((id) => below(2) && $(id).click());
    errors += $("error").textContent !== "";
  }
}
return errors;
"""


def test_nothing_typed_breaks_the_page(page):
    page.execute_script("window.failed = []; onerror = (message) => { failed.push(message) }")
    assert page.execute_script(TYPE) > 100
    assert page.execute_script("return failed") == []


# The widest that the page gets, in both themes and over all kinds.
WIDEST = """
const [kind, theme] = ["kind", "theme"].map((id) => document.getElementById(id));
return Math.max(...["light", "dark"].flatMap((one) => Object.keys(Kinds.KINDS).map((name) => {
  [theme.value, kind.value] = [one, name];
  theme.dispatchEvent(new Event("change"));
  kind.dispatchEvent(new Event("change"));
  return document.documentElement.scrollWidth;
})));
"""


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_is_no_wider_than_its_screen(page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script(WIDEST) <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
