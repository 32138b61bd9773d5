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
const colour = (label) => (classes <= TABLEAU.length ? TABLEAU[label] : `hsl(${(360 * label) / classes} 62% 55%)`);
const labelName = (label) => data.names[label] ?? String(label);
const format = (value) => value.toFixed(2).replace("-", "\u2212");
const style = (name) => getComputedStyle(root).getPropertyValue(name);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

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

function move(values) {
  z.set(values);
  changed();
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
  values.forEach((value, i) => context.fillRect(x(i) - width / 2, Math.min(y(0), y(value)), width, Math.abs(y(value) - y(0))));
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
  const chosen = () => (originals && example.current !== null ? originals.subarray(example.current * size, (example.current + 1) * size) : null);
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
  const line = create("div", { className: "row" }, create("label", { htmlFor: name, textContent: axis.name, title: axis.name }), input, value, kl);
  input.addEventListener("input", () => { z[axis.latent] = input.valueAsNumber; changed(); });
  line.addEventListener("dblclick", () => { z[axis.latent] = data.mean[axis.latent]; changed(); });
  views.push(() => {
    input.value = z[axis.latent];
    value.textContent = format(z[axis.latent]);
    input.setAttribute("aria-valuetext", describe(axis));
  });
  return line;
}

const describe = (axis) => `${axis.name} ${z[axis.latent].toFixed(2)}`;

function setUpSliders() {
  const largest = Math.max(...axes.map((axis) => axis.kl ?? 0));
  const rows = axes.map((axis, index) => row(axis, index, largest));
  const dead = axes.filter((axis) => axis.dead).length;
  // Where all are unused, nothing would be left to move.
  const collapsed = dead < axes.length;
  axes.forEach((axis, i) => find(axis.dead && collapsed ? ".unused .sliders" : ".sliders-panel > .sliders").append(rows[i]));
  find(".unused").hidden = dead === 0 || !collapsed;
  find(".unused summary").textContent = `${dead} unused latent${dead === 1 ? "" : "s"} (KL below ${data.dead} nats)`;
  find(".sliders-panel").classList.toggle("no-kl", axes.every((axis) => axis.kl === null));
  views.push(() => { find(".readout").textContent = `z = (${Array.from(z, format).join(", ")})`; });
}

// The plane

const plane = { across: axes[0], up: axes[1] ?? axes[0] };

const share = (axis, value) => (value - axis.low) / (axis.high - axis.low);
const at = (axis, part) => axis.low + clamp(part, 0, 1) * (axis.high - axis.low);

function drawPlane() {
  const { context, width, height } = fitted(find(".plane canvas"));
  const x = (value) => width * share(plane.across, value);
  const y = (value) => height * (1 - share(plane.up, value));
  if (backdrop.checked) {
    context.imageSmoothingEnabled = false;
    context.drawImage(backdrop.canvas, 0, 0, width, height);
  } else drawGrid(context, width, height, x, y);
  if (find(".dots").checked) drawDots(context, x, y);
}

function drawDots(context, x, y) {
  context.globalAlpha = 0.85;
  context.strokeStyle = "#ffffff";
  for (let n = 0; n < count; n++) {
    context.fillStyle = labels ? colour(labels[n]) : style("--accent");
    context.beginPath();
    context.arc(x(codes[n * z.length + plane.across.latent]), y(codes[n * z.length + plane.up.latent]), 2.8, 0, 7);
    context.fill();
    if (backdrop.checked) context.stroke();
  }
}

// With two latents a place in the plane is all of z, so that the plane can be covered with what is decoded there.
const backdrop = { canvas: document.createElement("canvas"), checked: false, begun: false };

const nextFrame = () => new Promise(requestAnimationFrame);

async function decodePlane() {
  const [height, width] = image;
  const columns = 12;
  const rows = Math.max(1, Math.round((columns * width) / height));
  const cell = Object.assign(document.createElement("canvas"), { width, height });
  // A gap between them, without which neighbours would be one pattern.
  const gap = Math.max(1, Math.round(width / 16));
  Object.assign(backdrop.canvas, { width: columns * (width + gap), height: rows * (height + gap) });
  let start = performance.now();
  for (let place = 0; place < columns * rows; place++) {
    const [column, row] = [place % columns, Math.floor(place / columns)];
    const there = Float64Array.from(z);
    there[plane.across.latent] = at(plane.across, (column + 0.5) / columns);
    there[plane.up.latent] = at(plane.up, 1 - (row + 0.5) / rows);
    paintImage(cell, run(there));
    backdrop.canvas.getContext("2d").drawImage(cell, column * (width + gap), row * (height + gap));
    // A part in each frame, so that nobody waits for it.
    if (performance.now() - start < 8) continue;
    drawPlane();
    await nextFrame();
    start = performance.now();
  }
  drawPlane();
}

function setUpLayers() {
  find(".layers").hidden = !(axes.length === 2 && image);
  find(".layers .dots").parentElement.hidden = !count;
  find(".dots").addEventListener("change", drawPlane);
  find(".backdrop").addEventListener("change", (event) => {
    backdrop.checked = event.target.checked;
    if (!backdrop.begun) decodePlane();
    else drawPlane();
    backdrop.begun = true;
  });
}

function ticks({ low, high }) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
  const step = steps.find((each) => (high - low) / each <= 8) ?? (high - low) / 8;
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step);
}

function drawGrid(context, width, height, x, y) {
  const line = (value, ...points) => {
    context.strokeStyle = style(Math.abs(value) < 1e-9 ? "--muted" : "--line");
    context.beginPath();
    context.moveTo(points[0], points[1]);
    context.lineTo(points[2], points[3]);
    context.stroke();
  };
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = style("--muted");
  for (const value of ticks(plane.across)) {
    line(value, x(value), 0, x(value), height);
    if (x(value) > 24) context.fillText(Number(value.toPrecision(3)), x(value) + 4, height - 5);
  }
  for (const value of ticks(plane.up)) {
    line(value, 0, y(value), width, y(value));
    if (y(value) < height - 4) context.fillText(Number(value.toPrecision(3)), 5, y(value) - 4);
  }
  context.font = "600 13px system-ui, sans-serif";
  context.fillStyle = style("--text");
  context.textAlign = "right";
  context.fillText(`${plane.across.name} \u2192`, width - 8, height - 20);
  context.textAlign = "left";
  context.fillText(`\u2191 ${plane.up.name}`, 24, 18);
}

function drag(event) {
  const box = find(".plane").getBoundingClientRect();
  z[plane.across.latent] = at(plane.across, (event.clientX - box.left) / box.width);
  z[plane.up.latent] = at(plane.up, 1 - (event.clientY - box.top) / box.height);
  changed();
}

function nudge(event) {
  const [across, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
  if (event.key === "Home") for (const axis of [plane.across, plane.up]) z[axis.latent] = data.mean[axis.latent];
  else if (across || up) {
    const steps = event.shiftKey ? 1 / 12 : 1 / 120;
    z[plane.across.latent] = at(plane.across, share(plane.across, z[plane.across.latent]) + across * steps);
    z[plane.up.latent] = at(plane.up, share(plane.up, z[plane.up.latent]) + up * steps);
  } else return;
  event.preventDefault();
  changed();
}

function showHandle() {
  const handle = find(".handle");
  const { across, up } = plane;
  handle.style.setProperty("--x", clamp(share(across, z[across.latent]), 0, 1));
  handle.style.setProperty("--y", 1 - clamp(share(up, z[up.latent]), 0, 1));
  handle.setAttribute("aria-label", `plane of ${across.name} and ${up.name}`);
  handle.setAttribute("aria-valuemin", across.low);
  handle.setAttribute("aria-valuemax", across.high);
  handle.setAttribute("aria-valuenow", z[across.latent].toFixed(2));
  handle.setAttribute("aria-valuetext", `${describe(across)}, ${describe(up)}`);
}

function setUpPlane() {
  find(".panels").classList.toggle("no-plane", axes.length < 2);
  if (axes.length < 2) return;
  const area = find(".plane");
  area.parentElement.hidden = false;
  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    area.setPointerCapture(event.pointerId);
    find(".handle").focus({ preventScroll: true, focusVisible: false });
    drag(event);
  });
  area.addEventListener("pointermove", (event) => { if (area.hasPointerCapture(event.pointerId)) drag(event); });
  area.addEventListener("dblclick", () => {
    for (const axis of [plane.across, plane.up]) z[axis.latent] = data.mean[axis.latent];
    changed();
  });
  find(".handle").addEventListener("keydown", nudge);
  views.push(showHandle);
  new ResizeObserver(drawPlane).observe(area);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawPlane(); changed(); });
  setUpChoice();
  setUpLayers();
  setUpLegend();
}

function setUpChoice() {
  find(".which").hidden = axes.length < 3;
  for (const name of ["across", "up"]) {
    const select = find(`select.${name}`);
    axes.forEach((axis, i) => select.append(create("option", { value: i, textContent: axis.name })));
    select.value = axes.indexOf(plane[name]);
    select.addEventListener("change", () => { plane[name] = axes[select.value]; drawPlane(); changed(); });
  }
}

function setUpLegend() {
  if (!labels) return;
  const shown = [...new Set(labels)].sort((a, b) => a - b);
  for (const label of shown.slice(0, 24)) {
    const dot = create("i");
    dot.style.setProperty("--colour", colour(label));
    find(".legend").append(create("li", {}, dot, labelName(label)));
  }
  if (shown.length > 24) find(".legend").append(create("li", { textContent: `and ${shown.length - 24} more` }));
}

// Reset, random, test examples

const example = { current: null };

function choose(index) {
  if (!Number.isInteger(index)) return;
  example.current = ((index % count) + count) % count;
  move(codes.subarray(example.current * z.length, (example.current + 1) * z.length));
  find(".examples input").value = example.current;
  find(".examples .label").textContent = labels ? labelName(labels[example.current]) : "";
  const canvas = find(".original");
  if (!originals) return;
  if (!image) return void (find("figcaption").textContent = "mean of p(x|z), and the test example as a line");
  canvas.hidden = false;
  paintImage(canvas, originals.subarray(example.current * size, (example.current + 1) * size));
}

// No test example is looked at any more.
function leave() {
  example.current = null;
  find(".examples input").value = "";
  find(".examples .label").textContent = "";
  find(".original").hidden = true;
  find("figcaption").textContent = "mean of p(x|z)";
}

// A standard normal by Box and Muller; 1 - random is never 0.
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function setUpActions() {
  find(".reset").addEventListener("click", () => { leave(); move(data.mean); });
  find(".random").addEventListener("click", () => { leave(); move(data.mean.map((mean, i) => mean + data.scale[i] * normal())); });
  if (!count) return;
  find(".examples").hidden = false;
  if (image) [find(".original").height, find(".original").width] = image;
  const input = find(".examples input");
  input.max = count - 1;
  input.addEventListener("change", () => choose(clamp(Math.round(input.valueAsNumber), 0, count - 1)));
  find(".previous").addEventListener("click", () => choose((example.current ?? 0) - 1));
  find(".next").addEventListener("click", () => choose((example.current ?? -1) + 1));
}

setUpPicture();
setUpSliders();
setUpPlane();
setUpActions();
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
