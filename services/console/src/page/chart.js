// Small pictures of numbers: an hour as a line, durations as bars.

import { clock, draw, duration, make, short } from "./dom.js";

const [WIDTH, HEIGHT] = [400, 60];

// `format` says a value in words. The line breaks where nothing was measured for a while.
export function line(title, at, values, format, className = "") {
  const highest = Math.max(...values, 0);
  const [first, last] = [at[0] ?? 0, at.at(-1) ?? 0];
  const spread = Math.max(60_000, last - first);
  const x = (time) => (WIDTH * (time - (last - spread))) / spread;
  const y = (value) => HEIGHT - (highest > 0 ? (value / highest) * (HEIGHT - 4) : 0);
  let path = "";
  let area = "";
  values.forEach((value, index) => {
    const gap = index === 0 || at[index] - at[index - 1] > 20_000;
    if (gap && index > 0) area += `L${x(at[index - 1]).toFixed(1)} ${HEIGHT}Z`;
    const point = `${x(at[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    path += `${gap ? "M" : "L"}${point}`;
    area += gap ? `M${x(at[index]).toFixed(1)} ${HEIGHT}L${point}` : `L${point}`;
  });
  if (values.length > 0) area += `L${x(last).toFixed(1)} ${HEIGHT}Z`;
  const now = values.at(-1) ?? 0;
  const picture = draw(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: now ${format(now)}, highest ${format(highest)}` },
    draw("line", { class: "floor", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    draw("path", { class: "area", d: area }),
    draw("path", { class: "line", d: path }),
  );
  const since = values.length > 0 ? `since ${clock(Math.max(first, last - spread)).slice(0, 5)}` : "nothing yet";
  return make(
    "figure",
    `chart ${className}`,
    make("div", "legend-row", make("span", "", title), make("span", "", `${format(now)} now, ${format(highest)} highest`)),
    picture,
    make("div", "legend-row", make("span", "", since), make("span", "", "now")),
  );
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
