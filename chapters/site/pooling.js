"use strict";

/* The formulas of the explorer: every kind of pooling in the table of
 * minidl/functional/pooling/basic.py, and convolution, in float64.
 *
 * `Pooling.run(name, planes, arguments)` returns the stages of a kind, first to last. A stage maps
 * one grid to the next: `outs[k]` holds the window that output k reads (`taps`), and `slopes`, pairs
 * of an input's index and the derivative of the output with respect to it. A gradient is the chain
 * rule over these: `Pooling.backward`. Errors have the words of minidl.
 *
 * No access to the page: tests/test_explorer.py compares these functions with minidl.
 */
const Pooling = (() => {
  class PoolError extends Error {}

  // Words ----------------------------------------------------------------------------------------

  /** Write a value as Python's `repr` does. */
  function repr(value) {
    if (value === null || value === undefined) return "None";
    if (value === true) return "True";
    if (value === false) return "False";
    if (Array.isArray(value)) {
      return `(${value.map(repr).join(", ")}${value.length === 1 ? "," : ""})`;
    }
    if (typeof value === "string") return `'${value}'`;
    if (value === Infinity) return "inf";
    return Number.isNaN(value) ? "nan" : String(value);
  }

  /** Write a number for people: four significant digits. */
  function show(number) {
    if (Number.isNaN(number)) return "NaN";
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
    return String(Number(number.toPrecision(4))).replace("-", "−");
  }

  /** Join numbers, or say how many they are if they are many. */
  function list(numbers, join = ", ") {
    return numbers.length > 12 ? `${numbers.length} pixels` : numbers.map(show).join(join);
  }

  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const range = (stop) => Array.from({ length: stop }, (_, i) => i);
  const sizeOf = (grid) => grid.planes[0];
  const shapeOf = (grid) => [1, grid.planes.length, sizeOf(grid).h, sizeOf(grid).w];

  // Checks, with the words of minidl/checks.py and minidl/functional/geometry.py --------------------

  const isWhole = (value, least) => Number.isInteger(value) && value >= least;

  function checkWhole(op, name, value, least) {
    if (!isWhole(value, least)) {
      throw new PoolError(`${op}: got ${name}=${repr(value)}, expected an integer >= ${least}`);
    }
  }

  function pair(op, name, value, least) {
    const both = Array.isArray(value) ? value : [value, value];
    if (both.length !== 2 || !both.every((one) => isWhole(one, least))) {
      throw new PoolError(
        `${op}: got ${name}=${repr(value)}, expected an integer >= ${least}, ` +
          "or a pair of them (height, width)",
      );
    }
    return both;
  }

  function checkPositive(op, name, value) {
    if (typeof value !== "number" || !(value > 0)) {
      throw new PoolError(`${op}: got ${name}=${repr(value)}, expected a positive number`);
    }
  }

  function checkMode(op, mode) {
    if (mode !== "max" && mode !== "avg") {
      throw new PoolError(`${op}: got mode=${repr(mode)}, expected 'max' or 'avg'`);
    }
  }

  function checkFits(op, shape, span, padded) {
    if (span > padded) {
      throw new PoolError(
        `${op}: the window spans ${span} but the padded input has only ${padded}; ` +
          `got input shape ${repr(shape)}: is it too small for this many layers?`,
      );
    }
  }

  /** Lay pooling windows over images of a shape, as `pool_windows` does. */
  function poolWindows(op, shape, a) {
    const { kernel_size, stride = null, padding = 0, dilation = 1, ceil_mode = false } = a;
    const kernel = pair(op, "kernel_size", kernel_size, 1);
    const strides = pair(op, "stride", stride === null ? kernel_size : stride, 1);
    const pads = pair(op, "padding", padding, 0);
    const dilations = pair(op, "dilation", dilation, 1);
    if (pads.some((p, i) => 2 * p > dilations[i] * (kernel[i] - 1) + 1)) {
      throw new PoolError(
        `${op}: got padding=${repr(padding)} with kernel_size=${repr(kernel_size)}, expected at ` +
          "most half the window: otherwise a window could contain nothing but padding",
      );
    }
    return shape.slice(2).map((size, i) => {
      const [k, s, p, d] = [kernel[i], strides[i], pads[i], dilations[i]];
      const span = d * (k - 1) + 1;
      for (let start = -p; start < 0; start += s) {
        if (((start % d) + d) % d >= size) {
          throw new PoolError(
            `${op}: got dilation=${repr(dilation)} with padding=${repr(padding)} and input shape ` +
              `${repr(shape)}; expected a dilation no larger than the image: otherwise a window ` +
              "could contain nothing but padding",
          );
        }
      }
      let out = Math.floor((size + 2 * p - span + (ceil_mode ? s - 1 : 0)) / s) + 1;
      if (out < 1) checkFits(op, shape, span, size + 2 * p);
      if (ceil_mode && (out - 1) * s >= size + p) out -= 1;
      return axis(size, k, s, p, d, out, Math.max(p, (out - 1) * s + span - size - p));
    });
  }

  /** Lay convolution windows over images of a shape, as `conv_windows` does. */
  function convWindows(op, shape, a) {
    const { kernel_size, stride, padding = 0, dilation = 1 } = a;
    const kernel = Array.isArray(kernel_size) ? kernel_size : [kernel_size, kernel_size];
    checkKernel(op, [1, shape[1], ...kernel]);
    const strides = pair(op, "stride", stride ?? 1, 1);
    const dilations = pair(op, "dilation", dilation, 1);
    const pads = pair(op, "padding", padding, 0);
    return shape.slice(2).map((size, i) => {
      const span = dilations[i] * (kernel[i] - 1) + 1;
      checkFits(op, shape, span, size + 2 * pads[i]);
      const out = Math.floor((size + 2 * pads[i] - span) / strides[i]) + 1;
      return axis(size, kernel[i], strides[i], pads[i], dilations[i], out, pads[i]);
    });
  }

  function checkKernel(op, shape) {
    if (!(Math.min(...shape) >= 1)) {
      throw new PoolError(
        `${op}: got a weight of shape ${repr(shape)}, expected (d, c // groups, k_h, k_w)`,
      );
    }
  }

  /** One axis of sliding windows: `at[window]` lists the pixels that a window reads. */
  function axis(size, k, stride, pad, dilation, out, end) {
    const at = range(out).map((o) => range(k).map((i) => o * stride - pad + i * dilation));
    return { size, k, pad, end, at, counted: (place) => place < size + pad };
  }

  // Grids and stages -----------------------------------------------------------------------------

  /** Make a grid of planes `{h, w, name, start}`; `start` is the index of the first value. */
  function gridOf(planes, values) {
    let start = 0;
    const placed = planes.map((plane) => {
      const own = { ...plane, start };
      start += plane.h * plane.w;
      return own;
    });
    return { planes: placed, values: Float64Array.from(values) };
  }

  function channels(c, h, w, values, name = "channel") {
    return gridOf(
      range(c).map((i) => ({ h, w, name: c > 1 ? `${name} ${i + 1}` : "" })),
      values,
    );
  }

  const tap = (plane, p, row, col) => ({
    plane: p,
    row,
    col,
    index:
      row >= 0 && col >= 0 && row < plane.h && col < plane.w
        ? plane.start + row * plane.w + col
        : null,
  });

  /** Reduce every window of every plane: `reduce(values, window)` sees the pixels inside. */
  function slide(title, input, rowsOf, colsOf, reduce, more = {}) {
    const outs = [];
    const planes = input.planes.map((plane, p) => {
      const [rows, cols] = [rowsOf(p), colsOf(p)];
      rows.forEach((down, y) =>
        cols.forEach((across, x) => {
          const taps = down.flatMap((row) => across.map((col) => tap(plane, p, row, col)));
          const inside = taps.filter((one) => one.index !== null);
          const values = inside.map((one) => input.values[one.index]);
          const out = reduce(values, { taps, inside, plane: p, order: outs.length });
          const slopes = out.slopes.map((slope, i) => [inside[i].index, slope]);
          outs.push({ ...out, taps, slopes, plane: p, row: y, col: x });
        }),
      );
      return { h: rows.length, w: cols.length, name: plane.name };
    });
    return stage(title, input, planes, outs, more);
  }

  function stage(title, input, planes, outs, more) {
    const grid = gridOf(
      planes,
      outs.map((out) => out.value),
    );
    const pads = { top: 0, bottom: 0, left: 0, right: 0, fill: "", why: "" };
    return { title, input, grid, outs, ...more, pads: { ...pads, ...more.pads } };
  }

  function overWindows(title, input, [rows, cols], reduce, fill, why) {
    const sides = { top: rows.pad, bottom: rows.end, left: cols.pad, right: cols.end, fill, why };
    return slide(
      title,
      input,
      () => rows.at,
      () => cols.at,
      reduce,
      { pads: sides },
    );
  }

  // One window -----------------------------------------------------------------------------------

  const oneOf = (count, chosen, slope) => range(count).map((i) => (i === chosen ? slope : 0));

  /** The first of the largest values. */
  function best(w) {
    let chosen = 0;
    w.forEach((value, i) => {
      if (value > w[chosen]) chosen = i;
    });
    return chosen;
  }

  function largest(w, { inside }) {
    const chosen = best(w);
    const words = `the largest of ${list(w)} is ${show(w[chosen])}`;
    return { value: w[chosen], slopes: oneOf(w.length, chosen, 1), chosen: inside[chosen], words };
  }

  function smallest(w, { inside }) {
    const chosen = best(w.map((value) => -value));
    const words = `the smallest of ${list(w)} is ${show(w[chosen])}`;
    return { value: w[chosen], slopes: oneOf(w.length, chosen, 1), chosen: inside[chosen], words };
  }

  function meanOver(w, divisor) {
    const [total, value] = [sum(w), sum(w) / divisor];
    const words = `the sum of ${list(w)} is ${show(total)}, divided by ${divisor}: ${show(value)}`;
    return { value, slopes: w.map(() => 1 / divisor), words };
  }

  const mean = (w) => meanOver(w, w.length);

  function norm(p, taps) {
    return (w, window) => {
      if (p === Infinity) {
        const out = largest(w.map(Math.abs), window);
        const slopes = out.slopes.map((slope, i) => slope * Math.sign(w[i]));
        return { ...out, slopes, words: `the largest size of ${list(w)} is ${show(out.value)}` };
      }
      const counted = window.taps.filter((one) => window.counts(one)).length;
      const rescale = taps / counted; // a window that overhangs the edge
      const total = sum(w.map((value) => value ** p)) * rescale;
      const value = p === 1 ? total : total === 0 ? 0 : total ** (1 / p);
      const slope = (one) =>
        p === 1 ? rescale : value === 0 ? 0 : rescale * (one / value) ** (p - 1);
      const share = rescale === 1 ? "" : `, rescaled by ${taps}/${counted}`;
      return {
        value,
        slopes: w.map(slope),
        words:
          `${list(w)}, each to the power ${show(p)}, sum to ${show(total / rescale)}${share}; ` +
          `to the power 1/${show(p)}: ${show(value)}`,
      };
    };
  }

  function generalised(p, eps) {
    return (w) => {
      const raised = w.map((value) => Math.max(value, eps));
      const scale = Math.max(...raised); // powers of large and small values stay within range
      const terms = raised.map((value) => (value / scale) ** p);
      const share = sum(terms) / w.length;
      const value = share ** (1 / p) * scale;
      const slopes = raised.map((one, i) =>
        w[i] === one ? (one / value) ** (p - 1) / w.length : 0,
      );
      const logs = sum(raised.map((one, i) => terms[i] * Math.log(one / scale))) / sum(terms);
      const ofPower = value * (logs / p - Math.log(share) / p ** 2);
      return {
        value,
        slopes,
        params: { p: [ofPower] },
        words:
          `the mean of ${list(raised)}, each to the power ${show(p)}, ` +
          `to the power 1/${show(p)} is ${show(value)}`,
      };
    };
  }

  function mixed(alpha) {
    return (w, window) => {
      const [most, average] = [largest(w, window), mean(w)];
      const value = average.value + (most.value - average.value) * alpha;
      return {
        value,
        chosen: most.chosen,
        slopes: w.map((_, i) => alpha * most.slopes[i] + (1 - alpha) / w.length),
        params: { alpha: [most.value - average.value] },
        words:
          `${show(alpha)} of the maximum ${show(most.value)} plus ${show(1 - alpha)} of the mean ` +
          `${show(average.value)} is ${show(value)}`,
      };
    };
  }

  function gated(weight) {
    return (w, window) => {
      const numbers = window.taps.map((one, i) => (one.index === null ? null : weight[i]));
      const used = numbers.filter((one) => one !== null);
      const score = sum(w.map((value, i) => used[i] * value));
      const alpha = score >= 0 ? 1 / (1 + Math.exp(-score)) : Math.exp(score) / (1 + Math.exp(score));
      const mix = mixed(alpha)(w, window);
      const q = alpha * (1 - alpha) * mix.params.alpha[0];
      const pixels = [...w];
      return {
        ...mix,
        slopes: mix.slopes.map((slope, i) => slope + q * used[i]),
        params: { weight: numbers.map((one) => (one === null ? 0 : q * pixels.shift())) },
        words: `the gate is sigmoid(${show(score)}) = ${show(alpha)}: ${mix.words}`,
      };
    };
  }

  /** Softmax of scores, shifted by the largest so that no exponential overflows. */
  function softmax(scores) {
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const total = sum(powers);
    return powers.map((power) => power / total);
  }

  function soft(beta) {
    return (w) => {
      const shares = softmax(w.map((value) => beta * value));
      const value = sum(shares.map((share, i) => share * w[i]));
      return {
        value,
        slopes: shares.map((share, i) => share * (1 + beta * (w[i] - value))),
        params: { beta: [sum(shares.map((share, i) => share * w[i] * (w[i] - value)))] },
        words: `${list(w)} with shares ${list(shares)} sum to ${show(value)}`,
      };
    };
  }

  /** Evaluation of stochastic pooling: the expected value. Negative pixels count as 0. */
  function expected(w) {
    const lit = w.map((value) => Math.max(value, 0));
    const total = sum(lit);
    const value = total === 0 ? 0 : sum(lit.map((one) => one * one)) / total;
    return {
      value,
      slopes: w.map((one) => (one > 0 ? (2 * one - value) / total : 0)),
      words: `${list(lit)}, each weighted by its share of their sum ${show(total)}: ${show(value)}`,
    };
  }

  /** Training: the first pixel whose running sum exceeds a drawn part of the sum. */
  function drawnPixel(draws) {
    return (w, { inside, order }) => {
      const lit = w.map((value) => Math.max(value, 0));
      const total = sum(lit);
      const part = draws[order] * total;
      let [chosen, running] = [0, 0];
      for (const one of lit) {
        running += one;
        if (running <= part && running < total) chosen += 1;
      }
      if (!(total > 0)) chosen = best(lit);
      return {
        value: lit[chosen],
        chosen: inside[chosen],
        slopes: oneOf(w.length, chosen, w[chosen] > 0 ? 1 : 0),
        words:
          `the draw ${show(draws[order])} of the sum ${show(total)} is ${show(part)}: the running ` +
          `sum of ${list(lit)} first exceeds it at pixel ${chosen + 1}, ${show(lit[chosen])}`,
      };
    };
  }

  /** Training, large windows: pixel i takes the time `draws[i] / x[i]`; the first one wins. */
  function racedPixel(draws) {
    return (w, { inside }) => {
      const lit = w.map((value) => Math.max(value, 0));
      const chosen = best(
        lit.map((one, i) => Math.sqrt(one) / Math.sqrt(Math.max(draws[inside[i].index], 1e-30))),
      );
      return {
        value: lit[chosen],
        chosen: inside[chosen],
        slopes: oneOf(w.length, chosen, w[chosen] > 0 ? 1 : 0),
        words: `of ${w.length} pixels, each with a drawn time divided by its value, the first is ${show(lit[chosen])}`,
      };
    };
  }

  // Kinds ----------------------------------------------------------------------------------------

  const NONE = "−∞";
  const NEVER = "padding is −∞: it never wins";

  const maxPool = (op, input, a, title = "maximum") =>
    overWindows(title, input, poolWindows(op, shapeOf(input), a), largest, NONE, NEVER);

  function avgPool(op, input, a) {
    const axes = poolWindows(op, shapeOf(input), a);
    const { count_include_pad = true, divisor_override = null } = a;
    if (divisor_override !== null) checkWhole(op, "divisor_override", divisor_override, 1);
    const reduce = (w, { taps }) => {
      const counted = count_include_pad ? taps.filter(inPadding(axes)).length : w.length;
      return meanOver(w, divisor_override ?? counted);
    };
    const why = count_include_pad ? "padding is 0, and counted" : "padding is not counted";
    const pooled = overWindows("mean", input, axes, reduce, count_include_pad ? "0" : "", why);
    pooled.pads.limit = axes.map(({ size, pad }) => size + pad); // beyond, nothing is counted
    return pooled;
  }

  /** Whether a tap is in the image or its padding: with ceil_mode, some are beyond both. */
  const inPadding =
    ([rows, cols]) =>
    (one) =>
      rows.counted(one.row) && cols.counted(one.col);

  function lpPool(op, input, a) {
    checkPositive(op, "p", a.norm_type);
    const axes = poolWindows(op, shapeOf(input), a);
    const reduce = norm(a.norm_type, axes[0].k * axes[1].k);
    const counts = inPadding(axes);
    const why = "the window overhangs the edge, and is rescaled";
    return overWindows("p-norm", input, axes, (w, window) => reduce(w, { ...window, counts }), "", why);
  }

  function gemPool(op, input, a) {
    const { kernel_size = null, p = 3, eps = 1e-6 } = a;
    const whole = shapeOf(input).slice(2);
    const axes = poolWindows(
      op,
      shapeOf(input),
      kernel_size === null ? { kernel_size: whole } : a,
    );
    checkPositive(op, "eps", eps);
    checkPositive(op, "p", p);
    return overWindows("generalised mean", input, axes, generalised(p, eps), "", "padding is not counted");
  }

  const simple = (title, reduceOf, check) => (op, input, a) => {
    const axes = poolWindows(op, shapeOf(input), a);
    if (check) check(op, a);
    return overWindows(title, input, axes, reduceOf(a), "", "padding is not counted");
  };

  const mixedPool = simple(
    "mix of maximum and mean",
    ({ alpha = 0.5 }) => mixed(alpha),
    (op, { alpha = 0.5 }) => {
      if (!(alpha >= 0 && alpha <= 1)) {
        throw new PoolError(`${op}: got alpha=${repr(alpha)}, expected 0 <= alpha <= 1`);
      }
    },
  );
  const softmaxPool = simple("weighted mean", ({ beta = 1 }) => soft(beta));

  function gatedPool(op, input, a) {
    const kernel_size = Array.isArray(a.kernel_size) ? a.kernel_size : [a.kernel_size, a.kernel_size];
    const axes = poolWindows(op, shapeOf(input), { ...a, kernel_size });
    return overWindows("gated mix", input, axes, gated(a.weight), "", "padding is not counted");
  }

  /** Windows of more taps than this draw times, one for each pixel, as minidl does. */
  const MOST_TAPS = 24;

  function stochasticPool(op, input, a) {
    const axes = poolWindows(op, shapeOf(input), a);
    const draws = a.draws ?? [];
    const races = axes[0].k * axes[1].k > MOST_TAPS;
    const reduce = a.training === false ? expected : races ? racedPixel(draws) : drawnPixel(draws);
    return overWindows("drawn pixel", input, axes, reduce, "0", "padding is 0, and never drawn");
  }

  /** How many numbers a random kind draws, and what for. */
  function drawsOf(name, grid, a) {
    const planes = grid.planes.length;
    if (name === "stochastic_pool2d" && a.training !== false) {
      const [rows, cols] = poolWindows(name, shapeOf(grid), a);
      return rows.k * cols.k > MOST_TAPS
        ? { count: grid.values.length, each: "time of a pixel" }
        : { count: planes * rows.at.length * cols.at.length, each: "part of a window's sum" };
    }
    if (name === "fractional_max_pool2d") {
      const { outs } = fractionalSizes(name, grid, a);
      const steps = outs.map((out) => (a.kernel_size == null ? out : out - 1));
      return a.fractional_mode === "random"
        ? { count: planes * (steps[0] + steps[1]), each: "order of the increments" }
        : { count: planes * 2, each: "u for columns and for rows" };
    }
    return { count: 0, each: "" };
  }

  // To a given size --------------------------------------------------------------------------------

  const span = (start, stop) => range(stop - start).map((i) => start + i);

  function adaptiveAxis(size, out) {
    return range(out).map((i) =>
      span(Math.floor((i * size) / out), Math.ceil(((i + 1) * size) / out)),
    );
  }

  function checkOutputSize(op, output_size) {
    const both = Array.isArray(output_size) ? output_size : [output_size, output_size];
    if (both.length !== 2 || !both.every((size) => size === null || isWhole(size, 1))) {
      throw new PoolError(
        `${op}: got output_size=${repr(output_size)}, expected an integer >= 1, or a pair of ` +
          "them (height, width); None keeps the input's",
      );
    }
    return both;
  }

  const adaptivePool = (title, reduce) => (op, input, a) => {
    const { h, w } = sizeOf(input);
    const [down, across] = checkOutputSize(op, a.output_size);
    const [rows, cols] = [adaptiveAxis(h, down ?? h), adaptiveAxis(w, across ?? w)];
    return slide(title, input, () => rows, () => cols, reduce);
  };

  const globalPool = (title, reduce) => (op, input) =>
    adaptivePool(title, reduce)(op, input, { output_size: 1 });

  function pyramidPool(op, input, { levels = [1, 2, 4], mode = "max" }) {
    if (!Array.isArray(levels) || levels.length === 0) {
      throw new PoolError(`${op}: got levels=${repr(levels)}, expected sizes such as (1, 2, 4)`);
    }
    levels.forEach((level) => checkWhole(op, "level", level, 1));
    checkMode(op, mode);
    const pool = adaptivePool("pyramid", mode === "max" ? largest : mean);
    const stages = levels.map((level) => pool(op, input, { output_size: level }));
    const planes = stages.flatMap(({ grid }, i) =>
      grid.planes.map(({ h, w, name }) => ({
        h,
        w,
        name: `level ${levels[i]}${name ? `, ${name}` : ""}`,
      })),
    );
    const shift = input.planes.length;
    const outs = stages.flatMap((one, i) =>
      one.outs.map((out) => ({ ...out, plane: out.plane + i * shift })),
    );
    return stage("all levels, one after the other", input, planes, outs, {});
  }

  function fractionalSizes(op, grid, a) {
    const { kernel_size = null, output_size = null, output_ratio = null } = a;
    if (kernel_size !== null) pair(op, "kernel_size", kernel_size, 1);
    if ((output_size === null) === (output_ratio === null)) {
      throw new PoolError(
        `${op}: got output_size=${repr(output_size)} and output_ratio=${repr(output_ratio)}, ` +
          "expected exactly one of them",
      );
    }
    if (output_size !== null) checkOutputSize(op, output_size);
    const ratios = Array.isArray(output_ratio) ? output_ratio : [output_ratio, output_ratio];
    if (output_ratio !== null && !ratios.every((ratio) => ratio > 0 && ratio < 1)) {
      throw new PoolError(
        `${op}: got output_ratio=${repr(output_ratio)}, expected 0 < output_ratio < 1, or a pair`,
      );
    }
    const { h, w } = sizeOf(grid);
    let outs = Array.isArray(output_size) ? output_size : [output_size, output_size];
    if (output_ratio !== null) {
      outs = [Math.trunc(h * ratios[0]), Math.trunc(w * ratios[1])];
      if (Math.min(...outs) < 1) {
        throw new PoolError(
          `${op}: got output_ratio=${repr(output_ratio)} for input shape ${repr(shapeOf(grid))}, ` +
            "expected an output of at least one pixel",
        );
      }
    }
    outs = [outs[0] ?? h, outs[1] ?? w];
    const kernel = kernel_size === null ? [null, null] : pair(op, "kernel_size", kernel_size, 1);
    [h, w].forEach((size, i) => {
      const reach = kernel[i] === null ? outs[i] + (a.overlapping === false ? 0 : 1) : outs[i] + kernel[i] - 1;
      if (reach > size) {
        throw new PoolError(
          `${op}: got input shape ${repr(shapeOf(grid))}, kernel_size=${repr(kernel_size)} and ` +
            `output size ${repr(outs)}, expected out + kernel_size - 1 <= the input's size ` +
            "(without kernel_size, out + 1 if windows overlap)",
        );
      }
    });
    return { outs, kernel };
  }

  /** Cut `total` into nearly equal increments in a drawn order; return their starts, and the end. */
  function cuts(total, steps, draw, isRandom) {
    const parts = Math.max(steps, 1);
    let found;
    if (isRandom) {
      const [small, more] = [Math.floor(total / parts), total % parts];
      const increments = draw.map((from) => small + (from < more ? 1 : 0));
      found = [0];
      increments.forEach((increment) => found.push(found[found.length - 1] + increment));
    } else {
      const alpha = total / parts;
      found = range(steps + 1).map((i) => Math.floor((i + draw) * alpha) - Math.floor(draw * alpha));
    }
    found[found.length - 1] = total;
    return found;
  }

  function fractionalPool(op, input, a) {
    const { outs, kernel } = fractionalSizes(op, input, a);
    const { h, w } = sizeOf(input);
    const planes = input.planes.length;
    const isRandom = a.fractional_mode === "random";
    const shared = a.overlapping === false ? 0 : 1;
    const steps = outs.map((out, i) => (kernel[i] === null ? out : out - 1));
    const drawFor = (plane, i) => {
      if (!isRandom) return a.draws[plane * 2 + (1 - i)];
      const first = i === 0 ? plane * steps[0] : planes * steps[0] + plane * steps[1];
      return ranks(a.draws.slice(first, first + steps[i]));
    };
    const spans = (i) => (plane) => {
      const [size, k] = [[h, w][i], kernel[i]];
      const total = k === null ? size - shared : size - k;
      const at = cuts(total, steps[i], drawFor(plane, i), isRandom);
      return k === null
        ? at.slice(0, -1).map((start, o) => span(start, at[o + 1] + shared))
        : at.map((start) => span(start, start + k));
    };
    return slide("maximum", input, spans(0), spans(1), largest);
  }

  /** The rank of each number: drawn numbers become an order. */
  function ranks(numbers) {
    const sorted = range(numbers.length).sort((i, j) => numbers[i] - numbers[j]);
    const found = [];
    sorted.forEach((i, rank) => {
      found[i] = rank;
    });
    return found;
  }

  // Across channels --------------------------------------------------------------------------------

  const channelPool = (title, reduce) => (op, input, { size }) => {
    checkWhole(op, "size", size, 1);
    const { h, w } = sizeOf(input);
    const c = input.planes.length;
    if (c % size) {
      throw new PoolError(
        `${op}: got shape ${repr(shapeOf(input))} and size=${size}, expected (n, c, ...) with c ` +
          "divisible by size",
      );
    }
    const groups = c / size;
    const outs = range(groups * h * w).map((order) => {
      const [group, row, col] = [Math.floor(order / (h * w)), Math.floor(order / w) % h, order % w];
      const taps = range(size).map((i) => tap(input.planes[group * size + i], group * size + i, row, col));
      const out = reduce(taps.map((one) => input.values[one.index]), { taps, inside: taps });
      const slopes = out.slopes.map((slope, i) => [taps[i].index, slope]);
      return { ...out, taps, slopes, plane: group, row, col };
    });
    const planes = range(groups).map((i) => ({ h, w, name: groups > 1 ? `group ${i + 1}` : "" }));
    return stage(title, input, planes, outs, {});
  };

  function attentionPool(op, input, { weight }) {
    const { h, w } = sizeOf(input);
    const c = input.planes.length;
    const pixel = (channel, i) => input.values[channel * h * w + i];
    const places = range(h * w);
    const scores = places.map((i) => sum(range(c).map((d) => weight[d] * pixel(d, i))));
    const shares = softmax(scores);
    const taps = input.planes.flatMap((plane, p) =>
      places.map((i) => tap(plane, p, Math.floor(i / w), i % w)),
    );
    const outs = range(c).map((own) => {
      const value = sum(places.map((i) => shares[i] * pixel(own, i)));
      const slopes = taps.map(({ plane, index }) => {
        const i = index - plane * h * w;
        const direct = plane === own ? 1 : 0;
        return [index, shares[i] * (direct + weight[plane] * (pixel(own, i) - value))];
      });
      const ofWeight = range(c).map((d) =>
        sum(places.map((i) => shares[i] * pixel(d, i) * (pixel(own, i) - value))),
      );
      const words = `the scores ${list(scores)} give the shares ${list(shares)}; the mean is ${show(value)}`;
      return { value, taps, slopes, plane: own, row: 0, col: 0, words, params: { weight: ofWeight } };
    });
    const planes = input.planes.map(({ name }) => ({ h: 1, w: 1, name }));
    return stage("weighted mean", input, planes, outs, {});
  }

  // Filters ----------------------------------------------------------------------------------------

  /** A row of Pascal's triangle, divided by its sum. */
  function binomial(size) {
    let row = [1];
    while (row.length < size) row = [...row, 0].map((one, i) => (one + (row[i - 1] ?? 0)) / 2);
    return row;
  }

  const mirror = (place, size) =>
    place < 0 ? -place : place >= size ? 2 * (size - 1) - place : place;

  function blurPool(op, input, { stride = 2, filter_size = 4 }) {
    checkWhole(op, "filter_size", filter_size, 1);
    const strides = pair(op, "stride", stride, 1);
    const { h, w } = sizeOf(input);
    const [before, after] = [Math.floor((filter_size - 1) / 2), Math.floor(filter_size / 2)];
    if (Math.min(h, w) <= after) {
      throw new PoolError(
        `${op}: got input shape ${repr(shapeOf(input))}, expected height and width > ${after}, ` +
          `half of filter_size=${filter_size}, to mirror the edges`,
      );
    }
    const filter = binomial(filter_size);
    const at = [h, w].map((size, i) =>
      range(Math.floor((size - 1) / strides[i]) + 1).map((o) =>
        range(filter_size).map((k) => o * strides[i] - before + k),
      ),
    );
    const outs = [];
    const planes = input.planes.map((plane, p) => {
      at[0].forEach((down, y) =>
        at[1].forEach((across, x) => {
          const taps = down.flatMap((row) =>
            across.map((col) => ({
              ...tap(plane, p, mirror(row, h), mirror(col, w)),
              row,
              col,
            })),
          );
          const shares = filter.flatMap((one) => filter.map((other) => one * other));
          const value = sum(taps.map(({ index }, i) => shares[i] * input.values[index]));
          const slopes = taps.map(({ index }, i) => [index, shares[i]]);
          const words = `${taps.length} pixels times the filter ${list(filter)} along rows and columns sum to ${show(value)}`;
          outs.push({ value, taps, slopes, plane: p, row: y, col: x, words });
        }),
      );
      return { h: at[0].length, w: at[1].length, name: plane.name };
    });
    const pads = { top: before, bottom: after, left: before, right: after, fill: "mirror" };
    return stage("blur", input, planes, outs, {
      pads: { ...pads, why: "the image is mirrored at its edges" },
    });
  }

  function convolve(op, input, a, title = "convolution") {
    const axes = convWindows(op, shapeOf(input), a);
    const [rows, cols] = axes;
    const { weight, bias = 0 } = a;
    const outs = rows.at.flatMap((down, y) =>
      cols.at.map((across, x) => {
        const taps = input.planes.flatMap((plane, p) =>
          down.flatMap((row) => across.map((col) => tap(plane, p, row, col))),
        );
        const pixels = taps.map(({ index }) => (index === null ? 0 : input.values[index]));
        const products = pixels.map((value, i) => value * weight[i]);
        const value = sum(products) + bias;
        const slopes = taps
          .map(({ index }, i) => [index, weight[i]])
          .filter(([index]) => index !== null);
        const offset = bias ? ` plus the bias ${show(bias)}` : "";
        const words = `the products ${list(products)} sum to ${show(sum(products))}${offset}: ${show(value)}`;
        return { value, taps, slopes, plane: 0, row: y, col: x, words, params: { weight: pixels, bias: [1] } };
      }),
    );
    const pads = { top: rows.pad, bottom: rows.end, left: cols.pad, right: cols.end, fill: "0" };
    const planes = [{ h: rows.at.length, w: cols.at.length, name: "" }];
    return stage(title, input, planes, outs, { pads: { ...pads, why: "padding is 0" } });
  }

  function convPool(op, input, a) {
    const { mode = "max", pool_size = 2, pool_stride } = a;
    checkMode(op, mode);
    const conv = convolve("conv2d", input, a);
    const geometry = { kernel_size: pool_size, stride: pool_stride };
    const pool =
      mode === "max"
        ? maxPool("max_pool2d", conv.grid, geometry)
        : avgPool("avg_pool2d", conv.grid, geometry);
    return [conv, pool];
  }

  function convReluPool(op, input, a) {
    const conv = convolve(op, input, a);
    const relu = slide("ReLU", conv.grid, rowsOf(conv.grid), colsOf(conv.grid), ([value]) => ({
      value: Math.max(value, 0),
      slopes: [value > 0 ? 1 : 0],
      words: `the larger of ${show(value)} and 0 is ${show(Math.max(value, 0))}`,
    }));
    const pool = maxPool(op, relu.grid, {
      kernel_size: a.pool_size ?? 2,
      stride: a.pool_stride,
      padding: a.pool_padding,
      dilation: a.pool_dilation,
      ceil_mode: a.ceil_mode,
    });
    return [conv, relu, pool];
  }

  const rowsOf = (grid) => (p) => range(grid.planes[p].h).map((i) => [i]);
  const colsOf = (grid) => (p) => range(grid.planes[p].w).map((i) => [i]);

  function maxBlurPool(op, input, { kernel_size = 2, stride = 2, filter_size = 4 }) {
    poolWindows(op, shapeOf(input), { kernel_size, stride: 1 }); // so that errors name this one
    const most = maxPool("max_pool2d", input, { kernel_size, stride: 1 }, "maximum, stride 1");
    return [most, blurPool("blur_pool2d", most.grid, { stride, filter_size })];
  }

  /** Pool, then put the winners back: every window that a pixel won sends it a gradient. */
  function unpool(op, input, a) {
    const pooled = maxPool("max_pool2d", input, a);
    const won = new Map();
    pooled.outs.forEach(({ chosen }, k) => {
      won.set(chosen.index, [...(won.get(chosen.index) ?? []), k]);
    });
    const outs = input.planes.flatMap((plane, p) =>
      range(plane.h * plane.w).map((i) => {
        const from = won.get(plane.start + i) ?? [];
        const value = from.length ? input.values[plane.start + i] : 0;
        const taps = from.map((k) => {
          const { plane: own, row, col } = pooled.outs[k];
          return { plane: own, row, col, index: k };
        });
        const words = from.length
          ? `the pixel won ${from.length} window${from.length > 1 ? "s" : ""}: ${show(value)} returns to it`
          : "the pixel won no window: 0";
        const slopes = from.map((k) => [k, 1]);
        return { value, taps, slopes, plane: p, row: Math.floor(i / plane.w), col: i % plane.w, words };
      }),
    );
    const planes = input.planes.map(({ h, w, name }) => ({ h, w, name }));
    return [pooled, stage("winners put back", pooled.grid, planes, outs, {})];
  }

  const RUN = {
    max_pool2d: maxPool,
    avg_pool2d: avgPool,
    min_pool2d: (op, input, a) =>
      overWindows("minimum", input, poolWindows(op, shapeOf(input), a), smallest, "∞", "padding is ∞: it never wins"),
    lp_pool2d: lpPool,
    global_max_pool2d: globalPool("maximum", largest),
    global_avg_pool2d: globalPool("mean", mean),
    adaptive_max_pool2d: adaptivePool("maximum", largest),
    adaptive_avg_pool2d: adaptivePool("mean", mean),
    spatial_pyramid_pool2d: pyramidPool,
    fractional_max_pool2d: fractionalPool,
    stochastic_pool2d: stochasticPool,
    channel_max_pool: channelPool("maximum", largest),
    channel_avg_pool: channelPool("mean", mean),
    mixed_pool2d: mixedPool,
    gated_pool2d: gatedPool,
    gem_pool2d: gemPool,
    softmax_pool2d: softmaxPool,
    attention_pool2d: attentionPool,
    blur_pool2d: blurPool,
    max_blur_pool2d: maxBlurPool,
    conv_pool2d: convPool,
    conv2d_relu_max_pool2d: convReluPool,
    max_unpool2d: unpool,
    conv2d: convolve,
  };

  /** Return the stages of a kind, first to last, for channels of one size. */
  function run(name, grid, a) {
    const stages = RUN[name](name, grid, a);
    return Array.isArray(stages) ? stages : [stages];
  }

  /** Return the gradient with respect to each stage's input, and to parameters, by the chain rule. */
  function backward(stages, gradient) {
    const gradients = [Float64Array.from(gradient)];
    const params = {};
    [...stages].reverse().forEach(({ input, outs }) => {
      const before = new Float64Array(input.values.length);
      outs.forEach((out, k) => {
        const g = gradients[0][k];
        Object.entries(out.params ?? {}).forEach(([name, slopes]) => {
          params[name] ??= slopes.map(() => 0);
          slopes.forEach((slope, i) => {
            params[name][i] += g * slope;
          });
        });
        if (g === 0) return; // no slope, however large, adds to the gradient
        out.slopes.forEach(([index, slope]) => {
          before[index] += g * slope;
        });
      });
      gradients.unshift(before);
    });
    return { gradients, params };
  }

  return { PoolError, NAMES: Object.keys(RUN), backward, channels, drawsOf, list, repr, run, shapeOf, show };
})();
