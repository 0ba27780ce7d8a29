// Rows: tables of functions, their keys a page at a time, and one row, which whoever may write changes for a reason.

import { address, go, href } from "./address.js";
import { about, api, ask, button, facts, failed, link, make, moment, named, number, plural, redraw, scrolls } from "./dom.js";

export function showRows(place, given) {
  const [table, key] = given.split(/\/(.*)/s);
  const page = new Rows(place, table, key);
  return () => {
    page.over = true;
    // Nothing of a row stays in a page that nobody sees.
    place.replaceChildren();
  };
}

class Rows {
  constructor(place, table, key) {
    this.table = table;
    this.key = key;
    this.list = make("div", "groups");
    this.detail = make("div", "card", make("p", "hint", "looking …"));
    place.replaceChildren(
      make("div", "title", make("h2", "", "Rows"), make("p", "hint", "What functions keep, by the key of their events. Fields that the contract calls sensitive are hidden.")),
      make("div", "bench", this.list, make("div", "", this.detail)),
    );
    this.begin();
  }

  async begin() {
    try {
      const { tables } = await api("/api/tables");
      if (this.over) return;
      const known = tables.map((one) => this.card(one));
      const none = make("p", "hint", "No function that is known here has a table.");
      redraw(this.list, ...(known.length > 0 ? known : [none]));
      if (!this.table) {
        const hint = known.length > 0 ? "Choose a table." : "Functions that keep state appear here once they have run.";
        this.detail.replaceChildren(make("p", "nothing", make("b", "", known.length > 0 ? "Tables of this app" : "No tables"), hint));
        return;
      }
    } catch (error) {
      if (!this.over) failed(this.list, error);
    }
    if (!this.over && this.table) this.open();
  }

  card({ name, owners, changed_by: changed }) {
    const card = named(button("", () => go(href("rows", name))), `table ${name}`);
    const whose = [owners.length > 0 && `rows of ${owners.join(", ")}`, changed.length > 0 && `changed by ${changed.join(", ")}`].filter(Boolean).join("; ");
    card.replaceChildren(make("div", "top-line", make("b", "", name)), make("span", "message", whose));
    card.setAttribute("aria-pressed", `${name === this.table}`);
    return card;
  }

  open() {
    if (this.key === undefined) this.page();
    else this.one();
  }

  // Goes to a row by its key.
  finder() {
    const input = make("input");
    input.autocomplete = "off";
    input.spellcheck = false;
    input.maxLength = 4096;
    input.required = true;
    input.value = this.key ?? "";
    const form = make("form", "keyed", make("label", "", "Key, as its event has it", input), make("button", "", "Open"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      go(href("rows", `${this.table}/${input.value}`));
    });
    return form;
  }

  async page() {
    const cursor = address().query.get("cursor") ?? "";
    const place = make("div", "", make("p", "hint", "looking …"));
    this.detail.replaceChildren(make("h3", "", `Table ${this.table}`), this.finder(), place);
    try {
      const { rows, next } = await api(`/api/tables/${encodeURIComponent(this.table)}?cursor=${encodeURIComponent(cursor)}`);
      if (this.over) return;
      const lines = rows.map(({ key, brief }) => make("tr", "", make("td", "name", link(key || "(empty)", href("rows", `${this.table}/${key}`))), make("td", "mono brief", brief)));
      const head = make("thead", "", make("tr", "", make("th", "", "Key"), make("th", "", "Row")));
      const none = make("p", "nothing", make("b", "", cursor || next ? "No row among the keys of this part" : "No rows"), next ? "Others may follow." : "A row begins with the first event of its key. Sets, counts and rankings are opened by their key.");
      const first = cursor && link("from the beginning", href("rows", this.table));
      const more = next && link("more rows", href("rows", this.table, { cursor: next }), "more-rows");
      place.replaceChildren(lines.length > 0 ? scrolls(make("div", "wide", make("table", "table", head, make("tbody", "", ...lines))), "Rows of this table") : none, make("div", "row pages", ...[make("span", "hint", `${plural(rows.length, "row")} here, in no order of the whole${next ? "" : ": that is the end"}`), first, more].filter(Boolean)));
    } catch (error) {
      if (!this.over) failed(place, error);
    }
  }

  async one(said = null) {
    const outcome = make("div");
    outcome.setAttribute("aria-live", "polite");
    if (said) outcome.append(make("div", "outcome", make("b", "", said)));
    const place = make("div", "parts", make("p", "hint", "looking …"));
    this.detail.replaceChildren(make("h3", "", `Table ${this.table}`), this.finder(), outcome, place);
    const back = link(`all of ${this.table}`, href("rows", this.table));
    try {
      const row = await api(`/api/tables/${encodeURIComponent(this.table)}/row?key=${encodeURIComponent(this.key)}`);
      if (this.over) return;
      const title = make("div", "row", make("h2", "row-key", this.key || "(empty)"), back);
      if (row.kind !== "row") {
        place.replaceChildren(title, ...notRow(row));
        return;
      }
      const editor = new Editor(row, (text) => this.one(text));
      place.replaceChildren(
        ...[
          title,
          facts([["in Redis", make("span", "mono", row.redis)], ["version", make("span", "mono", row.version)]]),
          editor.form,
          make("section", "", make("h3", "", "As JSON"), make("pre", "json", row.json)),
          make("section", "", make("h3", "", "Changed by hand"), edits(row.edits)),
        ],
      );
    } catch (error) {
      if (!this.over) place.replaceChildren(make("p", "problem", error.message), back);
    }
  }
}

function notRow({ kind, count, members, redis }) {
  const words = { members: `A set of ${plural(count, "member")}`, ranking: `A ranking of ${plural(count, "member")}`, count: `An estimate of ${number(count)} different members` }[kind];
  const listed = (members ?? []).map((one) => (Array.isArray(one) ? make("li", "", make("div", "top-line", make("span", "mono", one[0]), make("span", "hint", number(one[1])))) : make("li", "mono", one)));
  const hidden = kind !== "count" && members === null && make("p", "hint", "Its members are not shown: the contract calls fields sensitive, and nothing says which of them these came from.");
  const cut = listed.length > 0 && listed.length < count && make("p", "hint", `The first ${number(listed.length)} are shown.`);
  return [make("p", "", words), facts([["in Redis", make("span", "mono", redis)]]), hidden, listed.length > 0 && make("ul", "list", ...listed), cut].filter(Boolean);
}

function edits(all) {
  if (all.length === 0) return make("p", "hint", "Never, as far as the record goes.");
  const rows = all.map(({ at, by, reason, before, set, unset }) => {
    const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
    const changes = [
      ...Object.entries(set ?? {}).map(([field, value]) => `${field}: ${before?.[field] === undefined ? "nothing" : text(before[field])} → ${text(value)}`),
      ...(unset ?? []).map((field) => `${field}: ${before?.[field] === undefined ? "nothing" : text(before[field])} → its default`),
    ];
    return make("li", "", make("div", "top-line", make("b", "", reason), moment(Date.parse(at))), ...changes.map((change) => make("span", "mono", change)), make("span", "hint", `by ${by || "somebody"}`));
  });
  return make("ul", "list", ...rows);
}

// Fields as texts, as Redis holds them: numbers of any size stay what they are. Only what was changed is sent.
class Editor {
  constructor(row, done) {
    this.row = row;
    this.done = done;
    this.outcome = make("div");
    this.outcome.setAttribute("role", "alert");
    this.fields = row.fields.map((field) => this.field(field));
    this.force = make("input");
    this.force.type = "checkbox";
    this.save = make("button", "strong", "Save changes");
    this.save.disabled = true;
    const lines = this.fields.map(({ line }) => line);
    const head = make("thead", "", make("tr", "", make("th", "", "Field"), make("th", "", "Value"), about.admin && make("th", "", "Remove")));
    const table = make("table", "table fields", head, make("tbody", "", ...lines));
    this.form = make(
      "form",
      "parts",
      table,
      about.admin ? make("div", "actions", this.save, make("label", "check", this.force, "even if a value is of another kind than before")) : make("p", "hint", "Not yours to change here; oncue state edit changes a row."),
      this.outcome,
    );
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.write();
    });
  }

  field({ name, text, hidden }) {
    const isWhole = hidden && text === "(sensitive)";
    const isLong = text.length > 60 || text.includes("\n");
    const input = make(isLong ? "textarea" : "input", "mono");
    if (isLong) input.rows = Math.min(10, 2 + Math.floor(text.length / 80));
    input.value = isWhole ? "" : text;
    if (isWhole) input.placeholder = "(sensitive)";
    input.spellcheck = false;
    input.autocomplete = "off";
    input.readOnly = !about.admin;
    input.setAttribute("aria-label", `Value of ${name}`);
    const gone = make("input");
    gone.type = "checkbox";
    gone.setAttribute("aria-label", `Remove ${name}: it has its default then`);
    const field = { name, input, gone, before: input.value };
    field.line = make("tr", "", make("th", "mono", name), make("td", "", input), about.admin && make("td", "", gone));
    for (const one of [input, gone]) {
      one.addEventListener("input", () => {
        input.disabled = gone.checked;
        field.line.classList.toggle("changed", this.isChanged(field));
        this.save.disabled = !this.fields.some((other) => this.isChanged(other));
      });
    }
    return field;
  }

  isChanged({ input, gone, before }) {
    return gone.checked || input.value !== before;
  }

  async write() {
    const changed = this.fields.filter((field) => this.isChanged(field));
    if (changed.length === 0) return;
    const set = Object.fromEntries(changed.filter(({ gone }) => !gone.checked).map(({ name, input }) => [name, input.value]));
    const unset = changed.filter(({ gone }) => gone.checked).map(({ name }) => name);
    const { table, key, version } = this.row;
    const names = changed.map(({ name }) => name).join(", ");
    const why = await ask(`Change ${table}/${key}?`, `${plural(changed.length, "field")}: ${names}. It is written only if the row is still as it is shown here. Who did it, and why, stays on record.`, "Change", true);
    if (!why) return;
    this.save.disabled = true;
    this.outcome.replaceChildren();
    try {
      await api(`/api/tables/${encodeURIComponent(table)}/row`, { key, version, set, unset, why, force: this.force.checked });
      this.done(`The row is changed: ${names}`);
    } catch (error) {
      const again = error.status === 409 && button("Show it as it is now", () => this.done(null));
      this.outcome.replaceChildren(make("div", "outcome", make("span", "bad", error.message), again || ""));
      this.save.disabled = false;
    }
  }
}
