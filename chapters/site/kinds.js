"use strict";

/* What the explorer knows about each kind: its formulas, as in the table of
 * minidl/functional/pooling/basic.py, its arguments, and why it lacks the others. */
const Kinds = (() => {
  /** Arguments that several kinds share, in the order of the page's controls. */
  const GEOMETRY = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"];

  /** Labels of all arguments; `pair` is one number or two, `rows, columns`. */
  const ARGUMENTS = {
    kernel_size: { label: "Window", type: "pair", value: "2" },
    stride: { label: "Stride", type: "pair", value: "" },
    padding: { label: "Padding", type: "pair", value: "0" },
    dilation: { label: "Dilation", type: "pair", value: "1" },
    ceil_mode: { label: "Ceil mode: the last window may overhang", type: "flag", value: false },
    count_include_pad: { label: "Count padding", type: "flag", value: true },
    divisor_override: { label: "Divide by", type: "number", value: "", hint: "empty: the number of pixels" },
    norm_type: { label: "Power p", type: "number", value: "2", hint: "inf: the largest size" },
    output_size: { label: "Output size", type: "pair", value: "3" },
    output_ratio: { label: "Output ratio", type: "pair", value: "", hint: "empty: give the size" },
    fractional_mode: { label: "Increments", type: "choice", options: ["pseudorandom", "random"] },
    overlapping: { label: "Windows share a row and column", type: "flag", value: true },
    levels: { label: "Levels", type: "list", value: "1, 2" },
    mode: { label: "Pooling", type: "choice", options: ["max", "avg"] },
    training: { label: "Training: draw a pixel", type: "flag", value: true },
    size: { label: "Channels per group", type: "number", value: "2" },
    alpha: { label: "Share of the maximum, alpha", type: "number", value: "0.5" },
    p: { label: "Power p", type: "number", value: "3" },
    eps: { label: "Least value, eps", type: "number", value: "0.000001" },
    beta: { label: "Sharpness beta", type: "number", value: "1", hint: "0: mean; large: maximum" },
    filter_size: { label: "Filter size", type: "number", value: "3" },
    bias: { label: "Bias", type: "number", value: "0" },
    pool_size: { label: "Pooling window", type: "pair", value: "2" },
    pool_stride: { label: "Pooling stride", type: "pair", value: "", hint: "empty: the window" },
    pool_padding: { label: "Pooling padding", type: "pair", value: "0" },
    pool_dilation: { label: "Pooling dilation", type: "pair", value: "1" },
  };

  const SIDE_BY_SIDE = "empty: the window";
  const windows = GEOMETRY;
  const without = (...names) => GEOMETRY.filter((name) => !names.includes(name));
  const all = (reason) => Object.fromEntries(GEOMETRY.map((name) => [name, reason]));
  const ONE = all("One window: the whole image.");
  const SIZED = all("The output size sets the windows.");
  const GROUPS = all("A window is a group of channels at one pixel: nothing slides.");
  const BLUR = {
    padding: "The image is mirrored at its edges instead.",
    dilation: "The filter has no gaps.",
    ceil_mode: "One output for each stride, the last included.",
  };
  const NO_GAPS = { dilation: "Windows of this kind have no gaps." };
  const CONV = { ceil_mode: "Convolution drops pixels that no whole window covers." };

  /* group, what it is for, formulas [title, formula, gradient], arguments, reasons for the others */
  const KINDS = {
    max_pool2d: {
      group: "Windows",
      about: "The largest pixel: whether something is there.",
      formulas: [["", "best", "g * hit"]],
      uses: windows,
    },
    avg_pool2d: {
      group: "Windows",
      about: "The mean: how much of it is there.",
      formulas: [["", "mean", "g / m"]],
      uses: [...without("dilation"), "count_include_pad", "divisor_override"],
      reasons: NO_GAPS,
    },
    min_pool2d: {
      group: "Windows",
      about: "The smallest pixel: the erosion of a greyscale image.",
      formulas: [["", "-max(-w)", "g * (w == out)"]],
      uses: windows,
    },
    lp_pool2d: {
      group: "Windows",
      about: "The p-norm. For odd or fractional p, pixels must not be negative.",
      formulas: [["", "sum(w**p) ** (1 / p)", "g * (w / out) ** (p - 1)"]],
      uses: [...without("padding", "dilation"), "norm_type"],
      reasons: { ...NO_GAPS, padding: "lp_pool2d has no padding, as in PyTorch." },
    },
    stochastic_pool2d: {
      group: "Random",
      about: "A drawn pixel, with probability proportional to its value; negative ones count as 0.",
      formulas: [
        ["training", "w[i]", "g * (index == i)"],
        ["evaluation", "sum(w * w) / sum(w)", "g * (2 * w - out) / sum(w)"],
      ],
      uses: [...without("dilation"), "training"],
      reasons: NO_GAPS,
    },
    fractional_max_pool2d: {
      group: "Random",
      about: "The largest pixel of windows at drawn distances, to shrink an image by any ratio.",
      formulas: [["", "best", "g * hit"]],
      uses: ["kernel_size", "output_size", "output_ratio", "fractional_mode", "overlapping"],
      defaults: { kernel_size: "" },
      hints: { kernel_size: "empty: to the next window" },
      reasons: SIZED,
    },
    adaptive_max_pool2d: {
      group: "To a given size",
      about: "The largest pixel of windows that cover the image, for a given output size.",
      formulas: [["", "best", "g * hit"]],
      uses: ["output_size"],
      reasons: SIZED,
    },
    adaptive_avg_pool2d: {
      group: "To a given size",
      about: "The mean of windows that cover the image, for a given output size.",
      formulas: [["", "mean", "g / m"]],
      uses: ["output_size"],
      reasons: SIZED,
    },
    spatial_pyramid_pool2d: {
      group: "To a given size",
      about: "Adaptive pooling to several sizes, concatenated: a fixed length for any image.",
      formulas: [["", "[pool(x, k) for k in levels]", "chain rule"]],
      uses: ["levels", "mode"],
      reasons: all("The levels set the windows."),
    },
    global_max_pool2d: {
      group: "To a given size",
      about: "The largest pixel of the whole image.",
      formulas: [["", "best", "g * hit"]],
      uses: [],
      reasons: ONE,
    },
    global_avg_pool2d: {
      group: "To a given size",
      about: "The mean of the whole image.",
      formulas: [["", "mean", "g / m"]],
      uses: [],
      reasons: ONE,
    },
    mixed_pool2d: {
      group: "Learned",
      about: "A mix of maximum and mean.",
      formulas: [["", "a * best + (1 - a) * mean", "g * mix"]],
      uses: [...without("dilation"), "alpha"],
      reasons: NO_GAPS,
    },
    gated_pool2d: {
      group: "Learned",
      about: "A mix of maximum and mean, set for each window by a gate.",
      formulas: [["", "a * best + (1 - a) * mean", "g * (mix + q * v)"]],
      uses: without("dilation", "ceil_mode"),
      weight: "gate",
      reasons: { ...NO_GAPS, ceil_mode: "gated_pool2d drops pixels that no whole window covers." },
    },
    gem_pool2d: {
      group: "Learned",
      about: "The generalised mean: the mean for p = 1, nearly the maximum for large p.",
      formulas: [["", "(sum(w**p) / m) ** (1 / p)", "g / m * (w / out) ** (p - 1)"]],
      uses: [...without("dilation", "ceil_mode"), "p", "eps"],
      hints: { kernel_size: "empty: the whole image" },
      reasons: { ...NO_GAPS, ceil_mode: "gem_pool2d drops pixels that no whole window covers." },
    },
    softmax_pool2d: {
      group: "Learned",
      about: "A mean in which brighter pixels weigh more, and every pixel gets a gradient.",
      formulas: [["", "sum(s * w)", "g * s * (1 + b * (w - out))"]],
      uses: [...without("dilation"), "beta"],
      reasons: NO_GAPS,
    },
    attention_pool2d: {
      group: "Learned",
      about: "A mean of the whole image, weighted by a score that sees all channels.",
      formulas: [["", "sum(t * w)", "g * t * (1 + v * (w - out))"]],
      uses: [],
      weight: "score",
      channels: 2,
      reasons: ONE,
    },
    channel_max_pool: {
      group: "Across channels",
      about: "The largest of neighbouring channels, pixel by pixel (maxout).",
      formulas: [["", "best", "g * hit"]],
      uses: ["size"],
      channels: 4,
      reasons: GROUPS,
    },
    channel_avg_pool: {
      group: "Across channels",
      about: "The mean of neighbouring channels, pixel by pixel.",
      formulas: [["", "mean", "g / m"]],
      uses: ["size"],
      channels: 4,
      reasons: GROUPS,
    },
    blur_pool2d: {
      group: "Blur",
      about: "Blur, then subsample: removes frequencies that the stride would alias.",
      formulas: [["", "sum(f * w)", "g * f"]],
      uses: ["stride", "filter_size"],
      defaults: { stride: "2" },
      hints: { stride: "empty: 2" },
      reasons: { ...BLUR, kernel_size: "The filter size is the window." },
    },
    max_blur_pool2d: {
      group: "Blur",
      about: "Max pooling with stride 1, then blurred and subsampled.",
      formulas: [["", "blur_pool2d(max_pool2d(x, k, 1), stride)", "chain rule"]],
      uses: ["kernel_size", "stride", "filter_size"],
      defaults: { stride: "2" },
      hints: { stride: "empty: 2" },
      reasons: BLUR,
    },
    conv2d: {
      group: "Convolution",
      about: "Every window times the same weights, summed. Not pooling: its weights are learned.",
      formulas: [["", "sum(v * w) + bias", "g * v"]],
      uses: [...without("ceil_mode"), "bias"],
      weight: "kernel",
      defaults: { stride: "1" },
      hints: { stride: "empty: 1" },
      channels: 1,
      reasons: CONV,
    },
    conv_pool2d: {
      group: "Convolution",
      about: "A convolution, then max or average pooling.",
      formulas: [["", "max_pool2d(conv2d(x, v), k)", "chain rule"]],
      uses: [...without("ceil_mode"), "bias", "pool_size", "pool_stride", "mode"],
      weight: "kernel",
      defaults: { stride: "1" },
      hints: { stride: "empty: 1" },
      channels: 1,
      reasons: { ceil_mode: "conv_pool2d drops pixels that no whole window covers." },
    },
    conv2d_relu_max_pool2d: {
      group: "Convolution",
      about: "A convolution, ReLU and max pooling; minidl computes them in one pass.",
      formulas: [["", "max_pool2d(relu(conv2d(x, v)), k)", "chain rule"]],
      uses: [...windows, "bias", "pool_size", "pool_stride", "pool_padding", "pool_dilation"],
      weight: "kernel",
      defaults: { stride: "1" },
      hints: { stride: "empty: 1" },
      channels: 1,
    },
    max_unpool2d: {
      group: "Back to the image",
      about: "The winners of max pooling, put back at their places; every other pixel is 0.",
      formulas: [["", "image[index] = w", "g[index]"]],
      uses: without("dilation", "ceil_mode"),
      reasons: { ...NO_GAPS, ceil_mode: "max_unpool2d takes a size instead." },
    },
  };

  /** What the symbols of the formulas stand for, as in the same table. */
  const SYMBOLS = {
    best: "best = max(w)",
    hit: "hit = w == best, the first if several are equal",
    mean: "mean = sum(w) / m",
    mix: "mix = a * hit + (1 - a) / m",
    out: "out: the output",
    p: "p: the power",
    a: "a: the share of the maximum, alpha",
    b: "b: the sharpness, beta",
    i: "i: a drawn index",
    q: "q = a * (1 - a) * (best - mean)",
    s: "s = softmax(b * w)",
    t: "t = softmax(v * w), for one channel",
    f: "f: outer product of two rows of Pascal's triangle, divided by its sum",
    v: "v: the weight",
    x: "x: the image",
    k: "k: the size of a window, or of a level's output",
    pool: "pool: adaptive max or average pooling",
  };

  /** Explain the symbols of a kind's formulas. */
  function symbols(name) {
    const { formulas } = KINDS[name];
    const used = new Set(formulas.flatMap(([, ...both]) => both.join(" ").match(/\b[a-z]+\b/g)));
    if (used.has("mix")) ["hit", "a", "best"].forEach((one) => used.add(one));
    if (used.has("hit")) used.add("best");
    const own = { a: "a = sigmoid(sum(v * w)), the gate" };
    const found = Object.keys(SYMBOLS).filter((one) => used.has(one));
    return found.map((one) => (name === "gated_pool2d" && own[one]) || SYMBOLS[one]).join("; ");
  }

  const ALONE = "Each channel is pooled on its own: one shows everything.";

  /** Why a kind has no such argument; "" if it has. */
  function reason(name, argument) {
    const kind = KINDS[name];
    if (argument === "channels") return kind.channels ? "" : ALONE;
    return kind.uses.includes(argument) ? "" : (kind.reasons?.[argument] ?? `${name} has no ${argument}.`);
  }

  /** The shape of a kind's weight, or null. */
  function weightShape(name, channels, kernel_size) {
    const kernel = Array.isArray(kernel_size) ? kernel_size : [kernel_size, kernel_size];
    const shapes = {
      gate: [1, 1, ...kernel],
      kernel: [1, channels, ...kernel],
      score: [channels],
    };
    return shapes[KINDS[name].weight] ?? null;
  }

  function nested(values, [first, ...rest]) {
    const step = values.length / first;
    const parts = Array.from({ length: first }, (_, i) => values.slice(i * step, (i + 1) * step));
    return `[${parts.map((part) => (rest.length ? nested(part, rest) : part.join(""))).join(", ")}]`;
  }

  function tensor(values, shape) {
    const list = nested(Array.from(values, Pooling.repr), shape);
    return `Tensor(${list}, dtype="float64", requires_grad=True)`;
  }

  /** minidl's defaults, which a program need not repeat. */
  const DEFAULTS = {
    padding: 0,
    dilation: 1,
    ceil_mode: false,
    count_include_pad: true,
    training: true,
    overlapping: true,
    pool_padding: 0,
    pool_dilation: 1,
  };

  /** Write the program in minidl that computes the same output and gradients. */
  function program(name, grid, a) {
    const lines = ["from minidl import Tensor, functional as F", ""];
    lines.push(`x = ${tensor(grid.values, Pooling.shapeOf(grid))}`);
    const given = { ...a };
    const used = ["x"];
    const shape = weightShape(name, grid.planes.length, a.kernel_size);
    if (shape) {
      lines.push(`weight = ${tensor(a.weight, shape)}`);
      used.push("weight");
      delete given.kernel_size;
    }
    if (given.bias !== undefined && given.bias !== null) {
      lines.push(`bias = ${tensor([given.bias], [1])}`);
      used.push("bias");
      delete given.bias;
    }
    const names = KINDS[name].uses.filter(
      (one) => given[one] !== undefined && given[one] !== DEFAULTS[one],
    );
    const write = (one) => {
      const value = given[one] === Infinity ? 'float("inf")' : Pooling.repr(given[one]);
      return `${one === "fractional_mode" ? "mode" : one}=${value}`;
    };
    const rest = names.map(write);
    if (name === "fractional_max_pool2d" && a.fractional_mode !== "random" && a.draws) {
      lines.push(`samples = ${nested(a.draws.map(Pooling.repr), [1, grid.planes.length, 2])}`);
      rest.push("_random_samples=samples");
    } else if (a.draws && a.draws.length) {
      lines.unshift("import numpy as np", "");
      lines.push("rng = np.random.default_rng()  # draws other numbers than those of this page");
      rest.push("rng=rng");
    }
    if (name === "max_unpool2d") {
      const [, , h, w] = Pooling.shapeOf(grid);
      lines.push(`values, indices = F.max_pool2d(${["x", ...rest, "return_indices=True"].join(", ")})`);
      const size = `output_size=(${h}, ${w})`;
      lines.push(`out = F.max_unpool2d(${["values", "indices", ...rest, size].join(", ")})`);
    } else {
      lines.push(`out = F.${name}(${[...used, ...rest].join(", ")})`);
    }
    lines.push("out.sum().backward()  # x.grad is the gradient of all outputs");
    return lines.join("\n");
  }

  return { ARGUMENTS, GEOMETRY, KINDS, SIDE_BY_SIDE, program, reason, symbols, weightShape };
})();
