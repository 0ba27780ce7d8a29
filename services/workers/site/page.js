// What the page knows it reads from /v1/state, once a second while somebody looks; milestones it hears as they happen; what it
// does it sends as events. Nothing from outside is ever put in as HTML.

import { Oncue, newId } from "/v1/client.js";

const PAGES = ["/home", "/docs", "/pricing", "/blog", "/about"];
const EVERY = 1000;
const KEPT_FILES = 12;
const KEPT_LINES = 8;
const JAEGER = `http://${location.hostname}:16686`;

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function remembered(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Private windows may refuse: then it lasts as long as the page.
  }
}

const visitor = remembered("oncue.visitor", null) ?? `v-${newId().slice(0, 12)}`;
remember("oncue.visitor", visitor);

function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB"];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function traceLink(traceparent) {
  const id = (traceparent ?? "").split("-")[1];
  if (!id) return make("span");
  const link = make("a", "trace", "trace");
  link.href = `${JAEGER}/trace/${id}`;
  link.target = "_blank";
  link.rel = "noopener";
  return link;
}

// Names of others stand in an element of their own: they may turn the direction of text.
const named = (name) => make("bdi", "", name);

function log(what, traceparent, bad = false) {
  const line = make("li");
  const time = make("time", "", new Date().toLocaleTimeString());
  const words = make("span", bad ? "what bad" : "what");
  words.append(...what);
  line.append(time, words, traceLink(traceparent));
  byId("log").prepend(line);
  byId("log-empty").hidden = true;
  while (byId("log").children.length > KEPT_LINES) byId("log").lastChild.remove();
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const oncue = new Oncue();

async function view(page) {
  try {
    const data = { page, visitor, referrer: document.referrer, at: new Date().toISOString() };
    const said = await oncue.send("web.page.viewed", data);
    log(["viewed ", page], said.traceparent);
  } catch (problem) {
    log([page, ` was not counted: ${problem.message}`], undefined, true);
  }
}

// Whoever viewed it: each tenth view of a page is an event of the function that counts.
function hearMilestones() {
  oncue.listen("web.page.milestone", ({ data }) => {
    log([named(data.page), ` has ${Number(data.views).toLocaleString()} views`]);
    refresh();
  });
}

const pageViews = new Map();

function showPages() {
  for (const page of PAGES) {
    const button = make("button");
    button.type = "button";
    const count = make("span", "count", "0");
    const who = make("span", "who", "no visitors yet");
    button.append(make("span", "name", page), count, who);
    button.addEventListener("click", () => view(page).then(refresh));
    byId("pages").append(button);
    pageViews.set(page, { count, who });
  }
}

function showCount(page, row, visitors) {
  const { count, who } = pageViews.get(page);
  const text = Number(row?.views ?? 0).toLocaleString();
  if (count.textContent !== text) {
    count.textContent = text;
    count.classList.remove("new");
    void count.offsetWidth; // starts the animation again
    count.classList.add("new");
  }
  const unique = Number(visitors?.count ?? 0);
  who.textContent = unique === 0 ? "no visitors yet" : `${unique.toLocaleString()} ${unique === 1 ? "visitor" : "visitors"}`;
}

function showRanking(row) {
  const places = Object.entries(row ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 8);
  byId("ranking-empty").hidden = places.length > 0;
  const lines = places.map(([page, views], index) => {
    const line = make("li");
    const bar = make("span", "bar");
    const fill = make("i");
    fill.style.width = `${Math.max(2, (100 * views) / places[0][1])}%`;
    bar.append(fill);
    line.append(make("span", "place", `${index + 1}`), make("span", "", page), make("span", "views", views.toLocaleString()), bar);
    return line;
  });
  byId("ranking").replaceChildren(...lines);
}

// Files: what we sent is remembered here, what became of it is asked for.
let files = remembered("oncue.files", []);
const cards = new Map();

function card(entry) {
  const item = make("li");
  const picture = make("figure", "", "");
  const facts = make("div", "facts");
  const name = make("bdi", "name", entry.name);
  name.title = entry.name;
  const line = make("div", "line");
  const reason = make("p", "reason");
  const progress = make("progress");
  progress.max = 1;
  progress.hidden = true;
  facts.append(name, line, progress, reason);
  item.append(picture, facts);
  byId("files").prepend(item);
  return { item, picture, line, reason, progress, shown: "" };
}

function showFile(view, entry, row, state) {
  const status = state ?? row?.status ?? "uploaded";
  const drawn = JSON.stringify([status, row, entry.file]);
  if (view.shown === drawn) return;
  view.shown = drawn;
  const parts = [make("span", `status ${status}`, status), make("span", "", bytes(entry.size))];
  if (row?.width) parts.push(make("span", "", `${row.width} × ${row.height}`));
  else if (row?.media_type) parts.push(make("span", "", row.media_type));
  if (entry.file && !["rejected", "removed"].includes(status)) {
    const link = make("a", "", "download");
    link.href = `/v1/files/${entry.file}`;
    parts.push(link);
  }
  parts.push(traceLink(entry.traceparent));
  view.line.replaceChildren(...parts);
  view.reason.textContent = entry.reason ?? row?.reason ?? "";
  view.reason.hidden = view.reason.textContent === "";
  showPicture(view, entry, row, status);
}

function showPicture(view, entry, row, status) {
  const thumbnails = Array.isArray(row?.thumbnails) ? row.thumbnails : [];
  const best = thumbnails.find((thumbnail) => thumbnail.edge >= 256) ?? thumbnails.at(-1);
  if (!best || ["rejected", "removed"].includes(status)) {
    const preview = row?.media_type?.startsWith("image/") ? "making a preview" : "no preview";
    const words = { uploading: "on its way", uploaded: "waiting to be looked at", accepted: preview };
    view.picture.textContent = words[status] ?? status;
    return;
  }
  const source = `/v1/files/${entry.file}/derived/${best.edge}`;
  if (view.picture.querySelector("img")?.getAttribute("src") === source) return;
  const image = make("img");
  image.alt = `Preview of \u2068${entry.name}\u2069`;
  image.src = source;
  view.picture.replaceChildren(image);
}

function keep(entry) {
  files = [...files, entry].slice(-KEPT_FILES);
  remember("oncue.files", files);
  for (const [file, { item }] of cards) {
    if (!files.some((kept) => kept.file === file)) {
      item.remove();
      cards.delete(file);
    }
  }
}

// XMLHttpRequest, since fetch says nothing of the progress of an upload.
function upload(file) {
  const entry = { name: file.name, size: file.size };
  const view = card(entry);
  view.progress.hidden = false;
  showFile(view, entry, null, "uploading");
  const failed = (why) => {
    view.progress.hidden = true;
    entry.reason = why;
    showFile(view, entry, null, "failed");
    log([named(file.name), ` was not taken: ${why}`], undefined, true);
  };
  const request = new XMLHttpRequest();
  request.open("PUT", `/v1/files/${encodeURIComponent(file.name)}`);
  request.setRequestHeader("oncue-owner", visitor);
  request.setRequestHeader("idempotency-key", newId());
  request.responseType = "json";
  request.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) view.progress.value = event.loaded / event.total;
  });
  request.addEventListener("error", () => failed("the connection broke off"));
  request.addEventListener("load", () => {
    const said = request.response ?? {};
    if (request.status !== 202) return failed(said.detail ?? `status ${request.status}`);
    view.progress.hidden = true;
    Object.assign(entry, { file: said.file, traceparent: said.traceparent });
    cards.set(entry.file, view);
    keep(entry);
    showFile(view, entry, null);
    log(["uploaded ", named(file.name)], said.traceparent);
    refresh();
  });
  request.send(file);
}

function takeFiles() {
  const [drop, pick] = [byId("drop"), byId("pick")];
  pick.addEventListener("change", () => {
    for (const file of pick.files) upload(file);
    pick.value = "";
  });
  // Anywhere on the page: a file dropped beside the zone would otherwise replace it.
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    for (const file of event.dataTransfer?.files ?? []) upload(file);
  });
}

// One reading of state: null where there is nothing yet.
async function state(table, key) {
  const answer = await fetch(`/v1/state/${table}/${encodeURIComponent(key)}`);
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

function showUsage(owner) {
  const usage = byId("usage");
  usage.hidden = !owner?.files;
  if (owner?.files) usage.textContent = `You keep ${owner.files} ${owner.files === 1 ? "file" : "files"}, ${bytes(owner.bytes ?? 0)}.`;
}

async function refreshAll() {
  const pages = PAGES.map(async (page) => showCount(page, await state("pages", page), await state("visitors", page)));
  const rows = files.map(async (entry) => {
    if (!cards.has(entry.file)) cards.set(entry.file, card(entry));
    const row = await state("files", entry.file);
    // It may have been dropped from the list meanwhile.
    if (cards.has(entry.file)) showFile(cards.get(entry.file), entry, row);
  });
  await Promise.all([...pages, ...rows, state("rankings", "all").then(showRanking), state("owners", visitor).then(showUsage)]);
}

let busy = null;

// One at a time, whoever asks.
function refresh() {
  busy ??= refreshAll()
    .then(() => pulse("live", "live"), () => pulse("away", "gateway or state is away"))
    .finally(() => {
      busy = null;
    });
  return busy;
}

function pulse(name, text) {
  const element = byId("pulse");
  if (element.textContent === text) return;
  element.className = `pulse ${name}`;
  element.textContent = text;
}

async function live() {
  for (;;) {
    if (document.visibilityState === "visible") await refresh();
    await pause(EVERY);
  }
}

byId("traces").href = `${JAEGER}/search?service=gateway`;
showPages();
takeFiles();
hearMilestones();
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
live();
