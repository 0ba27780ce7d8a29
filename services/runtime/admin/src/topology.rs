//! Topology of an app: functions, the event types between them, and schedules, as declared. It is put together from
//! everybody who knows: Redis, where each worker wrote its manifest when it started, the programs that are built
//! here, and the workers that answer.
//!
//! A type leads from whoever emits it to whoever acts on it; there is no list of edges anywhere. A function is known
//! as long as one of the three knows it: one that was removed stays in Redis until it is forgotten there.
//!
//! | source | tells | cost |
//! |---|---|---|
//! | Redis hash `oncue:functions` | every function that ever started here, and when one of its workers last did | one round trip |
//! | programs of `oncue.toml`, with `--manifest` | what is built on this machine | a process each, all at once, 10 s at most |
//! | workers on `$SRV.INFO` | what runs, and how often | one question, and a pause of 300 ms |
//!
//! Clients that publish are declared nowhere: of them only [`published`] and the counted hops of
//! [`drift`](crate::drift) tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use oncue_core::program::Program;
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Event as _, files::FileUploaded};

use crate::{AdminError, program, services};
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::event::stream_of_type;

/// Longest pause between two answers; workers answer within milliseconds.
/// A worker that takes longer is missed once, and its function counts as not running.
const REPLY_GAP: Duration = Duration::from_millis(300);

/// A function and who knows of it.
#[derive(Debug, Clone)]
pub struct KnownFunction {
    /// As told last: by a running worker, else by its program, else by the last worker that started.
    pub manifest: Manifest,
    /// Workers that answer.
    /// 0 without a bus.
    pub running: u64,
    /// Whether its program is there.
    /// Only programs of functions in `oncue.toml` are asked; a file that did not answer is a remark and does not
    /// count.
    pub built: bool,
    /// When one of its workers last started, Unix milliseconds.
    /// From Redis; `None` for one that never started here, and for all of them without Redis.
    pub seen: Option<u64>,
}

/// A schedule of `oncue.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Event type the clock emits.
    /// `timer.timer.fired`, the platform's own, unless the schedule names another.
    pub ty: String,
    /// The one function it is meant for; `None` for all that act on the type.
    /// Known of the platform's own event alone: which field of another type names a function is nobody's rule.
    pub function: Option<String>,
}

/// Everything that is declared.
#[derive(Debug, Default)]
pub struct Topology {
    /// By name.
    pub functions: BTreeMap<String, KnownFunction>,
    /// Schedules of `oncue.toml`, which are emitters as well.
    pub schedules: Vec<Scheduled>,
    /// Functions that `oncue.toml` names; none where it names none, as for one who only looks.
    pub declared: BTreeSet<String>,
    /// Functions of `oncue.toml` that sleep when there is nothing to do: `min = 0`.
    pub on_demand: BTreeSet<String>,
    /// Types that clients of the gateway hear: by its stream of events, or as the answer of a route.
    pub heard: BTreeSet<String>,
    /// Remarks for a person: programs that did not say what they are.
    /// Each names the program and says why, in a line.
    pub remarks: Vec<String>,
}

impl Topology {
    /// Asks everybody, the programs in the folder `bin` too. A server that is not given is not asked: then the
    /// topology is what the others know. A program that does not answer is a remark, a server that does not is an
    /// error.
    ///
    /// Takes `REPLY_GAP` longer than the slowest answer, and starts one process for each program.
    ///
    /// # Errors
    /// Redis or NATS, where given, does not answer. [`AdminError`] tells which.
    pub async fn read(
        config: &Config,
        bin: &Path,
        bus: Option<&Bus>,
        store: Option<&Store>,
    ) -> Result<Self, AdminError> {
        let mut topology = Self {
            schedules: schedules(config),
            declared: config.functions.keys().cloned().collect(),
            on_demand: on_demand(config),
            heard: heard(config),
            ..Self::default()
        };
        if let Some(store) = store {
            for registered in store.functions().await? {
                topology.add(registered.manifest).seen = Some(registered.seen);
            }
        }
        topology.add_built(config, bin).await;
        if let Some(bus) = bus {
            for manifest in answering(bus).await? {
                topology.add(manifest).running += 1;
            }
        }
        Ok(topology)
    }

    /// Asks the programs of `oncue.toml` that are there, all at once.
    async fn add_built(&mut self, config: &Config, bin: &Path) {
        let built: Vec<&String> = config
            .functions
            .keys()
            .filter(|name| Program::of(config, bin, name).is_there())
            .collect();
        let asked = built
            .iter()
            .map(|name| program::manifest(config, bin, name));
        let asked = join_all(asked).await;
        for (name, manifest) in built.into_iter().zip(asked) {
            match manifest {
                Ok(manifest) => self.add(manifest).built = true,
                Err(why) => self.remarks.push(format!("{name} --manifest: {why}")),
            }
        }
    }

    /// Adds a function. The manifest told last counts: those of running workers come after those of programs and of
    /// the past.
    pub fn add(&mut self, manifest: Manifest) -> &mut KnownFunction {
        let known = self
            .functions
            .entry(manifest.name.clone())
            .or_insert_with(|| KnownFunction {
                manifest: manifest.clone(),
                running: 0,
                built: false,
                seen: None,
            });
        known.manifest = manifest;
        known
    }

    /// Whether a worker of a function answers.
    pub fn runs(&self, function: &str) -> bool {
        let known = self.functions.get(function);
        known.is_some_and(|known| known.running > 0)
    }

    /// Manifests of all functions, by name.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.functions.values().map(|known| &known.manifest)
    }

    /// All types somebody declares to emit or to act on.
    /// Types that only clients publish are not among them unless a function acts on them.
    pub fn types(&self) -> BTreeSet<&str> {
        let declared = self
            .manifests()
            .flat_map(|m| m.triggers.iter().chain(&m.emits));
        let scheduled = self.schedules.iter().map(|schedule| &schedule.ty);
        declared.chain(scheduled).map(String::as_str).collect()
    }

    /// Functions that act on a type, by name.
    /// As declared: a listener without a consumer gets nothing until `oncue apply`.
    pub fn listeners<'t>(&'t self, ty: &'t str) -> impl Iterator<Item = &'t str> {
        self.manifests()
            .filter(move |m| m.triggers.iter().any(|t| t == ty))
            .map(|m| m.name.as_str())
    }

    /// Emitters of a type by their own word: functions, `gateway` for uploads, `schedule` for the clock.
    /// Empty for a type that only clients publish, and for one that nobody does: which of both cannot be told from
    /// here.
    pub fn emitters(&self, ty: &str) -> Vec<String> {
        let mut emitters: Vec<String> = self
            .manifests()
            .filter(|m| m.emits.iter().any(|t| t == ty))
            .map(|m| m.name.clone())
            .collect();
        if ty == FileUploaded::TYPE {
            emitters.push("gateway".to_owned());
        }
        if self.schedules.iter().any(|schedule| schedule.ty == ty) {
            emitters.push("schedule".to_owned());
        }
        emitters
    }

    /// Whether the clock triggers a function, by its name or by a type for all.
    pub fn is_scheduled(&self, ty: &str, function: &str) -> bool {
        self.schedules.iter().any(|schedule| {
            let meant = schedule.function.as_deref();
            schedule.ty == ty && meant.is_none_or(|meant| meant == function)
        })
    }
}

/// Functions that sleep when there is nothing to do.
fn on_demand(config: &Config) -> BTreeSet<String> {
    let functions = config.functions.iter();
    let sleeping = functions.filter(|(_, function)| function.scale().min == 0);
    sleeping.map(|(name, _)| name.clone()).collect()
}

/// Types that the gateway tells its clients.
fn heard(config: &Config) -> BTreeSet<String> {
    let mut heard = config.gateway.stream.clone();
    for route in &config.routes {
        heard.extend(route.response.clone());
        heard.extend(route.failure.iter().map(|failure| failure.ty.clone()));
    }
    heard
}

/// Schedules as emitters.
fn schedules(config: &Config) -> Vec<Scheduled> {
    let schedules = config.schedules.iter().map(|schedule| {
        let ty = schedule.ty();
        // Only of the platform's own event is it known which field names the function.
        let function = schedule.payload()["function"].as_str().map(str::to_owned);
        Scheduled {
            function: function.filter(|_| ty == TimerFired::TYPE),
            ty,
        }
    });
    schedules.collect()
}

/// Manifests as running workers tell them, one for each worker.
///
/// One question on `$SRV.INFO`, answered until nothing has come for 300 ms. None for functions that nobody runs.
///
/// # Errors
/// NATS is away; nobody at all answering is an empty list.
pub async fn answering(bus: &Bus) -> Result<Vec<Manifest>, AdminError> {
    let instances = bus.service_instances("$SRV.INFO", REPLY_GAP).await?;
    Ok(services::manifests(&instances))
}

/// Types among these of which their stream still holds an event. One question to the server for each type, two where
/// it is published with keys only; all at once.
///
/// Answers come from `STREAM.MSG.GET`, that is, from the stream's leader. A type whose events have all expired
/// counts as not published, and so does one whose stream cannot be asked: this is evidence that events were there,
/// never that none were.
pub async fn published(bus: &Bus, types: BTreeSet<&str>) -> BTreeSet<String> {
    let looked = join_all(types.into_iter().map(|ty| async move {
        for subject in [ty.to_owned(), format!("{ty}.*")] {
            let found = bus.next_message(stream_of_type(ty), 1, &subject).await;
            // A stream that is not there holds nothing.
            if found.is_ok_and(|found| found.is_some()) {
                return Some(ty.to_owned());
            }
        }
        None
    }));
    looked.await.into_iter().flatten().collect()
}
