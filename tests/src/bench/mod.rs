//! What the runtime costs, measured beside what NATS and Redis give to a loop written by hand, in the same minutes on the
//! same machine. `tests/src/bin/bench.rs` runs it.

pub mod burn;
pub mod fill;
pub mod usage;
pub mod stats;
pub mod peers;
pub mod arena;
pub mod check;
pub mod contest;
pub mod load;
pub mod sink;
pub mod counts;
pub mod machine;
pub mod svg;
pub mod report;
pub mod paint;
pub mod plan;
pub mod cases;
