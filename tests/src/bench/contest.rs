//! Several things measured in turns: a busy minute weighs on all of them, and ratios are taken round by round.

use super::arena::{Arena, Run, Side, Work};
use super::paint::progress;
use super::plan::{Figure, Goal, Row};
use super::usage::Cpu;

struct Entry {
    name: String,
    side: Side,
    work: Work,
    runs: Vec<Run>,
}

#[derive(Default)]
pub struct Contest {
    entries: Vec<Entry>,
}

impl Contest {
    #[must_use]
    pub fn with(mut self, name: &str, side: Side, work: Work) -> Self {
        self.entries.push(Entry {
            name: name.to_owned(),
            side,
            work,
            runs: Vec::new(),
        });
        self
    }

    /// Oncue and the loop written by hand, at the same work.
    pub fn of(work: &Work) -> Self {
        Self::default()
            .with("oncue", Side::Oncue, work.clone())
            .with("limit", Side::Limit, work.clone())
    }

    pub async fn hold(mut self, arena: &mut Arena, what: &str, rounds: usize) -> Self {
        for round in 1..=rounds {
            for entry in &mut self.entries {
                progress(&format!(
                    "{what}: round {round} of {rounds}, {}",
                    entry.name
                ));
                entry.runs.push(arena.run(entry.side, &entry.work).await);
            }
        }
        self
    }

    pub fn runs(&self, name: &str) -> &[Run] {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        &entry
            .unwrap_or_else(|| panic!("nothing here is called {name}"))
            .runs
    }

    pub fn rate(&self, name: &str) -> Figure {
        Figure::new(name, "/s", self.runs(name).iter().map(Run::rate))
    }

    pub fn ratio(&self, of: &str, to: &str) -> Figure {
        let ratios = self
            .runs(of)
            .iter()
            .zip(self.runs(to))
            .map(|(of, to)| of.rate() / to.rate());
        Figure::new(&format!("{of}/{to}"), "", ratios)
    }

    /// The same by the CPU time that an event costs all processes together: what the ratio would be where nothing but
    /// the processor is short, and steady where other programs share it.
    pub fn by_cpu(&self, of: &str, to: &str) -> Figure {
        let ratios = self
            .runs(of)
            .iter()
            .zip(self.runs(to))
            .map(|(of, to)| to.cpu.total() / of.cpu.total());
        Figure::new("by CPU", "", ratios)
    }

    /// CPU time of an event in each process, and memory.
    pub fn details(&self, name: &str) -> Vec<Figure> {
        let runs = self.runs(name);
        let cpu = |what: &str, of: fn(&Cpu) -> f64| {
            Figure::new(
                &format!("{name} {what}"),
                "us",
                runs.iter().map(|run| of(&run.cpu)),
            )
        };
        let mut figures = vec![
            cpu("nats", |c| c.nats),
            cpu("redis", |c| c.redis),
            cpu("worker", |c| c.worker),
        ];
        if runs.iter().any(|run| run.cpu.child > 0.0) {
            figures.push(cpu("child", |c| c.child));
        }
        figures.push(Figure::new(
            &format!("{name} peak"),
            "MB",
            runs.iter().map(|run| run.peak as f64 / 1024.0),
        ));
        figures
    }

    /// Everyone's rate, ours beside the limit's, and what an event costs.
    pub fn row(&self, name: &str, goal: Option<Goal>) -> Row {
        let mut row = Row {
            name: name.to_owned(),
            ..Row::default()
        };
        row.figures
            .extend(self.entries.iter().map(|entry| self.rate(&entry.name)));
        let mut ratio = self.ratio("oncue", "limit");
        ratio.goal = goal;
        row.figures.extend([ratio, self.by_cpu("oncue", "limit")]);
        row.details.extend(
            self.entries
                .iter()
                .flat_map(|entry| self.details(&entry.name)),
        );
        row
    }
}
