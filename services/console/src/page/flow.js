// A flow: every event with what it caused, and the functions that acted on it, against time.

import { api, clock, duration, failed, flowLink, link, make, moment, number, plural, traceLink } from "./dom.js";

import { logLines } from "./log.js";

const EVERY = 1000;

// Flows that were seen last.
export function showFlows(place) {
  let over = false;
  const body = make("div", "card", make("p", "hint", "looking …"));
  place.replaceChildren(make("div", "title", make("h2", "", "Flows"), make("p", "hint", "A flow is everything one event from outside has caused. These were last; any other is found by its id, by the id of one of its events, or by a key.")), body);
  const refresh = async () => {
    try {
      const { flows } = await api("/api/flows");
      if (over) return;
      body.replaceChildren(flows.length > 0 ? make("div", "wide", table(flows)) : make("p", "nothing", make("b", "", "No events yet"), "Send one, and it appears here."));
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
  const head = make("tr", "", ...["Flow", "Began with", "About", "Events", "State", "Last"].map((name) => make("th", name === "Events" ? "num" : "", name)));
  const rows = flows.map((flow) => {
    const state = flow.open === null ? make("span", "hint", "not tracked") : make("span", `state ${flow.open > 0 ? "running" : "done"}`, flow.open > 0 ? `${flow.open} open` : "complete");
    return make("tr", "", make("td", "mono", flowLink(flow.id, flow.id.length > 20 ? `${flow.id.slice(0, 8)}…${flow.id.slice(-6)}` : flow.id)), make("td", "", flow.type), make("td", "", flow.key), make("td", "num", number(flow.events)), make("td", "", state), make("td", "", moment(flow.last)));
  });
  return make("table", "table", make("thead", "", head), make("tbody", "", ...rows));
}

export function showFlow(place, id) {
  let over = false;
  let timer = null;
  let drawn = "";
  place.replaceChildren(make("p", "hint", "looking …"));
  const refresh = async () => {
    try {
      const said = await api(`/api/flows/${encodeURIComponent(id)}`);
      if (over) return;
      const { now, ...rest } = said;
      const [open, text] = [said.flow.open > 0, JSON.stringify(rest)];
      // A complete flow does not change, an open one grows with time.
      if (open || drawn !== text) place.replaceChildren(...page(said), make("div", "card", make("h3", "", "Log of this flow"), logLines({ flow: said.flow.id ?? id })));
      drawn = text;
      timer = setTimeout(refresh, open ? EVERY : 5 * EVERY);
    } catch (error) {
      if (over) return;
      place.replaceChildren(make("div", "title", make("h2", "", "Flow"), make("span", "mono clip", id)), make("p", "problem", error.message));
      timer = setTimeout(refresh, 5 * EVERY);
    }
  };
  refresh();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

function page(said) {
  const { flow, trace, waits, from, searched } = said;
  const steps = flow.events.flatMap((event) => event.steps);
  const lost = steps.filter((step) => step.state === "lost").length;
  const state = flow.open > 0 ? "running" : lost > 0 ? "dead" : steps.some((step) => step.state === "dead") ? "dead" : "done";
  const words = flow.open > 0 ? `${flow.open} open` : lost > 0 ? `${lost} lost: the event was removed from its stream` : state === "dead" ? "over, with dead letters" : "complete";
  const took = flow.ended ? duration(flow.ended - flow.started) : "";
  const title = make("div", "title", make("h2", "", "Flow"), make("span", "mono clip", flow.id), make("span", `state ${state}`, words), took && make("span", "hint", took), make("span", "hint", `${plural(flow.events.length, "event")}, ${plural(steps.length, "step")}`), traceLink(trace, "open in Jaeger"));
  const parts = [title];
  if (waits) parts.push(make("p", "waits", `Everything waits for ${waits.function}, which ${{ pending: "has not begun with", running: "works on", waiting: "will try again with" }[waits.state]} ${waits.type || "an event"}, since ${duration(said.now - waits.since)}.`));
  parts.push(make("div", "card", chart(flow, said.now)));
  if (from === "streams") parts.push(make("p", "hint", `No ledger has this flow: it was put together from the streams and seen-marks, without the times at which functions were done. Read: ${searched}.`));
  return parts;
}

// What is right of the last bar is for words.
const FULL = innerWidth < 700 ? 76 : 88;

// An output carries the time of what caused it, so that it is the same in every attempt; on the page it stands where the
// step that sent it ended.
function place(events) {
  const ended = new Map(events.flatMap((event) => event.steps.map((step) => [`${event.id} /${step.function}`, step.ended])));
  for (const event of events) event.time = Math.max(event.time, ended.get(`${event.cause} ${event.source}`) ?? 0);
}

function chart(flow, now) {
  place(flow.events);
  const ends = flow.events.flatMap((event) => [event.time, ...event.steps.flatMap((step) => [step.since, step.started, step.ended])]).filter((at) => at > 0);
  const begin = Math.min(flow.started || Infinity, ...ends.filter((at) => at > 0));
  const end = Math.max(begin + 1, flow.open > 0 && flow.events.some((event) => event.steps.some((step) => step.started)) ? now : 0, ...ends);
  const at = (time) => (FULL * (time - begin)) / (end - begin);
  const rows = [axis(end - begin)];
  const last = lastOfLevel(flow.events);
  flow.events.forEach((event, index) => {
    rows.push(eventLine(event, begin, at, last[index]));
    for (const step of event.steps) rows.push(stepLine(event, step, at, end));
  });
  const list = make("div", "flow", ...rows);
  list.setAttribute("role", "list");
  return list;
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

// Whether an event is the last child of its cause.
function lastOfLevel(events) {
  return events.map((event, index) => {
    for (let next = index + 1; next < events.length; next += 1) {
      if (events[next].depth < event.depth) return true;
      if (events[next].depth === event.depth) return false;
    }
    return true;
  });
}

function indent(depth) {
  const space = make("span");
  space.style.flex = "none";
  space.style.width = `${Math.min(depth, 12) * 1.2}rem`;
  return space;
}

function eventLine(event, begin, at, last) {
  const what = make("div", "what event", indent(Math.max(0, event.depth - 1)), event.depth > 0 && make("span", `bend ${last ? "last" : ""}`), link(event.type || event.id, `#/map/${event.type}`, "chip"), make("span", "about", event.key));
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
  const what = make("div", "what step", indent(event.depth + 1), link(step.function, `#/map/${step.function}`), make("span", `state ${step.state}`, step.state), about && make("span", "about", about));
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
