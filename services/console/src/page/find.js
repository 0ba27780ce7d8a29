// Events that have something in common, newest first; the form stands in the address, so that a search is a link.

import { href, note } from "./address.js";
import { api, button, duration, link, make, number, plural } from "./dom.js";
import { eventRow } from "./panel.js";

const STATES = [["", "any"], ["failed", "failed"], ["open", "open"], ["complete", "complete"]];
const SINCE = [["", "ever"], ["900000", "15 min"], ["3600000", "1 h"], ["86400000", "1 day"], ["604800000", "1 week"]];

export function showFind(place, given) {
  const finder = new Finder(place, new URLSearchParams(given));
  return () => {
    finder.over = true;
  };
}

class Finder {
  constructor(place, asked) {
    this.asked = asked;
    this.fields = new Map();
    this.list = make("ul", "list");
    this.state = make("p", "hint");
    this.state.setAttribute("role", "status");
    this.more = button("Go on", () => this.page());
    this.more.hidden = true;
    const form = make(
      "form",
      "finding",
      this.field("type", "Event type"),
      this.field("key", "Key"),
      this.field("function", "Sent by"),
      this.field("text", "Text in the payload"),
      this.choice("state", "Flow is", STATES),
      this.field("longer", "Flow took at least (ms)", "number"),
      this.choice("since", "Within", SINCE),
      make("button", "strong", "Find"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = new URLSearchParams([...this.fields].map(([name, field]) => [name, field.value.trim()]).filter(([, value]) => value !== ""));
      note({}, { subject: `${wanted}` });
      this.asked = wanted;
      this.begin();
    });
    place.replaceChildren(make("div", "title", make("h2", "", "Find"), make("p", "hint", "All that is filled in must hold. Sensitive fields are not searched; state and time are known of flows with a ledger.")), make("div", "card", form), make("div", "card", this.state, this.list, make("div", "actions", this.more)));
    this.begin();
  }

  field(name, label, type = "text") {
    const input = make("input");
    input.type = type;
    input.name = name;
    input.value = this.asked.get(name) ?? "";
    input.autocomplete = "off";
    input.spellcheck = false;
    if (type === "number") input.min = 0;
    this.fields.set(name, input);
    return make("label", "", label, input);
  }

  choice(name, label, options) {
    const select = make("select", "", ...options.map(([value, text]) => new Option(text, value, false, value === (this.asked.get(name) ?? ""))));
    select.name = name;
    this.fields.set(name, select);
    return make("label", "", label, select);
  }

  begin() {
    this.until = null;
    this.found = 0;
    this.read = 0;
    this.untracked = 0;
    this.round = (this.round ?? 0) + 1;
    this.list.replaceChildren();
    this.page();
  }

  async page() {
    const { round } = this;
    this.more.disabled = true;
    this.state.textContent = "looking …";
    const asked = new URLSearchParams();
    for (const name of ["type", "key", "function", "text", "state", "longer"]) if (this.asked.get(name)) asked.set(name, this.asked.get(name));
    if (this.asked.get("since")) asked.set("from", `${Date.now() - Number(this.asked.get("since"))}`);
    if (this.until) asked.set("until", `${this.until}`);
    try {
      const { events, searched, end, read, untracked } = await api(`/api/find?${asked}`);
      if (this.over || round !== this.round) return;
      this.until = searched;
      this.found += events.length;
      this.read += read;
      this.untracked += untracked;
      this.list.append(...events.map(row));
      const back = searched > 0 ? `, back to ${new Date(searched).toLocaleString()}` : "";
      const unknown = this.untracked > 0 ? `; ${plural(this.untracked, "event")} passed over, whose flows have no ledger` : "";
      this.state.textContent = `${plural(this.found, "event")} found, ${number(this.read)} read${back}${end ? ": that is all" : ""}${unknown}`;
      this.more.hidden = end;
      this.more.disabled = false;
    } catch (error) {
      if (this.over || round !== this.round) return;
      this.state.textContent = error.message;
      this.more.disabled = false;
    }
  }
}

function row(event) {
  const line = eventRow(event);
  if (event.state) {
    const took = event.took === null ? "" : ` in ${duration(event.took)}`;
    const state = { failed: "dead", open: "running", complete: "done" }[event.state];
    line.querySelector(".row").append(make("span", `state ${state}`, `flow ${event.state}${took}`));
  }
  line.querySelector(".top-line").prepend(link(event.type, href("map", event.type), "chip"));
  return line;
}
