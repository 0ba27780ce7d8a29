//! The click pipeline in all its shapes, beside the loop written by hand.

use crate::bench::arena::{Arena, Profile, Run, Side, Work};
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::usage::Cpu;

/// Runs of each side, in turns, and what came of them.
pub struct Contest {
    sides: Vec<(Side, Vec<Run>)>,
}

impl Contest {
    pub async fn hold(arena: &mut Arena, what: &str, sides: &[Side], work: &Work, rounds: usize) -> Self {
        let mut contest = Self { sides: sides.iter().map(|side| (*side, Vec::new())).collect() };
        for round in 0..rounds {
            for (side, runs) in &mut contest.sides {
                progress(&format!("{what}: round {} of {rounds}, {}", round + 1, side.name()));
                runs.push(arena.run(*side, work).await);
            }
        }
        contest
    }

    pub fn runs(&self, side: Side) -> &[Run] {
        self.sides.iter().find(|(s, _)| *s == side).map_or(&[], |(_, runs)| runs)
    }

    /// Rates and the ratio to each hand-written form, round by round, so that a busy minute weighs on both.
    pub fn row(&self, name: &str, goal: Option<Goal>) -> Row {
        let mut row = Row { name: name.to_owned(), ..Row::default() };
        for (side, runs) in &self.sides {
            row.figures.push(Figure::new(side.name(), "/s", runs.iter().map(Run::rate)));
            let cpu = |what: &str, of: fn(&Cpu) -> f64| {
                Figure::new(&format!("{} {what}", side.name()), "us", runs.iter().map(|run| of(&run.cpu)))
            };
            row.details.extend([cpu("nats", |c| c.nats), cpu("redis", |c| c.redis), cpu("worker", |c| c.worker)]);
        }
        let ours = self.runs(Side::Oncue);
        row.details.push(Figure::new("oncue peak", "MB", ours.iter().map(|run| run.peak as f64 / 1024.0)));
        for (side, theirs) in self.sides.iter().filter(|(side, _)| *side != Side::Oncue) {
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate() / theirs.rate());
            let mut figure = Figure::new(&format!("oncue/{}", side.name()), "", ratios);
            figure.goal = goal.filter(|_| *side == Side::Limit);
            row.figures.push(figure);
        }
        row
    }
}

pub async fn clicks(plan: Plan) -> Case {
    let mut case = Case::new("clicks", "");
    let mut arena = Arena::open(Profile::Fast).await;
    let work = Work::default();
    let contest =
        Contest::hold(&mut arena, "clicks", &[Side::Oncue, Side::Limit, Side::Inbox], &work, plan.rounds).await;
    case.rows.push(contest.row("100 keys", Some(Goal::AtLeast(1.0))));
    case
}
