"""A loop over nats-py by hand: greedy batches of 250, one script call for each, publish acks as futures, two batches under way."""

import asyncio
import json
import os
from pathlib import Path

import nats
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from redis.asyncio import Redis

CONSUMER = os.environ["LIMIT_CONSUMER"]
OUTPUT = os.environ["LIMIT_OUTPUT"]
BATCH = 250
OVERLAP = 2


async def main() -> None:
    client = await nats.connect(os.environ["ONCUE_NATS_URL"])
    jetstream = client.jetstream(publish_async_max_pending=OVERLAP * BATCH)
    redis = Redis.from_url(os.environ["ONCUE_REDIS_URL"], decode_responses=True)
    count = redis.register_script((Path(__file__).parent / "count.lua").read_text())
    print('{"message":"ready"}', flush=True)

    async def one() -> None:
        # One each: two fetches on one subscription take each other's messages, and wait for them until their time is over.
        subscription = await jetstream.pull_subscribe_bind(CONSUMER, "web")
        while True:
            try:
                batch = await subscription.fetch(BATCH, timeout=5)
            except nats.errors.TimeoutError:
                continue
            await work(batch, jetstream, count)

    await asyncio.gather(*[one() for _ in range(OVERLAP)])


async def work(batch: list[Msg], jetstream: JetStreamContext, count) -> None:
    pages = [json.loads(message.data)["page"] for message in batch]
    ids = [message.headers["Nats-Msg-Id"] for message in batch]
    pairs = [part for pair in zip(ids, pages) for part in pair]
    views = await count(args=[CONSUMER, *pairs])
    acks = []
    for page, cause, view in zip(pages, ids, views):
        payload = json.dumps({"page": page, "views": view}).encode()
        headers = {"Nats-Msg-Id": f"{cause}.1"}
        acks.append(await jetstream.publish_async(OUTPUT, payload, headers=headers))
    await asyncio.gather(*acks)
    for message in batch:
        await message.ack()


asyncio.run(main())
