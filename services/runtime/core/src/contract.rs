//! Event types a process can read without having been built with them: those of the platform, and of the functions. A
//! function's program prints its contract; `oncue apply` stores it on the bus, where whoever has no such program finds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use oncue_proto::Catalog;
use oncue_proto::oncue::v1::Envelope;
use parking_lot::RwLock;

use crate::bus::{Bus, BusError, layout};
use crate::config::{Config, ConfigErrors};
use crate::program::Program;

/// Longest wait for a contract, which needs no server.
const CONTRACT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for what is stored: whoever needs the bus says by itself that it is away.
const STORED_TIMEOUT: Duration = Duration::from_secs(2);

/// Verb with which a function's program prints the encoded `FileDescriptorSet` of its events.
pub const VERB: &str = "--contract";

/// Every event type that could be found, and remarks about programs that did not say theirs.
#[derive(Debug, Default)]
pub struct Contracts {
    pub catalog: Catalog,
    /// Descriptor set of each program that said its.
    pub programs: BTreeMap<String, Vec<u8>>,
    /// One line for each program that failed: its types are missing, and nothing else is.
    pub warnings: Vec<String>,
}

/// Loads the platform's types, and asks the program of every `[functions.NAME]` in `programs`; of functions that run elsewhere
/// it reads what `oncue apply` has stored.
///
/// The programs are asked at once; all together need no more than 10 seconds. Where two say different things of one
/// type, a program is above what is stored and the platform above both.
///
/// # Errors
/// A `[[schedule]]` or a `[[route]]` does not fit the type it names.
pub async fn load(config: &Config, programs: &Path) -> Result<Contracts, ConfigErrors> {
    load_anew(config, programs, |_| true).await
}

/// As [`load`], but of functions for which `is_new` does not hold what is stored is good enough: their programs are asked only
/// where nothing is.
///
/// # Errors
/// As [`load`].
pub async fn load_anew(
    config: &Config,
    programs: &Path,
    is_new: impl Fn(&str) -> bool,
) -> Result<Contracts, ConfigErrors> {
    let (mut asked, others): (Vec<&String>, Vec<&String>) = config
        .functions
        .keys()
        .partition(|name| is_new(name) && Program::of(config, programs, name).is_there());
    let mut contracts = Contracts::default();
    // With all programs here no server is asked.
    if asked.is_empty() || !others.is_empty() {
        let stored = stored_elsewhere(config).await;
        for set in stored.values() {
            // One that cannot be read was refused by `oncue apply`.
            let _ = contracts.catalog.add(set);
        }
        let unknown = others
            .into_iter()
            .filter(|name| !stored.contains_key(*name));
        let (askable, unknown): (Vec<&String>, Vec<&String>) =
            unknown.partition(|name| Program::of(config, programs, name).is_there());
        asked.extend(askable);
        if !unknown.is_empty() {
            let unknown: Vec<&str> = unknown.into_iter().map(String::as_str).collect();
            contracts.warnings.push(format!(
                "no program for {} in {}, and nothing of them on the bus, so their event types are not known; name the \
                 folder in ONCUE_BIN_DIR, or run `oncue apply` where they lie",
                unknown.join(", "),
                programs.display()
            ));
        }
    }
    let answers = asked
        .iter()
        .map(|name| ask(Program::of(config, programs, name)));
    let answers = join_all(answers).await;
    for (name, answer) in asked.into_iter().zip(answers) {
        let added = answer.and_then(|set| {
            let added = contracts.catalog.add(&set);
            added.map_err(|unreadable| unreadable.to_string())?;
            contracts.programs.insert(name.clone(), set);
            Ok(())
        });
        if let Err(why) = added {
            contracts.warnings.push(format!(
                "{name} {VERB}: {why}; its event types are not known"
            ));
        }
    }
    // Last, so that nobody replaces them.
    contracts.catalog.add_builtin();
    config.check_schedules(&contracts.catalog)?;
    // Where a contract is missing it may come over the bus, and the gateway compares them then.
    if !config.functions.is_empty() && contracts.warnings.is_empty() {
        config.routes(&contracts.catalog)?;
    }
    Ok(contracts)
}

/// Contracts on the bus for somebody who is not connected to it; none where it does not answer soon.
async fn stored_elsewhere(config: &Config) -> BTreeMap<String, Vec<u8>> {
    let asked = async {
        let bus = Bus::connect(&config.nats, "oncue-contract").await?;
        stored(&bus.of_app(&config.app)).await
    };
    let answer = tokio::time::timeout(STORED_TIMEOUT, asked).await;
    answer.ok().and_then(Result::ok).unwrap_or_default()
}

/// Subject of the contract of a function in the bucket [`layout::VALUES`].
fn subject(bus: &Bus, function: &str) -> String {
    format!("$KV.oncue.{}.contract.{function}", bus.app())
}

/// Contracts of the app's functions as `oncue apply` has stored them: descriptor set by function.
///
/// # Errors
/// NATS does not answer.
pub async fn stored(bus: &Bus) -> Result<BTreeMap<String, Vec<u8>>, BusError> {
    let all = subject(bus, "*");
    let subjects = match bus.stream_subjects(layout::VALUES, &all).await {
        Ok(subjects) => subjects,
        Err(e) if e.is_not_found() => return Ok(BTreeMap::new()),
        Err(e) => return Err(BusError(format!("{all}: {e}"))),
    };
    let mut found = BTreeMap::new();
    for subject in subjects.keys() {
        let Some((_, function)) = subject.rsplit_once('.') else {
            continue;
        };
        let message = bus.last_message(layout::VALUES, subject).await;
        let message = message.map_err(|e| BusError(format!("{subject}: {e}")))?;
        // Empty once it was forgotten.
        let set = message.map(|message| message.payload.to_vec());
        if let Some(set) = set.filter(|set| !set.is_empty()) {
            found.insert(function.to_owned(), set);
        }
    }
    Ok(found)
}

/// Types of the app's functions as `oncue apply` has stored them, and the platform's.
///
/// # Errors
/// NATS does not answer.
pub async fn catalog(bus: &Bus) -> Result<Catalog, BusError> {
    let mut catalog = Catalog::default();
    for set in stored(bus).await?.values() {
        // One that cannot be read was refused by `oncue apply`.
        let _ = catalog.add(set);
    }
    catalog.add_builtin();
    Ok(catalog)
}

/// Contract of one function as `oncue apply` has stored it; `None` where it has not.
///
/// # Errors
/// NATS does not answer, or does not let this process read it.
pub async fn stored_of(bus: &Bus, function: &str) -> Result<Option<Vec<u8>>, BusError> {
    let subject = subject(bus, function);
    let asked = bus.last_by_subject(layout::VALUES, &subject);
    let answer = tokio::time::timeout(STORED_TIMEOUT, asked).await;
    let set = answer
        .map_err(|_| BusError(format!("{subject}: no answer within {STORED_TIMEOUT:?}")))??;
    // Empty once it was forgotten.
    Ok(set.map(|set| set.to_vec()).filter(|set| !set.is_empty()))
}

/// Stores the contract of a function, in place of the one before; an empty one forgets it.
///
/// # Errors
/// NATS does not take it.
pub async fn store(bus: &Bus, function: &str, set: Vec<u8>) -> Result<(), BusError> {
    bus.provide(&layout::values(bus.app())).await?;
    let message = Envelope {
        subject: subject(bus, function),
        headers: Vec::new(),
        payload: set.into(),
    };
    let stored = bus.publish(&message).await;
    stored.map_err(|e| BusError(format!("{}: {e}", message.subject)))?;
    Ok(())
}

/// Event types of a process that runs on while the app's contract changes: those it began with, and whatever `oncue apply`
/// stores. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LiveCatalog {
    began: Arc<Catalog>,
    now: Arc<RwLock<Arc<Catalog>>>,
}

/// Longest time after which the contract is looked at again, whether or not a change was heard.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

impl LiveCatalog {
    /// Begins with these types.
    pub fn new(catalog: Catalog) -> Self {
        let began = Arc::new(catalog);
        Self {
            now: Arc::new(RwLock::new(began.clone())),
            began,
        }
    }

    /// Types as they are now.
    pub fn now(&self) -> Arc<Catalog> {
        self.now.read().clone()
    }

    /// Takes over what is stored, now and with each change, for as long as the connection lives.
    ///
    /// # Errors
    /// The subscription is refused.
    pub async fn follow(&self, bus: &Bus) -> Result<(), BusError> {
        let mut changes = bus.subscribe(&subject(bus, "*")).await?;
        self.take_over(bus).await;
        let catalog = self.clone();
        let bus = bus.clone();
        tokio::spawn(async move {
            loop {
                let heard = tokio::time::timeout(LOOK_AGAIN, changes.next()).await;
                if matches!(heard, Ok(None)) {
                    return;
                }
                catalog.take_over(&bus).await;
            }
        });
        Ok(())
    }

    /// Reads what is stored. What cannot be read changes nothing.
    async fn take_over(&self, bus: &Bus) {
        let stored = match stored(bus).await {
            Ok(stored) => stored,
            Err(e) => {
                tracing::warn!(error = %e, "the contract cannot be read; event types stay as they were");
                return;
            }
        };
        let mut catalog = Catalog::clone(&self.began);
        for (function, set) in stored {
            if let Err(e) = catalog.add(&set) {
                tracing::warn!(function, error = %e, "a stored contract cannot be read");
            }
        }
        // Nobody replaces the platform's own.
        catalog.add_builtin();
        *self.now.write() = Arc::new(catalog);
    }
}

/// Folder of the functions' programs: `ONCUE_BIN_DIR`, or where this very program is.
///
/// # Errors
/// The system does not tell where this program is.
pub fn programs() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("ONCUE_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(named.into());
    }
    let here =
        std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    here.parent()
        .map(PathBuf::from)
        .ok_or_else(|| "cannot tell where this program is; set ONCUE_BIN_DIR".into())
}

/// Runs `NAME --contract` and returns its standard output.
async fn ask(program: Program) -> Result<Vec<u8>, String> {
    let is_hosted = !program.arguments.is_empty();
    let asked = program
        .command()
        .map_err(|e| e.to_string())?
        .arg(VERB)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(CONTRACT_TIMEOUT, asked).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no answer within {CONTRACT_TIMEOUT:?}")),
    };
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        let mut why = why.trim();
        // A host says last, in a line, what its child has said at length.
        if is_hosted {
            why = why.lines().last().unwrap_or_default();
        }
        Err(format!("{}: {why}", output.status))
    }
}
