//! One scenario under many lucks: the plain run says what should come out, and every other run must come to the same.

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use oncue_proto::Catalog;

use super::app::App;
use super::choices::Choices;
use super::ending::{Ending, SCENARIO};
use super::world::{Journal, Tally, World};
use crate::worker::effects::panic_text;

/// Runs that a search for a smaller schedule may take.
const MAX_SEARCH: usize = 400;
/// Lines of a schedule that are shown.
const MAX_LINES: usize = 120;
/// Seeds after which luck has shown itself.
const ENOUGH: usize = 20;

/// Luck under which a scenario is played: order of steps, crashes between any two of them, second deliveries and copies,
/// several workers at one key. Rows, events, dead letters, files and what was [observed](App::observe) must come out as in
/// the plain run, whatever the luck.
///
/// The order of one key's events holds only within one worker and while nothing fails, so a function whose result hangs on
/// that order is found as well. A function that runs [at most once](crate::Function::at_most_once) gets no crashes and no
/// second deliveries: for it a dead letter is the right end.
///
/// ```
/// # use oncue::{Context, Function, Result, State};
/// # use oncue_app_events::web::PageViewed;
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct Page { views: u64 }
/// # impl State for Page { const TABLE: &'static str = "pages"; }
/// # async fn count(_: PageViewed, page: &mut Page, _: &Context) -> Result<()> { page.views += 1; Ok(()) }
/// # fn count_views() -> Function<PageViewed> { Function::new("count-views", count) }
/// use oncue::testing::{App, Luck};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let luck = Luck::default().run(async |app: App| {
///     let mut app = app.with(count_views());
///     for visitor in ["v1", "v2", "v3"] {
///         app.publish(&PageViewed { page: "/home".into(), visitor: visitor.into(), ..Default::default() });
///     }
///     app.settle().await;
///     app
/// }).await;
/// assert!(luck.crashes > 0);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Luck {
    /// Seeds, each of which is a run. Default 0 to 200. A seed brings the same luck each time: `seeds: 17..18` plays one again.
    pub seeds: Range<u64>,
    /// Workers of each function. Default 2; with 1 and without `faults` the order of one key's events holds.
    pub workers: usize,
    /// Whether workers crash, deliveries are repeated, and messages published twice. Default yes.
    pub faults: bool,
}

impl Default for Luck {
    fn default() -> Self {
        Self {
            seeds: 0..200,
            workers: 2,
            faults: true,
        }
    }
}

impl Luck {
    /// Plays a scenario: adds functions to the app it is given, publishes, settles, lets time pass, and gives the app back.
    ///
    /// # Panics
    /// A run came to another end than the plain one. The message shows the seed, the smallest schedule found under which it
    /// does so, and what differs.
    pub async fn run<S: AsyncFn(App) -> App>(&self, scenario: S) -> Tally {
        let trial = Trial {
            luck: self,
            scenario,
            catalog: OnceCell::new(),
        };
        let plain = trial.play_plain().await;
        let again = trial.play_plain().await;
        assert!(
            plain.ending == again.ending,
            "the same plain run came to two ends: something asks the clock or chance, or keeps state from run to run\n{}",
            plain.ending.differences(&again.ending)
        );
        let mut tally = Tally::default();
        for seed in self.seeds.clone() {
            let run = trial.play(Choices::of_seed(seed), false).await;
            tally.add(run.tally);
            if run.ending != plain.ending {
                let smallest = trial.shrink(&plain.ending, run.choices).await;
                panic!("{}", report(seed, &plain.ending, &smallest));
            }
        }
        let faults = tally.crashes + tally.redeliveries + tally.copies;
        let must_fail = self.faults && !plain.is_spared && tally.runs >= ENOUGH;
        assert!(
            faults > 0 || !must_fail,
            "{} runs brought no fault: does the scenario settle?",
            tally.runs
        );
        tally
    }
}

/// A scenario on trial.
struct Trial<'l, S> {
    luck: &'l Luck,
    scenario: S,
    /// Types of the app's events; made once, since it takes longer than a run.
    catalog: OnceCell<Catalog>,
}

impl<S: AsyncFn(App) -> App> Trial<'_, S> {
    fn ending(&self, app: &App) -> Ending {
        app.ending(self.catalog.get_or_init(|| app.catalog()))
    }

    /// One run. A scenario that panics has that as its ending.
    async fn play(&self, choices: Choices, with_journal: bool) -> Finished {
        let world = Arc::new(World::new(choices));
        if with_journal {
            world.lock().journal = Some(Journal::default());
        }
        let app = App::of(world.clone(), self.luck.workers.max(1), self.luck.faults);
        let played = AssertUnwindSafe((self.scenario)(app)).catch_unwind().await;
        let mut ending = Ending::default();
        match played {
            Ok(app) => ending = self.ending(&app),
            Err(panic) => ending.set(SCENARIO.into(), panic_text(panic.as_ref())),
        }
        let mut inner = world.lock();
        Finished {
            ending,
            is_spared: false,
            journal: inner.journal.take().unwrap_or_default().lines,
            tally: inner.tally,
            choices: inner.choices.take(),
        }
    }

    /// The run in which everything goes by itself. It may panic, as a test does that fails.
    async fn play_plain(&self) -> Finished {
        let world = Arc::new(World::new(Choices::given(Vec::new())));
        let app = (self.scenario)(App::of(world.clone(), 1, false)).await;
        assert!(
            world.lock().deliveries > 0,
            "no function has had an event: publish some, and settle"
        );
        Finished {
            ending: self.ending(&app),
            is_spared: app.is_spared(),
            journal: Vec::new(),
            tally: Tally::default(),
            choices: Vec::new(),
        }
    }

    /// Looks for a smaller list of choices after which the ending still differs, and plays it with a journal.
    async fn shrink(&self, plain: &Ending, mut smallest: Vec<u32>) -> Finished {
        let mut runs = 0;
        let mut piece = smallest.len();
        while piece > 0 && runs < MAX_SEARCH {
            let mut from = 0;
            while from < smallest.len() && runs < MAX_SEARCH {
                let mut is_smaller = false;
                for candidate in without(&smallest, from, piece) {
                    runs += 1;
                    let run = self.play(Choices::given(candidate), false).await;
                    if run.ending != *plain && size(&run.choices) < size(&smallest) {
                        smallest = run.choices;
                        is_smaller = true;
                        break;
                    }
                }
                if !is_smaller {
                    from += piece;
                }
            }
            piece /= 2;
        }
        self.play(Choices::given(smallest), true).await
    }
}

/// A run that is over.
struct Finished {
    ending: Ending,
    /// Whether all functions run at most once.
    is_spared: bool,
    journal: Vec<String>,
    tally: Tally,
    choices: Vec<u32>,
}

impl Tally {
    /// Adds one run.
    fn add(&mut self, run: Self) {
        self.runs += 1;
        self.crashes += run.crashes;
        self.redeliveries += run.redeliveries;
        self.copies += run.copies;
        self.conflicts += run.conflicts;
        self.switches += run.switches;
    }
}

/// A list without a piece of its choices: made plain, or left out.
fn without(list: &[u32], from: usize, piece: usize) -> Vec<Vec<u32>> {
    let to = list.len().min(from + piece);
    let mut candidates = Vec::new();
    if list[from..to].iter().any(|choice| *choice > 0) {
        let mut plain = list.to_vec();
        plain[from..to].fill(0);
        candidates.push(plain);
    }
    candidates.push([&list[..from], &list[to..]].concat());
    candidates
}

/// Size of a list: acts of luck in it, then its length.
fn size(list: &[u32]) -> (usize, usize) {
    (
        list.iter().filter(|choice| **choice > 0).count(),
        list.len(),
    )
}

/// The report for people.
fn report(seed: u64, plain: &Ending, run: &Finished) -> String {
    let acts = size(&run.choices).0;
    let lines = run.journal.len();
    let shown = run.journal.iter().take(MAX_LINES);
    let mut schedule: String = shown.map(|line| format!("  {line}\n")).collect();
    if lines > MAX_LINES {
        let _ = writeln!(schedule, "    ... {} more", lines - MAX_LINES);
    }
    let what = match acts {
        0 => format!(
            "seed {seed} comes to another end without an act of luck: something asks the clock or chance, or keeps state from run to run"
        ),
        acts => format!("the outcome hangs on luck: seed {seed}, {acts} acts of luck (*)"),
    };
    format!(
        "{what}\n\nschedule:\n{schedule}\ndifferences:\n{}",
        plain.differences(&run.ending)
    )
}
