"use strict";

/* The page of a graph: nodes and groups to visible boxes, boxes to places, one box to its values. */
const GraphPage = (() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const ROW = 118; // pixels from rank to rank
  const HEIGHT = 64; // of a box
  const LETTER = 7.9; // width of a letter in a box
  const WIDEST = 300;
  const GAP = 34;
  const AT_START = 30; // boxes, at most, unless there are no groups to close
  const MOST_OPEN = 300; // nodes that one click may open
  const READABLE = 0.7; // zoom
  const FEW = 8; // numbers in a line
  const COLUMNS = 100;

  const { nodes, groups, rules } = JSON.parse($("data").textContent);
  const state = { open: new Set(), boxes: [], places: null, shown: null, pinned: false, zoom: 1, chosen: null };

  /** Make an element: attributes by name, text, children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...children);
    return element;
  }

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...children);
    return element;
  }

  const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

  /** A number as text: all of its digits, or as many as are easily read. */
  function text(value, digits = 17) {
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    return String(digits < 17 ? Number(value.toPrecision(digits)) : value);
  }

  // Groups ---------------------------------------------------------------------------------------

  const members = groups.map(() => []); // nodes of a group, and of the groups in it
  nodes.forEach(({ group }, number) => {
    for (let g = group; g >= 0; g = groups[g].group) members[g].push(number);
  });
  const users = nodes.map(() => []);
  nodes.forEach(({ inputs, slopes }, number) => {
    inputs.forEach((input, i) => users[input].push({ number, slope: slopes[i] }));
  });
  const depths = groups.map(({ group }) => {
    let depth = 0;
    for (let g = group; g >= 0; g = groups[g].group) depth += 1;
    return depth;
  });

  /** The outermost closed group around a node; -1 if all are open. */
  function closedAround(number) {
    let found = -1;
    for (let g = nodes[number].group; g >= 0; g = groups[g].group) if (!state.open.has(g)) found = g;
    return found;
  }

  const keyOf = (number) => {
    const group = closedAround(number);
    return group < 0 ? `n${number}` : `g${group}`;
  };

  /**
   * The visible boxes, inputs first. A closed group comes where its last operation is: it is a
   * range of operations, so all that it uses comes before that, and all that uses it after it.
   */
  function visible() {
    const keys = nodes.map((_, number) => keyOf(number));
    const boxes = new Map();
    nodes.forEach(({ op }, number) => {
      const key = keys[number];
      if (!boxes.has(key)) boxes.set(key, { key, numbers: [], last: number });
      const box = boxes.get(key);
      box.numbers.push(number);
      if (op) box.last = number;
    });
    const ordered = [...boxes.values()].sort((a, b) => a.last - b.last);
    const places = new Map(ordered.map(({ key }, place) => [key, place]));
    return ordered.map(({ key, numbers, last }) => {
      const group = key[0] === "g" ? Number(key.slice(1)) : -1;
      const box = { key, numbers, last, group, inputs: [], slopes: [] };
      numbers.forEach((number) => {
        nodes[number].inputs.forEach((input, i) => {
          const place = places.get(keys[input]);
          const between = keys[input] !== key && (keys[input][0] === "g" || group >= 0);
          if (keys[input] === key || (between && box.inputs.includes(place))) return;
          box.inputs.push(place);
          box.slopes.push(between ? null : nodes[number].slopes[i]);
        });
      });
      return box;
    });
  }

  /** Open groups from the outside in, as long as the page does not get too full. */
  function openAtStart() {
    for (let depth = 0; depth <= Math.max(-1, ...depths); depth += 1) {
      const before = new Set(state.open);
      depths.forEach((own, group) => own === depth && state.open.add(group));
      if (new Set(nodes.map((_, number) => keyOf(number))).size > AT_START) {
        state.open = before;
        return;
      }
    }
  }

  // Layout: as Graph.draw's, in minidl/inspect/graph.py -------------------------------------------

  /** For boxes with inputs: x in box widths and rank, of boxes and bends; the path of each edge. */
  function layout(boxes) {
    const heights = []; // longest path from a leaf
    boxes.forEach(({ inputs }) => heights.push(1 + Math.max(-1, ...inputs.map((i) => heights[i]))));
    const ranks = boxes.map(() => heights[heights.length - 1]);
    for (let n = boxes.length - 1; n >= 0; n -= 1) {
      boxes[n].inputs.forEach((i) => { ranks[i] = Math.min(ranks[i], ranks[n] - 1); });
    }
    const paths = [];
    const pulls = [];
    boxes.forEach(({ inputs }, number) => {
      let straight = inputs[0];
      inputs.forEach((i) => { if (heights[i] > heights[straight]) straight = i; });
      inputs.forEach((i, place) => {
        const path = [i];
        for (let rank = ranks[i] + 1; rank < ranks[number]; rank += 1) path.push(ranks.push(rank) - 1);
        for (let k = 1; k < path.length; k += 1) pulls.push([path[k - 1], path[k], 0]);
        pulls.push([path[path.length - 1], number, inputs.indexOf(i) - inputs.indexOf(straight)]);
        paths.push({ path: [...path, number], share: (place + 0.5) / inputs.length });
      });
    });
    return { xs: spread(ranks, pulls), ranks, paths };
  }

  function spread(ranks, pulls) {
    const wishes = ranks.map(() => []);
    pulls.forEach(([upper, lower, aside]) => {
      wishes[upper].push([lower, aside]);
      wishes[lower].push([upper, -aside]);
    });
    const rows = Array.from({ length: Math.max(...ranks) + 1 }, () => []);
    ranks.forEach((rank, i) => rows[rank].push(i));
    const xs = ranks.map(() => NaN); // not placed yet
    for (let sweep = 0; sweep < 12; sweep += 1) {
      (sweep % 2 ? rows : [...rows].reverse()).forEach((row) => {
        const wanted = row.map((i) => {
          const told = wishes[i].filter(([j]) => !Number.isNaN(xs[j])).map(([j, aside]) => xs[j] + aside);
          return told.length ? sum(told) / told.length : 0;
        });
        const order = row.map((_, k) => k).sort((a, b) => wanted[a] - wanted[b] || a - b);
        const free = order.map((k, place) => wanted[k] - place); // must not decrease in this order
        const up = [...free];
        const down = [...free];
        for (let k = 1; k < free.length; k += 1) up[k] = Math.max(up[k - 1], up[k]);
        for (let k = free.length - 2; k >= 0; k -= 1) down[k] = Math.min(down[k + 1], down[k]);
        order.forEach((k, place) => { xs[row[k]] = (up[place] + down[place]) / 2 + place; });
      });
    }
    return xs;
  }

  // Drawing --------------------------------------------------------------------------------------

  function labelOf({ group, numbers }) {
    if (group < 0) return nodes[numbers[0]].label;
    const ops = numbers.filter((number) => nodes[number].op).length;
    return [groups[group].name, count(ops, "operation"), count(numbers.length - ops, "leaf").replace("leafs", "leaves")];
  }

  function makeBox(box, width) {
    const kind = box.group < 0 ? nodes[box.numbers[0]].kind : "group";
    const lines = labelOf(box);
    const button = make(
      "button",
      { type: "button", class: `box ${kind}`, "data-key": box.key, "aria-controls": "panel", "aria-expanded": "false" },
      ...lines.map((line) => make("span", {}, line)),
    );
    button.append(make("span", { class: "said" }, kind === "operation" ? "" : `, ${kind}`));
    Object.assign(button.style, { width: `${width}px`, height: `${HEIGHT}px` });
    // Not pointerenter: boxes that come to lie under a resting pointer are not pointed at.
    button.addEventListener("pointermove", () => !state.pinned && state.shown !== box && show(box));
    button.addEventListener("focus", () => state.shown !== box && choose(box, false));
    button.addEventListener("click", () => press(box));
    return button;
  }

  /** A curve between ranks, vertical where it passes through one. */
  function curve(xs, ys) {
    const parts = [];
    for (let k = 1; k < xs.length; k += 1) {
      const [top, bottom] = [ys[k - 1] + HEIGHT / 2, ys[k] - HEIGHT / 2];
      const middle = (top + bottom) / 2;
      parts.push(`${k === 1 ? "M" : "L"}${xs[k - 1]} ${top} C${xs[k - 1]} ${middle} ${xs[k]} ${middle} ${xs[k]} ${bottom}`);
    }
    return parts.join(" ");
  }

  function drawEdge({ path, share }, slope, from, to, xs, ys, width) {
    const across = path.map((i) => xs[i]);
    across[across.length - 1] += 0.6 * width * (share - 0.5); // arrowheads side by side
    const [x, y] = [across[across.length - 1], ys[path[path.length - 1]] - HEIGHT / 2];
    const edge = draw(
      "g",
      { "data-from": from, "data-to": to },
      draw("path", { d: curve(across, path.map((i) => ys[i])) }),
      draw("path", { class: "head", d: `M${x} ${y} l-5 -11 h10 z` }),
    );
    if (slope !== null) {
      const middle = (x + across[across.length - 2]) / 2 + (share > 0.5 ? 14 : -14);
      edge.append(draw("text", { x: middle, y: y - (ROW - HEIGHT) / 2 }, `×${slope}`));
    }
    return edge;
  }

  /** Lay out the visible boxes and draw them; the box with this key gets the focus, if any. */
  function render(focused = null) {
    const boxes = visible();
    const longest = Math.max(...boxes.flatMap(labelOf).map((line) => line.length));
    const width = Math.min(WIDEST, Math.max(100, longest * LETTER + 20));
    const found = layout(boxes);
    const least = found.xs.reduce((a, b) => Math.min(a, b));
    const xs = found.xs.map((x) => GAP + width / 2 + (x - least) * (width + GAP));
    const ys = found.ranks.map((rank) => GAP + HEIGHT / 2 + rank * ROW);
    state.boxes = boxes;
    state.places = { xs, ys };
    state.size = [Math.max(...xs) + width / 2 + GAP, Math.max(...ys) + HEIGHT / 2 + GAP];
    const buttons = boxes.map((box, i) => {
      const button = makeBox(box, width);
      Object.assign(button.style, { left: `${xs[i] - width / 2}px`, top: `${ys[i] - HEIGHT / 2}px` });
      return button;
    });
    const slopes = boxes.flatMap((box) => box.slopes);
    const edges = found.paths.map((one, i) => {
      const [from, to] = [one.path[0], one.path[one.path.length - 1]].map((k) => boxes[k].key);
      return drawEdge(one, slopes[i], from, to, xs, ys, width);
    });
    $("boxes").replaceChildren(...buttons);
    $("edges").replaceChildren(...edges);
    $("close-all").disabled = state.open.size === 0;
    $("open-all").disabled = groups.every((_, group) => state.open.has(group)) || nodes.length > MOST_OPEN;
    scale(state.zoom);
    if (focused !== null) buttonOf(focused)?.focus();
  }

  const buttonOf = (key) => document.querySelector(`#boxes [data-key="${key}"]`);

  function scale(zoom) {
    state.zoom = Math.min(2, Math.max(0.02, zoom));
    const [width, height] = state.size;
    const { style } = $("canvas");
    Object.assign(style, { width: `${width}px`, height: `${height}px`, transform: `scale(${state.zoom})` });
    // A transform does not change the space that an element takes up.
    style.marginBottom = `${height * (state.zoom - 1)}px`;
    style.marginRight = `${width * (state.zoom - 1)}px`;
    style.marginLeft = `${Math.max(0, ($("view").clientWidth - width * state.zoom) / 2)}px`;
    $("edges").setAttribute("width", width);
    $("edges").setAttribute("height", height);
  }

  const across = () => Math.min(1, $("view").clientWidth / state.size[0]);
  /** The zoom at which all boxes are in view; the height that it may have includes its border. */
  const fitting = () => Math.min(across(), (parseFloat(getComputedStyle($("view")).maxHeight) - 4) / state.size[1]);

  /** Bring a box into the middle of the view. */
  function reveal(key) {
    const place = state.boxes.findIndex((box) => box.key === key);
    const { xs, ys } = state.places;
    const view = $("view");
    view.scrollLeft = xs[place] * state.zoom - view.clientWidth / 2;
    view.scrollTop = ys[place] * state.zoom - view.clientHeight / 2;
  }

  // The panel ------------------------------------------------------------------------------------

  function show(box) {
    state.shown = box;
    document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
    document.querySelectorAll("#edges .lit").forEach((one) => one.classList.remove("lit"));
    document.querySelectorAll("#edges g").forEach((one) => {
      if ([one.dataset.from, one.dataset.to].includes(box.key)) one.classList.add("lit");
    });
    buttonOf(box.key).classList.add("chosen");
    $("panel-title").textContent = labelOf(box)[0];
    $("about").replaceChildren(...(box.group < 0 ? aboutNode(box.numbers[0]) : aboutGroup(box)));
    $("about").append(...steps(box));
  }

  function terms(pairs) {
    const rows = pairs.filter(([, ...content]) => content.length && content[0] !== "");
    return make("dl", {}, ...rows.flatMap(([name, ...content]) => [make("dt", {}, name), make("dd", {}, ...content)]));
  }

  const shapeText = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

  function lineOf({ line, op }) {
    if (line !== null) {
      return [make("p", {}, `${line.file}, line ${line.number}, in ${line.function}`), make("pre", {}, make("code", {}, line.text))];
    }
    if (!op) return [];
    const call = make("code", {}, "with inspect.record_lines():");
    return [make("p", {}, "not recorded; run the computation inside ", call)];
  }

  /** The gradient of a single number: over the operations that use it, the sum of gradient × slope. */
  function sumOfPaths(number) {
    const parts = users[number].map((user) => [nodes[user.number].gradient?.first[0], user.slope, user.number]);
    if (!parts.length || parts.some(([gradient, slope]) => gradient === undefined || slope === null)) return [];
    const items = parts.map(([gradient, slope, user]) => make("li", {}, `from #${user}: gradient ${text(gradient, 4)} × slope ${slope}`));
    const title = items.length > 1 ? "The gradient is the sum of" : "The gradient is";
    return [make("h3", {}, title), make("ul", {}, ...items)];
  }

  /** Text with code between backticks. */
  function codes(words) {
    return words.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
  }

  function aboutNode(number) {
    const node = nodes[number];
    const needs = node.kind === "constant" ? "constant: needs no gradient" : node.kind;
    const slopes = node.slopes.flatMap((slope, i) => (slope === null ? [] : `to #${node.inputs[i]}: ${slope}`));
    const parts = [
      terms([
        ["made by", make("code", {}, node.made)],
        ["kind", needs],
        ["shape", make("code", {}, shapeText(node.shape)), `, ${node.dtype}`],
        ["value", ...digest(node.value, "value")],
        ["gradient", ...(node.gradient === null ? ["none"] : digest(node.gradient, "gradient"))],
        ["slopes", slopes.join("; ")],
        ["used by", users[number].map((user) => `#${user.number} ${nodes[user.number].op}`).join(", ")],
        ["line of code", ...lineOf(node)],
        ["rule", ...(rules[node.op] ? codes(rules[node.op]) : [])],
      ]),
    ];
    if (state.pinned) {
      parts.push(...sumOfPaths(number));
      parts.push(...table(node.value, node.shape, "Values"));
      if (node.gradient !== null) parts.push(...table(node.gradient, node.shape, "Gradients"));
    }
    return parts;
  }

  function aboutGroup({ group, numbers }) {
    const ops = new Map();
    numbers.forEach((number) => nodes[number].op && ops.set(nodes[number].op, (ops.get(nodes[number].op) ?? 0) + 1));
    const names = [...ops].map(([op, times]) => (times > 1 ? `${op} × ${times}` : op));
    const parameters = numbers.filter((number) => nodes[number].kind === "parameter");
    const last = numbers.filter((number) => nodes[number].op).pop();
    const size = sum(parameters.map((number) => nodes[number].shape.reduce((a, b) => a * b, 1)));
    return [
      terms([
        ["operations", names.join(", ")],
        ["parameters", parameters.map((number) => nodes[number].name || `#${number}`).join(", ")],
        ["their size", parameters.length ? count(size, "number") : ""],
        ["last shape", make("code", {}, shapeText(nodes[last].shape))],
        ["line of code", ...lineOf(nodes[last])],
      ]),
    ];
  }

  /** Buttons for what can be done with a box. */
  function steps(box) {
    const made = [];
    const step = (label, action) => {
      const button = make("button", { type: "button" }, label);
      button.addEventListener("click", action);
      made.push(button);
    };
    if (box.group >= 0) step("Open this group", () => press(box));
    else step(state.pinned ? "Show less" : "Show more", () => press(box));
    for (let g = box.group < 0 ? nodes[box.last].group : groups[box.group].group; g >= 0; g = groups[g].group) {
      const own = g;
      step(`Close ${groups[g].name}`, () => close(own));
    }
    return [make("div", { class: "steps" }, ...made)];
  }

  function digest({ first, size, least, mean, largest, strange, counts, counted }, what) {
    if (size === 0) return ["no elements"];
    if (size === 1) return [make("span", { class: "number" }, text(first[0]))];
    const parts = [];
    if (least !== null) {
      const ends = [["least", least], ["mean", mean], ["largest", largest]];
      parts.push(make("p", {}, ends.map(([name, value]) => `${name} ${text(value, 5)}`).join(", ")));
    }
    if (strange) parts.push(make("p", {}, `${strange.toLocaleString("en")} of ${size.toLocaleString("en")} are NaN or infinite`));
    if (counts.length) parts.push(...histogram(counts, least, largest, size - strange, counted, what));
    const few = first.slice(0, FEW).map((value) => text(value, 5)).join(", ");
    parts.push(make("p", { class: "number" }, size > FEW ? `${few}, ...` : few));
    return parts;
  }

  function histogram(counts, least, largest, size, counted, what) {
    const most = Math.max(...counts);
    const bars = counts.map((n, i) => draw("rect", { x: i * 10 + 0.5, y: 100 - (100 * n) / most, width: 9, height: (100 * n) / most }));
    const step = (largest - least) / counts.length;
    const mode = counts.indexOf(most);
    const label = `Histogram of the ${what}: most between ${text(least + mode * step, 3)} and ${text(least + (mode + 1) * step, 3)}`;
    const frame = { viewBox: `0 0 ${counts.length * 10} 100`, preserveAspectRatio: "none", class: "bars", role: "img", "aria-label": label };
    const sampled = counted < size ? `${counted.toLocaleString("en")} of ${size.toLocaleString("en")}` : "";
    const ends = [text(least, 3), sampled, text(largest, 3)].map((each) => make("span", {}, each));
    return [draw("svg", frame, ...bars), make("div", { class: "ends" }, ...ends)];
  }

  /** All elements that the page has: the last axis to the right, the others downward. */
  function table({ first, size }, shape, title) {
    if (size <= 1) return [];
    const across = shape[shape.length - 1];
    const columns = Math.min(across, first.length, COLUMNS);
    const head = make("tr", {}, make("td"), ...Array.from({ length: columns }, (_, j) => make("th", { scope: "col" }, String(j))));
    const rows = [];
    for (let start = 0; start < first.length; start += across) {
      const index = [];
      let rest = start / across;
      shape.slice(0, -1).reverse().forEach((n) => { index.unshift(rest % n); rest = Math.floor(rest / n); });
      const cells = first.slice(start, Math.min(start + columns, start + across));
      const label = make("th", { scope: "row" }, `[${[...index, ":"].join(", ")}]`);
      rows.push(make("tr", {}, label, ...cells.map((value) => make("td", {}, text(value)))));
    }
    const held = sum(rows.map((row) => row.cells.length - 1));
    const caption = held < size ? `the first ${held.toLocaleString("en")} of ${size.toLocaleString("en")}` : count(size, "element");
    const whole = make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows));
    return [make("h3", {}, title), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, whole)];
  }

  // What is clicked ------------------------------------------------------------------------------

  function choose(box, pinned) {
    state.pinned = pinned;
    document.querySelectorAll('#boxes [aria-expanded="true"]').forEach((one) => one.setAttribute("aria-expanded", "false"));
    if (pinned) buttonOf(box.key).setAttribute("aria-expanded", "true");
    show(box);
  }

  function press(box) {
    if (box.group < 0) {
      const pinned = !(state.pinned && state.shown.key === box.key);
      choose(box, pinned);
      $("said").textContent = pinned ? `All values of ${labelOf(box)[0]} are in the panel.` : "";
      return;
    }
    state.open.add(box.group);
    const first = `${keyOf(box.numbers.find((number) => nodes[number].op) ?? box.numbers[0])}`;
    rebuild(first);
    $("said").textContent = `Opened ${groups[box.group].name}.`;
  }

  function close(group) {
    groups.forEach((_, inner) => members[inner].every((n) => members[group].includes(n)) && state.open.delete(inner));
    rebuild(`g${group}`);
    $("said").textContent = `Closed ${groups[group].name}.`;
  }

  function rebuild(key) {
    state.pinned = false;
    state.shown = null;
    render(key);
    reveal(key);
    choose(state.boxes.find((box) => box.key === key), false); // where the page has no focus to give
  }

  /** Move along the graph: up to an input, down to a user, or to the next box of the same rank. */
  function neighbour(box, key) {
    const place = state.boxes.indexOf(box);
    const { xs, ys } = state.places;
    if (key === "ArrowUp") return state.boxes[box.inputs[0]];
    if (key === "ArrowDown") return state.boxes.find(({ inputs }) => inputs.includes(place));
    const side = key === "ArrowLeft" ? -1 : 1;
    const beside = state.boxes.filter((_, i) => ys[i] === ys[place] && (xs[i] - xs[place]) * side > 0);
    const distance = (one) => Math.abs(xs[state.boxes.indexOf(one)] - xs[place]);
    return beside.sort((a, b) => distance(a) - distance(b))[0];
  }

  function pressKey(event) {
    const box = state.boxes.find(({ key }) => key === event.target.dataset?.key);
    if (event.key === "Escape" && state.shown) {
      choose(state.shown, false);
      buttonOf(state.shown.key).focus();
    } else if (box && event.key.startsWith("Arrow")) {
      event.preventDefault();
      const next = neighbour(box, event.key);
      if (next) buttonOf(next.key).focus();
    }
  }

  /** Move the picture with the mouse; touch scrolls by itself. */
  function makeDraggable(view) {
    let from = null;
    view.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button || event.target.closest(".box")) return;
      from = [event.clientX + view.scrollLeft, event.clientY + view.scrollTop];
      view.classList.add("dragged");
    });
    window.addEventListener("pointermove", (event) => {
      if (from) view.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
    });
    window.addEventListener("pointerup", () => {
      from = null;
      view.classList.remove("dragged");
    });
  }

  function start() {
    const of = (kind) => nodes.filter((node) => node.kind === kind).length;
    const ops = nodes.filter(({ op }) => op).length;
    const parts = [count(of("parameter"), "parameter"), count(of("constant"), "constant"), count(ops, "operation")];
    $("summary").textContent = `${count(nodes.length, "tensor")}: ${parts.join(", ")}.`;
    $("group-key").hidden = $("close-all").hidden = $("open-all").hidden = groups.length === 0;
    openAtStart();
    render();
    scale(fitting() < READABLE ? Math.max(READABLE, across()) : fitting());
    const output = state.boxes[state.boxes.length - 1];
    show(output);
    if (state.size[1] * state.zoom > $("view").clientHeight) reveal(output.key);
    $("smaller").addEventListener("click", () => scale(state.zoom / 1.25));
    $("larger").addEventListener("click", () => scale(state.zoom * 1.25));
    $("fit").addEventListener("click", () => scale(fitting()));
    $("close-all").addEventListener("click", () => {
      state.open.clear();
      rebuild(keyOf(nodes.length - 1));
    });
    $("open-all").addEventListener("click", () => {
      groups.forEach((_, group) => state.open.add(group));
      rebuild(keyOf(nodes.length - 1));
    });
    $("theme").addEventListener("change", () => { document.documentElement.dataset.theme = $("theme").value; });
    window.addEventListener("resize", () => scale(state.zoom));
    document.addEventListener("keydown", pressKey);
    makeDraggable($("view"));
  }

  start();
  return { layout };
})();
