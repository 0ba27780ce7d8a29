/**
 * Oncue: write a function; what it acts on, which state it owns and what follows stand beside it.
 *
 *     import { func, reject, row } from "oncue";
 *     import { OrderBilledSchema, OrderPlacedSchema } from "../gen/orders_pb.js";
 *
 *     const customer = row("customers", { orders: 0 });
 *
 *     func("bill-order", { on: OrderPlacedSchema, row: customer, emits: OrderBilledSchema }, (order, customer) => {
 *       if (!order.article) throw reject("an order of nothing");
 *       customer.orders += 1;
 *       return create(OrderBilledSchema, { order: order.order, cents: order.cents });
 *     });
 *
 * An exception means again, later, with growing delay; `throw reject("why")` means never. `func` returns the handler, so a
 * test calls it; see `oncue/testing`.
 */

export { Context } from "./context.ts";
export { FileError, Files } from "./files.ts";
export type { StoredFile } from "./files.ts";
export { Delayed, Reject, delayed, func, reject } from "./func.ts";
export type { EventOf, FuncOptions, Handler, Result } from "./func.ts";
export { RowError, maybe, row } from "./rows.ts";
export type { RowOf, RowType } from "./rows.ts";
