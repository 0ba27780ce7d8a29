/**
 * For tests of functions. A handler is a plain function and can be called as one; `call` runs it as Oncue would, and says what
 * came of it.
 *
 *     const outcome = await call(billOrder, create(OrderPlacedSchema, { order: "o1", cents: 5n }), { orders: 1 });
 *     assert.deepEqual(outcome.events, [create(OrderBilledSchema, { order: "o1", cents: 5n })]);
 *     assert.equal(outcome.row.orders, 2);
 */

import type { Message } from "@bufbuild/protobuf";

import type { Operation } from "./context.ts";
import { Context } from "./context.ts";
import type { Delayed } from "./func.ts";
import { flat, funcOf, reject } from "./func.ts";
import { emptyEvent } from "./wire.ts";

/** Effects of one run: events that follow, the row as it is after it, and changes without a row. */
export interface Outcome<R> {
  events: Message[];
  /** Events that are to happen later, with their milliseconds. */
  delayed: { event: Message; ms: number }[];
  row: R;
  operations: readonly Operation[];
}

type AnyHandler = (event: any, row: any, context: Context) => unknown;

/** Context of an event, one second after 1970 began. */
export function context(handler: AnyHandler, given: { key?: string; id?: string; attempt?: number; isDryRun?: boolean } = {}): Context {
  const of = funcOf(handler);
  const id = given.id ?? "event-1";
  const attempt = given.attempt ?? 1;
  const event = { ...emptyEvent(), id, type: of.trigger(), source: "/test", timeMs: 1000, flow: id, attempt };
  return new Context(event, given.key ?? "", of, given.isDryRun ?? false, reject, new AbortController().signal);
}

/** Runs a function on an event and a row, by default one that begins; an exception comes through, and `Reject` is one. */
export async function call<E, R>(
  handler: (event: E, row: R, context: Context) => unknown,
  event?: NoInfer<E>,
  row?: NoInfer<R>,
  given: { key?: string } = {},
): Promise<Outcome<R>> {
  const of = funcOf(handler);
  const own = (row ?? of.row?.begin()) as R;
  const surroundings = context(handler, given);
  const result = await handler(event as E, own, surroundings);
  // Whether it could be sent, and whether the row could be stored.
  of.outputs(result);
  if (of.row) of.row.fields(own as object);
  const all = [...flat(result, 0)] as { event: Message; ms: number }[];
  return {
    events: all.filter(({ ms }) => ms === 0).map(({ event }) => event),
    delayed: all.filter(({ ms }) => ms > 0),
    row: own,
    operations: surroundings.operations,
  };
}

export type { Delayed };
