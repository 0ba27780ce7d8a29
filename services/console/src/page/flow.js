// A flow: every event with what it caused, and the functions that acted on it, against time.

import { address, go, href, note } from "./address.js";
import { about, api, button, clock, duration, facts, failed, flowLink, json, link, make, moment, named, number, plural, redraw, traceLink } from "./dom.js";
import { logLines } from "./log.js";
import { draft } from "./publish.js";

const EVERY = 1000;
// Lines that are drawn unless somebody asks for all.
const MAX_LINES = 1500;
// Events from which a flow is worth searching.
const MANY = 12;

// Flows that were seen last.
export function showFlows(place) {
  let over = false;
  const body = make("div", "card", make("p", "hint", "looking …"));
  place.replaceChildren(make("div", "title", make("h2", "", "Flows"), make("p", "hint", "A flow is everything one event from outside has caused. These were last; any other is found by its id, by the id of one of its events, or by a key.")), body);
  const refresh = async () => {
    try {
      const { flows } = await api("/api/flows");
      if (over) return;
      redraw(body, flows.length > 0 ? make("div", "wide", table(flows)) : make("p", "nothing", make("b", "", "No events yet"), "Send one, and it appears here."));
    } catch (error) {
      if (!over) failed(body, error);
    }
    if (!over) timer = setTimeout(refresh, 3 * EVERY);
  };
  let timer = null;
  refresh();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

function table(flows) {
  const head = make("tr", "", ...["Flow", "Began with", "About", "Events", "State", "Last"].map((name) => make("th", { About: "extra", Events: "extra num" }[name] ?? "", name)));
  const rows = flows.map((flow) => {
    const state = flow.open === null ? make("span", "hint", "not tracked") : make("span", `state ${flow.open > 0 ? "running" : "done"}`, flow.open > 0 ? `${flow.open} open` : "complete");
    return make("tr", "", make("td", "mono", flowLink(flow.id, flow.id.length > 20 ? `${flow.id.slice(0, 8)}…${flow.id.slice(-6)}` : flow.id)), make("td", "", flow.type), make("td", "extra", flow.key), make("td", "extra num", number(flow.events)), make("td", "", state), make("td", "", moment(flow.last)));
  });
  return make("table", "table", make("thead", "", head), make("tbody", "", ...rows));
}

export function showFlow(place, id) {
  const view = new FlowView(place, id);
  return () => view.leave();
}

const BAD = ["dead", "lost", "waiting"];

// One flow, drawn anew while it grows; what somebody has folded out, or looks for, stays.
class FlowView {
  constructor(place, id) {
    this.place = place;
    this.id = id;
    // Contents by event, as elements: they outlive the lines they stand under.
    this.open = new Map();
    this.find = make("input");
    this.find.type = "search";
    this.find.placeholder = "Find in this flow";
    this.find.setAttribute("aria-label", "Find in this flow, by type, key, id, function or error");
    const { query } = address();
    this.wanted = query.getAll("open");
    this.find.value = query.get("find") ?? "";
    this.find.addEventListener("input", () => this.seek(true));
    this.failed = make("input");
    this.failed.type = "checkbox";
    this.failed.checked = query.has("failed");
    this.failed.addEventListener("change", () => this.seek());
    this.count = make("span", "hint");
    this.count.setAttribute("role", "status");
    this.finder = make("div", "finder", this.find, make("label", "", this.failed, "only what failed"), this.count);
    this.head = make("div", "parts");
    this.chart = make("div", "card");
    this.foot = make("div", "parts");
    this.log = make("div", "card");
    place.replaceChildren(make("p", "hint", "looking …"));
    this.refresh();
  }

  leave() {
    this.over = true;
    clearTimeout(this.timer);
  }

  // Only some events are drawn.
  seek(typed = false) {
    note({ find: this.find.value, failed: this.failed.checked }, { typed });
    this.draw();
  }

  async refresh() {
    try {
      const said = await api(`/api/flows/${encodeURIComponent(this.id)}`);
      if (this.over) return;
      const { now, ...rest } = said;
      const [open, text] = [said.flow.open > 0, JSON.stringify(rest)];
      const began = performance.now();
      // A complete flow does not change, an open one grows with time.
      if (open || this.drawn !== text) this.show(said);
      this.drawn = text;
      // A large one is not drawn all the time.
      this.timer = setTimeout(() => this.refresh(), open ? Math.max(EVERY, 20 * (performance.now() - began)) : 5 * EVERY);
    } catch (error) {
      if (this.over) return;
      this.said = null;
      this.drawn = "";
      this.place.replaceChildren(make("div", "title", make("h2", "", "Flow"), make("span", "mono clip", this.id)), make("p", "problem", error.message));
      this.timer = setTimeout(() => this.refresh(), 5 * EVERY);
    }
  }

  show(said) {
    if (!this.said) {
      this.place.replaceChildren(this.head, this.chart, this.foot, this.log);
      this.log.replaceChildren(make("h3", "", "Log of this flow"), logLines({ flow: said.flow.id ?? this.id }));
    }
    this.said = said;
    standing(said.flow.events);
    for (const event of said.flow.events.filter(({ id }) => this.wanted.includes(id))) this.unfold(event);
    this.wanted = [];
    this.head.replaceChildren(...head(said));
    this.foot.replaceChildren(...(said.from === "streams" ? [make("p", "hint", `No ledger has this flow: it was put together from the streams and seen-marks, without the times at which functions were done. Read: ${said.searched}.`)] : []));
    this.draw();
  }

  // Events that are looked for, each with all its steps.
  matches() {
    const { events } = this.said.flow;
    const wanted = this.find.value.trim().toLowerCase();
    return events.filter((event) => {
      const texts = [event.id, event.type, event.key, event.source, ...event.steps.flatMap((step) => [step.function, step.state, step.why ?? ""])];
      const found = wanted === "" || texts.some((text) => (text ?? "").toLowerCase().includes(wanted));
      return found && (!this.failed.checked || event.steps.some((step) => BAD.includes(step.state)));
    });
  }

  draw() {
    if (!this.said) return;
    const { flow, now } = this.said;
    const shown = this.matches();
    this.finder.hidden = flow.events.length < MANY && this.find.value === "" && !this.failed.checked;
    this.count.textContent = shown.length < flow.events.length ? `${number(shown.length)} of ${plural(flow.events.length, "event")}` : "";
    const focus = this.chart.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const lines = chart(flow, now, shown, this);
    const all = lines.length > MAX_LINES && !this.all;
    const list = make("div", "flow", ...(all ? lines.slice(0, MAX_LINES) : lines));
    list.setAttribute("role", "list");
    const rest = all && button(`Draw all ${number(lines.length)} lines`, () => {
      this.all = true;
      this.draw();
    });
    // The field keeps its place, and with it what is typed.
    if (this.finder.parentNode !== this.chart) this.chart.replaceChildren(this.finder);
    while (this.finder.nextSibling) this.finder.nextSibling.remove();
    this.chart.append(...[list, rest].filter(Boolean));
    if (focus) this.chart.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  }

  // Folds the content of an event out, or in.
  toggle(event) {
    if (!this.open.delete(event.id)) this.unfold(event);
    note({ open: [...this.open.keys()] });
    this.draw();
  }

  unfold(event) {
    const content = make("div", "content", make("p", "hint", "reading …"));
    content.setAttribute("role", "listitem");
    this.open.set(event.id, content);
    const time = event.time ? `?time=${Math.round(event.time)}` : "";
    api(`/api/flows/${encodeURIComponent(this.said.flow.id ?? this.id)}/events/${encodeURIComponent(event.id)}${time}`).then(
      (said) => content.replaceChildren(...contentOf(said)),
      (error) => failed(content, error),
    );
  }
}

// An event as it lies in its stream.
function contentOf(event) {
  const hidden = JSON.stringify(event.data ?? null).includes("(sensitive)");
  const again = button("Publish one like it", () => {
    draft(event.type, event.data);
    go(href("publish", event.type));
  });
  return [
    event.data === undefined ? make("p", "bad", event.undecoded ?? event.error ?? "") : json(event.data),
    hidden && make("p", "hint", "The contract calls some fields sensitive: they are shown nowhere."),
    ...Object.entries(event.rows ?? {}).map(([name, row]) => rowOf(name, row)),
    event.letters.length > 0 && make("div", "row", ...event.letters.map((letter) => link(`dead letter #${letter}`, href("letters", letter)))),
    facts([
      ["id", make("span", "mono", event.id)],
      ["source", event.source],
      ["cause", event.cause && make("span", "mono", event.cause)],
      ["stands at", link(`${event.stream}:${event.sequence}`, href("streams", event.stream, { from: event.sequence }))],
      ["stored", new Date(event.stored).toISOString()],
      ["size", `${number(event.bytes)} bytes`],
      ["redriven", event.redriven && `${event.redriven}×`],
    ]),
    event.data !== undefined && !hidden && about.write && make("div", "actions", again),
  ].filter(Boolean);
}

// Row of a function, as its run has found it and left it.
function rowOf(name, row) {
  const together = row.events > 1 ? `, with ${plural(row.events, "event")} at once` : "";
  const caption = make("caption", "", row.after ? `Row of ${name}${together}` : `Row of ${name}, as the failed run has found it`);
  const names = [...new Set([...Object.keys(row.before), ...Object.keys(row.after ?? {})])].sort();
  const lines = names.map((field) => {
    const [was, is] = [row.before[field], row.after?.[field]];
    const cells = row.after ? [was ?? "", is ?? ""] : [was];
    return make("tr", row.after && was !== is ? "changed" : "", make("th", "mono", field), ...cells.map((text) => make("td", "mono", text)));
  });
  const columns = ["field", ...(row.after ? ["before", "after"] : ["value"])];
  const table = make("table", "table rows", caption, make("thead", "", make("tr", "", ...columns.map((column) => make("th", "", column)))), make("tbody", "", ...lines));
  return make("div", "wide", table, row.is_cut && make("p", "hint", "More of it was not kept."));
}

function head(said) {
  const { flow, trace, waits } = said;
  const steps = flow.events.flatMap((event) => event.steps);
  const lost = steps.filter((step) => step.state === "lost").length;
  const state = flow.open > 0 ? "running" : lost > 0 ? "dead" : steps.some((step) => step.state === "dead") ? "dead" : "done";
  const words = flow.open > 0 ? `${flow.open} open` : lost > 0 ? `${lost} lost: the event was removed from its stream` : state === "dead" ? "failed, with dead letters" : "complete";
  const took = flow.ended ? duration(flow.ended - flow.started) : "";
  const title = make("div", "title", make("h2", "", "Flow"), make("span", "mono clip", flow.id), make("span", `state ${state}`, words), took && make("span", "hint", took), make("span", "hint", `${plural(flow.events.length, "event")}, ${plural(steps.length, "step")}`), traceLink(trace, "open in Jaeger"));
  const parts = [title];
  if (waits) parts.push(make("p", "waits", `Everything waits for ${waits.function}, which ${{ pending: "has not begun with", running: "works on", waiting: "will try again with" }[waits.state]} ${waits.type || "an event"}, since ${duration(said.now - waits.since)}.`));
  return parts;
}

// What is right of the last bar is for words.
const FULL = innerWidth < 700 ? 76 : 88;

// An output carries the time of what caused it, so that it is the same in every attempt; on the page it stands where the
// step that sent it ended.
function standing(events) {
  const ended = new Map(events.flatMap((event) => event.steps.map((step) => [`${event.id} /${step.function}`, step.ended])));
  for (const event of events) event.time = Math.max(event.time, ended.get(`${event.cause} ${event.source}`) ?? 0);
}

function chart(flow, now, shown, view) {
  const ends = flow.events.flatMap((event) => [event.time, ...event.steps.flatMap((step) => [step.since, step.started, step.ended])]).filter((at) => at > 0);
  const least = ends.reduce((least, at) => Math.min(least, at), flow.started || Infinity);
  const most = ends.reduce((most, at) => Math.max(most, at), 0);
  const begin = Number.isFinite(least) ? least : 0;
  const end = Math.max(begin + 1, flow.open > 0 && flow.events.some((event) => event.steps.some((step) => step.started)) ? now : 0, most);
  const at = (time) => (FULL * (time - begin)) / (end - begin);
  const rows = [axis(end - begin)];
  const last = lastOfLevel(shown);
  shown.forEach((event, index) => {
    rows.push(eventLine(event, begin, at, last[index], view));
    const content = view.open.get(event.id);
    if (content) rows.push(content);
    for (const step of event.steps) rows.push(stepLine(event, step, at, end));
  });
  return rows;
}

function axis(span) {
  const when = make("div", "when");
  for (const part of [0, 0.25, 0.5, 0.75]) {
    const mark = make("span", "", part === 0 ? "0" : duration((span * part * 100) / FULL));
    mark.style.left = `${100 * part}%`;
    when.append(mark);
  }
  return make("div", "line axis", make("div", "what"), when);
}

// Whether an event is the last child of its cause: read backwards, with what comes after it on each level.
function lastOfLevel(events) {
  const last = new Array(events.length);
  const follows = [];
  for (let index = events.length - 1; index >= 0; index -= 1) {
    const { depth } = events[index];
    last[index] = !follows[depth];
    follows.length = depth;
    follows[depth] = true;
  }
  return last;
}

function indent(depth) {
  const space = make("span");
  space.style.flex = "none";
  space.style.width = `${Math.min(depth, 12) * 1.2}rem`;
  return space;
}

function eventLine(event, begin, at, last, view) {
  const isOpen = view.open.has(event.id);
  const more = button("{ }", () => view.toggle(event), "quiet more");
  more.dataset.focus = event.id;
  more.setAttribute("aria-expanded", `${isOpen}`);
  more.setAttribute("aria-label", `What ${event.type || event.id} says`);
  const what = make("div", "what event", indent(Math.max(0, event.depth - 1)), event.depth > 0 && make("span", `bend ${last ? "last" : ""}`), link(event.type || event.id, href("map", event.type), "chip"), more, make("span", "about", event.key));
  what.title = `${event.id} from ${event.source}`;
  const when = make("div", "when");
  if (event.time) {
    const point = make("i", "point");
    point.style.left = `${at(event.time)}%`;
    when.append(point, text(at(event.time), `+${duration(event.time - begin)}`));
    when.title = clock(event.time);
  }
  const line = make("div", "line", what, when);
  line.setAttribute("role", "listitem");
  return line;
}

// Behind a bar.
function text(position, words) {
  const span = make("span", "", words);
  span.style.left = `${position}%`;
  span.style.marginLeft = "0.2rem";
  return span;
}

function stepLine(event, step, at, end) {
  const often = step.attempts > 1 ? `${step.attempts} attempts` : "";
  const about = [often, step.why].filter(Boolean).join(" · ");
  const what = make("div", "what step", indent(event.depth + 1), link(step.function, href("map", step.function)), make("span", `state ${step.state}`, step.state), about && make("span", "about", about));
  if (about) what.title = about;
  const when = make("div", "when");
  const [from, to] = [Math.max(step.since, event.time || 0), step.ended ?? (step.state === "done" || step.state === "dead" ? null : end)];
  if (to !== null && from > 0) {
    if (step.started && step.started > from) bar(when, "wait", at(from), at(step.started));
    bar(when, step.state, at(step.started ?? from), at(to));
    when.append(text(Math.max(at(to), 0), step.ended ? duration(step.ended - from) : ""));
  }
  const line = make("div", "line", what, when);
  line.setAttribute("role", "listitem");
  return line;
}

function bar(place, className, from, to) {
  const element = make("i", className);
  element.style.left = `${from}%`;
  element.style.width = `${Math.max(0, to - from)}%`;
  place.append(element);
}
