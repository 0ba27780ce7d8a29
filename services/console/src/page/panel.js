// What was clicked on the map: a function with its last hour, or an event type with its last events.

import { address, go, href, note } from "./address.js";
import { about, ago, api, ask, button, byId, draw, duration, facts, failed, flowLink, json, link, make, moment, named, number, plural, rate, redraw, scrolls, short, traceLink } from "./dom.js";
import { logLines } from "./log.js";
import { View, histogram, line, percentile } from "./chart.js";

const EVERY = 2000;
let timer = null;
let shown = null;
let opener = null;
// Asks at once and draws what is said, whatever somebody reads.
let again = () => {};

const PANELS = { doctor: showDoctor, notices: showNotices, drift: showDrift };

// The panel of a name in the address, on whatever page.
export function showPanel(name) {
  if (PANELS[name]) PANELS[name]();
  else hidePanel();
}

// On the map the panel is what the address is about; elsewhere the page under it stays as it is.
export function openPanel(name) {
  if (address().page === "map") return go(href("map", "", { panel: name }));
  note({ panel: name });
  return showPanel(name);
}

export function closePanel() {
  if (byId("panel").hidden) return;
  if (address().page === "map") return void go(href("map"));
  note({ panel: null });
  hidePanel();
}

export function hidePanel() {
  clearTimeout(timer);
  shown = null;
  const panel = byId("panel");
  if (panel.hidden) return;
  const inside = panel.contains(document.activeElement) || document.activeElement === document.body;
  panel.hidden = true;
  panel.replaceChildren();
  // The map may have been drawn anew meanwhile, or another page be shown.
  const back = opener.isConnected ? opener : byId(opener.id);
  if (inside) (back && !back.closest("[hidden]") ? back : byId("main")).focus({ preventScroll: true });
}

// Asks again while it is open; what is folded out or scrolled to stays so, since only the parts change.
function open(what, title, ask, fill) {
  clearTimeout(timer);
  const panel = byId("panel");
  if (!panel.contains(document.activeElement)) opener = document.activeElement;
  const other = shown !== what;
  shown = what;
  const body = make("div", "list");
  const close = button("✕", closePanel, "quiet");
  close.setAttribute("aria-label", "Close");
  const heading = make("h2", "", title);
  heading.tabIndex = -1;
  panel.replaceChildren(make("div", "head", heading, close), body);
  panel.hidden = false;
  panel.scrollTop = 0;
  // From the map with its hundreds of things, Tab would be long on its way here.
  if (other) heading.focus({ preventScroll: true });
  const refresh = async (forced = false) => {
    clearTimeout(timer);
    try {
      const said = await ask();
      if (shown !== what) return;
      if (forced || body.childElementCount === 0 || !isRead(panel)) fill(said, body);
    } catch (error) {
      if (shown !== what) return;
      failed(body, error);
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, EVERY);
  };
  again = () => refresh(true);
  refresh();
}

// Somebody has folded something out, or marks something to copy.
function isRead(panel) {
  const selection = document.getSelection();
  return panel.querySelector("details[open], .brushing, .chart svg:hover") !== null || (!selection.isCollapsed && panel.contains(selection.anchorNode));
}

const part = (title, ...content) => make("section", "", make("h3", "", title), ...content);
const figure = (value, text) => make("div", "", make("b", "", value), make("span", "", text));
const chips = (types, source) => make("div", "types", ...types.map((ty) => link(ty, href("map", ty, { source }), "chip")));

const SPANS = ["hour", "day"];
// Least that charts show, in milliseconds.
const LEAST = 60_000;
// What part of the past is shown, shared by the charts of a function.
let span = "hour";
let view = null;

export function showFunction(name) {
  const { query } = address();
  span = SPANS.includes(query.get("span")) ? query.get("span") : "hour";
  view = new View(() => {
    note({ span: span === "hour" ? "" : span, from: view.from && Math.round(view.from), to: view.to && Math.round(view.to) });
    again();
  });
  const part = ["from", "to"].map((end) => Number(query.get(end)));
  if (part[0] > 0 && part[1] > part[0]) view.zoom(...part);
  const ask = () => api(`/api/functions/${encodeURIComponent(name)}?span=${span}`);
  open(`function ${name}`, name, ask, fillFunction);
}

// Looks at another part of the past; without a part, at all of it.
function look(from = null, to = null) {
  view.zoom(from, to);
  view.changed();
}

function charts({ card, marks }, past) {
  const spans = SPANS.map((name) => {
    const choose = button(name, () => {
      span = name;
      look();
    }, "chip");
    choose.setAttribute("aria-pressed", `${span === name}`);
    return choose;
  });
  const [from, to] = [view.from ?? past.at[0] ?? 0, view.to ?? past.at.at(-1) ?? 0];
  const quarter = (to - from) / 4;
  const move = (by) => button(by < 0 ? "earlier" : "later", () => look(from + by, to + by), "chip");
  const closer = button("closer", () => look(from + quarter, to - quarter), "chip");
  closer.disabled = to - from < 2 * LEAST;
  const moves = view.from === null ? [closer] : [move(-2 * quarter), move(2 * quarter), closer, button("all of it", () => look(), "chip")];
  const lines = [
    line("Handed to it", past.at, past.rate, (value) => `${rate(value)}/s`, view, { marks }),
    line("Waiting", past.at, past.lag, (value) => `${short(value)} events`, view, { className: "warm", marks }),
    line("In hand", past.at, past.in_flight, (value) => `${short(value)} events`, view, { marks }),
    line("A run", past.at, past.ms, (value) => duration(value), view, { marks }),
  ];
  return part(`The last ${span}`, make("div", "types", ...spans, ...moves, make("span", "hint", "or drag")), ...lines);
}

const WORDS = {
  ok: "fine",
  behind: "behind: more comes than it does",
  failing: "failed within the last minute",
  stuck: "nobody runs it, and events wait",
  blocked: "committed, and what follows finds no room in its stream",
  paused: "paused: its events wait",
  off: "not running",
  asleep: "asleep: it is started when an event comes",
};

function fillFunction(said, body) {
  const { card, history: past } = said;
  const ms = past.ms.findLast((value) => value > 0);
  const parts = [
    make("p", `state ${said.health}`, WORDS[said.health]),
    ...(said.why ? [make("p", "waits", said.why)] : []),
    ...(card.known === "consumer" && !card.declared ? [make("p", "waits", "An orphan: there is a consumer, and neither oncue.toml nor a worker knows the function. `oncue remove` takes it away.")] : []),
    make(
      "div",
      "figures",
      figure(`${rate(said.rate)}/s`, "handed to it"),
      figure(short(said.lag), "waiting (lag)"),
      figure(short(said.in_flight), said.limits ? `in hand, of ${short(said.limits.concurrency * Math.max(1, said.instances.length))}` : "in hand"),
      figure(ms ? duration(ms) : "–", "a run, on average"),
      figure(number(said.minute.retried), "failed, last minute"),
      figure(number(said.letters), "dead letters"),
      ...(said.waiting_outputs > 0 ? [figure(number(said.waiting_outputs), "commits whose outputs wait")] : []),
    ),
    ...(about.write && said.consumer ? [pausing(said)] : []),
    bounds(said),
    charts(said, past),
  ];
  if (said.histogram) {
    const [p50, p99] = [percentile(said.histogram, 0.5), percentile(said.histogram, 0.99)];
    parts.push(part("How long runs took", histogram(said.histogram), p50 && make("p", "hint", `half ${p50}, 99 of 100 ${p99}, since its workers started`)));
  }
  if (said.versions.length > 1) parts.push(versions(said.versions));
  parts.push(part("Acts on", chips(card.triggers)));
  if (card.emits.length > 0) parts.push(part("May emit", chips(card.emits, card.name)));
  parts.push(part("What failed last", errors(said)), part("Log", logLines({ function: card.name })), part("Workers", workers(said.instances)), part("Manifest", manifest(said)));
  body.className = "parts";
  redraw(body, ...parts);
}

// How the latest versions have fared in what is shown of the past, beside one another.
function versions(all) {
  const latest = all[0];
  // Worse by a tenth and more, than any before it.
  const least = { failing: 0.001, p50: 0, p99: 0 };
  const worse = (name) => latest[name] > least[name] && all.slice(1).every((one) => latest[name] > 1.1 * (one[name] ?? Infinity));
  const cell = (one, name, words) => make("td", `num${one === latest && worse(name) ? " bad" : ""}`, words);
  const row = (one) => make(
    "tr",
    "",
    make("th", "", one.version),
    make("td", "", moment(one.first)),
    make("td", "num", number(one.applied)),
    make("td", "num", `${rate(one.rate)}/s`),
    cell(one, "failing", `${(one.failing * 100).toFixed(one.failing > 0 && one.failing < 0.1 ? 2 : 0)} %`),
    cell(one, "p50", one.p50 ? duration(one.p50) : "–"),
    cell(one, "p99", one.p99 ? duration(one.p99) : "–"),
  );
  const head = ["Version", "First at work", "Applied", "Rate", "Failed runs", "Half within", "99 % within"].map((title, at) => make("th", at > 1 ? "num" : "", title));
  const table = make("table", "table", make("thead", "", make("tr", "", ...head)), make("tbody", "", ...all.map(row)));
  return part("Versions compared", scrolls(make("div", "wide", table), "Versions compared"), make("p", "hint", "By the minutes in which each had work; a rolling restart has both."));
}

// Pauses the function, or gives it its events again.
function pausing({ card: { name }, health }) {
  const change = async (what) => {
    try {
      await api(`/api/functions/${encodeURIComponent(name)}/${what}`, {});
      again();
    } catch (error) {
      failed(row, error);
    }
  };
  const pause = async () => {
    if (await ask(`Pause ${name}?`, "What it has in hand comes to its end; all else waits in the stream until somebody resumes it.", "Pause")) change("pause");
  };
  const anew = named(button("Restart", () => restart(name)), "restart");
  const row = make("div", "actions", health === "paused" ? button("Resume", () => change("resume"), "strong") : button("Pause", pause), anew);
  return make("div", "", row, restarts.get(name) ?? "");
}

// How many workers there may be, and who says so.
function bounds({ card: { name }, bounds: { file, now, set } }) {
  if (!file && !now && !set) return "";
  const many = ({ min, max }) => (min === max ? plural(min, "worker") : `${min} to ${max} workers`);
  const rows = [
    ["there may be", now ? many(now) : "nobody: no oncue up keeps it"],
    ["set by hand", set && make("span", "", `${many(set)} on each machine, by ${set.by}, `, moment(set.at), `: ${set.reason}`)],
    ["oncue.toml", file && many(file)],
  ];
  if (!about.admin) return part("Bounds of its workers", facts(rows));
  const field = (label, value) => {
    const input = make("input");
    input.type = "number";
    input.min = 0;
    input.max = 256;
    input.required = true;
    input.value = value;
    return [make("label", "", label, input), input];
  };
  const [fewest, min] = field("Fewest", (set ?? file ?? now).min);
  const [most, max] = field("Most", (set ?? file ?? now).max);
  const form = make("form", "finding", fewest, most, make("button", "", "Set"));
  const act = async (path, body) => {
    try {
      await api(`/api/functions/${encodeURIComponent(name)}/${path}`, body);
      again();
    } catch (error) {
      failed(outcome, error);
    }
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = { min: Number(min.value), max: Number(max.value) };
    const why = await ask(`${many(wanted)} of ${name}?`, "On each machine, in place of what oncue.toml says, until somebody takes it away. Workers that are too many finish what they have in hand.", "Set", true);
    if (why) act("bounds", { ...wanted, why });
  });
  const outcome = make("div");
  outcome.setAttribute("role", "alert");
  const reset = set && named(button("As oncue.toml says", async () => {
    if (await ask(`Bounds of ${name} as oncue.toml says?`, file ? `That is ${many(file)}.` : "", "Take away")) act("bounds/reset", {});
  }), "reset bounds");
  const details = make("details", "desk", named(make("summary", "hint", "Set other bounds"), "bounds"), form);
  return part("Bounds of its workers", facts(rows), make("div", "row", ...[reset].filter(Boolean)), details, outcome);
}

// How the last restart of each function goes, while the page lives.
const restarts = new Map();

async function restart(name) {
  if (!(await ask(`Restart ${name}?`, "New processes of its program take the place of those that run, one after the other: each is ready before the one before it finishes what it has in hand. The first that does not become ready ends it.", "Restart"))) return;
  const outcome = make("div", "outcome", make("span", "", `asking oncue up to restart ${name} …`));
  outcome.setAttribute("role", "status");
  restarts.set(name, outcome);
  again();
  try {
    const { job } = await api(`/api/functions/${encodeURIComponent(name)}/restart`, {});
    for (;;) {
      const { done, remarks, ended } = await api(`/api/jobs/${job}`);
      const words = ended ? `${plural(done, "process", "processes")} replaced` : `restarting: ${plural(done, "process", "processes")} replaced …`;
      outcome.replaceChildren(make("b", "", words), ...remarks.map((remark) => make("span", "hint", remark)));
      if (ended) break;
      await new Promise((next) => setTimeout(next, 400));
    }
  } catch (error) {
    outcome.replaceChildren(make("span", "bad", error.message));
  }
  again();
}

function errors({ errors: letters, instances }) {
  const last = instances.map((instance) => instance.last_error).filter(Boolean);
  if (letters.length + last.length === 0) return make("p", "hint", "Nothing.");
  const rows = letters.map((letter) =>
    make(
      "li",
      "",
      make("div", "top-line", link(`#${letter.number} ${letter.reason}`, href("letters", letter.group, { letter: letter.number })), moment(letter.at)),
      make("span", "why", letter.message),
      make("div", "row", letter.site && make("span", "mono hint", letter.site), traceLink(letter.trace), letter.flow && flowLink(letter.flow, "flow")),
    ),
  );
  rows.unshift(...last.map((text) => make("li", "", make("span", "why", text), make("span", "hint", "last error of a worker"))));
  return make("ul", "list", ...rows);
}

function workers(instances) {
  if (instances.length === 0) return make("p", "hint", "None runs.");
  const rows = instances.map((one) =>
    make(
      "li",
      "",
      make("div", "top-line", make("span", "mono", one.id), one.started && moment(Date.parse(one.started))),
      make("span", "hint", `${number(one.applied)} applied, ${number(one.in_flight)} in hand, ${number(one.duplicates)} duplicates, ${number(one.conflicts)} conflicts, ${number(one.retried)} retried, ${number(one.dead)} dead · ${one.version}`),
    ),
  );
  return make("ul", "list", ...rows);
}

function manifest({ card, limits, consumer }) {
  const from = { worker: "its worker", program: "its program; nobody runs it", consumer: "its consumer alone" }[card.known];
  return facts([
    ["known from", from ?? "oncue.toml alone: its program was not found"],
    ["version", card.version],
    ["stream", card.stream && link(card.stream, href("streams", card.stream))],
    ["state table", card.table && link(card.table, href("rows", card.table))],
    ["concurrency", limits && `${number(limits.concurrency)} a worker, ${number(limits.reserved_concurrency)} in all`],
    ["timeout", limits?.timeout],
    ["attempts", limits && `${limits.attempts}`],
    ["delivered", consumer && `${number(consumer.delivered)}, ${number(consumer.redelivered)} of them waiting to come again`],
  ]);
}

const VERDICTS = { fix: "To be set right", know: "Worth knowing", good: "As it should be" };

// What `oncue doctor` says of the servers, the worst first.
export function showDoctor() {
  open("doctor", "Doctor", () => api("/api/doctor"), ({ findings, promised }, body) => {
    const of = (verdict) => findings.filter((one) => one.verdict === verdict);
    const row = ({ text, advice }) => make("li", "", make("span", "", text), advice && make("span", "hint", advice));
    const parts = Object.entries(VERDICTS).filter(([verdict]) => of(verdict).length > 0);
    body.className = "parts";
    redraw(body, ...parts.map(([verdict, title]) => part(title, make("ul", "list", ...of(verdict).map(row)))));
    if (promised?.length > 0) body.append(part("Promised with these servers", make("ul", "list", ...promised.map((words) => make("li", "", words)))));
  });
}

// What is wrong, since when, and who has been told.
export function showNotices() {
  open("notices", "What is wrong", () => api("/api/notices"), ({ notices, receivers }, body) => {
    const silence = async (name, minutes) => {
      await api("/api/notices/silence", { name, minutes }).catch((error) => failed(body, error));
      again();
    };
    const row = (notice) => {
      const silent = notice.silent_until > Date.now();
      const told = notice.told.length > 0 ? `told: ${notice.told.join(", ")}` : receivers.length > 0 ? "nobody was told yet" : "";
      const state = silent ? `silent until ${new Date(notice.silent_until).toLocaleString()}` : told;
      const act = about.write && notice.ended === null && (silent ? button("Tell again", () => silence(notice.name, 0)) : button("Silent for 4 h", () => silence(notice.name, 240)));
      return make("li", "", make("div", "top-line", link(notice.kind, `#/${notice.link}`), moment(notice.ended ?? notice.since, notice.ended === null ? `since ${ago(notice.since)}` : `over ${ago(notice.ended)}`)), make("span", notice.ended === null ? "why" : "hint", notice.text), notice.advice && make("span", "hint", notice.advice), make("div", "row", state && make("span", "hint", state), act));
    };
    body.className = "parts";
    const none = make("p", "hint", "Nothing that anybody would have to be told.");
    const who = receivers.length > 0 ? `Told to ${receivers.join(", ")}.` : "Nobody is told: [notice.NAME] in oncue.toml names a webhook.";
    redraw(body, part("Now", notices.length > 0 ? make("ul", "list", ...notices.map(row)) : none), make("p", "hint", who));
  });
}

const DRIFT = {
  unheard: "Nobody acts on it",
  untriggered: "Nobody sends it",
  unused: "Not used",
  removed: "Gone from oncue.toml, not from the servers",
  undeclared: "Seen, but not declared",
  endless: "A circle without an exit",
  uncompensated: "Nothing takes it back",
};

// What a choreography nobody draws forgets.
export function showDrift() {
  open("drift", "Declared and observed", () => api("/api/drift"), ({ findings, observed, days }, body) => {
    const rows = findings.map(({ kind, what, advice }) => make("li", "", make("b", "", DRIFT[kind] ?? kind), make("span", "", what), make("span", "hint", advice)));
    const first = findings.length > 0 ? make("ul", "list", ...rows) : make("p", "hint", "They agree.");
    const looked = observed > 0 ? `Not used means: for ${days} days.` : "Nothing has been observed yet, so use and undeclared edges were not looked at.";
    body.className = "parts";
    redraw(body, first, make("p", "hint", looked));
  });
}

// An event type; with a source, only what that function sent.
export function showType(ty, source = null) {
  const from = source ? `&source=${encodeURIComponent(source)}` : "";
  open(`type ${ty} ${source}`, ty, () => api(`/api/events?type=${encodeURIComponent(ty)}${from}`), ({ events }, body) => {
    const heading = source ? `The last events ${source} sent` : "The last events";
    body.className = "parts";
    redraw(body, part(heading, events.length > 0 ? make("ul", "list", ...events.map(eventRow)) : make("p", "hint", "None is kept.")));
  });
}

export function eventRow(event) {
  const details = make("details", "", make("summary", "", event.data ? preview(event.data) : event.undecoded ?? event.error ?? ""));
  details.append(
    event.data === undefined ? make("p", "why", event.undecoded ?? event.error ?? "") : json(event.data),
    facts([
      ["id", event.id && make("span", "mono", event.id)],
      ["key", event.key],
      ["source", event.source],
      ["cause", event.cause && make("span", "mono", event.cause)],
      ["stands at", link(`${event.stream}:${event.sequence}`, href("streams", event.stream, { from: event.sequence }))],
      ["size", `${number(event.bytes)} bytes`],
    ]),
  );
  return make(
    "li",
    "",
    make("div", "top-line", make("b", "clip", event.key || event.type || event.subject), moment(event.stored)),
    details,
    make("div", "row", event.flow && flowLink(event.flow, "flow"), traceLink(event.trace), make("span", "hint", [event.type, event.source && `from ${event.source}`].filter(Boolean).join(" ")), event.redriven && make("span", "reason", `redriven ${event.redriven}×`)),
  );
}

// The first few fields in a line.
function preview(data) {
  const fields = Object.entries(data).filter(([, value]) => value !== "" && value !== null && !(Array.isArray(value) && value.length === 0) && value !== "0");
  const text = fields.slice(0, 4).map(([name, value]) => `${name} ${typeof value === "object" ? "{…}" : value}`).join(" · ");
  return text.length > 110 ? `${text.slice(0, 108)}…` : text;
}
