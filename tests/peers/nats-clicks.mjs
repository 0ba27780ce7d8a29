/** A loop over nats.js by hand: greedy batches of 250, one script call for each, publish acks as promises, two batches under way. */

import { readFileSync } from "node:fs";
import { connect } from "nats";
import { createClient } from "redis";

const { LIMIT_CONSUMER, LIMIT_OUTPUT, ONCUE_NATS_URL, ONCUE_REDIS_URL } = process.env;
const BATCH = 250;
const OVERLAP = 2;

const client = await connect({ servers: ONCUE_NATS_URL });
const jetstream = client.jetstream();
const redis = await createClient({ url: ONCUE_REDIS_URL }).connect();
const script = await redis.scriptLoad(readFileSync(new URL("count.lua", import.meta.url), "utf8"));
const consumer = await jetstream.consumers.get("web", LIMIT_CONSUMER);

async function work(batch) {
  const clicks = batch.map((message) => ({ id: message.headers.get("Nats-Msg-Id"), page: message.json().page }));
  const args = [LIMIT_CONSUMER, ...clicks.flatMap(({ id, page }) => [id, page])];
  const views = await redis.evalSha(script, { arguments: args });
  const acks = clicks.map(({ id, page }, at) =>
    jetstream.publish(LIMIT_OUTPUT, JSON.stringify({ page, views: views[at] }), { msgID: `${id}.1` }),
  );
  await Promise.all(acks);
  for (const message of batch) message.ack();
}

async function one() {
  for (;;) {
    // Greedy: what is there, and no waiting for more of it.
    const batch = [];
    const messages = await consumer.fetch({ max_messages: BATCH, expires: 5000 });
    for await (const message of messages) batch.push(message);
    if (batch.length > 0) await work(batch);
  }
}

console.log('{"message":"ready"}');
await Promise.all(Array.from({ length: OVERLAP }, one));
