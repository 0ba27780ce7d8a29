//! Command `oncue`: a supervisor for the app on one machine ([`up`]), and one module per other verb.

mod up;
mod verbs;

mod exit;
mod folder;
mod http;
mod manifests;
mod services;
mod settings;
mod terminal;
mod trial;
mod when;
mod who;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use oncue_core::config::Role;

use crate::exit::Failure;
use crate::settings::Global;
use crate::terminal::paint;
use crate::verbs::{
    apply, audit, backup, check, completions, demo, dev, dlq, docs, doctor, find, flow, health,
    keys, logs, man, map, new, pause, ps, publish, recover, remove, restart, restore, rights,
    scale, schedule, state, tail, tend, test, top, vendor,
};

/// Runs functions on your own machines: each acts on its event, owns its state, and emits what follows.
#[derive(Parser)]
#[command(name = "oncue", version, after_help = exit::HELP, after_long_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make an app: a contract, two functions that follow from each other, tests.
    New(new::Args),
    /// Make a folder with the demo app that came with `oncue`, to run and to play with.
    Demo(demo::Args),
    /// Replace the package for functions that an app in Python or TypeScript carries in vendor/ by that of this oncue.
    Vendor,
    /// Build the app, run it, and run what is saved.
    Dev(dev::Args),
    /// Run the app's own tests beside servers, functions and a gateway of their own.
    Test(test::Args),
    /// Start servers, trace viewer, gateway and every function; Ctrl-C drains and stops them all.
    Up(up::Args),
    /// Make streams, consumers, Redis library and schedules as the functions and oncue.toml want them.
    Apply(apply::Args),
    /// Purge what is done, keep room in the streams, and watch that nothing is lost, where something else than `oncue up`
    /// runs the processes.
    Tend(tend::Args),
    /// Publish events, checked against the contract.
    #[command(name = "pub")]
    Publish(publish::Args),
    /// Show events as they pass, decoded.
    Tail(tail::Args),
    /// List functions: replicas, lag, in flight, failed.
    Ps(ps::Args),
    /// Show rows of state tables, by their keys.
    #[command(subcommand)]
    State(state::Verb),
    /// Show one flow: its events, who acts on them, and what it waits for.
    Flow(flow::Args),
    /// Find events by type, sender, key, text, or what became of their flow, newest first.
    Find(find::Args),
    /// Show who listens to what and who emits what; with --drift, where that differs from what happens.
    Map(map::Args),
    /// Watch functions live: rates, lag, durations, errors.
    Top(top::Args),
    /// Show what functions and servers of `oncue up` have written.
    Logs(logs::Args),
    /// Write the AsyncAPI document of all events and functions.
    Docs(docs::Args),
    /// Schedules: when they fire next; fire one now, pause or resume it.
    #[command(subcommand)]
    Schedule(schedule::Verb),
    /// Show who may do what on NATS and Redis, and why; or write it as configuration of the servers.
    Rights(rights::Args),
    /// API keys of clients: make, list or revoke them.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Dead letters: list, show, redrive, edit or drop them.
    #[command(subcommand)]
    Dlq(dlq::Verb),
    /// Count what became of every event: applied, dead, pending, or lost.
    Audit(audit::Args),
    /// Try new programs before they are let in: contract, triggers, keys, and samples of rows and events.
    Check(check::Args),
    /// Restore what Redis or NATS has lost.
    #[command(subcommand)]
    Recover(recover::Verb),
    /// Copy streams and state into a folder, while the app runs.
    Backup(backup::Args),
    /// Put a backup back.
    Restore(restore::Args),
    /// Replace the processes that `oncue up` runs by new ones, one after the other.
    Restart(restart::Args),
    /// Give a function other bounds of its workers than oncue.toml, while everything runs.
    Scale(scale::Args),
    /// Have functions get no event for a while; all of them wait.
    Pause(pause::Args),
    /// Give functions that are paused their events again.
    Resume(pause::ResumeArgs),
    /// Take a function that is not wanted any more off both servers.
    Remove(remove::Args),
    /// Check both servers and say in plain words what is promised with them as they are.
    Doctor(doctor::Args),
    /// Tell a container engine whether a part is healthy (exit code 0 or 1).
    Health(health::Args),
    /// Print the completion script for a shell.
    Completions(completions::Args),
    /// Print the manual page, or write it and one for each verb into a folder.
    Man(man::Args),
}

impl Verb {
    /// Whether it changes what an app has on the servers. Publishing does not: every client may.
    fn changes_an_app(&self) -> bool {
        match self {
            Self::Up(_)
            | Self::Dev(_)
            | Self::Apply(_)
            | Self::Tend(_)
            | Self::Recover(_)
            | Self::Restart(_)
            | Self::Restore(_)
            | Self::Scale(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Remove(_) => true,
            Self::Keys(verb) => verb.changes_an_app(),
            Self::Schedule(verb) => verb.changes_an_app(),
            Self::Dlq(verb) => verb.changes_an_app(),
            _ => false,
        }
    }
}

// One thread: the command waits for others nearly all the time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let code = match Box::pin(run(Cli::parse())).await {
        Ok(exit::OK) if paint::is_result_lost() => exit::FAILED,
        Ok(code) => code,
        Err(failure) => {
            paint::complain(&failure);
            failure.code
        }
    };
    ExitCode::from(code)
}

/// Runs a verb that only shows what comes: it is over as well where nobody looks any more.
async fn while_read(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        ended = verb => ended,
        () = paint::stdout_gone() => Ok(exit::OK),
    }
}

async fn run(Cli { global, verb }: Cli) -> Result<u8, Failure> {
    if let Verb::Completions(args) = &verb {
        return Ok(completions::run(args));
    }
    if let Verb::Man(args) = &verb {
        return man::run(args);
    }
    if let Verb::New(args) = &verb {
        return new::run(args);
    }
    if let Verb::Demo(args) = &verb {
        return demo::run(args);
    }
    let mut settings = global.settings()?;
    if verb.changes_an_app() {
        settings.require_file()?;
    }
    // These start servers of their own, or what does; or come as the part that they ask about.
    if !matches!(
        verb,
        Verb::Up(_) | Verb::Dev(_) | Verb::Test(_) | Verb::Health(_)
    ) {
        settings.config.log_in(&Role::Operator);
    }
    match verb {
        Verb::Up(args) => Box::pin(up::run(args, settings)).await,
        Verb::Apply(args) => apply::run(&args, &settings).await,
        Verb::Tend(args) => tend::run(&args, &settings).await,
        Verb::Publish(args) => publish::run(args, &settings).await,
        Verb::Tail(args) => tail::run(args, &settings).await,
        Verb::Ps(args) => ps::run(&args, &settings).await,
        Verb::State(verb) => state::run(verb, &settings).await,
        Verb::Find(args) => find::run(&args, &settings).await,
        Verb::Flow(args) => while_read(flow::run(&args, &settings)).await,
        Verb::Map(args) => map::run(&args, &settings).await,
        Verb::Top(args) => top::run(&args, &settings).await,
        Verb::Logs(args) => while_read(logs::run(&args, &settings)).await,
        Verb::Docs(args) => docs::run(&args, &settings).await,
        Verb::Schedule(verb) => schedule::run(verb, &settings).await,
        Verb::Rights(args) => rights::run(&args, &settings).await,
        Verb::Keys(verb) => keys::run(verb, &settings).await,
        Verb::Dlq(verb) => dlq::run(verb, &settings).await,
        Verb::Audit(args) => audit::run(args, &settings).await,
        Verb::Check(args) => check::run(&args, &settings).await,
        Verb::Recover(verb) => recover::run(verb, &settings).await,
        Verb::Backup(args) => backup::run(&args, &settings).await,
        Verb::Restore(args) => restore::run(&args, &settings).await,
        Verb::Restart(args) => restart::run(&args, &settings).await,
        Verb::Scale(args) => scale::run(&args, &settings).await,
        Verb::Pause(args) => pause::run(&args, &settings).await,
        Verb::Resume(args) => pause::resume(&args, &settings).await,
        Verb::Remove(args) => remove::run(&args, &settings).await,
        Verb::Doctor(args) => doctor::run(&args, &settings).await,
        Verb::Health(args) => health::run(&args, settings).await,
        Verb::Dev(args) => dev::run(&args, &settings).await,
        Verb::Test(args) => test::run(&args, &settings).await,
        Verb::Vendor => vendor::run(&settings),
        Verb::New(_) | Verb::Demo(_) | Verb::Completions(_) | Verb::Man(_) => Ok(exit::OK),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn help_documents_every_exit_code() {
        let help = super::Cli::command().render_long_help().to_string();
        for code in 0..=4 {
            assert!(
                help.contains(&format!("  {code}  ")),
                "exit code {code} is not in --help"
            );
        }
    }
}
