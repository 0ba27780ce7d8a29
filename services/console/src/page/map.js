// The live map: what acts on what, drawn once for each graph; every second only numbers, widths and colours change.

import { byId, draw, make, rate, short, duration, number } from "./dom.js";
import { Dots } from "./dots.js";

const FUNCTION = { width: 196, height: 58 };
const TYPE = { height: 28, letter: 6.7, pad: 26 };
const NEAREST = 1.35; // no closer by itself
const NEAREST_WALL = 3; // is looked at from further away
const READABLE = 0.62;
const CURVE = 10; // straight pieces of one curved one

// Under which word of the head line a function is counted.
const HEADED = { failing: "failing", behind: "behind", stuck: "still", blocked: "still", paused: "still" };

const key = (kind, name) => `${kind} ${name}`;

// A curve through the layout's points, as a path and as the points along it.
function curve(points) {
  const [first, last] = [points[0], points.at(-1)];
  let path = `M${first[0].toFixed(1)} ${first[1].toFixed(1)}`;
  const along = [first];
  for (let at = 0; at < points.length - 1; at += 1) {
    const [a, b, c, d] = [points[at - 1] ?? points[at], points[at], points[at + 1], points[at + 2] ?? points[at + 1]];
    // Catmull-Rom as a Bézier curve; at the ends it leaves and arrives level, since everything goes from left to right.
    const one = at === 0 ? [b[0] + (c[0] - b[0]) * 0.5, b[1]] : [b[0] + (c[0] - a[0]) / 6, b[1] + (c[1] - a[1]) / 6];
    const two = at === points.length - 2 ? [c[0] - (c[0] - b[0]) * 0.5, c[1]] : [c[0] - (d[0] - b[0]) / 6, c[1] - (d[1] - b[1]) / 6];
    path += `C${[...one, ...two, ...c].map((value) => value.toFixed(1)).join(" ")}`;
    for (let step = 1; step <= CURVE; step += 1) {
      const t = step / CURVE;
      const u = 1 - t;
      const mix = (axis) => u * u * u * b[axis] + 3 * u * u * t * one[axis] + 3 * u * t * t * two[axis] + t * t * t * c[axis];
      along.push([mix(0), mix(1)]);
    }
  }
  return { path, along, end: last };
}

const width = (perSecond) => (perSecond > 0 ? 1.6 + 1.5 * Math.log10(1 + perSecond * 3) : 1.3);

export class LiveMap {
  // `open` is called with a name, and for an edge with the function whose events are meant; without both for nothing.
  constructor({ open, onFunction, onType, onUnknown }) {
    Object.assign(this, { open, onFunction, onType, onUnknown });
    this.frame = byId("canvas");
    this.view = byId("view");
    this.dots = new Dots(byId("dots"));
    this.nodes = new Map();
    this.links = [];
    this.camera = { x: 0, y: 0, scale: 1 };
    this.size = null;
    this.steered = false;
    this.chosen = {};
    this.onWall = false;
    this.wanted = null;
    this.worker = new Worker("/layout.js", { type: "module" });
    this.worker.addEventListener("message", ({ data }) => this.drawn(data));
    this.steer();
    new ResizeObserver(() => this.resized()).observe(this.frame);
    document.addEventListener("visibilitychange", () => this.animate());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  graph(graph) {
    this.waiting = graph;
    const functions = graph.functions.map(({ name }) => ({ id: key("f", name), ...FUNCTION }));
    const types = graph.types.map((ty) => ({ id: key("t", ty), width: ty.length * TYPE.letter + TYPE.pad + 34, height: TYPE.height }));
    const edges = graph.edges.map(([name, ty, emits]) => (emits ? [key("f", name), key("t", ty)] : [key("t", ty), key("f", name)]));
    byId("map-empty").hidden = functions.length > 0;
    byId("map-empty").textContent = "No function yet. Start one: it says what it acts on, and appears here.";
    const aspect = Math.max(0.4, this.frame.clientWidth / Math.max(1, this.frame.clientHeight));
    if (functions.length + types.length > 0) this.worker.postMessage({ version: graph.version, nodes: [...functions, ...types], edges, aspect });
    else this.clear();
  }

  clear() {
    byId("nodes").replaceChildren();
    byId("edges").replaceChildren();
    this.nodes.clear();
    this.links = [];
    this.dots.setRoads([]);
  }

  drawn({ version, width, height, nodes, edges }) {
    const graph = this.waiting;
    if (version !== graph.version) return; // a newer one is under way
    const focus = document.activeElement;
    this.clear();
    this.shape = graph;
    this.size = { width, height };
    const spots = new Map(nodes.map((node) => [node.id, node]));
    for (const card of graph.functions) this.nodes.set(key("f", card.name), this.functionNode(card, spots.get(key("f", card.name))));
    for (const ty of graph.types) this.nodes.set(key("t", ty), this.typeNode(ty, spots.get(key("t", ty))));
    this.links = graph.edges.map(() => null);
    for (const { index, points } of edges) this.links[index] = this.edge(graph.edges[index], points);
    byId("edges").append(...this.links.map((link) => link.element));
    // From left to right, which is the order Tab should go in.
    const order = [...this.nodes.values()].sort((a, b) => a.spot.x - b.spot.x || a.spot.y - b.spot.y);
    byId("nodes").append(...order.map((node) => node.element));
    this.dots.setRoads(this.links.map((link) => link.along));
    if (!this.steered) this.fit(false);
    if (this.latest) this.tick(this.latest);
    if (this.wanted) this.choose(this.wanted.name, this.wanted.source);
    else this.mark(this.chosen);
    if (!focus.isConnected) byId(focus.id)?.focus({ preventScroll: true });
    this.animate();
    this.frame.dataset.ready = `${graph.functions.length}`;
  }

  functionNode(card, spot) {
    const { width, height } = FUNCTION;
    const name = draw("text", { class: "name", x: 26, y: 23 });
    name.textContent = card.name.length > 21 ? `${card.name.slice(0, 20)}…` : card.name;
    // Figures alone say nothing to those who do not see where they stand: the description has them in words.
    const fact = draw("text", { class: "fact", x: 26, y: 43, "aria-hidden": true });
    const lag = draw("text", { class: "lag", x: width - 12, y: 43, "aria-hidden": true });
    const dead = draw("g", { transform: `translate(${width - 6},4)`, visibility: "hidden", "aria-hidden": true }, draw("rect", { class: "dead", x: -15, y: -11, width: 30, height: 19, rx: 9.5 }));
    const deadText = draw("text", { class: "dead-text", y: 2.5 });
    dead.append(deadText);
    const element = draw(
      "g",
      { class: "node function", transform: `translate(${spot.x - width / 2},${spot.y - height / 2})`, tabindex: 0, role: "button", id: `function-${card.name}`, "data-name": card.name },
      draw("rect", { class: "box", width, height, rx: 11 }),
      draw("rect", { class: "state", x: 11, y: 13, width: 6, height: height - 26, rx: 3 }),
      name,
      fact,
      lag,
      dead,
    );
    this.opens(element, spot, card.name);
    return { element, spot, card, name, fact, lag, dead, deadText };
  }

  typeNode(ty, spot) {
    const width = ty.length * TYPE.letter + TYPE.pad + 34;
    const [domain, ...rest] = ty.split(".");
    const name = draw("text", { x: width / 2, y: 18 });
    const dim = draw("tspan", { class: "dim" });
    dim.textContent = `${domain}.`;
    const main = draw("tspan");
    main.textContent = rest.join(".");
    const perSecond = draw("tspan", { class: "rate", dx: 6, "aria-hidden": true });
    name.append(dim, main, perSecond);
    const element = draw(
      "g",
      { class: "node type", transform: `translate(${spot.x - width / 2},${spot.y - TYPE.height / 2})`, tabindex: 0, role: "button", id: `type-${ty}` },
      draw("rect", { class: "box", width, height: TYPE.height, rx: TYPE.height / 2 }),
      name,
    );
    this.opens(element, spot, ty);
    return { element, spot, perSecond };
  }

  edge([name, ty, emits], points) {
    const { path, along, end } = curve(points);
    const line = draw("path", { class: "edge", d: path });
    const arrow = draw("path", { class: "arrow", d: `M${end[0]} ${end[1]}l-8 -4.5v9z` });
    const element = draw("g", { class: "link", role: "button", tabindex: -1, "aria-label": emits ? `${name} emits ${ty}` : `${name} acts on ${ty}` }, draw("path", { class: "edge-hit", d: path }), line, arrow);
    this.opens(element, null, ty, emits ? name : "");
    return { element, line, arrow, along, name, ty, emits };
  }

  opens(element, spot, name, source = "") {
    element.addEventListener("click", (event) => {
      if (!this.dragged) this.open(name, source);
      event.stopPropagation();
    });
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.open(name, source);
    });
    if (spot) element.addEventListener("focus", () => element.matches(":focus-visible") && this.bring(spot));
  }

  // A function, or an event type.
  find(name) {
    return this.nodes.get(key("f", name)) ?? this.nodes.get(key("t", name));
  }

  mark({ name = "", source = "" }) {
    this.chosen = { name, source };
    for (const other of this.frame.querySelectorAll(".chosen")) other.classList.remove("chosen");
    const edge = source ? this.links.find((link) => link.emits && link.name === source && link.ty === name) : null;
    (edge ?? this.find(name))?.element.classList.add("chosen");
  }

  // What the address names; before it is there it is waited for.
  choose(name, source = "") {
    const node = this.find(name);
    this.wanted = name && !node ? { name, source } : null;
    this.mark({ name, source });
    if (!node) return name ? this.onUnknown() : undefined;
    if (node.card) this.onFunction(name);
    else this.onType(name, source);
    return this.bring(node.spot);
  }

  tick(tick) {
    this.latest = tick;
    if (!this.shape || tick.version !== this.shape.version) return;
    const sums = { lag: 0, flight: 0, running: 0, letters: 0, failing: 0, behind: 0, still: 0 };
    this.shape.functions.forEach((card, at) => {
      const [perSecond, lag, flight, replicas, health, ms, retried, dead, letters] = tick.functions[at];
      sums.lag += lag;
      sums.flight += flight;
      sums.running += replicas > 0 ? 1 : 0;
      sums.letters += letters;
      if (HEADED[health]) sums[HEADED[health]] += 1;
      const node = this.nodes.get(key("f", card.name));
      const often = replicas === 1 ? "" : ` · ×${replicas}`;
      const fact = health === "paused" ? "paused" : health === "blocked" ? "what follows waits for room" : replicas === 0 ? ({ stuck: "nobody runs it", asleep: "asleep" }[health] ?? "not running") : `${rate(perSecond)}/s${perSecond > 0 && ms > 0 ? ` · ${duration(ms)}` : ""}${often}`;
      set(node.fact, fact);
      set(node.lag, lag > 0 ? short(lag) : "");
      node.dead.setAttribute("visibility", letters > 0 ? "visible" : "hidden");
      set(node.deadText, short(letters));
      const whole = card.name === node.name.textContent ? "" : `${card.name}: `;
      describe(node.element, `${whole}${health}, ${rate(perSecond)} per second, lag ${number(lag)}, ${letters} dead letters`);
      const chosen = node.element.classList.contains("chosen") ? " chosen" : "";
      const className = `node function ${health}${chosen}`;
      if (node.element.getAttribute("class") !== className) node.element.setAttribute("class", className);
      node.trouble = retried + dead;
    });
    this.shape.types.forEach((ty, at) => {
      const node = this.nodes.get(key("t", ty));
      set(node.perSecond, tick.types[at] >= 0.05 ? `${rate(tick.types[at])}/s` : "");
      describe(node.element, `${rate(tick.types[at])} per second`);
    });
    this.links.forEach((link, at) => {
      const flows = tick.edges[at] >= 0.05;
      const thick = width(flows ? tick.edges[at] : 0).toFixed(1);
      if (link.thick !== thick) link.line.setAttribute("stroke-width", (link.thick = thick));
      link.line.classList.toggle("flows", flows);
    });
    this.dots.setRates(tick.edges);
    this.totals(sums, tick);
    this.headed();
    this.frame.dataset.tick = `${tick.at}`;
  }

  totals(sums, tick) {
    const stored = make("div", "extra", make("b", "", short(tick.stored)), make("span", "", "events kept"));
    const one = (value, text, className = "") => make("div", className, make("b", "", value), make("span", "", text));
    byId("totals").replaceChildren(
      one(rate(tick.types.reduce((a, b) => a + b, 0)), "events/s"),
      one(`${sums.running}/${this.shape.functions.length}`, "running"),
      one(short(sums.lag), "waiting"),
      one(short(sums.flight), "in hand", "extra"),
      one(short(sums.letters), "dead letters", sums.letters > 0 ? "bad" : ""),
      stored,
      // Seen on a wall only, where names may be too small to read.
      one(`${sums.failing}`, "failing", `far-off ${sums.failing > 0 ? "failing" : ""}`),
      one(`${sums.still}`, "stand still", `far-off ${sums.still > 0 ? "stuck" : ""}`),
      one(`${sums.behind}`, "behind", `far-off ${sums.behind > 0 ? "behind" : ""}`),
    );
  }

  // On a wall the map stands below the head line, however many lines that has.
  headed() {
    const { offsetHeight } = byId("totals");
    if (!this.onWall || offsetHeight === this.head) return;
    this.head = offsetHeight;
    this.fit(false);
  }

  // Where one looks.
  look() {
    const { x, y, scale } = this.camera;
    this.view.setAttribute("transform", `translate(${x.toFixed(1)},${y.toFixed(1)}) scale(${scale.toFixed(4)})`);
    byId("graph").classList.toggle("far", scale < 0.5);
    Object.assign(this.dots.view, this.camera);
    if (this.dots.dots.length > 0) this.dots.paint();
  }

  // All of it; at first on a phone no smaller than one can read.
  fit(all = true) {
    if (!this.size) return;
    const [w, h] = [this.frame.clientWidth, this.frame.clientHeight];
    const room = this.onWall ? byId("totals").offsetTop + byId("totals").offsetHeight + 24 : w > 700 ? (h > 500 ? 74 : 58) : 116;
    const [top, side, bottom] = [room, w > 700 ? 36 : 16, 48];
    const whole = Math.min(this.onWall ? NEAREST_WALL : NEAREST, (w - 2 * side) / this.size.width, (h - top - bottom) / this.size.height);
    const scale = all || this.onWall || w > 700 ? whole : Math.max(whole, READABLE);
    const x = Math.max(side, (w - this.size.width * scale) / 2);
    this.camera = { scale, x, y: top + Math.max(0, (h - top - bottom - this.size.height * scale) / 2) };
    this.steered = false;
    this.look();
  }

  zoom(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.min(4, Math.max(0.05, this.camera.scale * factor));
    const real = scale / this.camera.scale;
    this.camera = { scale, x: x - (x - this.camera.x) * real, y: y - (y - this.camera.y) * real };
    this.steered = true;
    this.look();
  }

  move(dx, dy) {
    this.camera.x += dx;
    this.camera.y += dy;
    this.steered = true;
    this.look();
  }

  // Into view, if it is not.
  bring(spot) {
    if (!spot) return;
    const margin = 110;
    const panel = byId("panel").hidden || innerWidth < 700 ? 0 : byId("panel").clientWidth;
    const [x, y] = [spot.x * this.camera.scale + this.camera.x, spot.y * this.camera.scale + this.camera.y];
    const right = this.frame.clientWidth - panel - margin;
    const bottom = this.frame.clientHeight - margin;
    const dx = x < margin ? margin - x : x > right ? right - x : 0;
    const dy = y < margin ? margin - y : y > bottom ? bottom - y : 0;
    if (dx || dy) this.move(dx, dy);
  }

  steer() {
    const { frame } = this;
    const fingers = new Map();
    let pinch = 0;
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { left, top } = frame.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.clientX - left, event.clientY - top);
    }, { passive: false });
    frame.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      this.dragged = false;
      pinch = 0;
    });
    frame.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      if (!this.dragged && Math.hypot(dx, dy) < 4) return;
      if (!this.dragged) frame.setPointerCapture(event.pointerId);
      this.dragged = true;
      frame.classList.add("moving");
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) return this.move(dx, dy);
      const [a, b] = [...fingers.values()];
      const apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      const { left, top } = frame.getBoundingClientRect();
      if (pinch > 0) this.zoom(apart / pinch, (a[0] + b[0]) / 2 - left, (a[1] + b[1]) / 2 - top);
      pinch = apart;
      return undefined;
    });
    const up = (event) => {
      fingers.delete(event.pointerId);
      pinch = 0;
      frame.classList.remove("moving");
    };
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, up);
    frame.addEventListener("click", () => !this.dragged && this.open("", ""));
    frame.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: () => this.move(60, 0), ArrowRight: () => this.move(-60, 0), ArrowUp: () => this.move(0, 60), ArrowDown: () => this.move(0, -60), "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.fit() };
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    byId("zoom-in").addEventListener("click", () => this.zoom(1.25));
    byId("zoom-out").addEventListener("click", () => this.zoom(0.8));
    byId("zoom-fit").addEventListener("click", () => this.fit());
  }

  resized() {
    if (this.frame.clientWidth === 0) return;
    this.dots.resize();
    if (this.steered) this.look();
    else this.fit(false);
  }

  shown(yes, wall = false) {
    this.visible = yes;
    this.frame.inert = wall; // nobody is there to steer it
    if (wall !== this.onWall) {
      this.onWall = wall;
      this.fit(false);
    }
    this.animate();
  }

  animate() {
    this.dots.run(Boolean(this.visible) && document.visibilityState === "visible" && Boolean(this.shape));
  }

  recolour() {
    // A canvas knows no variables: somebody who has the colour is asked for it.
    const probe = make("i", "probe");
    document.body.append(probe);
    this.dots.colour = getComputedStyle(probe).color;
    probe.remove();
  }
}

// Touches the page only where something is different.
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function describe(element, text) {
  if (element.getAttribute("aria-description") !== text) element.setAttribute("aria-description", text);
}
