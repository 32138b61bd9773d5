// The latent explorer: controls that move z, and what the decoder makes of it. See explorer.html for the elements.

const root = document.currentScript.closest(".latent-explorer");
const find = (selector) => root.querySelector(selector);
const data = JSON.parse(find("script.data").textContent);
const run = compileProgram(data.program);
const z = Float64Array.from(data.mean);
const { axes, image, labels } = data;
const codes = data.codes && decodeBase64(data.codes);
const originals = data.originals && decodeBase64(data.originals);
const count = codes ? codes.length / z.length : 0;
const size = data.program.sizes[data.program.output];

// Tableau's ten, which stay apart on white and on black and for most of those who see few colours; then a wheel.
const TABLEAU = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
  "#8f8a87"];
const classes = labels ? Math.max(data.names.length, ...labels.map((label) => label + 1)) : 0;
// A negative label says that an example has none.
const colour = (label) => (label < 0 ? "#bbbbbb"
  : classes <= TABLEAU.length ? TABLEAU[label] : `hsl(${(360 * label) / classes} 62% 55%)`);
const labelName = (label) => (label < 0 ? "no label" : data.names[label] ?? String(label));
const format = (axis) => rounded(axis).replace("-", "\u2212");
const style = (name) => getComputedStyle(root).getPropertyValue(name);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
// So many digits that a step of each slider is seen; a number that rounds to nothing has no sign.
const narrowest = Math.min(...axes.map(({ low, high }) => high - low));
const digits = clamp(2 - Math.floor(Math.log10(narrowest)), 2, 4);
const rounded = (axis) => z[axis.latent].toFixed(digits).replace(/^-(?=[0.]*$)/, "");

// What shows z, and is told once per frame.
const views = [];
let waiting = false;

// However many events come between two frames, the newest z is decoded, once.
function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const show of views) show();
  });
}

// Whatever moves z, but the choice of a test example, leaves the one that was looked at.
function move(values) {
  leave();
  z.set(values);
  changed();
}

function moveAxis(axis, value) {
  leave();
  z[axis.latent] = value;
  changed();
}

// All views at once, without waiting for a frame: colours have changed, or the page is about to be printed.
function redraw() {
  if (plane.across) drawPlane();
  for (const show of views) show();
}

function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Pictures

function paintImage(canvas, values) {
  const [height, width, channels] = image;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let c = 0; c < 3; c++) {
      const value = values[pixel * channels + (channels === 3 ? c : 0)];
      pixels.data[4 * pixel + c] = (255 * (value - data.black)) / (data.white - data.black);
    }
    pixels.data[4 * pixel + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

// A canvas with as many pixels as the screen has there.
function fitted(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return { context, width, height };
}

// Data that are no images: bars, or a line where there would be too many; the range only grows, so that moves are seen.
const range = { low: Math.min(0, data.black), high: data.white };

function paintChart(canvas, values, compared) {
  for (const value of [...values, ...(compared ?? [])]) {
    if (Number.isFinite(value)) [range.low, range.high] = [Math.min(range.low, value), Math.max(range.high, value)];
  }
  const { context, width, height } = fitted(canvas);
  const box = { left: 44, top: 12, right: width - 10, bottom: height - 24 };
  const y = (value) => box.bottom - ((value - range.low) / (range.high - range.low)) * (box.bottom - box.top);
  const x = (place) => box.left + ((place + 0.5) / size) * (box.right - box.left);
  drawScale(context, box, y);
  if (size <= 48) drawBars(context, values, x, y, (0.7 * (box.right - box.left)) / size);
  else drawLine(context, values, x, y, style("--accent"));
  if (compared) drawLine(context, compared, x, y, style("--text"));
}

function drawScale(context, box, y) {
  context.fillStyle = style("--muted");
  context.strokeStyle = style("--line");
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of new Set([range.low, 0, range.high])) {
    context.fillText(Number(value.toPrecision(3)), box.left - 6, y(value));
    context.beginPath();
    context.moveTo(box.left, y(value));
    context.lineTo(box.right, y(value));
    context.stroke();
  }
  context.textAlign = "center";
  context.fillText(`element 0 to ${size - 1}`, (box.left + box.right) / 2, box.bottom + 13);
}

function drawBars(context, values, x, y, width) {
  context.fillStyle = style("--accent");
  const bar = (value, i) => [x(i) - width / 2, y(Math.max(0, value)), width, Math.abs(y(value) - y(0))];
  values.forEach((value, i) => context.fillRect(...bar(value, i)));
}

function drawLine(context, values, x, y, ink) {
  context.strokeStyle = ink;
  context.lineWidth = 1.5;
  context.beginPath();
  values.forEach((value, i) => context.lineTo(x(i), y(value)));
  context.stroke();
}

function setUpPicture() {
  const canvas = find(".decoded");
  if (image) [canvas.height, canvas.width] = image;
  root.style.setProperty("--ratio", image ? image[1] / image[0] : 1.15);
  const chosen = () => (originals && example.current !== null ? original(example.current) : null);
  views.push(() => (image ? paintImage(canvas, run(z)) : paintChart(canvas, run(z), chosen())));
  if (!image) new ResizeObserver(changed).observe(canvas);
}

// Sliders

function row(axis, index, largest) {
  const name = `${root.id}-latent-${index}`;
  const step = (axis.high - axis.low) / 120;
  const input = create("input", { type: "range", id: name, min: axis.low, max: axis.high, step });
  const value = create("output", { className: "value" });
  value.setAttribute("for", name);
  const kl = create("span", { className: "kl", textContent: axis.kl === null ? "" : axis.kl.toFixed(2) });
  kl.style.setProperty("--share", largest > 0 ? Math.max(0, axis.kl) / largest : 0);
  const label = create("label", { htmlFor: name, textContent: axis.name, title: axis.name });
  const line = create("div", { className: "row" }, label, input, value, kl);
  input.addEventListener("input", () => moveAxis(axis, input.valueAsNumber));
  line.addEventListener("dblclick", () => moveAxis(axis, data.mean[axis.latent]));
  views.push(() => {
    input.value = z[axis.latent];
    value.textContent = format(axis);
    input.setAttribute("aria-valuetext", describe(axis));
  });
  return line;
}

const describe = (axis) => `${axis.name} ${rounded(axis)}`;

function setUpSliders() {
  const largest = Math.max(...axes.map((axis) => axis.kl ?? 0));
  const rows = axes.map((axis, index) => row(axis, index, largest));
  const dead = axes.filter((axis) => axis.dead).length;
  // Where all are unused, nothing would be left to move.
  const collapsed = dead < axes.length;
  const place = (axis) => find(axis.dead && collapsed ? ".unused .sliders" : ".sliders-panel > .sliders");
  axes.forEach((axis, i) => place(axis).append(rows[i]));
  find(".unused").hidden = dead === 0 || !collapsed;
  find(".unused summary").textContent = `${dead} unused latent${dead === 1 ? "" : "s"} (KL at most ${data.dead} nats)`;
  find(".sliders-panel").classList.toggle("no-kl", axes.every((axis) => axis.kl === null));
  const inOrder = [...axes].sort((a, b) => a.latent - b.latent);
  views.push(() => { find(".readout").textContent = `z = (${inOrder.map(format).join(", ")})`; });
}

// Reset, random, test examples

const example = { current: null, last: null };
const original = (index) => originals.subarray(index * size, (index + 1) * size);

function choose(index) {
  const chosen = ((index % count) + count) % count;
  move(codes.subarray(chosen * z.length, (chosen + 1) * z.length));
  example.current = example.last = chosen;
  find(".examples input").value = chosen;
  find(".examples .label").textContent = labels ? labelName(labels[chosen]) : "";
  if (!originals) return;
  if (!image) return void (find("figcaption").textContent = "mean of p(x|z), and the test example as a line");
  find(".original").style.visibility = "visible";
  paintImage(find(".original"), original(chosen));
}

// No test example is looked at any more; the room of its picture stays, so that nothing jumps under a finger.
function leave() {
  if (example.current === null) return;
  example.current = null;
  find(".examples input").value = "";
  find(".examples .label").textContent = "";
  find(".original").style.visibility = "hidden";
  find("figcaption").textContent = "mean of p(x|z)";
}

// A box that was emptied names no test example.
function chooseTyped(number) {
  if (Number.isNaN(number)) leave();
  else choose(clamp(Math.round(number), 0, count - 1));
  changed();
}

// A standard normal by Box and Muller; 1 - random is never 0.
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function setUpActions() {
  find(".reset").addEventListener("click", () => move(data.mean));
  const drawn = () => data.mean.map((mean, i) => mean + data.scale[i] * normal());
  find(".random").addEventListener("click", () => move(drawn()));
  if (!count) return;
  find(".examples").hidden = false;
  find(".original").hidden = !(originals && image);
  find(".original").style.visibility = "hidden";
  if (image) [find(".original").height, find(".original").width] = image;
  const input = find(".examples input");
  input.max = count - 1;
  input.addEventListener("change", () => chooseTyped(input.valueAsNumber));
  find(".previous").addEventListener("click", () => choose((example.last ?? 0) - 1));
  find(".next").addEventListener("click", () => choose((example.last ?? -1) + 1));
}

setUpPicture();
setUpSliders();
setUpPlane();
setUpActions();
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", redraw);
changed();

// For tests, and for whoever opens the console.
window.vaejaxExplorer = {
  decode: (values) => Float32Array.from(run(values)),
  set: (values) => {
    if (values.length !== z.length) throw new RangeError(`z must have ${z.length} numbers; got ${values.length}`);
    move(values);
  },
  get: () => Array.from(z),
};
