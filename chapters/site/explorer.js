"use strict";

/* The page: settings to arguments, arguments to stages (pooling.js), stages to cells and lines. */
const Explorer = (() => {
  const $ = (id) => document.getElementById(id);
  const state = { values: [], weight: [], draws: [], stages: [], at: 0, timer: null, drawn: "" };
  const HAND = [
    [1, 3, 2, 0],
    [5, 7, 1, 0],
    [4, 0, 8, 6],
    [2, 3, 6, 5],
  ];
  const IMAGE = {
    rows: { label: "Rows", value: "4", least: 1, most: 8 },
    columns: { label: "Columns", value: "4", least: 1, most: 8 },
    channels: { label: "Channels", value: "1", least: 1, most: 4 },
  };

  /** Make an element: attributes by name, text, children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(...children);
    return element;
  }

  // Settings -------------------------------------------------------------------------------------

  const control = (name) => $(`argument-${name}`);

  function makeControl(name, { label, type, value, options, hint = "" }) {
    const id = `argument-${name}`;
    let input;
    if (type === "flag") {
      input = make("input", { id, type: "checkbox" });
      input.checked = value;
    } else if (type === "choice") {
      input = make("select", { id }, ...options.map((one) => make("option", { value: one }, one)));
    } else {
      input = make("input", { id, type: "text", inputmode: "decimal" });
      input.value = value;
    }
    input.setAttribute("aria-describedby", `reason-${name}`);
    const why = make("p", { class: "reason", id: `reason-${name}` }, hint);
    return make("div", { class: "control" }, make("label", { for: id }, label), input, why);
  }

  function makeSettings() {
    Object.entries(Kinds.ARGUMENTS).forEach(([name, argument]) => {
      const place = Kinds.GEOMETRY.includes(name) ? $("geometry") : $("arguments");
      place.append(makeControl(name, argument));
    });
    Object.entries(IMAGE).forEach(([name, { label, value, least, most }]) => {
      const box = makeControl(name, { label, type: "number", value });
      const input = box.querySelector("input");
      Object.assign(input, { type: "number", min: least, max: most, step: 1 });
      $("image").append(box);
    });
    const groups = new Map();
    Object.entries(Kinds.KINDS).forEach(([name, { group }]) => {
      if (!groups.has(group)) groups.set(group, make("optgroup", { label: group }));
      groups.get(group).append(make("option", { value: name }, name));
    });
    $("kind").append(...groups.values());
  }

  /** Show a kind's text, and enable the controls that it has; the others say why they are off. */
  function chooseKind() {
    const name = $("kind").value;
    const kind = Kinds.KINDS[name];
    $("about").textContent = kind.about;
    const rows = kind.formulas.map(([title, formula, gradient]) =>
      make(
        "tr",
        {},
        make("td", {}, title ? `${title}: ` : "", make("code", {}, formula)),
        make("td", {}, make("code", {}, gradient)),
      ),
    );
    $("formulas").tBodies[0].replaceChildren(...rows);
    const symbols = Kinds.symbols(name);
    $("symbols").textContent = symbols && `Here ${symbols}.`;
    Object.entries(Kinds.ARGUMENTS).forEach(([argument, { hint = "" }]) => {
      const own = kind.hints?.[argument] ?? (argument === "stride" ? Kinds.SIDE_BY_SIDE : hint);
      enable(argument, Kinds.reason(name, argument), own);
      const start = kind.defaults?.[argument] ?? Kinds.ARGUMENTS[argument].value;
      if (kind.uses.includes(argument) && !state.touched?.has(argument) && start !== undefined) {
        if (typeof start === "string") control(argument).value = start;
      }
      if (!Kinds.GEOMETRY.includes(argument)) {
        control(argument).parentElement.hidden = !kind.uses.includes(argument);
      }
    });
    enable("channels", Kinds.reason(name, "channels"), "");
    control("channels").value = kind.channels ?? 1;
    state.at = 0;
    resize();
  }

  function enable(name, reason, hint) {
    control(name).disabled = reason !== "";
    control(name).parentElement.classList.toggle("off", reason !== "");
    $(`reason-${name}`).textContent = reason || hint;
  }

  /** Read one number; text that is none stays text, so that the error shows it. */
  function number(text) {
    const trimmed = text.trim();
    if (trimmed === "") return null;
    if (trimmed === "inf") return Infinity;
    return Number.isNaN(Number(trimmed)) ? trimmed : Number(trimmed);
  }

  function read(name) {
    const { type } = Kinds.ARGUMENTS[name];
    const input = control(name);
    if (type === "flag") return input.checked;
    if (type === "choice") return input.value;
    const numbers = input.value.split(/[,×;]/).map(number);
    if (type === "list") return numbers.length === 1 && numbers[0] === null ? [] : numbers;
    return numbers.length > 1 ? numbers : numbers[0];
  }

  /** The arguments of the kind, with minidl's names. Optional ones that are empty are left out. */
  function readArguments() {
    const name = $("kind").value;
    const optional = ["stride", "pool_stride", "divisor_override", "output_ratio"];
    const a = {};
    Kinds.KINDS[name].uses.forEach((argument) => {
      const value = read(argument);
      const mayLack = optional.includes(argument) || /gem|fractional/.test(name);
      if (value !== null || !mayLack) a[argument] = value;
    });
    if (a.output_ratio !== undefined) delete a.output_size;
    if (Array.isArray(a.kernel_size) && a.kernel_size[0] === a.kernel_size[1] && a.kernel_size.length === 2) {
      [a.kernel_size] = a.kernel_size;
    }
    return a;
  }

  // Image, weights and draws -----------------------------------------------------------------------

  function sizes() {
    return Object.entries(IMAGE).map(([name, { least, most }]) => {
      const given = Math.round(Number(control(name).value));
      return Math.min(most, Math.max(least, given || least));
    });
  }

  const PRESETS = {
    hand: (y, x, c) => HAND[(y + c) % 4][(x + 2 * c) % 4],
    edge: (y, x, c) => (x + c < 2 ? 0 : 4),
    lone: (y, x, c) => (y === 1 && x === 1 + c ? 9 : 0),
    count: (y, x, c, w, h) => c * w * h + y * w + x + 1,
    random: () => Math.round(Math.random() * 90) / 10,
  };

  /** Fill the image anew, and update everything that depends on its size. */
  function fill() {
    const [h, w, c] = sizes();
    const value = PRESETS[$("preset").value] ?? PRESETS.hand;
    state.values = [];
    for (let i = 0; i < c * h * w; i++) {
      state.values.push(value(Math.floor(i / w) % h, i % w, Math.floor(i / (h * w)), w, h));
    }
    state.size = [h, w, c];
    state.at = 0;
    update();
  }

  function resize() {
    const [h, w, c] = sizes();
    if (String([h, w, c]) === String(state.size)) update();
    else {
      if ($("preset").value === "own") $("preset").value = "hand";
      fill();
    }
  }

  function startWeight(i, count, kind) {
    if (kind === "score") return i === count - 1 ? 1 : 0;
    const sign = i % 2 ? 1 : -1;
    return kind === "gate" ? sign / 4 : sign;
  }

  function fitWeight(name, channels, kernel) {
    const { weight } = Kinds.KINDS[name];
    $("weight-box").hidden = !weight;
    if (!weight) return;
    const shape = Kinds.weightShape(name, channels, kernel);
    const count = shape.reduce((product, size) => product * size, 1);
    const sane = Number.isInteger(count) && count >= 0 && count <= 4 * MOST * MOST;
    const signature = `${weight} ${shape}`;
    if (signature === state.weightShape) return;
    state.weightShape = signature;
    state.weight = Array.from({ length: sane ? count : 0 }, (_, i) => startWeight(i, count, weight));
    const [planes, h, w] = shape.length === 1 ? [1, 1, channels] : [shape[1], shape[2], shape[3]];
    $("weight-title").textContent = `Weight, shape ${Pooling.repr(shape)}`;
    const grids = Array.from({ length: sane ? planes : 0 }, (_, p) => {
      const cells = state.weight.slice(p * h * w, (p + 1) * h * w).map((value, i) => {
        const label = `weight ${planes > 1 ? `of channel ${p + 1}, ` : ""}row ${Math.floor(i / w) + 1}, column ${(i % w) + 1}`;
        return numberCell(label, value, p * h * w + i, w, "weight");
      });
      return make("div", { class: "cells plane", style: `--across: ${w}` }, ...cells);
    });
    $("weight").replaceChildren(...grids);
  }

  /** A cell with an editable number, and a line for its gradient. */
  function numberCell(label, value, index, across, which) {
    const input = make("input", { type: "text", inputmode: "decimal", "aria-label": label });
    input.value = String(value);
    Object.assign(input.dataset, { index, across, which });
    return make("div", { class: "cell" }, input, make("span", { class: "g" }));
  }

  function fitDraws(name, grid, a) {
    const { count, each } = Pooling.drawsOf(name, grid, a);
    $("draws-box").hidden = count === 0;
    if (count === 0) return;
    $("draws-what").textContent = `(${count}: ${each})`;
    const signature = `${name} ${count} ${each}`;
    if (signature !== state.drawn) {
      state.drawn = signature;
      const draw = () => {
        const u = Math.floor(Math.random() * 1000) / 1000;
        return each.startsWith("time") ? Math.max(0.001, Math.round(-Math.log(1 - u) * 1000) / 1000) : u;
      };
      state.draws = Array.from({ length: count }, draw);
      $("draws").value = state.draws.join(", ");
    }
    a.draws = state.draws;
  }

  /** Take draws that the reader typed; return whether they are valid. */
  function readDraws() {
    const numbers = $("draws").value.split(/[\s,]+/).filter(Boolean).map(Number);
    const isTime = $("draws-what").textContent.includes("time");
    const fits = numbers.length === state.draws.length;
    const right = fits && numbers.every((one) => one >= 0 && (isTime ? one < Infinity : one < 1));
    $("draws").setAttribute("aria-invalid", String(!right));
    if (right) state.draws = numbers;
    return right;
  }

  /** Sizes beyond this would fill the page with more cells than anyone reads. */
  const MOST = 32;

  function checkSizes(a) {
    Object.entries(a).forEach(([name, value]) => {
      const { type } = Kinds.ARGUMENTS[name] ?? {};
      const isSize = type === "pair" || type === "list" || /size/.test(name);
      const numbers = [value].flat();
      if (isSize && (numbers.length > 8 || numbers.some((one) => Math.abs(one) > MOST))) {
        throw new Pooling.PoolError(
          `This page: got ${name}=${Pooling.repr(value)}; it shows sizes up to ${MOST}`,
        );
      }
    });
  }

  // Update: arguments to stages ----------------------------------------------------------------------

  function update() {
    const name = $("kind").value;
    const [h, w, c] = state.size;
    const grid = Pooling.channels(c, h, w, state.values);
    const a = readArguments();
    let error = "";
    state.grid = grid;
    state.stages = [];
    fitWeight(name, c, a.kernel_size);
    if (Kinds.KINDS[name].weight) a.weight = state.weight;
    $("draws-box").hidden = true;
    try {
      checkSizes(a);
      fitDraws(name, grid, a);
      state.stages = Pooling.run(name, grid, a);
      $("program").textContent = Kinds.program(name, grid, a);
    } catch (problem) {
      if (!(problem instanceof Pooling.PoolError)) throw problem;
      error = problem.message;
      stop();
    }
    const hasOwn = Kinds.KINDS[name].uses.some((one) => !Kinds.GEOMETRY.includes(one));
    $("own").hidden = !hasOwn && $("draws-box").hidden && $("weight-box").hidden;
    showError(error);
    state.at = Math.min(state.at, Math.max(0, count() - 1));
    build();
    paint();
  }

  function showError(message) {
    if ($("error").textContent !== message) $("error").textContent = message;
    const op = message.split(":")[0];
    Object.keys(Kinds.ARGUMENTS).forEach((name) => {
      const input = control(name);
      const own = name.replace(/^pool_size$/, "kernel_size");
      const wrong =
        !input.disabled &&
        (message.includes(`got ${own}=`) ||
          (name === "norm_type" && message.includes(`${op}: got p=`)) ||
          (name === "levels" && message.includes("got level=")) ||
          (name === "kernel_size" && /the window spans|of shape/.test(message)));
      input.setAttribute("aria-invalid", String(wrong));
    });
    $("program").closest("details").hidden = message !== "";
    $("position").disabled = message !== "";
    ["first", "previous", "play", "next", "last"].forEach((id) => {
      $(id).disabled = message !== "";
    });
  }

  /** Write a number for a cell: three significant digits; sentences have four. */
  const brief = (number) => Pooling.show(Number(number.toPrecision(3)));

  function write(element, text) {
    element.textContent = text;
    element.classList.toggle("long", text.length > 4);
  }

  const last = () => state.stages[state.stages.length - 1];
  const count = () => last()?.outs.length ?? 0;
  const mode = () => document.querySelector('input[name="mode"]:checked').value;
  const g = () => Number($("gradient").value.replace("−", "-")) || 0;

  // Build: cells, made anew only where the geometry changed -------------------------------------------

  const NO_PADS = { top: 0, bottom: 0, left: 0, right: 0, fill: "" };

  function build() {
    const grids = [state.grid, ...state.stages.map((stage) => stage.grid)];
    const box = $("stages");
    while (box.children.length > grids.length) box.lastElementChild.remove();
    grids.forEach((grid, i) => {
      const pads = state.stages[i]?.pads ?? NO_PADS;
      const isLast = i > 0 && i === grids.length - 1;
      const title = i === 0 ? "image" : isLast ? "output" : state.stages[i - 1].title;
      const shapes = grid.planes.map(({ h, w, name }) => [h, w, name]);
      const { limit = null } = pads;
      const sides = [pads.top, pads.bottom, pads.left, pads.right, pads.fill, limit];
      const signature = JSON.stringify([title, shapes, sides, isLast]);
      if (box.children[i]?.dataset.signature === signature) return;
      const figure = buildGrid(grid, pads, title, i, isLast);
      figure.dataset.signature = signature;
      if (box.children[i]) box.children[i].replaceWith(figure);
      else box.append(figure);
    });
  }

  function sizeText(planes) {
    const sizes = [...new Set(planes.map(({ h, w }) => `${h} × ${w}`))];
    return `${planes.length > 1 ? `${planes.length} planes, ` : ""}${sizes.join(", ")}`;
  }

  function buildGrid(grid, pads, title, i, isLast) {
    const widest = Math.max(...grid.planes.map(({ w }) => w)) + pads.left + pads.right;
    const planes = grid.planes.map((plane, p) => {
      const cells = [];
      for (let row = -pads.top; row < plane.h + pads.bottom; row++) {
        for (let col = -pads.left; col < plane.w + pads.right; col++) {
          cells.push(buildCell(plane, p, row, col, pads, i, isLast));
        }
      }
      const across = plane.w + pads.left + pads.right;
      const group = make("div", { class: "cells", style: `--across: ${across}` }, ...cells);
      const caption = plane.name ? [make("p", {}, plane.name)] : [];
      const named = `${title}${plane.name ? `, ${plane.name}` : ""}`;
      return make("div", { class: "plane", role: "group", "aria-label": named }, ...caption, group);
    });
    const caption = make("figcaption", {}, `${title} `, make("small", {}, sizeText(grid.planes)));
    const box = make("div", { class: "planes" }, ...planes);
    return make("figure", { class: `${widest > 6 ? "dense" : ""} ${planes.length > 1 ? "many" : ""}` }, caption, box);
  }

  function buildCell(plane, p, row, col, pads, i, isLast) {
    const inside = row >= 0 && col >= 0 && row < plane.h && col < plane.w;
    const index = plane.start + row * plane.w + col;
    const place = `${plane.name ? `${plane.name}, ` : ""}row ${row + 1}, column ${col + 1}`;
    let cell;
    if (!inside) {
      const beyond = pads.limit && (row >= pads.limit[0] || col >= pads.limit[1]);
      const text = pads.fill === "mirror" || beyond ? "" : pads.fill;
      cell = make("div", { class: "cell pad", "aria-hidden": "true" }, make("span", {}, text));
    } else if (i === 0) {
      cell = numberCell(place, state.values[index], index, plane.w, "image");
    } else {
      const said = (name) => make("span", { class: `said ${name}` });
      const parts = [make("span", { class: "v" }), said("state"), make("span", { class: "g" })];
      if (isLast) parts.unshift(make("span", { class: "said" }, `output ${place}: `));
      cell = make(isLast ? "button" : "div", { class: "cell" }, ...parts);
      if (isLast) Object.assign(cell, { type: "button", tabIndex: -1 });
      cell.dataset.index = index;
    }
    cell.dataset.at = `${p} ${row} ${col}`;
    return cell;
  }

  // Paint: values, gradients, marks ------------------------------------------------------------------

  /** For each stage, the outputs that lead to the current one. */
  function active() {
    const sets = [];
    let wanted = new Set([state.at]);
    for (let i = state.stages.length - 1; i >= 0; i--) {
      sets[i] = wanted;
      wanted = new Set(
        [...wanted].flatMap((k) => state.stages[i].outs[k].taps.map((one) => one.index)),
      );
      wanted.delete(null);
    }
    return sets;
  }

  function gradientsNow() {
    if (mode() === "fill" || !count()) return null;
    const outer = last().outs.map((_, k) => (mode() === "all" || k === state.at ? g() : 0));
    return Pooling.backward(state.stages, outer);
  }

  function paint() {
    const found = gradientsNow();
    const sets = active();
    const grids = [state.grid, ...state.stages.map((stage) => stage.grid)];
    $("stages").classList.toggle("gradients", found !== null);
    grids.forEach((grid, i) => {
      const next = state.stages[i];
      const taps = new Map();
      if (next && mode() !== "all") {
        sets[i].forEach((k) => {
          const { taps: own, chosen } = next.outs[k];
          own.forEach((one) => taps.set(`${one.plane} ${one.row} ${one.col}`, "tap"));
          if (chosen) taps.set(`${chosen.plane} ${chosen.row} ${chosen.col}`, "winner");
        });
      }
      paintGrid(grid, i, taps, found?.gradients[i]);
    });
    paintPlayer();
    say(found);
    drawLinesSoon();
  }

  function paintGrid(grid, i, taps, gradients) {
    const isLast = i > 0 && i === state.stages.length;
    const mirrored = state.stages[i]?.pads.fill === "mirror";
    $("stages").children[i].querySelectorAll(".cell").forEach((cell) => {
      const mark = taps.get(cell.dataset.at);
      cell.classList.toggle("tap", mark !== undefined);
      cell.classList.toggle("winner", mark === "winner");
      if (cell.classList.contains("pad")) {
        if (mirrored) paintMirrored(cell, grid);
        return;
      }
      const input = cell.querySelector("input");
      const index = Number(input ? input.dataset.index : cell.dataset.index);
      const value = grid.values[index];
      const gradient = gradients?.[index];
      cell.classList.toggle("gain", gradient > 0);
      cell.classList.toggle("loss", gradient < 0);
      write(cell.querySelector(".g"), gradient === undefined ? "" : brief(gradient));
      if (input) {
        if (document.activeElement !== input) input.value = String(value);
        input.classList.toggle("long", input.value.length > 4);
        if (gradient === undefined) input.removeAttribute("aria-description");
        else input.setAttribute("aria-description", `gradient ${Pooling.show(gradient)}`);
        return;
      }
      const hidden = isLast && mode() === "fill" && index > state.at;
      write(cell.querySelector(".v"), hidden ? "?" : brief(value));
      cell.classList.toggle("hidden", hidden);
      if (isLast) paintOutput(cell, index, hidden, gradient);
    });
  }

  function paintOutput(cell, index, hidden, gradient) {
    const words = hidden ? " not yet computed" : gradient === undefined ? "" : ", gradient ";
    cell.querySelector(".state").textContent = words;
    cell.setAttribute("aria-pressed", String(index === state.at));
    cell.classList.toggle("current", index === state.at && mode() !== "all");
    cell.tabIndex = index === state.at ? 0 : -1;
  }

  function paintMirrored(cell, grid) {
    const [p, row, col] = cell.dataset.at.split(" ").map(Number);
    const { h, w, start } = grid.planes[p];
    const at = (place, size) => (place < 0 ? -place : place >= size ? 2 * (size - 1) - place : place);
    const value = grid.values[start + at(row, h) * w + at(col, w)];
    write(cell.querySelector("span"), brief(value));
    cell.classList.add("mirrored");
  }

  function paintPlayer() {
    const slider = $("position");
    slider.max = Math.max(1, count());
    slider.value = state.at + 1;
    $("position-label").textContent = count() ? `Window ${state.at + 1} of ${count()}` : "No window";
    slider.setAttribute("aria-valuetext", $("position-label").textContent);
  }

  // Sentences ----------------------------------------------------------------------------------------

  function placeOf(stage, k) {
    const { plane, row, col } = stage.outs[k];
    const { name } = stage.grid.planes[plane];
    return `${name ? `${name}, ` : ""}row ${row + 1}, column ${col + 1}`;
  }

  /** Say what the current window computes, or where its gradient goes. */
  function say(found) {
    $("parameters").textContent = "";
    if (!count()) {
      $("sentence").textContent = "These arguments give no window: see the message above.";
      return;
    }
    $("sentence").textContent = found ? backwardWords(found) : forwardWords();
    if (found && Object.keys(found.params).length) {
      const words = Object.entries(found.params).map(
        ([name, slopes]) => `${name}: ${slopes.map(Pooling.show).join(", ")}`,
      );
      $("parameters").textContent = `Gradient with respect to ${words.join("; ")}.`;
    }
  }

  function forwardWords() {
    const stage = last();
    const { taps, words } = stage.outs[state.at];
    const outside = taps.filter(({ row, col, plane }) => {
      const { h, w } = stage.input.planes[plane];
      return row < 0 || col < 0 || row >= h || col >= w;
    }).length;
    const pads = outside ? ` ${outside} of its places are padding (${stage.pads.why}).` : "";
    const before = state.stages.length > 1 ? `, on the result of “${state.stages[state.stages.length - 2].title}”` : "";
    return `Window ${state.at + 1} of ${count()}, for the output at ${placeOf(stage, state.at)}${before}: ${words}.${pads}`;
  }

  function backwardWords({ gradients }) {
    const [into] = gradients;
    const { planes } = state.grid;
    const reached = [...into.keys()].filter((i) => into[i] !== 0);
    const total = into.reduce((sum, one) => sum + one, 0);
    const counts = `${reached.length} of ${into.length} pixels get a part; the parts sum to ${Pooling.show(total)}.`;
    if (mode() === "all") return `Every output has the gradient ${Pooling.show(g())}. ${counts}`;
    const where = (i) => {
      const plane = planes.find(({ start, h, w }) => i < start + h * w);
      const local = i - plane.start;
      const place = `row ${Math.floor(local / plane.w) + 1}, column ${(local % plane.w) + 1}`;
      return `${Pooling.show(into[i])} to ${plane.name ? `${plane.name}, ` : ""}${place}`;
    };
    const parts = reached.length && reached.length <= 9 ? `: ${reached.map(where).join("; ")}` : "";
    return `The gradient ${Pooling.show(g())} of the output at ${placeOf(last(), state.at)} flows back${parts}. ${counts}`;
  }

  // Lines --------------------------------------------------------------------------------------------

  /** Draw in the next frame, when cells have their places; once, however often this is called. */
  function drawLinesSoon() {
    if (state.frame) return;
    state.frame = requestAnimationFrame(() => {
      state.frame = null;
      drawLines(active(), gradientsNow());
    });
  }

  /** Join each active output to the pixels it reads; with gradients, from the output back. */
  function drawLines(sets, found) {
    const group = document.querySelector("#lines g");
    const lines = [];
    const frame = $("flow").getBoundingClientRect();
    group.classList.toggle("back", found !== null);
    if (mode() !== "all") {
      state.stages.forEach((stage, i) => {
        const from = cellsOf(i);
        const to = cellsOf(i + 1);
        sets[i].forEach((k) => {
          const { plane, row, col } = stage.outs[k];
          const merged = new Map();
          stage.outs[k].slopes.forEach(([index, slope]) => {
            merged.set(index, (merged.get(index) ?? 0) + slope);
          });
          merged.forEach((slope, index) => {
            if (slope === 0 || (found && found.gradients[i + 1][k] === 0)) return;
            lines.push([from.get(keyOf(stage.input, index)), to.get(`${plane} ${row} ${col}`), slope]);
          });
        });
      });
    }
    const shown = lines.length > 150 ? [] : lines;
    group.replaceChildren(...shown.map(([a, b, slope]) => line(a, b, slope, found !== null, frame)));
  }

  function cellsOf(i) {
    const cells = $("stages").children[i].querySelectorAll(".cell");
    return new Map([...cells].map((cell) => [cell.dataset.at, cell]));
  }

  function keyOf(grid, index) {
    const p = grid.planes.findIndex(({ start, h, w }) => index < start + h * w);
    const local = index - grid.planes[p].start;
    return `${p} ${Math.floor(local / grid.planes[p].w)} ${local % grid.planes[p].w}`;
  }

  /** A line between the facing edges of two cells, with its arrowhead between the two grids. */
  function line(pixel, output, slope, isBack, frame) {
    const [a, b] = [pixel, output].map((cell) => cell.getBoundingClientRect());
    const [left, right] = [pixel, output].map((cell) =>
      cell.closest("figure").getBoundingClientRect(),
    );
    const beside = right.left >= left.right;
    const point = (box, near) =>
      beside
        ? [(near ? box.right : box.left) - frame.left, box.top + box.height / 2 - frame.top]
        : [box.left + box.width / 2 - frame.left, (near ? box.bottom : box.top) - frame.top];
    const [[x1, y1], [x2, y2]] = [point(a, true), point(b, false)];
    const share = beside
      ? ((left.right + right.left) / 2 - frame.left - x1) / (x2 - x1)
      : ((left.bottom + right.top) / 2 - frame.top - y1) / (y2 - y1);
    const middle = [x1 + (x2 - x1) * share, y1 + (y2 - y1) * share];
    const points = [[x1, y1], middle, [x2, y2]];
    const element = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    element.setAttribute("points", (isBack ? points.reverse() : points).join(" "));
    element.setAttribute("stroke-width", 1 + 2 * Math.min(1, Math.abs(slope)));
    element.setAttribute("marker-mid", "url(#head)");
    return element;
  }

  // Moving the window ----------------------------------------------------------------------------------

  function go(k, focus = false) {
    state.at = Math.max(0, Math.min(count() - 1, k));
    paint();
    if (focus) document.querySelector('button.cell[tabindex="0"]')?.focus();
  }

  function stop() {
    clearInterval(state.timer);
    state.timer = null;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", "false");
    $("sentence").setAttribute("aria-live", "polite");
  }

  /** Step every 0.9 s. Screen readers hear no window until it stops: they would fall behind. */
  function play() {
    if (state.timer) {
      stop();
      return;
    }
    if (state.at === count() - 1) go(0);
    $("sentence").setAttribute("aria-live", "off");
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-pressed", "true");
    state.timer = setInterval(() => {
      if (state.at >= count() - 2) stop();
      go(state.at + 1);
    }, 900);
  }

  /** Arrow keys in the output: to the neighbour in its plane, or to the next plane. */
  function moveByKey(event) {
    const cell = event.target.closest("button.cell");
    if (!cell) return;
    const { plane } = last().outs[state.at];
    const across = last().grid.planes[plane].w;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    const targets = { Home: 0, End: count() - 1 };
    const target = targets[event.key] ?? (steps[event.key] ? state.at + steps[event.key] : null);
    if (target === null) return;
    event.preventDefault();
    stop();
    if (target >= 0 && target < count()) go(target, true);
  }

  /** Up and down between the numbers of the image or the weight. */
  function moveBetweenNumbers(event) {
    const { index, across } = event.target.dataset;
    const step = { ArrowUp: -Number(across), ArrowDown: Number(across) }[event.key];
    if (index === undefined || step === undefined) return;
    const box = event.target.closest("figure, #weight");
    const next = box.querySelector(`input[data-index="${Number(index) + step}"]`);
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.select();
  }

  function editNumber(event) {
    const { index, which } = event.target.dataset;
    if (index === undefined) return;
    const value = Number(event.target.value.trim().replace("−", "-").replace(",", "."));
    const right = event.target.value.trim() !== "" && Number.isFinite(value);
    event.target.setAttribute("aria-invalid", String(!right));
    if (!right) return;
    if (which === "weight") state.weight[index] = value;
    else {
      state.values[index] = value;
      $("preset").value = "own";
    }
    update();
  }

  // Start ----------------------------------------------------------------------------------------------

  function chooseTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    $("theme").value = theme;
  }

  /** localStorage may be refused to pages opened from a file. */
  function kept(theme) {
    try {
      if (theme === undefined) return localStorage.getItem("theme") ?? "";
      localStorage.setItem("theme", theme);
    } catch {
      return "";
    }
    return theme;
  }

  async function copy() {
    const text = $("program").textContent;
    try {
      await navigator.clipboard.writeText(text);
      $("copied").textContent = "copied";
    } catch {
      getSelection().selectAllChildren($("program"));
      $("copied").textContent = "selected: press Ctrl+C";
    }
  }

  function listen() {
    state.touched = new Set();
    $("kind").addEventListener("change", () => {
      stop();
      chooseKind();
    });
    $("settings").addEventListener("submit", (event) => event.preventDefault());
    $("settings").addEventListener("input", (event) => {
      const name = event.target.id.replace("argument-", "");
      if (name in IMAGE) resize();
      else if (event.target.id === "preset") fill();
      else if (event.target.id === "draws") readDraws() && update();
      else if (name in Kinds.ARGUMENTS) {
        if (name !== "stride") state.touched.add(name);
        update();
      } else editNumber(event);
    });
    $("redraw").addEventListener("click", () => {
      state.drawn = "";
      $("draws").setAttribute("aria-invalid", "false");
      update();
    });
    $("stages").addEventListener("input", editNumber);
    document.addEventListener("keydown", moveBetweenNumbers);
    $("stages").addEventListener("keydown", moveByKey);
    $("stages").addEventListener("click", (event) => {
      const cell = event.target.closest("button.cell");
      if (!cell) return;
      stop();
      go(Number(cell.dataset.index), true);
    });
    const moves = { first: () => 0, previous: () => state.at - 1, next: () => state.at + 1, last: () => count() - 1 };
    Object.entries(moves).forEach(([id, target]) =>
      $(id).addEventListener("click", () => {
        stop();
        go(target());
      }),
    );
    $("play").addEventListener("click", play);
    $("position").addEventListener("input", (event) => {
      stop();
      go(Number(event.target.value) - 1);
    });
    document.querySelectorAll('input[name="mode"]').forEach((one) => one.addEventListener("change", paint));
    $("gradient").addEventListener("input", paint);
    $("theme").addEventListener("change", (event) => chooseTheme(kept(event.target.value)));
    $("copy").addEventListener("click", copy);
    new ResizeObserver(drawLinesSoon).observe($("flow"));
  }

  makeSettings();
  $("more").open = !matchMedia("(max-width: 40rem)").matches; // small screens: the window first
  listen();
  chooseTheme(kept());
  chooseKind();
  return { state };
})();
