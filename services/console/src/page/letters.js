// The dead-letter bench: causes on the left, the letters of one on the right, and what may be done with them.

import { about, ago, api, button, byId, facts, failed, flowLink, json, link, make, moment, number, plural, short, traceLink } from "./dom.js";

const EVERY = 3000;
const POLL = 400;

export function showLetters(place, wanted) {
  const bench = new Bench(place, wanted);
  return () => bench.leave();
}

class Bench {
  constructor(place, wanted) {
    this.place = place;
    this.wanted = wanted;
    this.chosen = new Set();
    this.list = make("div", "groups");
    this.detail = make("div", "card");
    this.outcome = make("div");
    this.before = make("p", "hint");
    const way = about.write
      ? "What is tried changes nothing; what is redriven goes back to its function alone, one first and the rest if that goes well."
      : "This console only looks. To act from here, start it with a token and [console] write = true; oncue dlq does the same.";
    place.replaceChildren(make("div", "title", make("h2", "", "Dead letters"), make("p", "hint", way)), make("div", "bench", make("div", "groups", this.list, this.before), this.detail));
    this.refresh();
  }

  leave() {
    this.over = true;
    clearTimeout(this.timer);
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const said = await api("/api/letters");
      if (this.over) return;
      this.show(said);
    } catch (error) {
      if (!this.over) failed(this.list, error);
    }
    if (!this.over) this.timer = setTimeout(() => this.refresh(), EVERY);
  }

  show({ groups, before }) {
    this.before.textContent = before > 0 ? `${number(before)} older messages lie before these; oncue dlq ls reads all.` : "";
    const drawn = JSON.stringify(groups);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.groups = groups;
    const asked = (group) => group.group === this.wanted || group.numbers.includes(Number(this.wanted));
    const group = groups.find((one) => one.group === this.open) ?? groups.find(asked) ?? groups[0];
    if (group && !this.open && /^\d+$/.test(this.wanted) && group.numbers.includes(Number(this.wanted)) && group.group !== this.wanted) this.reading = Number(this.wanted);
    this.list.replaceChildren(...groups.map((one) => this.card(one)));
    if (group) this.choose(group);
    else {
      this.open = null;
      this.detail.replaceChildren(this.outcome, make("p", "nothing", make("b", "", "No dead letters"), "Every event was applied, or is still under way."));
    }
  }

  card(group) {
    const card = button("", () => {
      this.outcome.replaceChildren();
      this.reading = null;
      this.chosen.clear();
      this.choose(group);
    });
    card.replaceChildren(
      make("div", "top-line", make("b", "", group.function), make("span", "reason", group.reason), make("span", "badge", short(group.count))),
      make("span", "message", group.message),
      make("span", "hint", `${group.site ? `${group.site} · ` : ""}${ago(group.last)}`),
    );
    card.dataset.group = group.group;
    return card;
  }

  choose(group) {
    this.open = group.group;
    for (const card of this.list.children) card.setAttribute("aria-pressed", `${card.dataset.group === group.group}`);
    this.chosen = new Set([...this.chosen].filter((number) => group.numbers.includes(number)));
    const facts = make("p", "hint", `${plural(group.count, "letter")}, the first ${ago(group.first)}, the last ${ago(group.last)} · group ${group.group}`);
    const where = make("div", "row", link(group.function, `#/map/${group.function}`), make("span", "reason", group.reason), group.site && make("code", "", group.site));
    this.body = make("tbody", "", ...group.letters.flatMap((letter) => this.row(letter, group)));
    const all = make("input");
    all.type = "checkbox";
    all.setAttribute("aria-label", "All letters of this group");
    all.checked = group.letters.length > 0 && group.letters.every((letter) => this.chosen.has(letter.number));
    all.addEventListener("change", () => {
      this.chosen = new Set(all.checked ? group.letters.map((letter) => letter.number) : []);
      this.choose(group);
    });
    const head = make("tr", "", make("th", "", all), ...["Letter", "About", "Event"].map((name) => make("th", "", name)), make("th", "extra num", "Attempts"), make("th", "extra num", "Redriven"), make("th", "", "Age"));
    const table = make("div", "wide", make("table", "table", make("thead", "", head), this.body));
    const cut = group.count > group.letters.length && make("p", "hint", `The latest ${group.letters.length} are listed; an action on the whole group means all ${number(group.count)}.`);
    this.detail.replaceChildren(where, make("p", "why bad", group.message), facts, this.actions(group), this.outcome, table, cut || "");
  }

  actions(group) {
    const some = this.chosen.size > 0;
    const numbers = () => (some ? [...this.chosen] : group.numbers);
    const what = some ? `${this.chosen.size} chosen` : group.count === 1 ? "the letter" : `all ${number(group.count)}`;
    const acts = [
      button(`Try ${what}`, () => this.attempt(numbers())),
      button(`Redrive ${what}`, () => this.redrive(numbers(), group), "strong"),
      button(`Drop ${what}`, () => this.drop(numbers(), group), "danger"),
    ];
    for (const act of acts) act.disabled = !about.write || this.busy;
    const row = make("div", "actions", ...acts);
    if (!about.write) row.append(make("span", "hint", "read-only"));
    return row;
  }

  row(letter, group) {
    const box = make("input");
    box.type = "checkbox";
    box.checked = this.chosen.has(letter.number);
    box.setAttribute("aria-label", `Letter ${letter.number}`);
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(letter.number);
      else this.chosen.delete(letter.number);
      this.choose(group);
    });
    const open = this.reading === letter.number;
    const show = button(`#${letter.number}`, () => {
      this.reading = open ? null : letter.number;
      this.choose(group);
    }, "quiet");
    show.setAttribute("aria-expanded", `${open}`);
    const line = make(
      "tr",
      open ? "open" : "",
      make("td", "", box),
      make("td", "", show),
      make("td", "", letter.key),
      make("td", "mono", letter.event.length > 26 ? `${letter.event.slice(0, 12)}…${letter.event.slice(-8)}` : letter.event),
      make("td", "extra num", number(letter.attempts)),
      make("td", "extra num", number(letter.redrives)),
      make("td", "", moment(letter.at)),
    );
    if (!open) return [line];
    const cell = make("td", "", make("p", "hint", "reading …"));
    cell.colSpan = 7;
    api(`/api/letters/${letter.number}`).then(
      (whole) => cell.replaceChildren(make("div", "parts whole", ...letterWhole(whole))),
      (error) => failed(cell, error),
    );
    return [line, make("tr", "open", cell)];
  }

  async attempt(numbers) {
    await this.act(make("p", "hint", "running the function on them; nothing is committed …"), async () => {
      const { answers, left } = await api("/api/letters/try", { numbers });
      const applied = answers.filter((answer) => answer.outcome === "applied").length;
      const rest = left > 0 ? `, ${number(left)} not tried` : "";
      this.outcome.replaceChildren(make("div", "outcome", make("b", "", `${applied} of ${answers.length} would be applied${rest}; nothing was changed`), ...alike(answers).map(answerRow)));
    });
  }

  async redrive(numbers, group) {
    if (numbers.length > 1 && !(await ask(`Redrive ${number(numbers.length)} letters?`, `They go back to ${group.function}: one first, the rest only while the cause does not come back.`, "Redrive"))) return;
    const bar = make("progress");
    const words = make("span", "", "sending …");
    const remarks = make("div", "bad");
    await this.act(make("div", "", words, bar, remarks), async () => {
      const { job } = await api("/api/letters/redrive", { numbers });
      for (;;) {
        const how = await api(`/api/jobs/${job}`);
        bar.max = Math.max(1, how.letters);
        bar.value = how.done + how.failed;
        words.textContent = `${how.sent} of ${how.letters} redriven, ${how.done} done, ${how.failed} failed again${how.ended ? "" : " …"}`;
        remarks.textContent = how.remarks.join("; ");
        if (how.ended) break;
        await new Promise((done) => setTimeout(done, POLL));
      }
    });
    this.refresh();
  }

  async drop(numbers, group) {
    const why = await ask(`Drop ${plural(numbers.length, "letter")} for good?`, `What ${group.function} should have done will not happen. Who dropped them and why stays on record.`, "Drop", true);
    if (!why) return;
    await this.act(make("p", "hint", "dropping …"), async () => {
      const { dropped } = await api("/api/letters/drop", { numbers, why });
      this.outcome.replaceChildren(make("div", "outcome", make("b", "", `${number(dropped)} dropped; oncue dlq dropped lists them`)));
    });
    this.refresh();
  }

  async act(meanwhile, what) {
    this.busy = true;
    for (const act of this.detail.querySelectorAll(".actions button")) act.disabled = true;
    this.outcome.replaceChildren(make("div", "outcome", meanwhile));
    try {
      await what();
    } catch (error) {
      this.outcome.replaceChildren(make("div", "outcome", make("span", "bad", error.message)));
    }
    this.busy = false;
    for (const act of this.detail.querySelectorAll(".actions button")) act.disabled = !about.write;
  }
}

function letterWhole(letter) {
  const headers = facts(letter.headers.map(([name, value]) => [name, make("span", "mono", value)]));
  const payload = letter.data !== undefined ? json(letter.data) : make("pre", "json", letter.hex ?? letter.undecoded ?? "");
  return [
    make("p", "bad", `${letter.reason}: ${letter.message}`),
    make("div", "row", traceLink(letter.trace, "the trace in which it failed"), flowLink(letter.flow, "its flow"), letter.site && make("code", "", letter.site)),
    make("h3", "", "Payload"),
    letter.undecoded && make("p", "hint", letter.undecoded),
    payload,
    make("h3", "", "Envelope"),
    facts([
      ["event", make("span", "mono", letter.event)],
      ["type", letter.type],
      ["key", letter.key],
      ["tried", `${letter.attempts}×, redriven ${letter.redrives}×`],
      ["accepted", letter.accepted > 0 && `${new Date(letter.accepted).toISOString()} as ${letter.stream}:${letter.sequence}`],
      ["set aside", new Date(letter.at).toISOString()],
      ["subject", make("span", "mono", letter.subject)],
    ]),
    headers,
  ].filter(Boolean);
}

// Letters with the same answer, together.
function alike(answers) {
  const groups = new Map();
  for (const { number, ...rest } of answers) {
    const same = JSON.stringify(rest);
    if (!groups.has(same)) groups.set(same, { ...rest, numbers: [] });
    groups.get(same).numbers.push(`#${number}`);
  }
  return [...groups.values()];
}

function answerRow(answer) {
  const words = { applied: "would be applied", dead: "would be set aside again", retry: "would fail", untried: "cannot be tried" };
  const lines = [make("div", "row", make("b", "", answer.numbers.join(" ")), make("span", `state ${answer.outcome}`, words[answer.outcome] ?? answer.outcome))];
  if (answer.message) lines.push(make("span", "bad", [answer.reason, answer.message].filter(Boolean).join(": ") + (answer.site ? ` at ${answer.site}` : "")));
  if (answer.hint) lines.push(make("span", "hint", answer.hint));
  const change = (kind, text) => lines.push(make("span", "mono", make("span", "change", `${kind} `), text));
  for (const [field, value] of Object.entries(answer.set ?? {})) change("set", `${field} = ${typeof value === "string" ? value : JSON.stringify(value)}`);
  for (const field of answer.del ?? []) change("remove", field);
  for (const operation of answer.operations ?? []) change("change", operation);
  for (const { type, key, data } of answer.emits ?? []) change("emit", `${type} ${key} ${JSON.stringify(data)}`);
  return make("div", "parts", ...lines);
}

// Yes or no; with `why`, the reason or nothing.
function ask(title, text, yes, why = false) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  byId("ask-why-label").hidden = !why;
  byId("ask-why").required = why;
  byId("ask-why").value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" && (why ? byId("ask-why").value.trim() : true)), { once: true });
  });
}
