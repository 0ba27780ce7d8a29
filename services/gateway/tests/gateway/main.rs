//! The gateway over real HTTP, on a real nats-server and a real redis-server of each test's own.

mod events;
mod files;
mod flows;
mod guards;
mod harness;
mod process;
mod reads;
