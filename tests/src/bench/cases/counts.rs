//! Instructions and allocations, which are the same on a busy machine.

use crate::bench::counts::{Counts, missing};
use crate::bench::plan::{Case, Figure, Plan, Row};

pub async fn counts(_: Plan) -> Case {
    let mut case = Case {
        skipped: missing(),
        ..Case::default()
    };
    if case.skipped.is_none() {
        let counts = Counts::measure().await;
        let mut figures = vec![Figure::new("instructions", "", [counts.instructions])];
        // The allocator of a release keeps its own books: these are counted by `make bench-counts`, in a build without it.
        if counts.allocations > 1.0 {
            figures.push(Figure::new("allocations", "", [counts.allocations]));
            figures.push(Figure::new("allocated", "B", [counts.bytes]));
        }
        case.rows.push(Row {
            name: "each event".into(),
            figures,
            details: Vec::new(),
        });
    }
    case
}
