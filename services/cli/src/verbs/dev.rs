//! `oncue dev`: builds the app, runs it, and follows its files. A saved function is built, and its processes are replaced one
//! after the other, drained; what does not compile changes nothing.
//!
//! Three programs in one row: the build command of `[build]`, `oncue up` as a child, and `oncue restart` for what was built
//! anew. Files are looked at a few times a second, which needs nothing of the system and works over every kind of mount.
//! Somebody in front of a terminal is told of each event besides, and has keys.

mod browser;
mod growth;
mod keyboard;
mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use oncue_core::config::{BuildConfig, Config, Track};
use oncue_core::program;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, GOOD, NAME, paint, remark};
use crate::up::TRACK;
use crate::up::orphan_guard::OrphanGuard;

use self::live::Live;

/// Niceness of all that runs, which leaves the compiler three quarters of a core that both want: whoever saves a line waits for it,
/// and events can wait.
const NICENESS: &str = "5";
/// Pause between two looks at the files.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without a change after which what was saved is whole.
const SAVED: u32 = 1;
/// Looks without a change after which what is being installed is whole: an installer takes its time between two packages.
const INSTALLED: u32 = 15;

#[derive(clap::Args)]
pub struct Args {
    /// Arguments of `oncue up`, behind `--`.
    #[arg(last = true)]
    up: Vec<String>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let build = settings.config.build.clone();
    let Some(build) = build.or_else(|| nothing_to_build(&settings.config)) else {
        return Err(Failure::usage("oncue.toml does not say how to build").advise(
            "add [build] with command, such as [\"cargo\", \"build\", \"--bins\"], and programs, \
             such as \"target/debug\"; `oncue new` makes an app that has it",
        ));
    };
    let folder = std::path::absolute(settings.config.beside(Path::new(".")));
    let folder = folder.map_err(Failure::failed)?;
    let mut dev = Dev {
        settings,
        build,
        folder,
        args: args.up.clone(),
        up: Mutex::new(None),
        guard: None,
        is_live: false,
    };
    // Whoever presses Ctrl-C in a terminal means `up` as well, which hears it itself: it drains, and then this ends.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    // A terminal that is closed tells `up` as well.
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::failed)?;
    let mut live = Live::open(settings);
    dev.is_live = live.is_some();
    let outcome = tokio::select! {
        failed = dev.follow() => Err(failed),
        // Without a terminal it is told to this process alone.
        _ = interrupt.recv() => Ok(if std::io::stdin().is_terminal() { Stop::Heard } else { Stop::Unheard }),
        _ = terminate.recv() => Ok(Stop::Unheard),
        _ = hangup.recv() => Ok(Stop::Heard),
        () = told(&mut live) => Ok(Stop::Unheard),
    };
    // The terminal is as it was from here on, also for a process that takes this one's place.
    drop(live);
    let outcome = match outcome {
        Err(End::Anew) => Err(dev.begin_anew().await),
        Err(End::Failed(failure)) => Err(failure),
        Ok(stop) => Ok(stop),
    };
    let must_tell = !matches!(outcome, Ok(Stop::Heard));
    let again = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    dev.stop(must_tell, again).await;
    outcome.map(|_| exit::OK)
}

/// Request to stop.
enum Stop {
    /// One that `oncue up` has heard as well: Ctrl-C in a terminal.
    Heard,
    Unheard,
}

/// Reason for which files are not followed any more.
enum End {
    /// `oncue.toml` has changed.
    Anew,
    Failed(Failure),
}

/// Tells somebody in front of the terminal of each event, until they have enough.
async fn told(live: &mut Option<Live<'_>>) {
    match live {
        Some(live) => live.run().await,
        None => std::future::pending().await,
    }
}

/// Files that are followed, and when each was written.
type FileTimes = BTreeMap<PathBuf, (SystemTime, u64)>;

struct Dev<'d> {
    settings: &'d Settings,
    build: BuildConfig,
    /// Folder of `oncue.toml`.
    folder: PathBuf,
    /// Arguments of `oncue up`.
    args: Vec<String>,
    /// `oncue up`, once something was built. Here also while it is waited for: who stops this must find it.
    up: Mutex<Option<Child>>,
    /// Ends `oncue up` where this process is killed and cannot.
    guard: Option<OrphanGuard>,
    /// Whether somebody is told of the events, and takes keys.
    is_live: bool,
}

impl Dev<'_> {
    /// Builds and runs until something cannot go on.
    async fn follow(&mut self) -> End {
        // The file as it is run: what is saved while the first build is at work is a change already.
        let taken = self.text();
        let mut seen = self.look();
        let mut is_built = self.make().await;
        if !is_built {
            remark(paint(BAD, "not built; waiting for a change"));
        }
        // As they were when they were started: the source of a function with `run` is its program.
        let mut started = self.programs();
        // Whether the file has changed, and cannot be taken as it is.
        let mut awaits_configuration = false;
        loop {
            if is_built
                && !awaits_configuration
                && self.up.get_mut().is_none()
                && let Err(failure) = self.start()
            {
                return End::Failed(failure);
            }
            let waited = tokio::select! {
                changed = self.changed(&seen) => Ok(changed),
                status = ended(&self.up) => Err(status),
            };
            let changed = match waited {
                Ok(changed) => changed,
                // Why it has ended it says itself.
                Err(status) => {
                    *self.up.get_mut() = None;
                    self.unguard();
                    let code = status.and_then(|status| status.code()).unwrap_or(1);
                    remark(paint(
                        BAD,
                        format_args!("oncue up ended with exit code {code}; waiting for a change"),
                    ));
                    self.changed(&seen).await
                }
            };
            let file = self.settings.config.path.as_ref();
            let is_configuration = file.is_some_and(|file| seen.get(file) != changed.get(file));
            let is_more = seen
                .iter()
                .chain(&changed)
                .any(|(path, _)| Some(path) != file && seen.get(path) != changed.get(path));
            seen = changed;
            if (is_configuration || awaits_configuration) && self.text() == taken {
                // What was taken back is as if it had not been.
                awaits_configuration = false;
            } else if is_configuration || awaits_configuration {
                match self.read_anew().await {
                    Ok(()) => return End::Anew,
                    Err(why) => {
                        remark(why);
                        let goes_on = if self.up.get_mut().is_some() {
                            "oncue.toml is not taken; what ran before runs on"
                        } else {
                            "oncue.toml is not taken; waiting for a change"
                        };
                        remark(paint(BAD, goes_on));
                        // Whatever is saved next may be what it lacks; what runs is replaced meanwhile as ever.
                        awaits_configuration = true;
                        if !is_more {
                            continue;
                        }
                    }
                }
            }
            let began = Instant::now();
            if !self.make().await {
                let goes_on = if self.up.get_mut().is_some() {
                    "not built; what was built before runs on"
                } else {
                    "not built; waiting for a change"
                };
                remark(paint(BAD, goes_on));
                continue;
            }
            is_built = true;
            let after = self.programs();
            let anew = after
                .iter()
                .filter(|(name, written)| started.get(*name) != Some(written));
            let anew: BTreeSet<String> = anew.map(|(name, _)| name.clone()).collect();
            started = after;
            if self.up.get_mut().is_some() && !anew.is_empty() {
                self.restart(&anew, began).await;
            }
        }
    }

    /// Text of `oncue.toml` as it is now.
    fn text(&self) -> Option<String> {
        let path = self.settings.config.path.as_ref()?;
        std::fs::read_to_string(path).ok()
    }

    /// Looks whether the configuration can be taken as it is now: whether it can be read, and where something runs, whether its
    /// functions are there.
    async fn read_anew(&mut self) -> Result<(), String> {
        let fresh = self.settings.read_anew().map_err(words)?;
        if self.up.get_mut().is_none() {
            return Ok(());
        }
        let wanted = fresh.config.build.clone();
        let wanted = wanted.or_else(|| nothing_to_build(&fresh.config));
        if let Some(wanted) = wanted {
            // What it lacks may lie where nobody has looked so far.
            for path in &wanted.watch {
                if !self.build.watch.contains(path) {
                    self.build.watch.push(path.clone());
                }
            }
            if !build(&wanted, &self.folder).await {
                return Err("not built".to_owned());
            }
        }
        let names: Vec<String> = fresh.config.functions.keys().cloned().collect();
        let asked = manifests::of(&fresh, &names).await;
        asked.map(|_| ()).map_err(words)
    }

    /// Begins from the start, as the same process, with the configuration as it is now.
    async fn begin_anew(&mut self) -> Failure {
        remark(paint(DIM, "oncue.toml has changed: everything starts anew"));
        self.stop(true, std::future::pending()).await;
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(e) => return Failure::failed(e),
        };
        let arguments = std::env::args_os().skip(1);
        let error = std::process::Command::new(program).args(arguments).exec();
        Failure::failed(format_args!("oncue dev: {error}"))
    }

    /// Runs the build command; says by itself what is wrong.
    async fn make(&self) -> bool {
        build(&self.build, &self.folder).await
    }

    /// `oncue` as it runs here, with what was told to this one.
    fn oncue(&self) -> std::io::Result<Command> {
        let config = &self.settings.config;
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(path) = &config.path {
            command.env("ONCUE_CONFIG", std::path::absolute(path)?);
        }
        command.envs(config.servers());
        command.env("ONCUE_BIN_DIR", std::path::absolute(&self.settings.bin)?);
        Ok(command)
    }

    fn start(&mut self) -> Result<(), Failure> {
        let guard = OrphanGuard::of_up()?;
        let up = self.spawn();
        let up = up.map_err(|e| Failure::failed(format_args!("oncue up: {e}")))?;
        if let Some(pid) = up.id() {
            guard.watch(pid);
        }
        self.guard = Some(guard);
        *self.up.get_mut() = Some(up);
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut up = self.oncue()?;
        up.args(["up", "--nice", NICENESS]).args(&self.args);
        // Without a terminal this process tells it to stop, and what reaches the whole group must not be a second request, which kills.
        if !std::io::stdin().is_terminal() {
            up.process_group(0);
        }
        if self.is_live {
            up.arg("--keys");
            // A flow without a ledger cannot be told. What the file says of ledgers, holds.
            if matches!(self.settings.config.flows.track, Track::Asked) {
                up.env(TRACK, "all");
            }
        }
        up.spawn()
    }

    /// Ends the guard of an `oncue up` that has ended.
    fn unguard(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }

    /// Replaces the processes of functions that were built anew.
    async fn restart(&self, functions: &BTreeSet<String>, began: Instant) {
        let restart = match self.oncue() {
            Ok(mut oncue) => oncue.arg("restart").args(functions).output().await,
            Err(e) => Err(e),
        };
        let names: Vec<&str> = functions.iter().map(String::as_str).collect();
        let names = paint(NAME, names.join(", "));
        match restart {
            Ok(output) if output.status.success() => {
                let took = began.elapsed().as_secs_f64();
                let run = if functions.len() == 1 { "runs" } else { "run" };
                remark(paint(
                    GOOD,
                    format_args!("{names} {run} anew ({took:.1} s)"),
                ));
            }
            Ok(output) => {
                let why = [output.stdout, output.stderr].concat();
                remark(String::from_utf8_lossy(&why));
                let goes_on = if functions.len() == 1 {
                    "was not replaced; it runs on as it was"
                } else {
                    "were not replaced; they run on as they were"
                };
                remark(paint(BAD, format_args!("{names} {goes_on}")));
            }
            Err(e) => remark(paint(BAD, format_args!("oncue restart: {e}"))),
        }
    }

    /// Has `oncue up` finish, and waits for it.
    async fn stop(&mut self, must_tell: bool, again: impl Future<Output = ()>) {
        let Some(mut up) = self.up.get_mut().take() else {
            return;
        };
        let pid = up.id().and_then(|pid| Pid::from_raw(pid as i32));
        if let Some(pid) = pid.filter(|_| must_tell) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let has_ended = tokio::select! {
            _ = up.wait() => true,
            () = again => false,
        };
        if !has_ended {
            // Whoever asks again means it, and may have reached nobody but this process.
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
            let _ = up.wait().await;
        }
        self.unguard();
    }

    /// Waits for a change, and until nothing changes any more: an editor writes several files, and some of them twice.
    async fn changed(&self, before: &FileTimes) -> FileTimes {
        let mut last = before.clone();
        let mut quiet = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look();
            quiet = if now == last { quiet + 1 } else { 0 };
            if now != *before && quiet >= self.enough_quiet(before, &now) {
                return now;
            }
            last = now;
        }
    }

    /// Looks without a change after which something has been changed to its end.
    fn enough_quiet(&self, before: &FileTimes, now: &FileTimes) -> u32 {
        let mut marks = before.clone();
        for mark in self.installations() {
            let mark = self.folder.join(mark);
            marks.extend(
                now.get_key_value(&mark)
                    .map(|(path, at)| (path.clone(), *at)),
            );
        }
        // Alike but for what tells of an installation.
        if marks == *now { INSTALLED } else { SAVED }
    }

    /// Files that are followed: the configuration, and the sources.
    fn look(&self) -> FileTimes {
        let mut seen = FileTimes::new();
        if let Some(path) = &self.settings.config.path {
            visit(path, &mut seen);
        }
        for path in &self.build.watch {
            visit(&self.folder.join(path), &mut seen);
        }
        for mark in self.installations() {
            note(&self.folder.join(mark), &mut seen);
        }
        seen
    }

    /// Files and folders that are written when something is installed of which the app's programs are: what did not start without
    /// it may start then.
    fn installations(&self) -> BTreeSet<PathBuf> {
        let functions = self.settings.config.functions.keys();
        let runs = functions.filter_map(|name| self.settings.config.function(name).run);
        let commands = runs.chain([self.build.command.clone()]);
        let programs = commands.filter_map(|command| command.into_iter().next());
        let mut marks = BTreeSet::new();
        for program in programs.map(PathBuf::from) {
            let mut parts = program
                .components()
                .skip_while(|part| *part == Component::CurDir);
            let Some(Component::Normal(first)) = parts.next() else {
                continue;
            };
            if first == ".venv" {
                let libraries = self.folder.join(".venv/lib").read_dir();
                let libraries = libraries.into_iter().flatten().flatten();
                marks.extend(libraries.map(|library| library.path().join("site-packages")));
            } else if first == "node_modules" {
                marks.insert(PathBuf::from("node_modules/.package-lock.json"));
            }
            marks.insert(program);
        }
        marks
    }

    /// When each function's program was written.
    fn programs(&self) -> BTreeMap<String, SystemTime> {
        let names = self.settings.config.functions.keys();
        let written = names.filter_map(|name| {
            if self.settings.config.function(name).is_hosted() {
                return Some((name.clone(), self.written(name)?));
            }
            let file = self.settings.bin.join(name).metadata().ok()?;
            Some((name.clone(), file.modified().ok()?))
        });
        written.collect()
    }
}

impl Dev<'_> {
    /// When the newest source of a function with `run` was written: of what lies beside its own files, but for files of other
    /// functions that no other source names.
    fn written(&self, name: &str) -> Option<SystemTime> {
        let config = &self.settings.config;
        let mut seen = FileTimes::new();
        for path in sources(config, name) {
            visit(&self.folder.join(path), &mut seen);
        }
        let own = own_files(config, name);
        let others = config.functions.keys().filter(|other| *other != name);
        let others = others.flat_map(|other| own_files(config, other));
        let mut foreign: BTreeSet<PathBuf> = others
            .filter(|file| !own.contains(file))
            .map(|file| self.folder.join(file))
            .collect();
        let mut unread: Vec<PathBuf> = seen.keys().cloned().collect();
        unread.retain(|path| !foreign.contains(path));
        while let Some(path) = unread.pop() {
            // What is no text imports nothing.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            unread.extend(foreign.extract_if(.., |path| is_named(path, &text)));
        }
        seen.retain(|path, _| !foreign.contains(path));
        seen.into_values().map(|(written, _)| written).max()
    }
}

/// Build of an app whose functions all have `run`: none, and their sources are followed.
fn nothing_to_build(config: &Config) -> Option<BuildConfig> {
    let mut functions = config.functions.iter();
    if functions.len() == 0 || functions.any(|(_, function)| !function.is_hosted()) {
        return None;
    }
    let names = config.functions.keys();
    let mut watch: Vec<PathBuf> = names.flat_map(|name| sources(config, name)).collect();
    watch.sort();
    watch.dedup();
    Some(BuildConfig {
        command: Vec::new(),
        programs: PathBuf::new(),
        watch,
    })
}

/// Files that `run` of a function names, relative to the configuration, but for what was installed.
fn own_files(config: &Config, name: &str) -> Vec<PathBuf> {
    let run = config.function(name).run.unwrap_or_default();
    let files = run.into_iter().map(PathBuf::from);
    files
        .filter(|file| file.is_relative() && config.beside(file).is_file())
        .filter(|file| !is_installed(file))
        .collect()
}

/// Whether a path leads into a folder that a package manager fills: `node_modules`, or one that is hidden.
fn is_installed(path: &Path) -> bool {
    path.components().any(|part| {
        matches!(part, Component::Normal(name)
            if name == "node_modules" || name.as_encoded_bytes().starts_with(b"."))
    })
}

/// Whether a text has the name of a file, without its ending, as somebody does who imports it.
fn is_named(path: &Path, text: &str) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.is_none_or(|stem| text.contains(stem))
}

/// Sources of a function with `run`, relative to the file: the folders of the files that it names, and the contract.
fn sources(config: &Config, name: &str) -> Vec<PathBuf> {
    let sources = own_files(config, name).into_iter();
    let sources = sources.map(|file| match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => file,
    });
    sources.chain([config.proto.clone()]).collect()
}

/// Runs the build command in a folder; says by itself what is wrong.
pub async fn build(build: &BuildConfig, folder: &Path) -> bool {
    let Some((command, arguments)) = build.command.split_first() else {
        return true;
    };
    let built = Command::new(command)
        .args(arguments)
        .current_dir(folder)
        .envs(program::host().map(|host| (program::HOST_VARIABLE, host)))
        .kill_on_drop(true)
        .status()
        .await;
    match built {
        Ok(status) => status.success(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let place = if command.contains('/') {
                "there"
            } else {
                "on PATH"
            };
            let what = format!("{command} is not {place}, and [build] of oncue.toml needs it");
            remark(paint(BAD, what));
            if command == "cargo" {
                remark("  install Rust from https://rustup.rs and try again");
            } else if let Some(advice) = manifests::installation(command, folder) {
                remark(format_args!("  {advice}"));
            }
            false
        }
        Err(e) => {
            remark(paint(BAD, format_args!("{command}: {e}")));
            false
        }
    }
}

/// Waits for the end of a child; for ever where there is none.
async fn ended(child: &Mutex<Option<Child>>) -> Option<ExitStatus> {
    match &mut *child.lock().await {
        Some(child) => child.wait().await.ok(),
        None => std::future::pending().await,
    }
}

/// Adds a file, or a folder without what is in it; what is not there is nothing.
fn note(path: &Path, seen: &mut FileTimes) {
    let Ok(found) = path.metadata() else { return };
    if let Ok(modified) = found.modified() {
        seen.insert(path.to_owned(), (modified, found.len()));
    }
}

/// Adds a file, or all files below a folder; what is not there is nothing.
fn visit(path: &Path, seen: &mut FileTimes) {
    if path.is_dir() {
        let Ok(inside) = path.read_dir() else { return };
        for entry in inside.flatten() {
            let name = entry.file_name();
            // Python writes its byte code beside the sources.
            let is_hidden = name.as_encoded_bytes().starts_with(b".") || name == "__pycache__";
            if !is_hidden {
                visit(&entry.path(), seen);
            }
        }
    } else {
        note(path, seen);
    }
}

/// Sentences of a failure, with its advice.
fn words(failure: Failure) -> String {
    let Failure { what, advice, .. } = failure;
    advice.map_or(what.clone(), |advice| format!("{what}\n  {advice}"))
}
