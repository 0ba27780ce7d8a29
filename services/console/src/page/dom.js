// Small things every part needs. Nothing from outside is ever put in as HTML.

export const byId = (id) => document.getElementById(id);

export function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content.filter((part) => part !== null && part !== undefined && part !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(text, act, className = "") {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

export function link(text, href, className = "") {
  const element = make("a", className, text);
  element.href = href;
  return element;
}

export function named(element, name) {
  element.dataset.focus = name;
  return element;
}

// Draws anew and leaves the focus where it was, on what has the same name.
export function redraw(place, ...content) {
  const nameOf = (element) => element.dataset.focus ?? element.getAttribute("aria-label") ?? element.textContent;
  const alike = (one) => [...place.querySelectorAll("a, button, input, summary, [tabindex]")].filter((other) => nameOf(other) === nameOf(one));
  const focus = place.contains(document.activeElement) ? document.activeElement : null;
  const at = focus ? alike(focus).indexOf(focus) : 0;
  place.replaceChildren(...content);
  if (focus && !focus.isConnected) alike(focus)[at]?.focus({ preventScroll: true });
}

// Scrolled with the keyboard too.
export function scrolls(element, name) {
  element.tabIndex = 0;
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", name);
  return element;
}

// Only a text with so many digits in a row can have an integer that a number does not hold; looking at each value is slow.
const LONG = /\d{16}/;

// Integers of any size keep their text, where the browser can: written again they are what they were.
function parsed(text) {
  if (!JSON.rawJSON || !LONG.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, { source }) => (Number.isInteger(value) && !Number.isSafeInteger(value) ? JSON.rawJSON(source) : value));
}

// JSON without the white space between its parts; read and written anew, large integers would be others.
export const compact = (text) => text.replace(/("[^"\\]*(?:\\.[^"\\]*)*")|\s+/g, "$1");

// Body of a request with the payload that somebody wrote, as they wrote it. An error for what is no JSON.
export function withPayload(text, rest) {
  JSON.parse(text);
  return `{"data":${text},${JSON.stringify(rest).slice(1)}`;
}

// What the server says, or an error that says why not. A text is a body already.
export async function api(path, body) {
  const content = typeof body === "string" ? body : JSON.stringify(body);
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: content };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The console does not answer.");
  }
  const said = await answer.text().then(parsed).catch(() => ({}));
  if (answer.status === 401 && path !== "/api/login") document.dispatchEvent(new CustomEvent("login"));
  if (!answer.ok) throw Object.assign(new Error(said.detail ?? `status ${answer.status}`), { status: answer.status, code: said.type });
  return said;
}

export const number = (value) => Math.round(value ?? 0).toLocaleString("en");

// 0, 0.3, 12, 3.4k: as few characters as say it.
export function rate(value) {
  if (!value) return "0";
  if (value < 0.05) return "<0.1";
  if (value < 10) return value.toFixed(1);
  if (value < 1000) return `${Math.round(value)}`;
  return short(value);
}

export function short(value) {
  if (value < 10_000) return number(value);
  const units = ["k", "M", "G", "T"];
  let unit = -1;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)}${units[unit]}`;
}

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1) return ms === 0 ? "0 ms" : `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${ms < 10 ? Math.round(ms * 10) / 10 : Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function ago(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  return `${seconds < 120 ? `${seconds} s` : duration(seconds * 1000)} ago`;
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function clock(at) {
  const time = new Date(at);
  const pad = (value, width = 2) => `${value}`.padStart(width, "0");
  return `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}.${pad(time.getMilliseconds(), 3)}`;
}

// A moment, with the whole of it where one points.
export function moment(at, text = ago(at)) {
  const element = make("time", "", text);
  element.dateTime = new Date(at).toISOString();
  element.title = element.dateTime;
  return element;
}

export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Private windows may refuse: then it lasts as long as the page.
  }
}

// What the server said of itself; filled before anything is shown.
export const about = { acts: false, write: false, admin: false };

// Why somebody cannot act, with the way that others have.
export const onlyLooks = (way) => (about.acts ? "Your account may look here, and not act." : `This console only looks. ${way}`);

export function traceLink(id, text = "trace") {
  if (!id) return null;
  const base = about.traces ?? `${location.protocol}//${location.hostname}:16686`;
  const element = link(text, `${base.replace(/\/$/, "")}/trace/${encodeURIComponent(id)}`, "trace");
  element.target = "_blank";
  element.rel = "noopener";
  return element;
}

export const flowLink = (id, text = id) => link(text, `#/flows/${encodeURIComponent(id)}`, text === id ? "mono clip" : "");

// Name and value pairs, without those that are empty.
export function facts(pairs) {
  const list = make("dl", "facts");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === false || value === "") continue;
    list.append(make("dt", "", name), make("dd", "", value));
  }
  return list;
}

export function json(value) {
  return make("pre", "json", JSON.stringify(value, null, 2));
}

// Runs while nothing else of the kind runs, and shows what went wrong where it is looked for.
export function failed(place, error) {
  place.replaceChildren(make("p", "problem", error.message));
}

// Yes or no; with `why`, the reason or nothing. A text in its place labels words that may be left out.
export function ask(title, text, yes, why = false) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  const isOptional = typeof why === "string";
  byId("ask-why-label").hidden = !why;
  byId("ask-why-label").firstChild.textContent = isOptional ? `${why} ` : "Why ";
  byId("ask-why").required = why && !isOptional;
  byId("ask-why").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" && (why ? byId("ask-why").value.trim() : true)), { once: true });
  });
}
