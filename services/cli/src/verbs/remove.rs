//! `oncue remove`: takes a function that is not wanted any more off both servers.
//!
//! Its consumer goes first: from then on nothing is kept for it. Rows and dead letters stay, since they are not the
//! function's alone to lose.

use std::time::Duration;

use oncue_admin::changes::set_aside::Withdrawal;
use oncue_admin::changes::waiting::{self, Waiter};
use oncue_admin::dead_letters;
use oncue_admin::functions::Overview;
use oncue_admin::services::bounds;
use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::contract;
use oncue_core::secret;
use oncue_core::store::{GRACE_MS, Store};
use oncue_proto::event;
use serde_json::Value;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{DIM, GOOD, number, paint, remark, say};

/// Silence after which every worker has answered.
const REPLY_GAP: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct Args {
    /// Function to remove. Take it out of oncue.toml as well, or `oncue apply` makes it anew.
    function: String,
    #[command(flatten)]
    waiting: WaitingArgs,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Forget what it has applied as well: if it comes back, it applies again what its stream still holds.
    #[arg(long)]
    forget: bool,
}

/// Fate of the events that wait for the function.
#[derive(clap::Args)]
struct WaitingArgs {
    /// Make dead letters of the events that wait for it; they can be redriven once it is back.
    #[arg(long)]
    set_aside: bool,
    /// Remove it even if events wait for it, which nobody handles then.
    #[arg(long, conflicts_with = "set_aside")]
    discard: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let function = &args.function;
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    refuse_beside_workers(function, &bus).await?;
    let registered = store.functions().await.map_err(Failure::silent)?;
    let manifest = registered
        .into_iter()
        .map(|registered| registered.manifest)
        .find(|manifest| manifest.name == *function);
    let found = consumer(function, &bus).await?;
    if found.is_none() && manifest.is_none() {
        let app = &settings.config.app;
        return Err(Failure::failed(format_args!(
            "app {app} has no function {function} on these servers"
        ))
        .advise("`oncue ps` lists its functions, `oncue apply` what is left over"));
    }
    let consumer = match &found {
        Some(info) => Some(Consumer::of(function, info, settings, &bus).await?),
        None => None,
    };
    let waiting = match &consumer {
        Some(consumer) => consumer.waiting(&bus, &store).await?,
        None => 0,
    };
    refuse_to_lose(function, waiting, &store, args).await?;
    let letters = dead_letters::counts(&bus).await.map_err(Failure::silent)?;
    let letters = letters.get(function).copied().unwrap_or_default();
    confirm::ask(&question(args, waiting), args.yes)?;
    if let Some(consumer) = &consumer {
        if args.waiting.set_aside {
            let count = set_aside(consumer, settings, &bus, &store).await?;
            say(format_args!(
                "- {} events that waited: dead letters of {function} now",
                number(count)
            ));
        }
        let stream = consumer.waiter.stream;
        let name = bus.app().consumer(function);
        let delete = format!("CONSUMER.DELETE.{stream}.{name}");
        let deleted = bus.api(&delete, &Value::Null).await;
        deleted.map_err(Failure::silent)?;
        say(format_args!("- consumer {stream}/{name}"));
    }
    // First of what is forgotten: a function of this name that comes later begins without them, whatever fails behind.
    let unbound = bounds::take_away(&bus, function).await;
    unbound.map_err(Failure::silent)?;
    // Its consumer knows as well where it listened, if the registration is gone.
    let stream = match (&manifest, &found) {
        (Some(manifest), _) => manifest.stream.as_str(),
        (None, Some(info)) => info.stream_name.as_str(),
        (None, None) => "",
    };
    let keep = (!args.forget).then(|| marks_stay(stream, settings));
    let forgotten = store.forget_function(function, keep).await;
    forgotten.map_err(Failure::silent)?;
    let forgotten = contract::store(&bus, function, Vec::new()).await;
    forgotten.map_err(Failure::silent)?;
    say(format_args!("- registration and contract of {function}"));
    match keep {
        Some(keep) => remark(paint(
            DIM,
            format_args!(
                "What it has applied stays known for {} h, so that nothing counts twice if it comes back (--forget).",
                keep.as_secs() / 3600
            ),
        )),
        None => say(format_args!("- seen-marks of {function}")),
    }
    say(paint(GOOD, format_args!("{function} is removed.")));
    if let Some(table) = manifest.and_then(|manifest| manifest.table) {
        let stays = format_args!("Rows of the table {table} stay in Redis.");
        remark(paint(DIM, stays));
    }
    if letters > 0 {
        let letters = number(letters);
        let stay = format_args!("{letters} of its dead letters stay; see `oncue dlq ls`.");
        remark(paint(DIM, stay));
    }
    if settings.config.functions.contains_key(function) {
        remark(format_args!(
            "It is still in oncue.toml: `oncue apply` and `oncue up` make it anew."
        ));
    }
    Ok(exit::OK)
}

/// Time for which events of the function may still be in their stream, or come again.
fn marks_stay(stream: &str, settings: &Settings) -> Duration {
    settings.config.stream(stream).horizon.0 + Duration::from_millis(GRACE_MS)
}

fn question(args: &Args, waiting: u64) -> String {
    let function = &args.function;
    match waiting {
        0 => format!("Remove {function}?"),
        waiting if args.waiting.set_aside => format!(
            "Remove {function}, and make dead letters of {} events that wait for it?",
            number(waiting)
        ),
        waiting => format!(
            "Remove {function}, and leave {} events that wait for it to nobody?",
            number(waiting)
        ),
    }
}

/// Consumer of the function, and what it still has to deliver.
struct Consumer<'c> {
    waiter: Waiter<'c>,
    subjects: Vec<String>,
}

impl<'c> Consumer<'c> {
    async fn of(
        function: &'c str,
        info: &'c ConsumerInfo,
        settings: &Settings,
        bus: &Bus,
    ) -> Result<Self, Failure> {
        let stream = info.stream_name.as_str();
        let created = bus.stream_created(stream).await;
        let horizon = settings.config.stream(stream).horizon.0;
        let waiter = Waiter {
            function,
            stream,
            created: created.map_err(Failure::silent)?,
            floor: info.ack_floor.stream_seq,
            horizon: horizon.as_millis() as u64,
        };
        let subjects = info.config.filters().map(str::to_owned).collect();
        Ok(Self { waiter, subjects })
    }

    /// Number of events that were not handled. The consumer's own count has those as well that were published again after
    /// NATS had started anew, and that the function knows.
    async fn waiting(&self, bus: &Bus, store: &Store) -> Result<u64, Failure> {
        let counts = waiting::by_subject(self.waiter, &self.subjects, bus, store).await;
        Ok(counts.map_err(Failure::silent)?.values().sum())
    }
}

/// Makes dead letters of all that waits for the function.
async fn set_aside(
    consumer: &Consumer<'_>,
    settings: &Settings,
    bus: &Bus,
    store: &Store,
) -> Result<u64, Failure> {
    let secret = secret::id_secret(bus, store).await;
    let aside = Withdrawal {
        bus,
        store,
        config: &settings.config,
        secret: &secret.map_err(Failure::silent)?,
        why: "the function was removed",
    };
    let count = aside.all(consumer.waiter, &consumer.subjects).await;
    count.map_err(Failure::silent)
}

/// State of the function's consumer; `None` where there is none.
async fn consumer(function: &str, bus: &Bus) -> Result<Option<ConsumerInfo>, Failure> {
    let all = oncue_admin::consumers::all(bus).await;
    let mut all = all.map_err(Failure::silent)?;
    Ok(all.remove(function).map(|consumer| consumer.info))
}

/// Refuses while the function runs: its workers would make anew what is removed.
async fn refuse_beside_workers(function: &str, bus: &Bus) -> Result<(), Failure> {
    let overview = Overview::read(bus, REPLY_GAP).await;
    let overview = overview.map_err(Failure::silent)?;
    let workers = overview.workers.iter();
    let running = workers.filter(|worker| worker.function == function).count();
    if running == 0 && overview.supervised.contains_key(function) {
        let sleeps =
            format_args!("{function} sleeps, and an `oncue up` would wake it for its next event");
        return Err(Failure::failed(sleeps)
            .advise("stop it first: take it out of oncue.toml and start `oncue up` anew"));
    }
    if running == 0 {
        return Ok(());
    }
    Err(
        Failure::failed(format_args!("{function} runs in {running} processes"))
            .advise("stop it first: take it out of oncue.toml and start `oncue up` anew"),
    )
}

/// Refuses while something would be lost, unless that is asked for.
async fn refuse_to_lose(
    function: &str,
    waiting: u64,
    store: &Store,
    args: &Args,
) -> Result<(), Failure> {
    // Whatever their age: nobody would publish them.
    let outputs = store.waiting_outputs(&[function], event::now_ms()).await;
    let outputs = outputs.map_err(Failure::silent)?;
    let outputs = outputs.get(function).map_or(0, |waiting| waiting.commits);
    let waiting = if args.waiting.set_aside { 0 } else { waiting };
    if args.waiting.discard || (waiting == 0 && outputs == 0) {
        return Ok(());
    }
    let what = format!(
        "{} events wait for {function}, and outputs of {} commits are not published yet",
        number(waiting),
        number(outputs)
    );
    Err(Failure::failed(what).advise(
        "let it run until they are handled (`oncue ps`); or say --set-aside, and the events become dead letters; or \
         --discard, and nobody handles them",
    ))
}
