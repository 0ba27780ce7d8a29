// The last log lines of a function or of a flow, as `oncue up` keeps them.

import { api, clock, make } from "./dom.js";

const SHOWN = 40;

// A place that fills itself; with nothing to show it says why.
export function logLines(wanted) {
  const place = make("div", "loglines");
  const query = new URLSearchParams(wanted);
  api(`/api/logs?${query}`).then(
    ({ kept, lines }) => {
      const none = kept ? "No line." : "No logs are kept here: oncue up keeps them; elsewhere the container engine has them.";
      const rows = lines.slice(-SHOWN).map(({ at, from, level, text }) => make("div", `logline ${level.toLowerCase()}`, make("time", "", clock(at)), make("span", "from", from), make("span", "text", text)));
      place.replaceChildren(...(rows.length > 0 ? rows : [make("p", "hint", none)]));
      place.scrollTop = place.scrollHeight;
    },
    (error) => place.replaceChildren(make("p", "hint", error.message)),
  );
  return place;
}
