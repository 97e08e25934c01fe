"""The page of a graph: its data, its groups, and the page itself in a real browser.

The tests in the browser are skipped without Chromium, its driver (Debian: chromium,
chromium-driver) or Selenium.
"""

from __future__ import annotations

import html
import json
import os
import re
import threading
from importlib.resources import files

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.inspect import graph, record_lines
from minidl.inspect.graph import _layout
from minidl.inspect.graph_groups import MOST_MEMBERS, grouped, short_line
from minidl.inspect.graph_node import Digest
from minidl.inspect.graph_page import OPERATORS, render
from minidl.tensor import record
from tests.helpers.browser import barriers, chromium

TIMES = "\N{MULTIPLICATION SIGN}"
HOSTILE = (
    "</script><script>alert(1)</script><!-- <b onmouseover=alert(2)> \u2028 & ' \" \\ 名 {data}"
)


def squared_error(w, b, x, y):
    return (w * x + b - y) ** 2


def line():
    """Return the graph of chapter 1, its lines recorded."""
    w, b = Tensor(2.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    x, y = Tensor(3.0), Tensor(5.0)
    with record_lines():
        loss = squared_error(w, b, x, y)
    return graph(loss, names={"w": w, "b": b, "x": x, "y": y})


def network():
    """Return a small network's loss and the network, which has layers inside layers."""
    minidl.manual_seed(24)
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), block, nn.Linear(8, 3))
    return F.cross_entropy(model(minidl.randn(5, 6)), np.array([0, 1, 2, 0, 1])), model


def chain(steps):
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(steps):
        y = y * 0.5 + x
    return graph(y)


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


# The data ---------------------------------------------------------------------------------------


def same(first, expected):
    """Check a page's numbers: equal in the array's dtype, bit by bit."""
    found = np.array([float(x) for x in first], np.float64).astype(expected.dtype)
    np.testing.assert_array_equal(found, expected.ravel()[: len(first)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_those_of_the_tensors(dtype):
    rng = np.random.default_rng(24)
    w = Tensor(rng.standard_normal((4, 5)), dtype=dtype, requires_grad=True)
    x = Tensor(rng.standard_normal((3, 4)), dtype=dtype)
    hidden = (x @ w).tanh()
    loss = (hidden * hidden).sum()
    nodes = data_of(graph(loss, names={"w": w, "x": x}).html())["nodes"]
    hidden.retain_grad()
    loss.backward()
    by_name = {node["name"] or node["op"]: node for node in nodes}
    for name, tensor in (("w", w), ("x", x), ("tanh", hidden)):
        node = by_name[name]
        assert len(node["value"]["first"]) == tensor.size
        same(node["value"]["first"], tensor.numpy())
        assert (node["shape"], node["dtype"]) == (list(tensor.shape), dtype)
        if tensor.grad is None:
            assert node["gradient"] is None
        else:
            same(node["gradient"]["first"], tensor.grad.numpy())


def test_a_page_shows_what_tensors_held_when_graph_ran():
    x = Tensor([1.0, 2.0], requires_grad=True)
    found = graph((x * x).sum())
    before = found.html()
    x.data = np.array([7.0, 8.0])
    assert found.html() == before
    assert data_of(before)["nodes"][0]["value"]["first"] == [1.0, 2.0]


def test_a_digest_holds_the_first_elements_and_statistics_of_all():
    values = np.random.default_rng(1).standard_normal((7, 300, 100)).astype(np.float32)
    found = Digest.of(values.transpose(2, 0, 1), most=50)
    np.testing.assert_array_equal(found.first, values.transpose(2, 0, 1).ravel()[:50])
    assert (found.least, found.largest) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(dtype=np.float64))
    assert (found.size, found.strange) == (210_000, 0)
    assert found.counted == sum(found.counts) == 210_000 / 3
    expected = np.histogram(values.astype(np.float64), 24)[0] / 3
    assert np.abs(found.counts - expected).max() < 6 * np.sqrt(expected.max())


def test_numbers_that_are_not_finite_are_counted_and_shown():
    page = Digest.of(np.array([np.nan, 1.0, np.inf, 3.0, -np.inf]), 10)
    assert (page.least, page.mean, page.largest, page.strange) == (1, 2, 3, 3)
    assert Digest.of(np.full(3, np.nan), 10).least is None
    assert Digest.of(np.array([1e308, -1e308] * 20), 10).counts == ()  # no interval is so wide
    assert Digest.of(np.array([0.0, 5e-324] * 20), 10).counts == ()  # and none so narrow
    assert Digest.of(np.zeros((0, 3)), 10).size == 0
    with np.errstate(all="ignore"):
        loss = (Tensor([0.0, 1.0], requires_grad=True).log() * 0.0).sum()
        shown = graph(loss)
    nodes = data_of(shown.html())["nodes"]
    assert nodes[1]["value"]["first"] == ["-inf", 0]
    assert nodes[-1]["value"]["first"] == ["nan"]


def test_integers_and_bools_keep_their_values():
    big = 2**60 + 1
    x = Tensor([2.0], requires_grad=True)

    def of(values):
        out = record("pick", x.array, (x, Tensor(values)), lambda g: (g, None))
        return data_of(graph(out).html())["nodes"][1]["value"]["first"]

    assert of(np.array([big, -3])) == [str(big), -3]
    assert of(np.array([True, False])) == [True, False]


def test_large_tensors_are_shown_in_part():
    x = Tensor(np.arange(1000.0, dtype=np.float32), requires_grad=True)
    first = data_of(graph(x.sum()).html())["nodes"][0]["value"]
    assert first["first"] == list(range(400))
    assert (first["size"], first["least"], first["largest"]) == (1000, 0, 999)


def test_pages_are_the_same_each_time():
    loss, model = network()
    assert graph(loss, model).html() == graph(loss, model).html()


# Lines of code ----------------------------------------------------------------------------------


def test_lines_are_recorded_inside_the_block_alone():
    nodes = data_of(line().html())["nodes"]
    lines = [node["line"] for node in nodes if node["op"]]
    assert {each["text"] for each in lines} == {"return (w * x + b - y) ** 2"}
    assert {each["function"] for each in lines} == {"squared_error"}
    assert {each["number"] for each in lines} == {squared_error.__code__.co_firstlineno + 1}
    assert lines[0]["file"].endswith("tests/test_graph_page.py")
    assert not os.path.isabs(lines[0]["file"])
    x = Tensor(3.0, requires_grad=True)
    assert graph(x * x).nodes[-1].line == ""


def test_lines_of_layers_are_those_that_called_the_network():
    _, model = network()
    with record_lines():
        out = model(minidl.zeros((1, 6)))
    texts = {node.line.split("\n")[1].strip() for node in graph(out.sum()).nodes if node.line}
    assert texts == {"out = model(minidl.zeros((1, 6)))"}


def test_detect_anomaly_records_lines_too():
    x = Tensor(3.0, requires_grad=True)
    with minidl.detect_anomaly():
        y = x * x
    assert "y = x * x" in graph(y).nodes[-1].line


def test_other_threads_record_no_lines():
    found = []
    x = Tensor(3.0, requires_grad=True)
    with record_lines():
        thread = threading.Thread(target=lambda: found.append(x * x))
        thread.start()
        thread.join()
    if not getattr(__import__("sys").flags, "thread_inherit_context", 0):
        assert found[0].node.line == ""


def test_recording_lines_changes_no_result():
    loss, model = network()
    loss.backward()
    plain = [p.grad.numpy() for p in model.parameters()]
    with record_lines():
        again, model = network()
        again.backward()
    assert again.item() == loss.item()
    for p, expected in zip(model.parameters(), plain, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), expected)


def test_files_are_named_in_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(path):
        return short_line(f'  File "{path}", line 7, in f\n    y = x * x').file

    assert of(tmp_path / "deep" / "code.py") == "deep/code.py"
    assert of(tmp_path.parent / "other" / "code.py") == "other/code.py"
    assert of("/tmp/ipykernel_81/2093.py") == "cell"
    assert of("<stdin>") == "<stdin>"
    assert short_line("") is None


# Groups -----------------------------------------------------------------------------------------


def nested(nodes):
    """Return each group's path of names, and what each node is in."""
    names, outer, around = grouped(nodes)

    def path(group):
        return () if group < 0 else (*path(outer[group]), names[group])

    return [path(group) for group in range(len(names))], [path(group) for group in around]


def test_layers_are_groups_with_their_parameters():
    loss, model = network()
    nodes = graph(loss, model).nodes
    groups, around = nested(nodes)
    assert set(groups) == {("0",), ("2",), ("2", "2.0"), ("2", "2.2"), ("3",)}
    for node, path in zip(nodes, around, strict=True):
        if "." in node.name:
            assert path[-1] == node.name.rpartition(".")[0]
    ops = {(node.op, path) for node, path in zip(nodes, around, strict=True) if node.op}
    assert ("relu", ("2",)) in ops  # between two layers of block 2
    assert ("relu", ()) in ops  # between layer 0 and block 2
    assert around[-1] == ()  # the loss belongs to no layer


def test_lines_are_groups_where_there_are_no_layers():
    found = line()
    _, around = nested(found.nodes)
    number = squared_error.__code__.co_firstlineno + 1
    assert {path[-1].rpartition("/")[2] for path in around} == {f"test_graph_page.py:{number}"}


@pytest.mark.parametrize("steps", [1, 40, 700, 5000])
def test_no_group_has_too_many_members(steps):
    found = chain(steps)
    names, outer, around = grouped(found.nodes)
    members = {group: [] for group in range(-1, len(names))}
    for group, parent in enumerate(outer):
        members[parent].append(("group", group))
    for number, parent in enumerate(around):
        members[parent].append(("node", number))
    ops = {
        group: [m for m in each if m[0] == "group" or found.nodes[m[1]].op]
        for group, each in members.items()
    }
    assert max(map(len, ops.values())) <= MOST_MEMBERS
    assert all(len(each) > 1 for each in members.values())
    assert all(parent < group for group, parent in enumerate(outer))


def test_the_graph_of_groups_has_no_circle():
    """A path may leave a layer and return: a network that calls its layers in turn, twice."""
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    model = nn.Sequential(a, b)
    x = Tensor(np.ones((2, 3)), dtype="float32")
    nodes = graph(b(a(b(a(x)))).sum(), model).nodes
    names, outer, around = grouped(nodes)
    assert len(names) == 4
    ranges = {}
    for node, group in zip(nodes, around, strict=True):
        if node.op and group >= 0:
            ranges.setdefault(group, []).append(node.number)
    for group, numbers in ranges.items():
        inside = [n.number for n in nodes if n.op and numbers[0] <= n.number <= numbers[-1]]
        assert inside == numbers, names[group]
    assert set(outer) == {-1}


# The page as text -------------------------------------------------------------------------------


def test_names_cannot_break_out_of_the_page():
    w = Tensor(2.0, requires_grad=True)
    page = graph(record(HOSTILE, (w * w).array, (w,), lambda g: (g,)), names={HOSTILE: w}).html()
    nodes = data_of(page)["nodes"]
    assert (nodes[0]["name"], nodes[1]["op"]) == (HOSTILE, HOSTILE)
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b onmouseover" not in page
    assert "<!--" not in page


def test_the_page_needs_nothing_from_outside():
    page = line().html()
    assert re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page) == ["data:,", "#panel"]
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert "{" + "style" not in page


def test_the_table_is_there_without_a_script():
    found = line()
    assert html.escape(str(found)) in found.html()


def test_the_page_is_written_whole(tmp_path):
    found = line()
    path = tmp_path / "new" / "graph.html"
    assert found.html(path) == path.read_text(encoding="utf-8")
    path.write_text("older")
    assert found.html(str(path)) == path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["graph.html"]
    with pytest.raises(OSError, match=r"regular file|directory|denied"):
        found.html(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        found.html(tmp_path / "file" / "graph.html")


def test_a_notebook_shows_the_page_in_a_frame():
    found = line()
    frame = found._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == found.html()
    assert 'sandbox="allow-scripts"' in frame
    assert 'title="Graph of 8 tensors"' in frame


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_single_leaf_is_a_graph(requires_grad):
    found = graph(Tensor([1.0, 2.0], requires_grad=requires_grad))
    data = data_of(found.html())
    assert [node["kind"] for node in data["nodes"]] == ["output"]
    assert (data["groups"], data["nodes"][0]["gradient"]) == ([], None)


def test_rules_are_the_operations_docstrings():
    x = Tensor([1.0, -1.0], requires_grad=True)
    rules = data_of(graph(F.relu(x).mean()).html())["rules"]
    assert rules["relu"] == "Return `max(x, 0)`; the gradient is `g` where `x > 0`, else 0."
    assert rules["mean"].startswith("Average over `axis`")
    assert all(rule.endswith(".") for rule in OPERATORS.values())


def test_the_package_has_the_page():
    for kind in ("html", "css", "js"):
        assert files("minidl.inspect").joinpath(f"graph_page.{kind}").is_file()
    assert render(line().nodes, ["output"] * 8, "").startswith("<!doctype html>")


@pytest.mark.parametrize("path", [3, b"graph.html", True])
def test_a_path_that_is_none_is_refused(path):
    x = Tensor(2.0, requires_grad=True)
    with pytest.raises(TypeError, match=r"^Graph\.html: got path=.*, expected a str or a Path$"):
        graph(x * x).html(path)


# In a browser -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, closed after the module's tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.set_window_size(1440, 900)
        yield opened


@pytest.fixture
def opened(browser, tmp_path):
    """Return a function that opens a graph's page; the page may not write to the console."""

    def open_page(found):
        path = tmp_path / "graph.html"
        found.html(path)
        browser.get(path.as_uri())
        return Page(browser).started()

    yield open_page
    assert [entry["message"] for entry in browser.get_log("browser")] == []


class Page:
    """An opened page, with what a reader does."""

    def __init__(self, browser):
        self.browser = browser

    def started(self):
        """Wait until the page's script has run: on a busy machine, that may be after loading."""
        from selenium.webdriver.support.ui import WebDriverWait

        ready = "return typeof GraphPage !== 'undefined' && document.readyState === 'complete'"
        WebDriverWait(self.browser, 60).until(lambda browser: browser.execute_script(ready))
        return self

    def boxes(self):
        """Return the keys of the visible boxes: n and a node's number, or g and a group's."""
        return self.run("return [...document.querySelectorAll('.box')].map(b => b.dataset.key)")

    def run(self, script, *args):
        return self.browser.execute_script(script, *args)

    def box(self, key):
        return self.browser.find_element("css selector", f'.box[data-key="{key}"]')

    def actions(self):
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser)

    def point_at(self, key):
        self.actions().move_to_element(self.box(key)).perform()

    def press(self, *keys):
        from selenium.webdriver import Keys

        for key in keys:
            self.actions().send_keys(getattr(Keys, key)).perform()

    def panel(self):
        return self.browser.find_element("id", "panel").text

    def click(self, label):
        """Click a button by its text."""
        xpath = f"//button[normalize-space()='{label}']"
        self.browser.find_element("xpath", xpath).click()

    def focused(self):
        return self.run("return document.activeElement.dataset.key ?? null")


def test_pointing_shows_values_gradient_and_line(opened):
    page = opened(line())
    assert page.panel().startswith("#7 mul")  # the output, at first
    page.point_at("n2")
    shown = page.panel().split("\n")
    assert shown[0] == "#2 mul"
    text = " ".join(shown)
    for part in (
        "made by mul(#0, #1)",
        "shape (), float32",
        "value 6",
        "gradient 4",
        "to #0: 3",
        "used by #4 add",
        "in squared_error return (w * x + b - y) ** 2",
        "rule Return a * b; a gets g * b, b gets g * a.",
    ):
        assert part in text, part


def test_lines_that_were_not_recorded_say_how(opened):
    x = Tensor(3.0, requires_grad=True)
    page = opened(graph(x * x))
    assert "not recorded; run the computation inside with inspect.record_lines():" in page.panel()
    page.point_at("n0")
    assert "record_lines" not in page.panel()  # no operation made a leaf


def test_a_click_shows_all_values(opened):
    w = Tensor(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4) / 8, requires_grad=True)
    page = opened(graph((w * w).sum(), names={"w": w}))
    page.point_at("n0")
    assert page.run("return document.querySelectorAll('#panel table').length") == 0
    page.box("n0").click()
    cells = "return [...document.querySelectorAll('#panel table')].map(t => [...t.tBodies[0].rows]"
    tables = page.run(f"{cells}.map(r => [...r.cells].map(c => c.textContent)))")
    assert [row[0] for row in tables[0]] == [f"[{i}, {j}, :]" for i in (0, 1) for j in (0, 1, 2)]
    numbers = np.array([[row[1:] for row in table] for table in tables], float)
    np.testing.assert_array_equal(numbers[0].ravel(), w.numpy().ravel())
    np.testing.assert_array_equal(numbers[1].ravel(), 2 * w.numpy().ravel())
    assert page.box("n0").get_attribute("aria-expanded") == "true"
    page.point_at("n1")
    assert page.panel().startswith("#0 w")  # stays until another click
    page.press("ESCAPE")
    assert page.box("n0").get_attribute("aria-expanded") == "false"
    page.box("n1").click()
    assert page.panel().startswith("#1 mul")


def test_the_gradient_of_a_number_is_shown_as_a_sum_over_paths(opened):
    page = opened(line())
    page.box("n6").click()
    text = page.panel().replace("\n", " ")
    assert f"The gradient is the sum of from #7: gradient 1 {TIMES} slope 2 from #7" in text


def test_keys_alone_are_enough(opened):
    page = opened(line())
    page.run("document.querySelector('.box').focus()")
    assert page.focused() == "n0"
    for key, expected in (
        ("ARROW_DOWN", "n2"),
        ("ARROW_RIGHT", "n3"),
        ("ARROW_LEFT", "n2"),
        ("ARROW_UP", "n0"),
        ("ARROW_UP", "n0"),
        ("TAB", "n1"),
    ):
        page.press(key)
        assert page.focused() == expected, key
    assert page.panel().startswith("#1 x")
    page.press("TAB", "ENTER")
    assert page.box("n2").get_attribute("aria-expanded") == "true"
    assert f"from #4: gradient 4 {TIMES} slope 1" in page.panel()
    page.press("ESCAPE")
    assert page.focused() == "n2"
    assert "slope 1" not in page.panel()


def test_the_whole_page_is_reached_by_tab(opened):
    page = opened(line())
    reached = set()
    for _ in range(40):
        page.press("TAB")
        reached.add(page.run("const e = document.activeElement; return e.id || e.dataset.key"))
    assert {"theme", "smaller", "larger", "fit", "close-all", "n0", "n7"} <= reached


def test_groups_open_and_close(opened):
    loss, model = network()
    page = opened(graph(loss, model))
    page.click("Close groups")
    closed = page.boxes()
    assert [key for key in closed if key.startswith("g")] == ["g0", "g1", "g4"]
    outer = page.box("g1")
    assert outer.text.split("\n")[0] == "2"
    outer.click()
    inside = set(page.boxes()) - set(closed)
    assert {key[0] for key in inside} == {"g", "n"}
    assert page.focused() in inside
    page.click("Close 2")
    assert page.boxes() == closed
    assert page.focused() == "g1"
    page.press("ENTER")
    assert set(page.boxes()) - set(closed) == inside
    page.click("Open groups")
    assert sorted(page.boxes()) == sorted(f"n{i}" for i in range(len(graph(loss, model).nodes)))


def test_a_group_tells_what_is_in_it(opened):
    loss, model = network()
    page = opened(graph(loss, model))
    page.click("Close groups")
    page.point_at("g1")
    text = page.panel().replace("\n", " ")
    assert "parameters 2.0.weight, 2.0.bias, 2.2.weight, 2.2.bias" in text
    assert "their size 144 numbers" in text
    assert "last shape (5, 8)" in text


@pytest.mark.parametrize("steps", [10, 150, 3000])
def test_long_graphs_stay_usable(opened, steps):
    found = chain(steps)
    page = opened(found)
    assert len(page.boxes()) <= MOST_MEMBERS + 2
    for _ in range(4):  # down to a single node
        groups = [key for key in page.boxes() if key.startswith("g")]
        if not groups:
            break
        page.run("document.querySelector('.box.group').click()")
    assert "n0" in page.boxes()
    assert len(page.boxes()) <= 4 * 2 * MOST_MEMBERS


def test_edges_lead_from_inputs_to_what_uses_them(opened):
    found = line()
    page = opened(found)
    edges = page.run(
        "return [...document.querySelectorAll('#edges g')].map(g => [g.dataset.from, g.dataset.to])"
    )
    assert edges == [[f"n{i}", f"n{node.number}"] for node in found.nodes for i in node.inputs]
    slopes = page.run(
        "return [...document.querySelectorAll('#edges text')].map(t => t.textContent)"
    )
    assert slopes == [f"{TIMES}{slope}" for slope in (3, 1, 1, 1, 2, 2)]


@pytest.mark.parametrize(
    "make",
    [line, lambda: graph(*network()), lambda: chain(12), lambda: graph(resnet(), None)],
    ids=["line", "network", "chain", "resnet"],
)
def test_the_layout_is_that_of_the_drawing(opened, make):
    found = make()
    boxes = [{"inputs": list(node.inputs)} for node in found.nodes]
    page = opened(found)
    got = page.run("return GraphPage.layout(arguments[0])", boxes)
    xs, ranks, paths = _layout(found.nodes)
    assert got["ranks"] == ranks
    assert [(one["path"], one["share"]) for one in got["paths"]] == paths
    np.testing.assert_allclose(got["xs"], xs, atol=1e-9)


def resnet():
    minidl.manual_seed(1)
    model = models.resnet20() if hasattr(models, "resnet20") else models.resnet18()
    return F.cross_entropy(model(minidl.rand(2, 3, 32, 32)), np.array([0, 1]))


def test_boxes_do_not_overlap_and_arrows_end_at_them(opened):
    loss, model = network()
    page = opened(graph(loss, model))
    boxes = page.run(
        "return [...document.querySelectorAll('.box')].map(b => [b.offsetLeft, b.offsetTop, "
        "b.offsetWidth, b.offsetHeight])"
    )
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, _, _ in boxes[:i]:
            assert abs(x - other_x) >= width or abs(y - other_y) >= height


def test_hostile_names_are_text(opened):
    w = Tensor([2.0, 3.0], requires_grad=True)
    out = record(HOSTILE, (w * w).sum().array, (w,), lambda g: (g * w,))
    page = opened(graph(out, names={HOSTILE: w}))
    assert HOSTILE in page.run("return document.getElementById('panel').textContent")
    page.box("n0").click()
    assert page.run("return document.querySelector('#panel-title').textContent") == f"#0 {HOSTILE}"
    assert page.run("return document.querySelectorAll('b, script').length") == 2
    page.run("document.getElementById('table').open = true")


def test_zoom_changes_the_size_and_fit_shows_all(opened):
    page = opened(chain(30))
    width = "return document.querySelector('.box').getBoundingClientRect().width"
    before = page.run(width)
    page.browser.find_element("id", "larger").click()
    assert page.run(width) == pytest.approx(1.25 * before)
    page.browser.find_element("id", "smaller").click()
    assert page.run(width) == pytest.approx(before)
    page.click("Fit")
    view = "const v = document.getElementById('view'); "
    assert page.run(f"{view} return v.scrollWidth <= v.clientWidth + 1")
    assert page.run(f"{view} return v.scrollHeight <= v.clientHeight + 1")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_any_width_and_theme_without_barriers(opened, browser, width, theme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = opened(line())
        page.run(
            "const t = document.getElementById('theme'); t.value = arguments[0];"
            "t.dispatchEvent(new Event('change'))",
            theme,
        )
        assert page.run("return document.documentElement.scrollWidth") <= width
        paper = page.run("return getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[theme]
        assert barriers(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_frame_of_a_notebook_runs_the_page(browser, tmp_path):
    path = tmp_path / "notebook.html"
    frame = line()._repr_html_()
    path.write_text(f"<!doctype html><title>n</title><body>{frame}</body>", encoding="utf-8")
    browser.get(path.as_uri())
    browser.switch_to.frame(0)
    assert Page(browser).started().boxes() == [f"n{i}" for i in range(8)]
    browser.switch_to.default_content()
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert [m for m in messages if "favicon" not in m] == []
