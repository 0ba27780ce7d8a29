/** Spans of the app are within that of the event. */

import { context as contexts, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import assert from "node:assert/strict";
import { test } from "node:test";

import { findTelemetry, within } from "../node_modules/oncue/dist/trace.js";
import { emptyEvent } from "../node_modules/oncue/dist/wire.js";

function active(): string | undefined {
  return trace.getSpanContext(contexts.active())?.traceId;
}

test("a handler runs within the span of its event, also behind an await", async () => {
  contexts.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  await findTelemetry();
  const seen = ["1", "2"].map((digit) => {
    const event = { ...emptyEvent(), traceparent: `00-${digit.repeat(32)}-${digit.repeat(16)}-01` };
    return within(event, async () => {
      await new Promise((done) => setImmediate(done));
      return active();
    });
  });
  assert.deepEqual(await Promise.all(seen), ["1".repeat(32), "2".repeat(32)]);
  assert.equal(active(), undefined);
  assert.equal(within(emptyEvent(), active), undefined, "nobody traces");
});
