// What changes by itself, for those who listen to the page instead of looking at it: each change once, in their own time.

import { byId, make, number, plural } from "./dom.js";

// Letters may come by the hundred: what has come meanwhile is said together.
const APART = 15_000;
const KEPT = 3;
const counts = new Map();
let headline = null;

function say(text) {
  const place = byId("news");
  place.append(make("p", "", text));
  while (place.childElementCount > KEPT) place.firstChild.remove();
}

// `state` is what the change is told by, `text` what is said of it. All being well is worth a word only after trouble.
export function sayHeadline(state, text) {
  const before = headline;
  headline = state;
  if (state === before || (before === null && state === "")) return;
  say(text);
}

// Says what has been added; what there was at first, and what goes, is no news.
export function sayMore(name, count) {
  const last = counts.get(name);
  if (!last || count <= last.count) {
    counts.set(name, { count, at: last?.at ?? 0 });
    return;
  }
  if (Date.now() - last.at < APART) return;
  counts.set(name, { count, at: Date.now() });
  say(`${plural(count - last.count, `new ${name}`)}, ${number(count)} in all`);
}
