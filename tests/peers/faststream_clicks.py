"""FastStream with a handler for one event, as its documentation has it: counted once, followed by an event that the stream has taken,
and then acked."""

import asyncio
import os
from pathlib import Path

from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from pydantic import BaseModel
from redis.asyncio import Redis

CONSUMER = os.environ["LIMIT_CONSUMER"]
OUTPUT = os.environ["LIMIT_OUTPUT"]
# Handlers at a time: one event after the other is slower by far, and more than these bring nothing.
WORKERS = int(os.environ.get("PEER_WORKERS", "32"))

broker = NatsBroker(os.environ["ONCUE_NATS_URL"], logger=None)
app = FastStream(broker)
redis = Redis.from_url(os.environ["ONCUE_REDIS_URL"], decode_responses=True)
count = redis.register_script((Path(__file__).parent / "count.lua").read_text())


class Click(BaseModel):
    page: str
    visitor: str
    referrer: str = ""


class Milestone(BaseModel):
    page: str
    views: int


@broker.subscriber(
    os.environ["LIMIT_INPUT"],
    stream=JStream("web", declare=False),
    durable=CONSUMER,
    pull_sub=PullSub(batch_size=200, batch=False),
    max_workers=WORKERS,
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def clicks(click: Click, message: NatsMessage) -> None:
    cause = message.headers["Nats-Msg-Id"]
    [views] = await count(args=[CONSUMER, cause, click.page])
    milestone = Milestone(page=click.page, views=views)
    await broker.publish(milestone, OUTPUT, stream="web", headers={"Nats-Msg-Id": f"{cause}.1"})


@app.after_startup
async def ready() -> None:
    print('{"message":"ready"}', flush=True)


asyncio.run(app.run())
