// What an id or a key leads to, and where it was looked for.

import { api, byId, flowLink, link, make, moment, number } from "./dom.js";
import { eventRow } from "./panel.js";

export function showSearch(place, query) {
  let over = false;
  byId("query").value = query;
  place.replaceChildren(make("div", "title", make("h2", "", "Search"), make("span", "mono clip", query)), make("p", "hint", query ? "looking …" : "Type an event id, a flow id or a key."));
  if (query) {
    api(`/api/search?q=${encodeURIComponent(query)}`).then(
      (said) => !over && place.replaceChildren(...results(said)),
      (error) => !over && place.replaceChildren(make("p", "problem", error.message)),
    );
  }
  return () => {
    over = true;
  };
}

function results({ query, flow, events, keyed, letters, searched, ms }) {
  const parts = [make("div", "title", make("h2", "", "Search"), make("span", "mono clip", query), make("span", "hint", `${number(ms)} ms`))];
  const card = (title, ...content) => parts.push(make("div", "card", make("h3", "", title), ...content));
  if (flow) {
    const state = flow.open > 0 ? `${flow.open} open` : "complete";
    card("A flow", make("div", "row", flowLink(flow.id), make("span", `state ${flow.open > 0 ? "running" : "done"}`, state), make("span", "hint", `${number(flow.events)} events`), moment(flow.started)));
  }
  if (events.length > 0) {
    card("The event", make("ul", "list", ...events.map(eventRow)), make("p", "", flowLink(events[0].flow, "The whole flow it is part of")));
  }
  if (keyed.length > 0) card(`Events about ${query}`, make("ul", "list", ...keyed.map(eventRow)));
  if (letters.length > 0) {
    const rows = letters.map((letter) => make("li", "", make("div", "top-line", link(`#${letter.number} ${letter.function}`, `#/letters/${letter.number}`), make("span", "reason", letter.reason)), make("span", "why", letter.message)));
    card("Dead letters", make("ul", "list", ...rows));
  }
  if (!flow && events.length + keyed.length + letters.length === 0) parts.push(make("p", "nothing", make("b", "", "Nothing found"), "An event sent under its bare type is not found by its key; its id finds it."));
  parts.push(make("p", "hint", `Looked in: ${searched.join("; ")}.`));
  return parts;
}
