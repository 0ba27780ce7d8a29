/**
 * NestJS over a JetStream transport, a handler for one event: counted once, followed by an event that the stream has taken, and then
 * acked. Decorators are called as functions, so that nothing is compiled.
 */

import "reflect-metadata";

import { readFileSync } from "node:fs";
import { Controller, Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { Ctx, EventPattern, Payload } from "@nestjs/microservices";
import transport from "@nestjs-plugins/nestjs-nats-jetstream-transport";
import { connect } from "nats";
import { createClient } from "redis";
import { defer } from "rxjs";

const { LIMIT_CONSUMER, LIMIT_OUTPUT, ONCUE_NATS_URL, ONCUE_REDIS_URL, LIMIT_INPUT } = process.env;

const jetstream = (await connect({ servers: ONCUE_NATS_URL })).jetstream();
const redis = await createClient({ url: ONCUE_REDIS_URL }).connect();
const script = await redis.scriptLoad(readFileSync(new URL("count.lua", import.meta.url), "utf8"));

class Clicks {
  /** An observable, since the transport waits for a promise before it takes the next event: a tenth of the rate. */
  click({ page }, { message }) {
    return defer(() => this.count(page, message));
  }

  async count(page, message) {
    const id = message.headers.get("Nats-Msg-Id");
    const [views] = await redis.evalSha(script, { arguments: [LIMIT_CONSUMER, id, page] });
    await jetstream.publish(LIMIT_OUTPUT, JSON.stringify({ page, views }), { msgID: `${id}.1` });
    message.ack();
  }
}
EventPattern(LIMIT_INPUT)(Clicks.prototype, "click", Object.getOwnPropertyDescriptor(Clicks.prototype, "click"));
Payload()(Clicks.prototype, "click", 0);
Ctx()(Clicks.prototype, "click", 1);
Controller()(Clicks);

class App {}
Module({ controllers: [Clicks] })(App);

const app = await NestFactory.createMicroservice(App, {
  logger: ["error", "warn"],
  strategy: new transport.NatsJetStreamServer({
    connectionOptions: { servers: ONCUE_NATS_URL, name: "clicks" },
    consumerOptions: {
      durable: LIMIT_CONSUMER,
      deliverTo: "clicks",
      deliverGroup: "clicks",
      deliverPolicy: "All",
      ackPolicy: "Explicit",
      manualAck: true,
      maxAckPending: 1000,
    },
  }),
});
await app.listen();
// The transport subscribes without waiting for it.
const jsm = await jetstream.jetstreamManager();
const consumer = `${LIMIT_CONSUMER}-${LIMIT_INPUT.replaceAll(".", "_")}`;
while (!(await jsm.consumers.info("web", consumer).catch(() => undefined))) await new Promise((again) => setTimeout(again, 20));
console.log('{"message":"ready"}');
