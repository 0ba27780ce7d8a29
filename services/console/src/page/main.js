// The frame: which page is shown, what the server sends, who is logged in, light or dark.

import { address, go, href } from "./address.js";
import { about, api, ask, byId, make, plural, remember, remembered, short } from "./dom.js";
import { LiveMap } from "./map.js";
import { sayHeadline, sayMore } from "./news.js";
import { closePanel, hidePanel, openPanel, showFunction, showPanel, showType } from "./panel.js";
import { showFind } from "./find.js";
import { showFlow, showFlows } from "./flow.js";
import { showLetters } from "./letters.js";
import { showPublish } from "./publish.js";
import { showRows } from "./rows.js";
import { showSchedules } from "./schedules.js";
import { showStreams } from "./streams.js";
import { showSearch } from "./search.js";

const PAGES = ["map", "flows", "letters", "publish", "find", "schedules", "rows", "streams", "search"];
const map = new LiveMap({ open: (name, source) => go(href("map", name, { source })), onFunction: showFunction, onType: showType, onUnknown: hidePanel });
let leave = null;

const isHidden = () => document.visibilityState === "hidden";
const onWall = () => address().page === "map" && address().query.has("wall");

const isGone = (element) => !element.isConnected || element.closest("[hidden], [inert]") !== null;

// Shows what the address says.
function route() {
  const { page: name, subject: given, query } = address();
  const page = PAGES.includes(name) ? name : "map";
  const focus = document.activeElement;
  leave?.();
  leave = null;
  for (const other of PAGES) byId(`page-${other}`).hidden = other !== page;
  for (const anchor of document.querySelectorAll("[data-page]")) {
    if (anchor.dataset.page === page) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  document.body.classList.toggle("wall", onWall());
  map.shown(page === "map", onWall());
  map.choose(page === "map" ? given : "", query.get("source") ?? "");
  if (page !== "map" || !given) showPanel(query.get("panel"));
  const place = byId(`page-${page}`);
  if (page === "flows") leave = given ? showFlow(place, given) : showFlows(place);
  if (page === "letters") leave = showLetters(place, given);
  if (page === "find") leave = showFind(place, given);
  if (page === "publish") leave = showPublish(place, given);
  if (page === "schedules") leave = showSchedules(place, given);
  if (page === "rows") leave = showRows(place, given);
  if (page === "streams") leave = showStreams(place, given);
  if (page !== "search") byId("query").value = "";
  if (page === "search") leave = showSearch(place, given);
  document.title = `${{ map: "Map", flows: "Flow", letters: "Dead letters", publish: "Publish", find: "Find", schedules: "Schedules", rows: "Rows", streams: "Streams", search: "Search" }[page]} · Oncue`;
  // What had the focus may be gone with its page: Tab goes on from the new one.
  if (isGone(focus) && (isGone(document.activeElement) || document.activeElement === document.body)) byId("main").focus({ preventScroll: true });
}

function pulse(kind, text) {
  const element = byId("pulse");
  if (element.textContent === text) return;
  element.className = `pulse ${kind}`;
  element.textContent = text;
}

// Seconds without news after which the console itself is taken for away.
const SILENCE = 8000;
let heard = 0;
// Moment since which somebody sees this page.
let seen = 0;
let alarms = [];

// What is wrong with the servers, in the head of every page, and how to mend it.
function alarm(tick) {
  const { nats, redis } = tick.servers ?? {};
  alarms = [nats, redis].filter(Boolean);
  if (!nats && tick.away) alarms.push({ why: `The console cannot see what goes on: ${tick.away}`, advice: "oncue doctor asks both servers itself", since: tick.at });
  for (const why of [tick.regression, tick.lost].filter(Boolean)) alarms.push({ why, advice: "until then no worker starts" });
  document.body.classList.toggle("unknown", Boolean(nats || tick.away));
  drawAlarms();
  if (nats || tick.away) pulse("away", "NATS is away");
  else if (redis) pulse("away", "Redis is away");
  else if (tick.regression) pulse("away", "Redis went back");
  else if (tick.lost) pulse("away", "NATS went back");
  else pulse("live", "live");
  const state = [(nats || tick.away) && "NATS", redis && "Redis", tick.regression && "regression", tick.lost && "lost"].filter(Boolean).join(", ");
  sayHeadline(state, state === "" ? "All servers answer again" : alarms.map(({ why, advice }) => `${why}. ${advice}.`).join(" "));
}

function drawAlarms() {
  const place = byId("alarm");
  const drawn = JSON.stringify(alarms.map(({ why, advice }) => [why, advice]));
  if (place.dataset.drawn !== drawn) {
    place.dataset.drawn = drawn;
    place.hidden = alarms.length === 0;
    place.replaceChildren(...alarms.map(({ why, advice }) => make("div", "", make("b", "", why), make("span", "since"), ` — ${advice}`)));
  }
  [...place.querySelectorAll(".since")].forEach((clock, at) => {
    const { since } = alarms[at];
    clock.textContent = since ? ` (for ${Math.max(0, Math.round((Date.now() - since) / 1000))} s)` : "";
  });
}

setInterval(() => {
  if (alarms.length > 0) drawAlarms();
  if (heard === 0 || isHidden() || Date.now() - Math.max(heard, seen) < SILENCE) return;
  heard = 0;
  document.body.classList.add("unknown");
  alarms = [{ why: "The console does not answer", advice: "what stands here is how things were", since: Date.now() - SILENCE }];
  drawAlarms();
  pulse("away", "console is away");
  sayHeadline("console", "The console does not answer");
}, 1000);

let drifting = null;

// How much differs changes slowly, and is shown beside what changes every second.
async function lookForDrift() {
  clearTimeout(drifting);
  if (document.visibilityState === "visible" && !byId("page-map").hidden) {
    const said = await api("/api/drift").catch(() => ({ findings: [] }));
    byId("drift").hidden = said.findings.length === 0;
    byId("drift").textContent = plural(said.findings.length, "finding");
  }
  drifting = setTimeout(lookForDrift, 60_000);
}

let noticing = null;

// How much is wrong, on every page.
async function lookForNotices() {
  clearTimeout(noticing);
  if (document.visibilityState === "visible") {
    const { notices } = await api("/api/notices").catch(() => ({ notices: [] }));
    const open = notices.filter((notice) => notice.ended === null && notice.silent_until < Date.now());
    byId("notices").hidden = open.length === 0;
    byId("notices").textContent = plural(open.length, "notice");
    sayMore("notice", open.length);
  }
  noticing = setTimeout(lookForNotices, 10_000);
}

let source = null;
// Whether the console has been away since this page began.
let broken = false;

// Pauses before the console is asked again, growing from the first to the last; where too many watch, at once the last.
const RETRY = 2000;
const LAST_RETRY = 15_000;
let retry = RETRY;
let again = null;

function beginLater() {
  clearTimeout(again);
  again = setTimeout(begin, retry);
  retry = Math.min(2 * retry, LAST_RETRY);
}

function hush() {
  clearTimeout(again);
  source?.close();
  source = null;
}

// A browser has six connections to a console for all of its tabs, and a stream keeps one: only what is seen has any.
function listen() {
  hush();
  if (isHidden()) return;
  if (about.crowded) {
    // It answers, but what stands here is how things were.
    heard = 0;
    document.body.classList.add("unknown");
    pulse("away", "too many watch");
    retry = LAST_RETRY;
    beginLater();
    return;
  }
  source = new EventSource("/api/live");
  source.addEventListener("graph", (event) => map.graph(JSON.parse(event.data)));
  source.addEventListener("tick", (event) => {
    const tick = JSON.parse(event.data);
    map.tick(tick);
    heard = Date.now();
    retry = RETRY;
    alarm(tick);
    const letters = tick.functions.reduce((sum, row) => sum + row[8], 0);
    byId("letters-count").hidden = letters === 0;
    byId("letters-count").textContent = short(letters);
    sayMore("dead letter", letters);
  });
  source.addEventListener("open", () => {
    // A page that nobody reloads would be that of an older console for ever.
    if (broken && onWall()) location.reload();
  });
  source.addEventListener("error", () => {
    broken = true;
    pulse("away", "console is away");
    document.body.classList.add("unknown");
    // A refused stream is not tried again by the browser: perhaps the login is over, or too many watch.
    if (source?.readyState === EventSource.CLOSED) beginLater();
  });
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme;
  map.recolour();
}

function nextTheme() {
  const themes = ["auto", "light", "dark"];
  const theme = themes[(themes.indexOf(byId("theme").textContent) + 1) % themes.length];
  remember("oncue.theme", theme);
  applyTheme(theme);
}

// Ends of a login by an account that let nobody in, by the word in the address.
const FAILED = {
  nobody: "That account has no right here: see [console.login] in oncue.toml.",
  refused: "The login was refused or given up there.",
  expired: "That login took too long, or was begun in another browser. Try again.",
  away: "The issuer does not answer; the token opens the console all the same.",
  failed: "That login could not be checked; the log of the console says why.",
};

function askLogin() {
  const dialog = byId("login");
  if (dialog.open) return;
  byId("login-name").value = remembered("oncue.name") ?? "";
  byId("login-other").hidden = !about.issuer;
  byId("login-issuer").textContent = `Log in with ${about.issuer}`;
  byId("login-issuer").href = `/api/login/begin?to=${encodeURIComponent(location.hash)}`;
  byId("login-why").textContent = FAILED[new URLSearchParams(location.search).get("login")] ?? "";
  dialog.showModal();
}

async function login(event) {
  event.preventDefault();
  const [name, token] = [byId("login-name").value, byId("login-token").value];
  try {
    await api("/api/login", { name, token });
    remember("oncue.name", name);
    byId("login-token").value = "";
    byId("login-why").textContent = "";
    byId("login").close();
    begin();
  } catch (error) {
    byId("login-why").textContent = error.message;
  }
}

// Whether somebody is let in, and the page is drawn. From then on it is never drawn anew by itself: somebody may be typing.
let welcome = false;

async function begin() {
  try {
    Object.assign(about, await api("/api/about"));
  } catch {
    pulse("away", "console is away");
    beginLater();
    return;
  }
  byId("who").hidden = !about.token || !about.welcome;
  byId("who").textContent = `${(about.who ?? "").split("@")[0]} · log out`;
  if (about.token && !about.welcome) {
    // The login is over: nothing of what was shown stays.
    if (welcome) location.reload();
    else askLogin();
    return;
  }
  listen();
  if (welcome) return;
  welcome = true;
  route();
  lookForDrift();
  lookForNotices();
}

async function logout() {
  try {
    await api("/api/logout", {});
  } catch (error) {
    if (await ask("You are not logged out", error.message, "Try again")) logout();
    return;
  }
  location.reload();
}

const typing = (target) => target.closest("input, textarea, select, dialog") !== null;

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && !typing(event.target)) {
    if (onWall()) go(href("map"));
    else closePanel();
    return;
  }
  if (typing(event.target)) return;
  const keys = {
    1: () => go(href("map")),
    2: () => go(href("flows")),
    3: () => go(href("letters")),
    4: () => go(href("find")),
    5: () => go(href("publish")),
    6: () => go(href("schedules")),
    7: () => go(href("rows")),
    8: () => go(href("streams")),
    w: () => go(href("map", "", { wall: !onWall() })),
    "/": () => byId("query").focus(),
    t: nextTheme,
    "?": () => byId("help").showModal(),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = byId("query").value;
  // A key may have blanks at its ends.
  if (query.trim()) go(href("search", query));
});
// As a link it would be taken for an address.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus({ preventScroll: true });
});
byId("theme").addEventListener("click", nextTheme);
for (const name of ["drift", "notices", "doctor"]) byId(name).addEventListener("click", () => openPanel(name));
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("login-form").addEventListener("submit", login);
// Nothing is to be seen without a login; where it knows `closedby`, the browser does not even ask.
byId("login").addEventListener("cancel", (event) => event.preventDefault());
byId("who").addEventListener("click", logout);
document.addEventListener("visibilitychange", () => {
  if (isHidden()) {
    hush();
  } else {
    seen = Date.now();
    begin();
  }
});
document.addEventListener("login", () => begin());
document.addEventListener("keydown", onKey);
addEventListener("hashchange", route);
applyTheme(remembered("oncue.theme") ?? "auto");
begin();
