// Schedules: when each fires next and fired last. One is fired now, paused or resumed here.

import { href, note } from "./address.js";
import { about, ago, api, ask, button, duration, facts, failed, flowLink, link, make, moment, named, onlyLooks, redraw, scrolls } from "./dom.js";

const EVERY = 3000;

const STANDING = {
  set: ["ok", "fires"],
  paused: ["paused", "paused"],
  missing: ["off", "not on the server"],
  different: ["behind", "another on the server"],
  left_over: ["failing", "left over"],
};

const ADVICE = {
  missing: "It is declared and not on the server, so it does not fire: run oncue apply.",
  different: "The server has another rule, zone or event than oncue.toml, by which it fires: run oncue apply.",
  left_over: "It is on the server, and nobody declares it: oncue apply --prune removes it.",
};

export function showSchedules(place, given) {
  const page = new Schedules(place, given);
  return () => page.leave();
}

class Schedules {
  constructor(place, given) {
    this.chosen = given;
    this.outcome = make("div");
    this.outcome.setAttribute("aria-live", "polite");
    this.list = make("div", "", make("p", "hint", "looking …"));
    const way = about.write ? "What is fired by hand is an event of its own; the next firing stays as it is." : onlyLooks("oncue schedule fires, pauses and resumes.");
    place.replaceChildren(make("div", "title", make("h2", "", "Schedules"), make("p", "hint", way)), make("div", "card", this.outcome, this.list));
    this.refresh();
  }

  leave() {
    this.over = true;
    clearTimeout(this.timer);
  }

  async refresh() {
    clearTimeout(this.timer);
    const { chosen } = this;
    try {
      const [{ schedules }, whole] = await Promise.all([api("/api/schedules"), chosen ? api(`/api/schedules/${encodeURIComponent(chosen)}`).catch((error) => ({ error })) : null]);
      if (this.over) return;
      if (chosen === this.chosen) this.show(schedules, whole);
    } catch (error) {
      if (!this.over) failed(this.list, error);
    }
    clearTimeout(this.timer);
    if (!this.over) this.timer = setTimeout(() => this.refresh(), EVERY);
  }

  show(schedules, whole) {
    const isKnown = schedules.some(({ name }) => name === this.chosen);
    const unknown = this.chosen && !isKnown && make("p", "problem", whole?.error?.message ?? `There is no schedule ${this.chosen}.`);
    if (schedules.length === 0) {
      redraw(this.list, ...[unknown, make("p", "nothing", make("b", "", "No schedules"), "[[schedule]] in oncue.toml declares one, and oncue apply sets it.")].filter(Boolean));
      return;
    }
    const columns = [["Schedule"], ["Fires", "extra"], ["Rule", "extra"], ["Next"], ["Last", "extra"], ["State"]];
    const head = make("tr", "", ...columns.map(([name, kind]) => make("th", kind ?? "", name)));
    const rows = schedules.flatMap((schedule) => this.row(schedule, schedule.name === this.chosen ? whole : null));
    const table = make("table", "table schedules", make("thead", "", head), make("tbody", "", ...rows));
    redraw(this.list, ...[unknown, scrolls(make("div", "wide", table), "All schedules")].filter(Boolean));
  }

  row(schedule, whole) {
    const isOpen = schedule.name === this.chosen;
    const open = named(button(schedule.name, () => this.open(isOpen ? "" : schedule.name), "quiet"), `schedule ${schedule.name}`);
    open.setAttribute("aria-expanded", `${isOpen}`);
    const [kind, words] = STANDING[schedule.standing] ?? ["off", schedule.standing];
    const next = schedule.next[0];
    const last = schedule.runs[0];
    const line = make(
      "tr",
      isOpen ? "open" : "",
      make("td", "", open),
      make("td", "extra", schedule.type ? link(schedule.type, href("map", schedule.type), "chip") : "", schedule.function && make("span", "hint", ` for ${schedule.function}`)),
      make("td", "extra", make("code", "", schedule.rule), schedule.zone !== "UTC" && make("span", "hint", ` ${schedule.zone}`)),
      make("td", "", next && schedule.standing !== "missing" ? moment(next.at, until(next.at)) : make("span", "hint", "–")),
      make("td", "extra", last ? moment(last.at) : make("span", "hint", "–")),
      make("td", "", make("span", `state ${kind}`, words)),
    );
    if (!isOpen) return [line];
    const cell = make("td", "", whole && !whole.error ? this.whole(whole) : make("p", "hint", whole?.error?.message ?? "reading …"));
    cell.colSpan = 6;
    return [line, make("tr", "open", cell)];
  }

  open(name) {
    this.chosen = name;
    note({}, { subject: name });
    this.refresh();
  }

  whole(schedule) {
    const { name, standing, pause } = schedule;
    const why = pause ? `Paused by ${pause.by || "somebody"}, ${ago(pause.since)}: it fires nothing until somebody resumes it.` : ADVICE[standing];
    const next = schedule.next.map(({ at, there }) => make("li", "", make("div", "top-line", make("span", "mono", there), moment(at, until(at)))));
    const runs = schedule.runs.map(({ at, flow }) => make("li", "", make("div", "top-line", flow ? flowLink(flow, new Date(at).toLocaleString()) : make("span", "", new Date(at).toLocaleString()), moment(at))));
    const none = standing === "missing" ? "It does not fire." : standing === "paused" ? "None while it is paused." : "Not known.";
    return make(
      "div",
      "parts whole",
      ...[
        why && make("p", "waits", why),
        this.acts(schedule),
        facts([["rule", make("code", "", schedule.rule)], ["zone", schedule.zone], ["event", link(schedule.type, href("map", schedule.type))], ["function", schedule.function && link(schedule.function, href("map", schedule.function))]]),
        make("div", "two", make("section", "", make("h3", "", "Next, by the clock of its zone"), next.length > 0 && standing !== "missing" ? make("ul", "list", ...next) : make("p", "hint", none)), make("section", "", make("h3", "", "Last, with the flow each began"), runs.length > 0 ? make("ul", "list", ...runs) : make("p", "hint", "None is kept."))),
      ].filter(Boolean),
    );
  }

  acts({ name, declared, standing, type, pause: paused }) {
    const fire = named(button("Fire now", () => this.act(`Fire ${name} now?`, `An event ${type} begins a flow, as if the clock had fired it. Its next firing stays as it is.`, "Fire", name, "fire")), `fire ${name}`);
    const pause = named(button("Pause", () => this.act(`Pause ${name}?`, "It fires nothing until somebody resumes it, over restarts and oncue apply.", "Pause", name, "pause")), `pause ${name}`);
    const again = declared ? "It fires again; an interval counts from now." : "";
    const resume = named(button("Resume", () => this.act(`Resume ${name}?`, again, "Resume", name, "resume"), "strong"), `pause ${name}`);
    fire.disabled = !about.write || !declared;
    pause.disabled = !about.write || standing === "missing" || Boolean(paused);
    resume.disabled = !about.write || !declared;
    return make("div", "actions", fire, standing === "paused" ? resume : pause, !about.write && make("span", "hint", "read-only"));
  }

  async act(title, text, yes, name, what) {
    if (!(await ask(title, text, yes))) return;
    try {
      const { flow } = await api(`/api/schedules/${encodeURIComponent(name)}/${what}`, {});
      const words = { fire: `${name} is fired`, pause: `${name} is paused`, resume: `${name} fires again` }[what];
      this.outcome.replaceChildren(make("div", "outcome", make("b", "", words), flow ? make("div", "row", flowLink(flow, "its flow"), make("span", "mono clip", flow)) : ""));
    } catch (error) {
      this.outcome.replaceChildren(make("div", "outcome", make("span", "bad", error.message)));
    }
    this.refresh();
  }
}

function until(at) {
  const left = at - Date.now();
  return left <= 0 ? "now" : `in ${duration(Math.max(1000, Math.round(left / 1000) * 1000)).replace(/\.0+ s$/, " s")}`;
}
