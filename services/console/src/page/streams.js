// Streams: how much each holds of what it may, and its messages, the newest first.

import { address, href, note } from "./address.js";
import { ago, api, button, bytes, facts, failed, flowLink, link, make, moment, named, number, plural, redraw, scrolls, short } from "./dom.js";
import { eventRow } from "./panel.js";

const EVERY = 5000;
const KINDS = { events: "events", letters: "dead letters", timers: "schedules and delayed events", files: "files", values: "contracts" };
// Subjects that are shown at once.
const FEW = 12;

export function showStreams(place, given) {
  const page = given ? new Stream(place, given) : new Streams(place);
  return () => page.leave();
}

function meter(stream) {
  if (!stream.max_bytes) return make("span", "hint", "no limit");
  const bar = make("progress", "meter");
  bar.max = stream.max_bytes;
  bar.value = stream.bytes;
  const part = Math.round((100 * stream.bytes) / stream.max_bytes);
  bar.setAttribute("aria-label", `${stream.name}: ${part} % of its limit`);
  if (part >= 80) bar.classList.add("full");
  return make("span", "metered", bar, make("span", "hint", `${part < 1 && stream.bytes > 0 ? "<1" : part} % of ${bytes(stream.max_bytes)}`));
}

class Streams {
  constructor(place) {
    this.body = make("div", "card", make("p", "hint", "looking …"));
    place.replaceChildren(make("div", "title", make("h2", "", "Streams"), make("p", "hint", "What NATS keeps. A stream that is full refuses what is published, and loses nothing.")), this.body);
    this.refresh();
  }

  leave() {
    this.over = true;
    clearTimeout(this.timer);
  }

  async refresh() {
    try {
      const { streams } = await api("/api/streams");
      if (this.over) return;
      const none = make("p", "nothing", make("b", "", "No streams yet"), "oncue apply makes them.");
      redraw(this.body, streams.length > 0 ? scrolls(make("div", "wide", table(streams)), "All streams") : none);
    } catch (error) {
      if (!this.over) failed(this.body, error);
    }
    if (!this.over) this.timer = setTimeout(() => this.refresh(), EVERY);
  }
}

function table(streams) {
  const columns = [["Stream"], ["Holds", "extra"], ["Messages", "num"], ["Bytes", "extra num"], ["Of its limit"], ["First", "extra"], ["Last"], ["Consumers", "extra num"]];
  const head = make("tr", "", ...columns.map(([name, kind]) => make("th", kind ?? "", name)));
  const rows = streams.map((stream) =>
    make(
      "tr",
      "",
      make("td", "name", stream.shown ? link(stream.name, href("streams", stream.name)) : stream.name),
      make("td", "extra", KINDS[stream.kind], stream.other_app && make("span", "hint", `, of the app ${stream.other_app}`)),
      make("td", "num", short(stream.messages)),
      make("td", "extra num", bytes(stream.bytes)),
      make("td", "", meter(stream)),
      make("td", "extra", stream.first.at > 0 ? moment(stream.first.at) : ""),
      make("td", "", stream.last.at > 0 ? moment(stream.last.at) : make("span", "hint", "empty")),
      make("td", "extra num", number(stream.consumers)),
    ),
  );
  return make("table", "table", make("thead", "", head), make("tbody", "", ...rows));
}

// What of a stream is shown, as the address has it.
function viewOf(query) {
  const at = Date.parse(query.get("at") ?? "");
  return { from: Number(query.get("from")) || null, at: Number.isNaN(at) ? null : at, subject: query.get("subject") ?? "" };
}

class Stream {
  constructor(place, name) {
    this.name = name;
    this.view = viewOf(address().query);
    this.head = make("div", "parts");
    this.state = make("p", "hint", "looking …");
    this.state.setAttribute("role", "status");
    this.list = make("ul", "list messages");
    this.older = button("Older", () => this.turn({ from: this.next, at: null }));
    this.newest = button("Newest", () => this.turn({ from: null, at: null }));
    this.place = place;
    place.replaceChildren(
      make("div", "title", make("h2", "", `Stream ${name}`), link("all streams", href("streams"))),
      make("div", "card", this.head),
      make("div", "card", this.form(), this.state, this.list, make("div", "actions", this.newest, this.older)),
    );
    this.begin();
    this.load();
  }

  leave() {
    this.over = true;
  }

  form() {
    this.from = make("input");
    this.from.type = "number";
    this.from.min = 1;
    this.at = make("input");
    this.at.type = "datetime-local";
    this.at.step = 1;
    this.subject = make("input");
    this.subject.autocomplete = "off";
    this.subject.spellcheck = false;
    this.subject.placeholder = "any";
    this.subject.setAttribute("list", "subjects");
    this.known = make("datalist");
    this.known.id = "subjects";
    const form = make("form", "finding", make("label", "", "From number, back", this.from), make("label", "", "Or from a time, back", this.at), make("label", "", "Subject", this.subject, this.known), make("button", "strong", "Show"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const at = this.at.value ? new Date(this.at.value).getTime() : null;
      this.turn({ from: Number(this.from.value) || null, at: this.from.value ? null : at, subject: this.subject.value.trim() });
    });
    this.fill();
    return form;
  }

  fill() {
    const { from, at, subject } = this.view;
    this.from.value = from ?? "";
    const local = at === null ? "" : new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
    this.at.value = local;
    this.subject.value = subject;
  }

  turn(change) {
    Object.assign(this.view, change);
    const { from, at, subject } = this.view;
    note({ from, at: at === null ? null : new Date(at).toISOString(), subject });
    this.fill();
    this.load();
  }

  // What the stream holds, as of now.
  async begin() {
    try {
      const stream = await api(`/api/streams/${encodeURIComponent(this.name)}`);
      if (this.over) return;
      const { first, last, subjects = [] } = stream;
      const shown = this.all ? subjects : subjects.slice(0, FEW);
      const chips = shown.map(({ subject, messages }) => {
        const chip = named(button("", () => this.turn({ subject: this.view.subject === subject ? "" : subject, from: null, at: null }), "chip"), `subject ${subject}`);
        chip.replaceChildren(subject, " ", make("b", "", short(messages)));
        return chip;
      });
      const more = subjects.length > shown.length && button(`all ${number(subjects.length)}`, () => {
        this.all = true;
        this.begin();
      }, "chip");
      this.known.replaceChildren(...subjects.map(({ subject }) => new Option(subject)));
      redraw(
        this.head,
        facts([
          ["holds", `${plural(stream.messages, "message")}, ${bytes(stream.bytes)}: ${KINDS[stream.kind]}`],
          ["limit", meter(stream)],
          ["first", stream.messages > 0 && make("span", "", `number ${number(first.sequence)}, `, moment(first.at))],
          ["last", stream.messages > 0 && make("span", "", `number ${number(last.sequence)}, `, moment(last.at))],
          ["consumers", number(stream.consumers)],
          ["copies", stream.replicas > 1 && number(stream.replicas)],
        ]),
        ...(chips.length > 0 ? [make("section", "", make("h3", "", "Subjects"), make("div", "types", ...chips, more))] : []),
      );
    } catch (error) {
      if (!this.over) failed(this.head, error);
    }
  }

  async load() {
    const round = (this.round = (this.round ?? 0) + 1);
    const { from, at, subject } = this.view;
    const asked = new URLSearchParams(Object.entries({ from, at, subject }).filter(([, value]) => value));
    for (const act of [this.older, this.newest]) act.disabled = true;
    this.state.textContent = "looking …";
    try {
      const { messages, next } = await api(`/api/streams/${encodeURIComponent(this.name)}/messages?${asked}`);
      if (this.over || round !== this.round) return;
      this.next = next;
      this.list.replaceChildren(...messages.map((message) => this.row(message)));
      const [newest, oldest] = [messages[0], messages.at(-1)];
      const where = messages.length > 1 ? `Numbers ${number(newest.sequence)} down to ${number(oldest.sequence)}, ${ago(oldest.stored)} at the end` : messages.length === 1 ? `Number ${number(newest.sequence)}` : "No message is like that";
      this.state.textContent = `${where}${next === null ? (messages.length > 0 ? ". That is all." : ".") : "."}`;
      this.older.disabled = next === null;
      this.newest.disabled = from === null && at === null;
    } catch (error) {
      if (this.over || round !== this.round) return;
      this.list.replaceChildren();
      this.state.textContent = "";
      this.list.append(make("li", "problem", error.message));
      this.newest.disabled = false;
    }
  }

  row(message) {
    if (message.letter) return letterRow(message);
    const line = eventRow(message);
    const top = line.querySelector(".top-line");
    top.prepend(make("span", "mono hint", `${message.sequence}`), message.type ? link(message.type, href("map", message.type), "chip") : make("span", "chip", message.subject));
    const row = line.querySelector(".row");
    if (message.paused) row.append(make("span", "reason", "a schedule that is paused"));
    else if (message.rule) row.append(make("span", "hint", message.rule.startsWith("@at ") ? `waits until ${message.rule.slice(4)}` : `a schedule: ${message.rule}`));
    if (message.scheduler) row.append(make("span", "hint", `fired by ${message.scheduler.split(".").at(-1)}`));
    return line;
  }
}

function letterRow({ sequence, stored, letter }) {
  return make(
    "li",
    "",
    make("div", "top-line", make("span", "mono hint", `${sequence}`), make("b", "clip", letter.function), moment(stored)),
    make("span", "why", `${letter.reason}: ${letter.message}`),
    make("div", "row", link(`letter #${sequence}`, href("letters", letter.group, { letter: sequence })), letter.flow && flowLink(letter.flow, "flow"), make("span", "hint", [letter.type, letter.key].filter(Boolean).join(" about "))),
  );
}
