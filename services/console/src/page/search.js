// What an id or a key leads to, and where it was looked for.

import { href } from "./address.js";
import { api, byId, link, make, number } from "./dom.js";
import { showFlow } from "./flow.js";
import { eventRow } from "./panel.js";

export function showSearch(place, query) {
  let over = false;
  let leave = null;
  byId("query").value = query;
  place.replaceChildren(make("div", "title", make("h2", "", "Search"), make("span", "mono clip", query)), make("p", "hint", query ? "looking …" : "Type an event id, a flow id or a key."));
  if (query) {
    api(`/api/search?q=${encodeURIComponent(query)}`).then(
      (said) => {
        if (over) return;
        const tree = make("div", "tree");
        const flow = said.flow?.id ?? said.events[0]?.flow;
        place.replaceChildren(...results(said, flow ? tree : null));
        if (flow) leave = showFlow(tree, flow);
      },
      (error) => !over && place.replaceChildren(make("p", "problem", error.message)),
    );
  }
  return () => {
    over = true;
    leave?.();
  };
}

// The flow comes last: it goes on by itself.
function results({ query, flow, events, keyed, letters, searched, ms }, tree) {
  const parts = [make("div", "title", make("h2", "", "Search"), make("span", "mono clip", query), make("span", "hint", `${number(ms)} ms`))];
  const card = (title, ...content) => parts.push(make("div", "card", make("h3", "", title), ...content));
  if (events.length > 0) {
    card("The event", make("ul", "list", ...events.map(eventRow)));
  }
  if (keyed.length > 0) card(`Events about ${query}`, make("ul", "list", ...keyed.map(eventRow)));
  if (letters.length > 0) {
    const rows = letters.map((letter) => make("li", "", make("div", "top-line", link(`#${letter.number} ${letter.function}`, href("letters", letter.number)), make("span", "reason", letter.reason)), make("span", "why", letter.message)));
    card("Dead letters", make("ul", "list", ...rows));
  }
  if (tree) parts.push(tree);
  if (!flow && events.length + keyed.length + letters.length === 0) parts.push(make("p", "nothing", make("b", "", "Nothing found"), "Keys are looked for among the newest events; an older one is found by its id, or by ", link("looking further back", href("find", `${new URLSearchParams({ key: query })}`)), "."));
  parts.push(make("p", "hint", `Looked in: ${searched.join("; ")}.`));
  return parts;
}
