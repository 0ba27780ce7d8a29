/** OpenTelemetry of the app, where it has any: spans of its own are within that of the event then. */

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import type { WireEvent } from "./wire.ts";

/** As much of `@opentelemetry/api` as is used here; what is in a context is the app's affair. */
interface Api {
  ROOT_CONTEXT: object;
  context: { with<T>(context: object, run: () => T): T };
  propagation: { extract(context: object, carrier: Record<string, string>): object };
  trace: {
    getSpanContext(context: object): unknown;
    setSpanContext(context: object, span: { traceId: string; spanId: string; traceFlags: number; isRemote: boolean }): object;
  };
}

let api: Api | undefined;

/** Looks whether the app has `@opentelemetry/api`. */
export async function findTelemetry(): Promise<void> {
  try {
    const found = createRequire(join(process.cwd(), "package.json")).resolve("@opentelemetry/api");
    const imported = (await import(pathToFileURL(found).href)) as Api & { default?: Api };
    api = imported.default ?? imported;
  } catch {
    // It has none, so it makes no spans.
  }
}

/** Runs a handler within the span of its event. */
export function within<T>(event: WireEvent, run: () => T): T {
  const [, traceId, spanId, flags] = event.traceparent.split("-");
  if (!api || !traceId || !spanId || !flags) return run();
  const { traceparent, tracestate, baggage } = event;
  let context = api.propagation.extract(api.ROOT_CONTEXT, { traceparent, tracestate, baggage });
  if (!api.trace.getSpanContext(context)) {
    // Nobody has told it how traces are written.
    context = api.trace.setSpanContext(context, { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true });
  }
  return api.context.with(context, run);
}
