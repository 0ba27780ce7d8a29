//! The cases, in the order in which they run.

mod clicks;

use super::plan::{Case, Plan};

pub struct Known {
    pub id: &'static str,
    pub title: &'static str,
    pub run: fn(Plan) -> Running,
}

pub type Running = std::pin::Pin<Box<dyn Future<Output = Case>>>;

pub const CASES: [Known; 1] = [Known {
    id: "clicks",
    title: "200 B in, row update, one output, all acks; 100 keys, one worker",
    run: |plan| Box::pin(clicks::clicks(plan)),
}];
