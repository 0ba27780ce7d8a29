// The dead-letter bench: causes on the left, the letters of one on the right, and what may be done with them.

import { address, href, note } from "./address.js";
import { about, ago, api, ask, button, facts, failed, flowLink, json, link, make, moment, named, number, onlyLooks, plural, redraw, scrolls, short, traceLink, withPayload } from "./dom.js";

const EVERY = 3000;
const POLL = 400;
const PAGE = 50;
const COLUMNS = [["Letter", "age"], ["About", "key"], ["Event", null], ["Attempts", "attempts", "extra num"], ["Redriven", "redrives", "extra num"], ["Age", "age"]];

export function showLetters(place, wanted) {
  const bench = new Bench(place, wanted);
  return () => bench.leave();
}

// What of the letters is shown, as the address has it.
function viewOf(query) {
  const sort = COLUMNS.find(([, name]) => name && name === query.get("sort"))?.[1] ?? "age";
  return { offset: Math.max(0, Number(query.get("offset")) || 0), sort, ascending: query.has("ascending"), q: query.get("q") ?? "" };
}

function field(label, value, act) {
  const input = make("input");
  input.type = "search";
  input.placeholder = label;
  input.setAttribute("aria-label", label);
  input.autocomplete = "off";
  input.value = value;
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => input.isConnected && act(input.value.trim()), 250);
  });
  return input;
}

const snoozed = (group) => group.snoozed_until > Date.now();
const clock = (at) => new Date(at).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" });

class Bench {
  constructor(place, wanted) {
    this.place = place;
    this.wanted = wanted;
    this.chosen = new Set();
    const { query } = address();
    this.view = viewOf(query);
    this.reading = Number(query.get("letter")) || null;
    this.filter = query.get("causes") ?? "";
    this.list = make("div", "groups");
    this.before = make("p", "hint");
    this.head = make("div", "parts");
    this.acts = make("div", "actions");
    this.outcome = make("div");
    this.differ = make("div");
    this.table = scrolls(make("div", "wide"), "Letters");
    this.pages = make("div", "row");
    this.find = field("Filter these letters by event, flow, key or message", this.view.q, (q) => this.turn({ q, offset: 0 }, true));
    this.detail = make("div", "card", this.head, this.acts, this.outcome, this.differ, this.find, this.table, this.pages);
    const filter = field("Filter causes", this.filter, (q) => {
      this.filter = q;
      note({ causes: q }, { typed: true });
      this.refresh();
    });
    const way = about.write
      ? "What is tried changes nothing; what is redriven goes back to its function alone, one first and the rest if that goes well."
      : onlyLooks("To act from here, start it with a token and [console] write = true; oncue dlq does the same.");
    place.replaceChildren(make("div", "title", make("h2", "", "Dead letters"), make("p", "hint", way)), make("div", "bench", make("div", "groups", filter, this.list, this.before), this.detail));
    this.refresh();
  }

  leave() {
    this.over = true;
    clearTimeout(this.timer);
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const said = await api(`/api/letters?q=${encodeURIComponent(this.filter)}`);
      if (this.over) return;
      this.show(said);
    } catch (error) {
      if (!this.over) failed(this.list, error);
    }
    clearTimeout(this.timer);
    if (!this.over) this.timer = setTimeout(() => this.refresh(), this.unread > 0 ? POLL : EVERY);
  }

  async show({ groups, before, letters, unread }) {
    this.unread = unread;
    this.before.textContent = unread > 0 ? `Reading: ${number(unread)} messages are left.` : before > 0 ? `${number(before)} older messages lie before these; oncue dlq ls reads all.` : "";
    // What is snoozed stands behind all else.
    groups.sort((one, other) => snoozed(one) - snoozed(other));
    const drawn = JSON.stringify([groups, groups.map(snoozed)]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.groups = groups;
    redraw(this.list, ...groups.map((one) => this.card(one)));
    let open = groups.find((one) => one.group === this.open);
    if (!open && this.busy) {
      this.drawn = null;
      return;
    }
    // What has come of a deed stands there until somebody chooses, though its cause went with its letters.
    const isTold = this.outcome.hasChildNodes();
    if (!open && !isTold) open = (await this.asked(groups)) ?? groups[0];
    if (this.over) return;
    this.detail.hidden = false;
    if (open) {
      if (open.group !== this.open) this.begin(open, this.open === undefined ? this.view : viewOf(new URLSearchParams()));
      else this.load(open);
      return;
    }
    this.open = null;
    const [nothing, why] = groups.length > 0 ? ["Nothing is left of this cause", "Choose another."] : letters > 0 ? ["No cause like that", ""] : ["No dead letters", "Every event was applied, or is still under way."];
    this.head.replaceChildren(make("p", "nothing", make("b", "", nothing), why));
    for (const part of [this.acts, this.differ, this.table, this.pages]) part.replaceChildren();
    this.find.hidden = true;
  }

  // The group a link leads to: by its name, or by one of its letters.
  async asked(groups) {
    const named = groups.find((one) => one.group === this.wanted);
    if (named || !/^\d+$/.test(this.wanted)) return named;
    const letter = await api(`/api/letters/${this.wanted}`).catch(() => null);
    const found = groups.find((one) => one.group === letter?.group);
    if (found) this.reading = Number(this.wanted);
    return found;
  }

  card(group) {
    const card = named(button("", () => this.choose(group)), group.group);
    card.replaceChildren(
      make("div", "top-line", make("b", "", group.function), make("span", "reason", group.reason), make("span", "badge", short(group.count))),
      make("span", "message", group.message),
      make("span", "hint", `${group.site ? `${group.site} · ` : ""}${ago(group.last)}${group.owner ? ` · ${group.owner.who} sees to it` : ""}${snoozed(group) ? ` · snoozed until ${clock(group.snoozed_until)}` : ""}`),
    );
    card.dataset.group = group.group;
    card.setAttribute("aria-pressed", `${this.open === group.group}`);
    return card;
  }

  choose(group) {
    this.reading = null;
    this.begin(group, viewOf(new URLSearchParams()));
    this.note();
  }

  // The group, its letter and how they are shown, for the address.
  note(typed = false) {
    const { offset, sort, ascending, q } = this.view;
    note({ letter: this.reading, q, sort: sort === "age" ? "" : sort, ascending, offset: offset || "" }, { subject: this.open, typed });
  }

  begin(group, view) {
    this.open = group.group;
    this.chosen.clear();
    this.view = view;
    this.find.value = view.q;
    this.find.hidden = false;
    this.outcome.replaceChildren();
    this.differ.replaceChildren();
    for (const card of this.list.children) card.setAttribute("aria-pressed", `${card.dataset.group === group.group}`);
    this.load(group);
  }

  group() {
    return this.groups.find((one) => one.group === this.open);
  }

  turn(change, typed = false) {
    Object.assign(this.view, change);
    const group = this.group();
    if (!group) return;
    this.note(typed);
    this.load(group);
  }

  // Who sees to it, and the way to take it or to let it go.
  owner(group) {
    const { owner } = group;
    const set = async (body) => {
      try {
        await api(`/api/letters/group/${group.group}/owner`, body);
        this.refresh();
      } catch (error) {
        failed(this.outcome, error);
      }
    };
    const take = async () => {
      const from = owner ? `${owner.who} has it since ${ago(owner.since)}. ` : "";
      const note = await ask(owner ? "Take it over?" : "See to it?", `${from}The others see your name and what you write. Whoever may redrive still may.`, "Take", "What you know so far");
      if (note !== false) set({ note });
    };
    // Nobody is told of it meanwhile, and it stands behind the others.
    const snooze = async (minutes) => {
      try {
        await api("/api/notices/silence", { name: `letters/${group.group}`, minutes });
        this.refresh();
      } catch (error) {
        failed(this.outcome, error);
      }
    };
    const rest = snoozed(group)
      ? [make("span", "hint", `snoozed until ${clock(group.snoozed_until)}`), about.write && named(button("Wake", () => snooze(0), "quiet"), "wake")]
      : [about.write && named(button("Snooze for 4 h", () => snooze(240), "quiet"), "snooze")];
    const who = owner && make("span", "", make("b", "", owner.who), " sees to it since ", moment(owner.since), owner.note ? `: ${owner.note}` : "");
    const acts = about.write
      ? [named(button(owner ? "Take over" : "See to it", take, "quiet"), "take"), owner && named(button("Let it go", () => set({ release: true }), "quiet"), "release")]
      : [];
    return make("div", "row owner", who || make("span", "hint", "nobody sees to it"), ...[...acts, ...rest].filter(Boolean));
  }

  async load(group) {
    const facts = make("p", "hint", `${plural(group.count, "letter")}, the first ${ago(group.first)}, the last ${ago(group.last)} · group ${group.group}`);
    const where = make("div", "row", link(group.function, href("map", group.function)), make("span", "reason", group.reason), group.site && make("code", "", group.site));
    this.head.replaceChildren(where, make("p", "why bad", group.message), facts, this.owner(group));
    const { offset, sort, ascending, q } = this.view;
    try {
      const said = await api(`/api/letters/group/${group.group}?offset=${offset}&limit=${PAGE}&sort=${sort}&ascending=${ascending}&q=${encodeURIComponent(q)}`);
      if (this.over || this.open !== group.group) return;
      // Somebody writes: what stands there stays, and the next news come after it. Another page is what somebody has asked for.
      const view = JSON.stringify([group.group, this.view]);
      if (view === this.shownView && this.table.querySelector("details.desk[open]")) return;
      this.shownView = view;
      this.page = said;
      // The last page may have gone with its letters.
      if (said.letters.length === 0 && offset > 0) return void this.turn({ offset: 0 }, true);
      this.drawTable();
    } catch (error) {
      if (!this.over) failed(this.table, error);
    }
  }

  drawTable() {
    const { letters, count, offset } = this.page;
    this.boxes = [];
    const all = named(make("input"), "all");
    all.type = "checkbox";
    all.setAttribute("aria-label", "All letters of this page");
    all.checked = letters.length > 0 && letters.every((letter) => this.chosen.has(letter.number));
    all.addEventListener("change", () => {
      for (const box of this.boxes) {
        box.checked = all.checked;
        if (all.checked) this.chosen.add(Number(box.value));
        else this.chosen.delete(Number(box.value));
      }
      this.drawActions();
    });
    const head = make("tr", "", make("th", "", all), ...COLUMNS.map((column, at) => this.heading(column, at)));
    this.body = make("tbody", "", ...letters.flatMap((letter) => this.row(letter)));
    redraw(this.table, make("table", "table", make("thead", "", head), this.body));
    const last = Math.min(count, offset + letters.length);
    const move = (text, to, may) => {
      const act = named(button(text, () => this.turn({ offset: to })), text);
      act.disabled = !may;
      return act;
    };
    const where = make("span", "hint", count > 0 ? `${number(offset + 1)} to ${number(last)} of ${number(count)}` : "none is like that");
    redraw(this.pages, move("Newer", Math.max(0, offset - PAGE), offset > 0), where, move("Older", offset + PAGE, last < count));
    this.drawActions();
  }

  heading([name, sort, kind], at) {
    if (!sort || at === 5) return make("th", kind ?? "", name);
    const isIt = this.view.sort === sort;
    const arrow = isIt ? (this.view.ascending ? " ↑" : " ↓") : "";
    const act = named(button(name + arrow, () => this.turn({ sort, ascending: isIt ? !this.view.ascending : false, offset: 0 }), "quiet"), `sort ${sort}`);
    const cell = make("th", kind ?? "", act);
    cell.setAttribute("aria-sort", isIt ? (this.view.ascending ? "ascending" : "descending") : "none");
    return cell;
  }

  // What an action is about: those that are ticked, or all of the group as it is filtered, as far as this page knew of them.
  meant() {
    if (this.chosen.size > 0) return { numbers: [...this.chosen] };
    return { group: this.open, q: this.view.q, through: this.page.last };
  }

  size() {
    return this.chosen.size || this.page.count;
  }

  drawActions() {
    // Both at once: a button does what it says, whatever is ticked meanwhile.
    const [count, meant] = [this.size(), this.meant()];
    const what = this.chosen.size > 0 ? `${number(count)} chosen` : count === 1 ? "the letter" : `all ${number(count)}`;
    const acts = [
      named(button(`Try ${count > 20 ? `20 of ${number(count)}` : what}`, () => this.attempt(meant)), "try"),
      named(button(`Redrive ${what}`, () => this.redrive(meant, count), "strong"), "redrive"),
      named(button(`Drop ${what}`, () => this.drop(meant, count), "danger"), "drop"),
    ];
    for (const act of acts) act.disabled = !about.write || this.busy || count === 0;
    acts[2].disabled ||= !about.admin;
    const compare = named(button("Compare payloads", () => this.compare()), "compare");
    redraw(this.acts, ...acts, compare, about.write ? "" : make("span", "hint", "read-only"));
  }

  row(letter) {
    const box = named(make("input"), `box ${letter.number}`);
    box.type = "checkbox";
    box.value = letter.number;
    box.checked = this.chosen.has(letter.number);
    box.setAttribute("aria-label", `Letter ${letter.number}`);
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(letter.number);
      else this.chosen.delete(letter.number);
      this.drawActions();
    });
    this.boxes.push(box);
    const isOpen = this.reading === letter.number;
    const show = named(button(`#${letter.number}`, () => {
      this.reading = isOpen ? null : letter.number;
      this.note();
      this.drawTable();
    }, "quiet"), `letter ${letter.number}`);
    show.setAttribute("aria-expanded", `${isOpen}`);
    const line = make(
      "tr",
      isOpen ? "open" : "",
      make("td", "", box),
      make("td", "", show),
      make("td", "", letter.key),
      make("td", "mono", letter.event.length > 26 ? `${letter.event.slice(0, 12)}…${letter.event.slice(-8)}` : letter.event),
      make("td", "extra num", number(letter.attempts)),
      make("td", "extra num", number(letter.redrives)),
      make("td", "", moment(letter.at)),
    );
    if (!isOpen) return [line];
    const cell = make("td", "", make("p", "hint", "reading …"));
    cell.colSpan = 7;
    api(`/api/letters/${letter.number}`).then(
      (whole) => cell.replaceChildren(make("div", "parts whole", ...letterWhole(whole, (sent) => this.edited(whole.function, sent)))),
      (error) => failed(cell, error),
    );
    return [line, make("tr", "open", cell)];
  }

  // The letter goes with its line; what came of it is said above.
  edited(name, { id, flow }) {
    this.outcome.replaceChildren(make("div", "outcome", make("b", "", `Sent to ${name} as a new event of the same flow`), make("div", "row", flowLink(flow, "the flow"), make("span", "mono clip", id))));
    this.reading = null;
    this.note(true);
    this.shownView = null;
    this.refresh();
  }

  async compare() {
    this.differ.replaceChildren(make("p", "hint", "reading a sample …"));
    try {
      const { sampled, same, differs } = await api(`/api/letters/group/${this.open}/differences`);
      const values = ({ values, kinds, missing }) => {
        const told = values.map(([value, count]) => make("span", "chip", `${value} `, make("b", "", `${count}×`)));
        const more = [kinds > values.length && `${number(kinds - values.length)} other values`, missing > 0 && `${missing} without it`].filter(Boolean).join(", ");
        return make("div", "types", ...told, more && make("span", "hint", more));
      };
      this.differ.replaceChildren(make(
        "div",
        "outcome",
        make("b", "", sampled > 0 ? `${plural(sampled, "payload")} of this group compared` : "No payload of this group can be decoded"),
        Object.keys(differs).length > 0 && make("h3", "", "They differ in"),
        facts(Object.entries(differs).map(([path, told]) => [path, values(told)])),
        Object.keys(same).length > 0 && make("h3", "", "All of them have"),
        facts(Object.entries(same).map(([path, value]) => [path, make("span", "mono", value)])),
      ));
    } catch (error) {
      failed(this.differ, error);
    }
  }

  async attempt(meant) {
    await this.act(make("p", "hint", "running the function on them; nothing is committed …"), async () => {
      const { answers, left } = await api("/api/letters/try", meant);
      const applied = answers.filter((answer) => answer.outcome === "applied").length;
      const rest = left > 0 ? `, ${number(left)} not tried` : "";
      this.outcome.replaceChildren(make("div", "outcome", make("b", "", `${applied} of ${answers.length} would be applied${rest}; nothing was changed`), ...alike(answers).map(answerRow)));
    });
  }

  async redrive(meant, count) {
    const { function: name } = this.group();
    if (count > 1 && !(await ask(`Redrive ${number(count)} letters?`, `They go back to ${name}: one first, the rest only while the cause does not come back.`, "Redrive"))) return;
    await this.follow("/api/letters/redrive", meant, (how) => `${number(how.sent)} of ${number(how.letters)} redriven, ${number(how.done)} done, ${number(how.failed)} failed again`);
  }

  async drop(meant, count) {
    const { function: name } = this.group();
    const why = await ask(`Drop ${plural(count, "letter")} for good?`, `What ${name} should have done will not happen. Who dropped them and why stays on record.`, "Drop", true);
    if (!why) return;
    await this.follow("/api/letters/drop", { ...meant, why }, (how) => `${number(how.done)} of ${number(how.letters)} dropped`);
  }

  // Does it, and shows how a long one goes.
  async follow(path, meant, words) {
    const bar = make("progress");
    const text = make("span", "", "sending …");
    const remarks = make("div", "bad");
    await this.act(make("div", "", text, bar, remarks), async () => {
      const { job, dropped } = await api(path, meant);
      if (dropped !== undefined) {
        this.outcome.replaceChildren(make("div", "outcome", make("b", "", `${number(dropped)} dropped; oncue dlq dropped lists them`)));
        return;
      }
      for (;;) {
        const how = await api(`/api/jobs/${job}`);
        bar.max = Math.max(1, how.letters);
        bar.value = how.done + how.failed;
        text.textContent = `${words(how)}${how.ended ? "" : " …"}`;
        remarks.textContent = how.remarks.join("; ");
        if (how.ended) break;
        await new Promise((done) => setTimeout(done, POLL));
      }
    });
    this.chosen.clear();
    this.drawTable();
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
    this.drawActions();
  }
}

function letterWhole(letter, edited) {
  const headers = facts(letter.headers.map(([name, value]) => [name, make("span", "mono", value)]));
  const payload = letter.data !== undefined ? json(letter.data) : make("pre", "json", letter.text ?? letter.hex ?? "");
  return [
    make("p", "bad", `${letter.reason}: ${letter.message}`),
    make("div", "row", traceLink(letter.trace, "the trace in which it failed"), flowLink(letter.flow, "its flow"), letter.site && make("code", "", letter.site)),
    make("h3", "", "Payload"),
    letter.undecoded && make("p", "hint", letter.undecoded),
    payload,
    about.write && letter.reason !== "unpublishable" && editor(letter, edited),
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

// Another payload for the event, sent to the function alone.
function editor(letter, edited) {
  const text = make("textarea", "mono", letter.data !== undefined ? JSON.stringify(letter.data, null, 2) : letter.text ?? "");
  text.rows = 10;
  text.spellcheck = false;
  const why = make("input");
  why.maxLength = 400;
  const outcome = make("div");
  outcome.setAttribute("aria-live", "polite");
  const send = button("Send it like this", async () => {
    send.disabled = true;
    try {
      const sent = await api(`/api/letters/${letter.number}/edit`, withPayload(text.value, { why: why.value }));
      edited(sent);
    } catch (error) {
      failed(outcome, error);
      send.disabled = false;
    }
  }, "strong");
  const form = make("details", "desk", make("summary", "", "Edit and send again"), make("p", "hint", `${letter.function} alone gets it, as a new event that this one has caused. The letter goes; who did it, and why, stays on record. A field that is (sensitive) keeps what it holds.`), make("label", "tall", "Payload, in JSON ", text), make("label", "", "Why ", why), make("div", "actions", send));
  return make("div", "", form, outcome);
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

export function answerRow(answer) {
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
