// Publishing by hand: an event as the contract has it, tried without effect or sent, and the same from elsewhere.

import { href, note } from "./address.js";
import { about, api, button, compact, duration, facts, failed, flowLink, link, make, moment, plural, traceLink, withPayload } from "./dom.js";
import { answerRow } from "./letters.js";

// What was written of each type, while the page lives.
const drafts = new Map();

export function draft(type, data) {
  drafts.set(type, JSON.stringify(data, null, 2));
}

export function showPublish(place, type) {
  let over = false;
  place.replaceChildren(make("p", "hint", "looking …"));
  api("/api/types").then(
    (said) => !over && (said.types.length > 0 ? new Desk(place, said, type) : place.replaceChildren(make("p", "nothing", make("b", "", "No event types yet"), "They come with the contract of a function: run oncue apply."))),
    (error) => !over && failed(place, error),
  );
  return () => {
    over = true;
  };
}

class Desk {
  constructor(place, { types, gateway }, wanted) {
    this.types = types;
    this.gateway = gateway;
    this.type = types.find((one) => one.type === wanted) ?? types.find((one) => one.public) ?? types[0];
    this.choice = make("select", "", ...types.map((one) => new Option(one.type, one.type, false, one === this.type)));
    // The keyboard goes from one to the next: the focus stays.
    this.choice.addEventListener("change", () => {
      note({}, { subject: this.choice.value });
      new Desk(place, { types, gateway }, this.choice.value).choice.focus();
    });
    this.text = make("textarea", "mono");
    this.text.rows = 12;
    this.text.spellcheck = false;
    this.text.addEventListener("input", () => this.written());
    this.wrong = make("p", "bad");
    this.wrong.setAttribute("role", "status");
    this.last = make("div", "types");
    this.outcome = make("div");
    this.outcome.setAttribute("aria-live", "polite");
    this.elsewhere = make("div", "parts");
    this.tryIt = button("Try without effect", () => this.attempt());
    this.send = button("Publish", () => this.publish(), "strong");
    const heard = this.type.heard_by.length > 0 ? make("div", "types", ...this.type.heard_by.map((name) => link(name, href("map", name), "chip"))) : "nobody: it would lie in its stream";
    place.replaceChildren(
      make("div", "title", make("h2", "", "Publish"), make("p", "hint", "An event made by hand begins a flow of its own. Trying it runs every function that acts on it, and commits nothing.")),
      make(
        "div",
        "card desk",
        make("label", "", "Event type ", this.choice),
        facts([["message", make("span", "mono", this.type.schema)], ["key", this.type.key && make("span", "mono", this.type.key)], ["acts on it", heard], ["clients", this.type.public ? "may publish it" : "may not publish it: it is the functions' own"]]),
        make("label", "tall", "Payload, in JSON ", this.text),
        this.last,
        this.wrong,
        make("div", "actions", this.send, this.tryIt, !about.write && make("span", "hint", "read-only")),
        this.outcome,
      ),
      make("div", "card", make("h3", "", "The same from elsewhere"), this.elsewhere),
    );
    this.fill(drafts.get(this.type.type) ?? JSON.stringify(this.type.empty, null, 2));
    this.looked();
  }

  fill(text) {
    this.text.value = text;
    this.written();
  }

  // What was sent last is what is most often sent again.
  async looked() {
    const empty = button("empty", () => this.fill(JSON.stringify(this.type.empty, null, 2)), "chip");
    this.last.replaceChildren(make("span", "hint", "begin with"), empty);
    try {
      const { events } = await api(`/api/events?type=${encodeURIComponent(this.type.type)}&limit=5`);
      const chips = events.filter((event) => event.data).map((event) => {
        const chip = button("", () => this.fill(JSON.stringify(event.data, null, 2)), "chip");
        chip.replaceChildren(event.key || "an event", " ", moment(event.stored));
        return chip;
      });
      this.last.append(...chips);
    } catch {
      // There is no stream yet.
    }
  }

  written() {
    drafts.set(this.type.type, this.text.value);
    let why = "";
    try {
      const data = JSON.parse(this.text.value);
      if (typeof data !== "object" || data === null || Array.isArray(data)) why = "The payload is a JSON object.";
      this.commands();
    } catch (error) {
      why = `Not JSON: ${error.message}`;
    }
    this.wrong.textContent = why;
    for (const act of [this.send, this.tryIt]) act.disabled = why !== "" || !about.write;
  }

  commands() {
    const quoted = `'${compact(this.text.value).replaceAll("'", "'\\''")}'`;
    const { type } = this.type;
    const ways = [["Command line", `oncue pub ${type} ${quoted}`]];
    if (this.type.public) ways.push(["HTTP", `curl -H 'content-type: application/json' -d ${quoted} http://${this.gateway}/v1/events/${type}`]);
    ways.push(["NATS", `nats pub ${type} ${quoted}`]);
    this.elsewhere.replaceChildren(...ways.map(([name, command]) => make("div", "", make("h4", "hint", name), make("pre", "json", command))));
  }

  async act(meanwhile, what) {
    for (const act of [this.send, this.tryIt]) act.disabled = true;
    this.outcome.replaceChildren(make("p", "hint", meanwhile));
    try {
      this.outcome.replaceChildren(await what());
    } catch (error) {
      this.outcome.replaceChildren(make("p", "problem", error.message));
    }
    this.written();
  }

  body() {
    return withPayload(this.text.value, { type: this.type.type });
  }

  publish() {
    return this.act("publishing …", async () => {
      const { flow, trace, stream, sequence } = await api("/api/publish", this.body());
      return make("div", "outcome", make("b", "", `Published: ${stream} has it as ${sequence}`), make("div", "row", flowLink(flow, "its flow"), traceLink(trace), make("span", "mono clip", flow)));
    });
  }

  attempt() {
    const began = performance.now();
    return this.act("running the functions on it; nothing is committed …", async () => {
      const { answers } = await api("/api/publish/try", this.body());
      const rows = answers.map((answer) => answerRow({ ...answer, numbers: [answer.function] }));
      const words = answers.length > 0 ? `${plural(answers.length, "function")} tried in ${duration(performance.now() - began)}; nothing was changed` : "No function acts on it";
      return make("div", "outcome", make("b", "", words), ...rows);
    });
  }
}
