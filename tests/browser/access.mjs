// Whether everybody gets along with the console: who hears it, who has no mouse, who has a telephone.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { at, login, mapIsThere, openPage, until } from "./lib.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// Rules that have something to look at on the emptiest page of the console, and in a dialog, which hides the page under it.
// A blank page has fewer.
const FEWEST_PASSES = 20;
const FEWEST_IN_A_DIALOG = 12;
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

// Every page: what it is called here, its address, and what is to be seen on it before it is looked at.
const PAGES = ({ flow, key }) => [
  ["map", "map", "#totals b"],
  ["wall", "map?wall", "#totals b"],
  ["function", "map/invoice-step-8-01", "#panel .chart"],
  ["type", "map/shop00.order.step0", "#panel details"],
  ["drift", "map?panel=drift", "#panel .list, #panel .hint"],
  ["doctor", "map?panel=doctor", "#panel section"],
  ["notices", "flows?panel=notices", "#panel section"],
  ["flows", "flows", "#page-flows table"],
  ["flow", `flows/${flow}`, "#page-flows .flow .event"],
  ["flow-open", `flows/${flow}?open=${flow}`, "#page-flows .content pre"],
  ["letters", "letters", ".bench tbody tr"],
  ["letter", "letters/1", ".bench pre.json"],
  ["find", "find", "#page-find .list li"],
  ["find-nothing", "find/text%3Dnobody-says-this", "#page-find .hint[role]"],
  ["publish", "publish", "#page-publish .types button"],
  ["schedules", "schedules", "#page-schedules table"],
  ["schedule", "schedules/tick", "#page-schedules .two .list a"],
  ["rows", "rows", "#page-rows .groups button"],
  ["table", "rows/orders", "#page-rows tbody a"],
  ["row", "rows/orders/order-7", "#page-rows .fields input"],
  ["row-nothing", "rows/orders/nobody", "#page-rows .problem"],
  ["streams", "streams", "#page-streams table"],
  ["stream", "streams/web", "#page-streams .messages li"],
  ["stream-letters", "streams/dlq", "#page-streams .messages .why"],
  ["stream-timers", "streams/timer", "#page-streams .messages li"],
  ["search", "search", "#page-search .hint"],
  ["search-id", `search/${flow}`, "#page-search .flow"],
  ["search-key", `search/${key}`, "#page-search .list li"],
  ["search-nothing", "search/nobody-has-this", "#page-search .nothing"],
];

async function show(page, crowd, address, selector) {
  await page.goto(at(crowd, address));
  if (address.startsWith("map")) await mapIsThere(page);
  await page.waitForSelector(selector);
  // What is still looked for is not the page.
  await page.waitForFunction(() => !/looking …|reading …/.test(document.querySelector("main").innerText));
}

// Everything that axe finds, with its place. In the dark only colours are others.
async function findings(page, name, rules = null) {
  // Not as a script of the page, which takes none but its own.
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(AXE);
  const { passes, violations, incomplete } = await page.evaluate((only) => axe.run(document, { resultTypes: ["violations"], ...(only ? { runOnly: { type: "rule", values: only } } : {}) }), rules);
  const isModal = (await page.locator("dialog[open]").count()) > 0;
  const least = rules ? rules.length : isModal ? FEWEST_IN_A_DIALOG : FEWEST_PASSES;
  // Behind a question that lies on something that was scrolled axe sees no colour, and says so of each text.
  const looked = passes.length + incomplete.length;
  assert.ok(looked >= least, `${name}: only ${looked} rules found anything to look at`);
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, any }) => `${name}: ${id} at ${target.join(" ")}${any[0] ? `, ${any[0].message}` : ""}`));
}

function dialogs(page, crowd) {
  return [
    ["keys", async () => {
      await page.keyboard.press("?");
      await page.waitForSelector("#help[open]");
    }],
    ["pause", async () => {
      await show(page, crowd, "map/invoice-step-8-01", "#panel .actions button");
      await page.locator("#panel .actions button", { hasText: "Pause" }).click();
      await page.waitForSelector("#ask[open]");
    }],
    ["restart", async () => {
      await show(page, crowd, "map/invoice-step-8-01", "#panel .actions button");
      await page.locator("#panel .actions button", { hasText: "Restart" }).click();
      await page.waitForSelector("#ask[open]");
    }],
    ["bounds", async () => {
      await show(page, crowd, "map/order-step-0-00", "#panel .facts");
      await page.locator("#panel summary", { hasText: "Set other bounds" }).click();
      await page.locator("#panel .finding button").click();
      await page.waitForSelector("#ask[open]");
    }],
    ["fire", async () => {
      await show(page, crowd, "schedules/tick", "#page-schedules .two .list a");
      await page.locator("#page-schedules .actions button", { hasText: "Fire now" }).click();
      await page.waitForSelector("#ask[open]");
    }],
    ["change", async () => {
      await show(page, crowd, "rows/orders/order-7", "#page-rows .fields input");
      await page.fill('#page-rows [aria-label="Value of state"]', "open");
      await page.locator("#page-rows button.strong").click();
      await page.waitForSelector("#ask[open]");
    }],
    ["drop", async () => {
      await show(page, crowd, "letters", ".bench tbody tr");
      await page.locator(".actions button", { hasText: "Drop" }).click();
      await page.waitForSelector("#ask[open]");
    }],
  ];
}

// One visit of all pages and dialogs, each looked at by `look`.
async function visit(page, crowd, look) {
  for (const [name, address, selector] of PAGES(crowd.ids)) {
    await show(page, crowd, address, selector);
    await look(name);
  }
  for (const [name, open] of dialogs(page, crowd)) {
    await open();
    await look(name);
    await page.keyboard.press("Escape");
  }
}

// Nobody scrolls sideways, and nothing that can be read or touched lies outside.
// A telephone makes room for what is too wide by showing all of it smaller: its innerWidth grows, its own width does not.
async function outside(page) {
  return page.evaluate((width) => {
    const found = [];
    const { scrollWidth } = document.documentElement;
    if (Math.max(scrollWidth, innerWidth) > width) found.push(`the page is ${Math.max(scrollWidth, innerWidth)} wide`);
    const scrolled = (element) => {
      for (let up = element.parentElement; up; up = up.parentElement) {
        if (/auto|scroll/.test(getComputedStyle(up).overflowX) && up.scrollWidth > up.clientWidth) return up.matches(".wide, .json, .loglines");
      }
      return false;
    };
    for (const element of document.querySelectorAll("body *")) {
      if (element.closest("#canvas, .skip, .unseen, .brand") || !element.checkVisibility() || scrolled(element)) continue;
      const { left, right } = element.getBoundingClientRect();
      if (left < -1 || right > width + 1) found.push(`${element.tagName} .${element.className} from ${Math.round(left)} to ${Math.round(right)}: ${element.textContent.slice(0, 30)}`);
    }
    return found;
  }, PHONE.viewport.width);
}

// What has the focus, and whether somebody sees that it does: an outline, or a frame of the same colour on the map.
const focus = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const box = element.querySelector(":scope > .box");
  const frame = box && element.matches(":focus-visible") && getComputedStyle(box).strokeWidth === "3px";
  const { width, height, top, left } = element.getBoundingClientRect();
  const inView = width > 0 && height > 0 && top < innerHeight && left < innerWidth && top + height > 0 && left + width > 0;
  return {
    name: `${element.tagName} ${element.id} ${element.getAttribute("aria-label") ?? element.textContent.trim().slice(0, 40)}`,
    visible: inView && element !== document.body && ((outlineStyle !== "none" && outlineWidth !== "0px") || frame === true),
  };
});

const isAt = (page, selector) => page.evaluate((wanted) => document.activeElement.matches(wanted), selector);

// Presses a key until the focus is on what is wanted, and sees on the whole way that the focus can be seen.
async function go(page, wanted, key = "Tab") {
  for (let pressed = 0; pressed < 80; pressed += 1) {
    await page.keyboard.press(key);
    const where = await focus(page);
    assert.ok(where.visible, `the focus cannot be seen at ${where.name}, on the way to ${wanted}`);
    if (await isAt(page, wanted)) return;
  }
  assert.fail(`${key} does not lead to ${wanted}, but to ${(await focus(page)).name}`);
}

async function waitForFocus(page, selector) {
  await page.waitForFunction((wanted) => document.activeElement.matches(wanted), selector).catch(async (error) => {
    throw new Error(`${error.message}; the focus is at ${(await focus(page)).name}`);
  });
  const where = await focus(page);
  assert.ok(where.visible, `the focus cannot be seen at ${where.name}`);
}

// Ticks are what the test makes of them, whatever a busy machine does to the servers; what the page says aloud is kept.
const alterable = () => {
  const Real = EventSource;
  globalThis.change = () => ({});
  globalThis.EventSource = class extends Real {
    addEventListener(name, act) {
      const changed = (tick) => ({ ...tick, servers: {}, away: null, regression: null, ...globalThis.change(tick) });
      super.addEventListener(name, (event) => act(name === "tick" ? { data: JSON.stringify(changed(JSON.parse(event.data))) } : event));
    }
  };
  globalThis.heard = [];
  document.addEventListener("DOMContentLoaded", () => {
    const place = document.getElementById("news");
    new MutationObserver((changes) => {
      for (const { addedNodes } of changes) globalThis.heard.push(...[...addedNodes].map((node) => node.textContent));
    }).observe(place, { childList: true });
  });
};

async function ticks(page, count) {
  const seen = new Set();
  await until("ticks", async () => seen.add(await page.getAttribute("#canvas", "data-tick")).size > count);
}

export function accessTests(test, shoot) {
  for (const [size, options] of [["a screen", {}], ["a phone", PHONE]]) {
    test(`axe finds nothing on ${size}`, async ({ browser, crowd }) => {
      const page = await openPage(browser, crowd.url, { ...options, colorScheme: "light", reducedMotion: "reduce" });
      const found = [];
      await page.goto(crowd.url);
      await page.waitForSelector("#login[open]");
      found.push(...(await findings(page, "login")));
      await login(page, crowd);
      await visit(page, crowd, async (name) => {
        found.push(...(await findings(page, name)));
        await page.emulateMedia({ colorScheme: "dark" });
        found.push(...(await findings(page, `${name}, dark`, ["color-contrast"])));
        await page.emulateMedia({ colorScheme: "light" });
      });
      assert.equal(found.length, 0, `\n${found.join("\n")}`);
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    });
  }

  test("everything has room on a phone", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url, PHONE);
    const found = [];
    await login(page, crowd);
    await visit(page, crowd, async (name) => {
      found.push(...(await outside(page)).map((what) => `${name}: ${what}`));
      await shoot(page, `phone-${name}`);
    });
    assert.equal(found.length, 0, `\n${found.join("\n")}`);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("axe finds what is wrong", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    await login(page, crowd);
    await show(page, crowd, "flows", "#page-flows table");
    await page.evaluate(() => {
      const pale = Object.assign(document.createElement("p"), { textContent: "pale" });
      pale.style.color = "#ccc";
      document.querySelector("#page-flows").prepend(document.createElement("button"), pale);
    });
    const found = (await findings(page, "spoiled")).join("\n");
    assert.match(found, /button-name/);
    assert.match(found, /color-contrast/);
    await page.evaluate(() => document.body.replaceChildren());
    await assert.rejects(findings(page, "blank"), /only \d+ rules/);
    await page.context().close();
  });

  test("everything is done without a mouse", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url);
    const { keyboard } = page;
    await page.goto(crowd.url);
    await page.waitForSelector("#login[open]");
    await go(page, "#login-token");
    await keyboard.type(crowd.token);
    await keyboard.press("Enter");
    await mapIsThere(page);

    // A function, its hour, and back to where one was.
    await go(page, "#zoom-fit");
    await go(page, "#canvas");
    await go(page, ".node.function");
    const name = await page.evaluate(() => document.activeElement.dataset.name);
    await keyboard.press("Enter");
    await page.waitForSelector("#panel .figures");
    await waitForFocus(page, "#panel h2");
    assert.equal(await page.textContent("#panel h2"), name);
    await go(page, "#panel .types button[aria-pressed=false]");
    await keyboard.press("Enter");
    await page.waitForSelector("#panel .types button[aria-pressed=true] >> text=day");
    await ticks(page, 4);
    await waitForFocus(page, "#panel .types button[aria-pressed=true]");
    await shoot(page, "keyboard-function");
    await keyboard.press("Escape");
    await page.waitForSelector("#panel", { state: "hidden" });
    await waitForFocus(page, `[data-name="${name}"]`);

    // The keys, and a letter.
    await keyboard.press("?");
    await page.waitForSelector("#help[open]");
    await keyboard.press("Escape");
    await waitForFocus(page, `[data-name="${name}"]`);
    await keyboard.press("3");
    await page.waitForSelector(".bench tbody tr");
    await waitForFocus(page, "#main");
    await shoot(page, "keyboard-page");
    await go(page, ".skip", "Shift+Tab");
    await keyboard.press("Enter");
    await waitForFocus(page, "#main");
    assert.match(page.url(), /#\/letters$/);
    await go(page, '.groups button[aria-pressed="false"]');
    await keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".bench tbody tr").length === 4);
    await waitForFocus(page, '.groups button[aria-pressed="true"]');
    await go(page, ".bench tbody button");
    await keyboard.press("Enter");
    await page.waitForSelector(".bench pre.json");
    await waitForFocus(page, '.bench tbody button[aria-expanded="true"]');
    await go(page, '[data-focus="redrive"]', "Shift+Tab");
    await keyboard.press("Enter");
    await page.waitForSelector("#ask[open]");
    assert.ok((await focus(page)).visible, "nobody sees where the focus is in the question");
    await keyboard.press("Escape");
    await page.waitForSelector("#ask:not([open])", { state: "attached" });
    await waitForFocus(page, '[data-focus="redrive"]');
    await shoot(page, "keyboard-letters");

    // A flow, by its id, and what one of its events says.
    await keyboard.press("/");
    await waitForFocus(page, "#query");
    await keyboard.type(crowd.ids.flow);
    await keyboard.press("Enter");
    await page.waitForSelector("#page-search .flow");
    await go(page, '#page-search a[href^="#/flows/"]');
    await keyboard.press("Enter");
    await page.waitForSelector("#page-flows .flow");
    await waitForFocus(page, "#main");
    await go(page, "#page-flows .more");
    await keyboard.press("Enter");
    await page.waitForSelector("#page-flows .content pre.json");
    await waitForFocus(page, "#page-flows .more");

    // An event, from one type to the next.
    await keyboard.press("5");
    await page.waitForSelector("#page-publish select");
    await go(page, "#page-publish select");
    const type = await page.inputValue("#page-publish select");
    await keyboard.press("ArrowDown");
    await page.waitForFunction((before) => document.querySelector("#page-publish select").value !== before, type);
    await waitForFocus(page, "#page-publish select");
    await go(page, "#page-publish textarea");
    await go(page, "#page-publish button.strong, #page-publish button:disabled + button, #page-publish .types button");

    // A schedule, a row and a stream, all with the keyboard.
    await keyboard.press("Escape");
    await page.evaluate(() => document.activeElement.blur());
    await keyboard.press("6");
    await page.waitForSelector("#page-schedules table");
    await go(page, '#page-schedules [data-focus="schedule tick"]');
    await keyboard.press("Enter");
    await page.waitForSelector("#page-schedules .two .list a");
    await waitForFocus(page, '#page-schedules [data-focus="schedule tick"]');
    await go(page, '#page-schedules [data-focus="fire tick"]');
    await keyboard.press("Enter");
    await page.waitForSelector("#ask[open]");
    await keyboard.press("Escape");
    await waitForFocus(page, '#page-schedules [data-focus="fire tick"]');
    await keyboard.press("7");
    await page.waitForSelector("#page-rows .groups button");
    await go(page, "#page-rows .groups button");
    await keyboard.press("Enter");
    await page.waitForSelector("#page-rows tbody a");
    await go(page, "#page-rows tbody a");
    await keyboard.press("Enter");
    await page.waitForSelector("#page-rows .fields input");
    await go(page, "#page-rows .fields input");
    await keyboard.press("End");
    await keyboard.type("1");
    await go(page, "#page-rows button.strong");
    await keyboard.press("Enter");
    await page.waitForSelector("#ask[open]");
    await keyboard.press("Escape");
    await page.evaluate(() => document.activeElement.blur());
    await keyboard.press("8");
    await page.waitForSelector("#page-streams table");
    await go(page, "#page-streams td a");
    await keyboard.press("Enter");
    await page.waitForSelector("#page-streams .messages li");
    await go(page, "#page-streams .messages summary");
    await keyboard.press("Enter");
    await page.waitForSelector("#page-streams details[open]");

    // What is found.
    await keyboard.press("Escape");
    await go(page, "#doctor", "Shift+Tab");
    await keyboard.press("Enter");
    await page.waitForSelector("#panel section");
    await waitForFocus(page, "#panel h2");
    await keyboard.press("Escape");
    await waitForFocus(page, "#doctor");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("what changes is said, once", async ({ browser, crowd }) => {
    const page = await openPage(browser, crowd.url, { reducedMotion: "reduce" });
    await page.addInitScript(alterable);
    await login(page, crowd);
    await mapIsThere(page);
    await ticks(page, 2);
    const heard = () => page.evaluate(() => globalThis.heard.filter((text) => !text.includes("notice")));
    assert.deepEqual(await heard(), [], "nothing has changed yet");
    await page.evaluate(() => {
      globalThis.change = ({ at: since }) => ({ servers: { nats: { why: "NATS at n1 holds its connection and does not answer", advice: "thaw it", since } } });
    });
    await page.waitForSelector("#alarm:not([hidden])");
    await ticks(page, 3);
    assert.deepEqual(await heard(), ["NATS at n1 holds its connection and does not answer. thaw it."]);
    const found = await findings(page, "NATS is away", ["color-contrast", "region"]);
    assert.deepEqual(found, []);
    await shoot(page, "away");
    await page.evaluate(() => {
      globalThis.change = ({ functions }) => {
        functions[0][8] += 3;
        return { functions };
      };
    });
    await page.waitForSelector("#alarm", { state: "hidden" });
    await ticks(page, 3);
    const [, ...later] = await heard();
    assert.equal(later.length, 2, later.join(" | "));
    assert.equal(later[0], "All servers answer again");
    assert.match(later[1], /^3 new dead letters, \d+ in all$/);
    assert.equal(await page.getAttribute("#news", "aria-live"), "polite");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
}
