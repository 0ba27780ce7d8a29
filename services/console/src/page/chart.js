// Small pictures of numbers: an hour or a day as a line with its axes, durations as bars.

import { clock, draw, duration, make, short } from "./dom.js";

const [WIDTH, HEIGHT] = [400, 60];
// Steps between two marks of the time axis, in seconds.
const STEPS = [10, 30, 60, 300, 600, 1800, 3600, 7200, 14_400, 21_600];

// What part of the time is looked at, shared by charts that stand together. `changed` draws them anew.
export class View {
  constructor(changed) {
    this.changed = changed;
    this.zoom(null, null);
  }

  zoom(from, to) {
    [this.from, this.to] = [from, to];
  }
}

// Times on the axis: round ones, about four of them.
function ticks(from, to) {
  const step = 1000 * (STEPS.find((seconds) => (to - from) / 1000 / seconds <= 5) ?? 43_200);
  const shift = new Date(from).getTimezoneOffset() * 60_000;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  // Seconds only where a minute has several.
  return found.map((at) => [at, clock(at).slice(0, step < 60_000 ? 8 : 5)]);
}

// `format` says a value in words with its unit. The line breaks where nothing was measured for a while. `marks` are moments with
// words: a new version, a start.
export function line(title, at, values, format, view, { className = "", marks = [] } = {}) {
  const last = view.to ?? at.at(-1) ?? Date.now();
  const first = view.from ?? Math.min(at[0] ?? last, last - 60_000);
  const spread = Math.max(1, last - first);
  const seen = at.map((time, index) => [time, values[index]]).filter(([time]) => time >= first && time <= last);
  const highest = Math.max(...seen.map(([, value]) => value), 0);
  const gapAfter = 4 * Math.max(5000, at.length > 1 ? at.at(-1) - at.at(-2) : 0);
  const x = (time) => (WIDTH * (time - first)) / spread;
  const y = (value) => HEIGHT - (highest > 0 ? (value / highest) * (HEIGHT - 4) : 0);
  let path = "";
  let area = "";
  seen.forEach(([time, value], index) => {
    const gap = index === 0 || time - seen[index - 1][0] > gapAfter;
    if (gap && index > 0) area += `L${x(seen[index - 1][0]).toFixed(1)} ${HEIGHT}Z`;
    const point = `${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    path += `${gap ? "M" : "L"}${point}`;
    area += gap ? `M${x(time).toFixed(1)} ${HEIGHT}L${point}` : `L${point}`;
  });
  if (seen.length > 0) area += `L${x(seen.at(-1)[0]).toFixed(1)} ${HEIGHT}Z`;
  const now = seen.at(-1)?.[1] ?? 0;
  const cursor = draw("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  const brush = draw("rect", { class: "brush", y: 0, height: HEIGHT, width: 0 });
  const shown = marks.filter(({ at: time }) => time >= first && time <= last);
  const picture = draw(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: now ${format(now)}, highest ${format(highest)}` },
    ...[0.5, 1].map((part) => draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(highest * part), y2: y(highest * part) })),
    draw("line", { class: "floor", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    draw("path", { class: "area", d: area }),
    draw("path", { class: "line", d: path }),
    ...shown.map(({ at: time }) => draw("line", { class: "mark", x1: x(time), x2: x(time), y1: 0, y2: HEIGHT })),
    brush,
    cursor,
  );
  const words = make("span", "", seen.length > 0 ? `${format(now)} now, ${format(highest)} highest` : "nothing yet");
  const plot = make("div", "plot", make("div", "y", make("span", "", format(highest)), make("span", "", format(highest / 2)), make("span", "", "0")), picture);
  reads(picture, { first, spread, seen, marks: shown, format, cursor, brush, words, view, x });
  const axis = make("div", "x", ...ticks(first, last).map(([time, text]) => {
    const part = (time - first) / spread;
    const label = make("span", part > 0.9 ? "last" : "", text);
    label.style.left = `${100 * part}%`;
    return label;
  }));
  return make("figure", `chart ${className}`, make("div", "legend-row", make("span", "", title), words), plot, axis);
}

// Hovering tells the value, dragging zooms, a double click goes back.
function reads(picture, { first, spread, seen, marks, format, cursor, brush, words, view, x }) {
  const still = words.textContent;
  let began = null;
  const timeAt = (event) => {
    const { left, width } = picture.getBoundingClientRect();
    return first + spread * Math.min(1, Math.max(0, (event.clientX - left) / width));
  };
  picture.addEventListener("pointermove", (event) => {
    const time = timeAt(event);
    if (began !== null) {
      brush.setAttribute("x", x(Math.min(began, time)));
      brush.setAttribute("width", Math.abs(x(time) - x(began)));
    }
    const near = seen.reduce((best, point) => (Math.abs(point[0] - time) < Math.abs(best[0] - time) ? point : best), seen[0] ?? [0, 0]);
    if (seen.length === 0) return;
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(near[0]));
    cursor.setAttribute("visibility", "visible");
    const mark = marks.find(({ at }) => Math.abs(at - time) < spread / 60);
    words.textContent = `${clock(near[0]).slice(0, 8)}  ${format(near[1])}${mark ? ` · ${mark.text}` : ""}`;
  });
  picture.addEventListener("pointerleave", () => {
    if (began !== null) return;
    cursor.setAttribute("visibility", "hidden");
    words.textContent = still;
  });
  picture.addEventListener("pointerdown", (event) => {
    began = timeAt(event);
    picture.setPointerCapture(event.pointerId);
    picture.classList.add("brushing");
    event.preventDefault();
  });
  picture.addEventListener("pointerup", (event) => {
    const [from, to] = [Math.min(began, timeAt(event)), Math.max(began, timeAt(event))];
    began = null;
    picture.classList.remove("brushing");
    brush.setAttribute("width", 0);
    if (to - from > spread / 50) {
      view.zoom(from, to);
      view.changed();
    }
  });
  picture.addEventListener("dblclick", () => {
    view.zoom(null, null);
    view.changed();
  });
}

// `bounds` in milliseconds, one count more than bounds. Empty ends are left out.
export function histogram({ bounds, counts }) {
  const highest = Math.max(...counts, 1);
  const all = counts.reduce((sum, count) => sum + count, 0);
  const first = Math.max(0, counts.findIndex((count) => count > 0) - 1);
  const last = Math.min(counts.length - 1, counts.findLastIndex((count) => count > 0) + 1);
  const rows = [];
  for (let at = first; at <= last && all > 0; at += 1) {
    const name = at < bounds.length ? `≤ ${duration(bounds[at])}` : `> ${duration(bounds.at(-1))}`;
    const bar = make("span", "bar");
    bar.style.width = `${(100 * counts[at]) / highest}%`;
    rows.push(make("span", "", name), bar, make("span", "", short(counts[at])));
  }
  return rows.length > 0 ? make("div", "bars", ...rows) : make("p", "hint", "No run yet.");
}

// The bound below which a share of the runs stayed.
export function percentile({ bounds, counts }, share) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (let at = 0; at < counts.length; at += 1) {
    seen += counts[at];
    if (all > 0 && seen >= all * share) return at < bounds.length ? `≤ ${duration(bounds[at])}` : `> ${duration(bounds.at(-1))}`;
  }
  return "";
}
