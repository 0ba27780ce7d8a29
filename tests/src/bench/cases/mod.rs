//! The cases, in the order in which they run.

mod clicks;
mod counts;
mod door;
mod gateway;
mod hops;
mod languages;
mod marks;
mod start;
mod thumbnails;
mod traces;

use super::plan::{Case, Plan};

pub struct Known {
    pub id: &'static str,
    pub title: &'static str,
    pub run: fn(Plan) -> Running,
}

pub type Running = std::pin::Pin<Box<dyn Future<Output = Case>>>;

macro_rules! cases {
    ($name:ident: $($id:literal $run:path: $title:literal;)*) => {
        pub const $name: &[Known] = &[$(Known { id: $id, title: $title, run: |plan| Box::pin($run(plan)) }),*];
    };
}

cases! { CASES:
    "clicks" clicks::clicks: "200 B in, row update, one output, all acks; one worker";
    "hot" clicks::hot: "every event on one and the same key";
    "keys" clicks::keys: "every event on a key of its own";
    "tenth" clicks::tenth: "an output at every tenth event";
    "workers" clicks::workers: "one, two and four workers of one function";
    "payload" clicks::payload: "larger events";
    "traces" traces::traces: "spans exported to a collector that reads them";
    "slow" clicks::slow: "a slow function on the same events leaves the fast one alone";
    "hops" hops::hops: "from the HTTP request to the third commit, at a rate that waits for nobody";
    "gateway" gateway::gateway: "the gateway alone";
    "door" door::door: "tokens and limits at the gateway, and a crowd at its door";
    "start" start::start: "a worker that starts, and one that waits";
    "thumbnails" thumbnails::thumbnails: "photographs made small";
    "durable" clicks::durable: "profile durable";
    "counts" counts::counts: "instructions and allocations of one event in the worker";
    "marks" marks::marks: "memory that Redis keeps of each event";
    "backlog" clicks::backlog: "what an event costs, whatever waits behind it";
}

// For `make bench-peers`, which installs what they need.
cases! { PEERS:
    "python" languages::python: "a function in Python beside FastStream and a loop over nats-py";
    "typescript" languages::typescript: "a function in TypeScript beside NestJS and a loop over nats.js";
    "hosts" languages::hosts: "a host at rest, and one hop through it";
}
