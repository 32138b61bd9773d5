// Runs what vaejax.report.browser compiled: operations on Float32Arrays, each of which fills one slot.
// A program is built once, into closures that loop over typed arrays; to run it is to call them in order.

// Elementwise functions by JAX's names. Truth values are 0 and 1, and integers are whole floats.
const FUNCTIONS = {
  abs: Math.abs, acos: Math.acos, acosh: Math.acosh, asin: Math.asin, asinh: Math.asinh, atan: Math.atan,
  atan2: Math.atan2, atanh: Math.atanh, cbrt: Math.cbrt, ceil: Math.ceil, cos: Math.cos, cosh: Math.cosh,
  exp: Math.exp, expm1: Math.expm1, floor: Math.floor, log: Math.log, log1p: Math.log1p, pow: Math.pow,
  sign: Math.sign, sin: Math.sin, sinh: Math.sinh, sqrt: Math.sqrt, tan: Math.tan, tanh: Math.tanh, trunc: Math.trunc,
  min: Math.min,
  exp2: (x) => 2 ** x,
  erf: (x) => (Math.abs(x) < 0.5 ? erfNearZero(x) : 1 - erfc(x)),
  erfc,
  int_div: (a, b) => Math.trunc(a / b),
  logistic: (x) => 1 / (1 + Math.exp(-x)),
  neg: (x) => -x,
  rem: (a, b) => a % b,
  round: (x) => Math.sign(x) * Math.floor(Math.abs(x) + 0.5),
  round_to_even: (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)),
  rsqrt: (x) => 1 / Math.sqrt(x),
  is_finite: (x) => Number(Number.isFinite(x)),
  eq: (a, b) => Number(a === b), ne: (a, b) => Number(a !== b), ge: (a, b) => Number(a >= b),
  gt: (a, b) => Number(a > b), le: (a, b) => Number(a <= b), lt: (a, b) => Number(a < b),
  and: (a, b) => a * b, or: (a, b) => Math.max(a, b), xor: (a, b) => Number(a !== b), not: (x) => 1 - x,
};

// The complementary error function to 1.2e-7 of its value (Press et al. 1992, Numerical Recipes, section 6.2).
function erfc(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const coefficients = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418,
    0.37409196, 1.00002368, -1.26551223];
  const tail = t * Math.exp(coefficients.reduce((sum, c) => sum * t + c, 0) - x * x);
  return x >= 0 ? tail : 2 - tail;
}

// There 1 - erfc(x) would lose its digits.
function erfNearZero(x) {
  let [term, sum] = [x, x];
  for (let n = 1; n < 12; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

// The arithmetic that a net does most of has loops of its own, which engines compile without a call per element.
const LOOPS = {
  add: (a, b, out, [[ao, ai], [bo, bi]], period) => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = a[o * ao + i * ai] + b[o * bo + i * bi];
  },
  sub: (a, b, out, [[ao, ai], [bo, bi]], period) => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = a[o * ao + i * ai] - b[o * bo + i * bi];
  },
  mul: (a, b, out, [[ao, ai], [bo, bi]], period) => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = a[o * ao + i * ai] * b[o * bo + i * bi];
  },
  div: (a, b, out, [[ao, ai], [bo, bi]], period) => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = a[o * ao + i * ai] / b[o * bo + i * bi];
  },
  max: (a, b, out, [[ao, ai], [bo, bi]], period) => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = Math.max(a[o * ao + i * ai], b[o * bo + i * bi]);
  },
};

function mapOperation({ f, period, strides }, inputs, [out]) {
  const [a, b] = inputs;
  const loop = LOOPS[f];
  if (loop) return () => loop(a, b, out, strides, period);
  if (f === "select") return () => select(inputs, out, strides, period);
  const apply = FUNCTIONS[f];
  if (inputs.length === 1) return () => { for (let i = 0; i < out.length; i++) out[i] = apply(a[i]); };
  const [[ao, ai], [bo, bi]] = strides;
  return () => {
    for (let start = 0, o = 0; start < out.length; start += period, o++)
      for (let i = 0; i < period; i++) out[start + i] = apply(a[o * ao + i * ai], b[o * bo + i * bi]);
  };
}

function select(inputs, out, strides, period) {
  const [which, [wo, wi]] = [inputs[0], strides[0]];
  for (let start = 0, o = 0; start < out.length; start += period, o++)
    for (let i = 0; i < period; i++) {
      const choice = which[o * wo + i * wi] + 1;
      out[start + i] = inputs[choice][o * strides[choice][0] + i * strides[choice][1]];
    }
}

// Rearranges elements. Strides and shape become a table of places once, when the program is built.
function takeOperation(operation, inputs, [out]) {
  const places = operation.map === undefined ? stridedPlaces(operation, out.length) : inputs.places;
  const only = inputs.length === 1 ? inputs[0] : new Float32Array(inputs.reduce((sum, each) => sum + each.length, 0));
  return () => {
    if (inputs.length > 1) inputs.reduce((start, each) => (only.set(each, start), start + each.length), 0);
    for (let i = 0; i < out.length; i++) out[i] = only[places[i]];
  };
}

function stridedPlaces({ start, strides, counts }, size) {
  let places = new Int32Array([start]);
  strides.forEach((stride, axis) => {
    const next = new Int32Array(places.length * counts[axis]);
    for (let i = 0; i < next.length; i++) next[i] = places[Math.floor(i / counts[axis])] + stride * (i % counts[axis]);
    places = next;
  });
  if (places.length !== size) throw new Error(`a view has ${places.length} elements in place of ${size}`);
  return places;
}

function matmulOperation({ batch, rows, count, columns }, [a, b], [out]) {
  const sums = new Float64Array(columns);
  return () => {
    for (let row = 0; row < batch * rows; row++) {
      const matrix = Math.floor(row / rows) * count * columns;
      sums.fill(0);
      for (let k = 0; k < count; k++) {
        const x = a[row * count + k];
        const start = matrix + k * columns;
        // Half of what a rectified layer puts out is 0, and costs nothing.
        if (x !== 0) for (let j = 0; j < columns; j++) sums[j] += x * b[start + j];
      }
      out.set(sums, row * columns);
    }
  };
}

// The taps of each place along one axis: which row of the kernel meets which row of the input.
function taps(axis, { size, kernel, out_size, before, stride, dilation, kernel_dilation }) {
  return Array.from({ length: out_size[axis] }, (_, place) => {
    const found = [];
    for (let k = 0; k < kernel[axis]; k++) {
      const spread = place * stride[axis] - before[axis] + k * kernel_dilation[axis];
      const source = spread / dilation[axis];
      if (Number.isInteger(source) && source >= 0 && source < size[axis]) found.push([k, source]);
    }
    return found;
  });
}

function convolveOperation(operation, [x, kernel], [out]) {
  const { batch, size: [height, width], kernel: [, across], out_size, groups, channels, outputs } = operation;
  const [down, along] = [taps(0, operation), taps(1, operation)];
  const [fan, wide] = [channels / groups, outputs / groups];
  const sums = new Float64Array(outputs);
  // Innermost are the outputs, in which order the kernel lies.
  const addTap = (from, weights) => {
    for (let group = 0, c = 0; group < groups; group++)
      for (let k = 0; k < fan; k++, c++) {
        const value = x[from + c];
        const [first, start] = [group * wide, weights + k * outputs];
        if (value !== 0) for (let j = first; j < first + wide; j++) sums[j] += value * kernel[start + j];
      }
  };
  return () => {
    let to = 0;
    for (let n = 0; n < batch; n++)
      for (let row = 0; row < out_size[0]; row++)
        for (let column = 0; column < out_size[1]; column++, to += outputs) {
          sums.fill(0);
          for (const [i, y] of down[row])
            for (const [j, left] of along[column])
              addTap(((n * height + y) * width + left) * channels, (i * across + j) * fan * outputs);
          out.set(sums, to);
        }
  };
}

const REDUCERS = {
  add: [0, (a, b) => a + b], mul: [1, (a, b) => a * b], max: [-Infinity, Math.max], min: [Infinity, Math.min],
};

function reduceOperation({ f, count }, [a], [out]) {
  const [first, join] = REDUCERS[f];
  return () => {
    for (let row = 0; row < out.length; row++) {
      let total = first;
      for (let i = row * count; i < (row + 1) * count; i++) total = join(total, a[i]);
      out[row] = total;
    }
  };
}

function cumulateOperation({ f, count, inner, reverse }, [a], [out]) {
  const [first, join] = REDUCERS[f];
  return () => {
    for (let start = 0; start < a.length; start += count * inner)
      for (let column = 0; column < inner; column++) {
        let total = first;
        for (let step = 0; step < count; step++) {
          const place = start + (reverse ? count - 1 - step : step) * inner + column;
          out[place] = total = join(total, a[place]);
        }
      }
  };
}

function argumentOperation({ f, count }, [a], [out]) {
  const better = FUNCTIONS[f];
  return () => {
    for (let row = 0; row < out.length; row++) {
      let best = 0;
      for (let i = 1; i < count; i++) if (better(a[row * count + i], a[row * count + best])) best = i;
      out[row] = best;
    }
  };
}

function scanOperation({ length, reverse, carry, parts, body, results }, inputs, outputs, slots) {
  const at = (indices) => indices.map((index) => slots[index]);
  const [state, pieces, finished] = [at(carry), at(parts), at(results)];
  const steps = body.map((operation) => buildOperation(operation, slots));
  const [starts, sequences] = [inputs.slice(0, carry.length), inputs.slice(carry.length)];
  const stacked = outputs.slice(carry.length);
  const turn = (index) => {
    pieces.forEach((piece, i) => piece.set(sequences[i].subarray(index * piece.length, (index + 1) * piece.length)));
    for (const step of steps) step();
    state.forEach((each, i) => each.set(finished[i]));
    stacked.forEach((whole, i) => whole.set(finished[carry.length + i], index * finished[carry.length + i].length));
  };
  return () => {
    state.forEach((each, i) => each.set(starts[i]));
    for (let step = 0; step < length; step++) turn(reverse ? length - 1 - step : step);
  };
}

const OPERATIONS = {
  map: mapOperation, take: takeOperation, matmul: matmulOperation, convolve: convolveOperation,
  reduce: reduceOperation, cumulate: cumulateOperation, argument: argumentOperation, scan: scanOperation,
};

function buildOperation(operation, slots) {
  const inputs = operation.in.map((index) => slots[index]);
  if (operation.map !== undefined) inputs.places = slots[operation.map];
  return OPERATIONS[operation.op](operation, inputs, operation.out.map((index) => slots[index]), slots);
}

// Little-endian bytes as text, as Python wrote them; every browser's machine is little-endian.
function decodeBase64(text, kind = "f") {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return kind === "i" ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer);
}

// z, a list of numbers, to a Float32Array that the next call overwrites.
function compileProgram({ sizes, input, output, constants, operations }) {
  const slots = [];
  for (const [index, kind, text] of constants) slots[index] = decodeBase64(text, kind);
  sizes.forEach((size, index) => { slots[index] ??= new Float32Array(size); });
  const steps = operations.map((operation) => buildOperation(operation, slots));
  return (z) => {
    if (z.length !== sizes[input]) throw new RangeError(`z must have ${sizes[input]} numbers; got ${z.length}`);
    slots[input].set(z);
    for (const step of steps) step();
    return slots[output];
  };
}
