// The plane of the latent explorer: two latents at once, the codes of test examples, and what is decoded there.

const plane = { across: null, up: null };

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
  const power = 10 ** Math.floor(Math.log10((high - low) / 8));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => (high - low) / each <= 8.001);
  const [first, last] = [Math.ceil(low / step), Math.floor(high / step)];
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function drawGrid(context, width, height, x, y) {
  const line = (value, ...points) => {
    context.strokeStyle = style(value === 0 ? "--muted" : "--line");
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
  moveAxis(plane.across, at(plane.across, (event.clientX - box.left) / box.width));
  moveAxis(plane.up, at(plane.up, 1 - (event.clientY - box.top) / box.height));
}

const STEP = 1 / 120, FAR = 1 / 12;
// Parts of an axis that a key moves along it; the edges are a whole one away, or less.
const KEYS = {
  ArrowLeft: ["across", -STEP], ArrowRight: ["across", STEP], ArrowDown: ["up", -STEP], ArrowUp: ["up", STEP],
  PageDown: ["up", -FAR], PageUp: ["up", FAR], Home: ["across", -Infinity], End: ["across", Infinity],
};

function nudge(event) {
  if (!(event.key in KEYS) || event.altKey || event.ctrlKey || event.metaKey) return;
  const [direction, part] = KEYS[event.key];
  const axis = plane[direction];
  const far = event.shiftKey && Math.abs(part) === STEP ? FAR / STEP : 1;
  moveAxis(axis, at(axis, share(axis, z[axis.latent]) + far * part));
  event.preventDefault();
}

function showHandle() {
  const handle = find(".handle");
  const { across, up } = plane;
  handle.style.setProperty("--x", clamp(share(across, z[across.latent]), 0, 1));
  handle.style.setProperty("--y", 1 - clamp(share(up, z[up.latent]), 0, 1));
  handle.setAttribute("aria-label", `plane of ${across.name} and ${up.name}`);
  handle.setAttribute("aria-valuemin", across.low);
  handle.setAttribute("aria-valuemax", across.high);
  handle.setAttribute("aria-valuenow", rounded(across));
  handle.setAttribute("aria-valuetext", `${describe(across)}, ${describe(up)}`);
}

function setUpPlane() {
  find(".panels").classList.toggle("no-plane", axes.length < 2);
  if (axes.length < 2) return;
  [plane.across, plane.up] = axes;
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
    for (const axis of [plane.across, plane.up]) moveAxis(axis, data.mean[axis.latent]);
  });
  find(".handle").addEventListener("keydown", nudge);
  views.push(showHandle);
  new ResizeObserver(drawPlane).observe(area);
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

