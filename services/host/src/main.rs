//! `oncue-host NAME`: the worker of a function whose handler is another program. Pull, order, rows, commit, outputs,
//! retries, dead letters, spans, ledger and discovery are those of any worker; where a worker in Rust calls its handler,
//! this one asks a child process over the function protocol (`proto/oncue/v1/function.proto`, `deploy/FUNCTIONS.md`).
//!
//! | file | |
//! |---|---|
//! | `contract` | event types of the app, compiled from its `.proto` files |
//! | `children` | children side by side, each replaced when it ends; in `child` the life of one: start, frames, deadline, end; in `fork_server` those that are forked |
//! | `dispatch` | runs on their way to children, and what each has in hand |
//! | `process` | its process: sockets, limits, death |
//! | `files` | files of the app, for handlers that ask for them |
//! | `convert` | runs and answers between worker and wire |
//! | `testing` | whole apps in process, for the test kits of Python and TypeScript |
//! | `plain` | handlers that know nothing of Oncue: children that speak JSON lines, and services behind HTTP |

mod children;
mod contract;
mod convert;
mod dispatch;
mod files;
mod frames;
mod output;
mod plain;
mod process;
mod spec;
mod testing;

use std::io::Write as _;
use std::process::ExitCode;

use oncue::{begin, check_verb, run_foreign, stop};
use oncue_core::config::Config;

use crate::children::Children;
use crate::plain::service::Service;
use crate::spec::Spec;

/// Messages of the function protocol.
#[allow(clippy::all, clippy::pedantic)]
mod protocol {
    include!(concat!(env!("OUT_DIR"), "/oncue.v1.function.rs"));
}

const USAGE: &str = "usage: oncue-host FUNCTION [--manifest | --contract | --version | --audit | --try | --check]\n\
    \x20      oncue-host --contract | --testing\n\
    The worker of a function of oncue.toml that has `run` or `http`; or prints the descriptor set of the app's .proto files; or\n\
    plays servers and workers for a test kit, which speaks to it over stdin and stdout.";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_default();
    match first.as_str() {
        process::EXEC => process::become_child(&arguments.collect::<Vec<_>>()),
        "--contract" => print_contract(),
        "--testing" => testing::serve(),
        "--version" => {
            println!("oncue-host {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        name if !name.is_empty() && !name.starts_with('-') => host(name, arguments.next()),
        _ => stop(2, USAGE),
    }
}

/// Prints the descriptor set of the app, for programs that want its event types and have no host.
fn print_contract() -> ExitCode {
    let set = Config::load()
        .map_err(|e| e.to_string())
        .and_then(|config| contract::of_app(&config));
    match set.map(|set| std::io::stdout().write_all(&set)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => stop(1, &e.to_string()),
        Err(why) => stop(2, &why),
    }
}

/// Runs a function, or answers a question about it.
fn host(name: &str, verb: Option<String>) -> ExitCode {
    if let Some(verb) = &verb
        && let Err(why) = check_verb(name, verb)
    {
        return stop(2, &why);
    }
    process::keep_environment_private();
    let (config, runtime) = match begin() {
        Ok(begun) => begun,
        Err(stopped) => return stopped,
    };
    let spec = match Spec::new(&config, name, verb.is_some()) {
        Ok(spec) => spec,
        Err(why) => return stop(2, &why),
    };
    if let Some(address) = &spec.config.http {
        let service = Service::new(&spec, &config, address).and_then(|service| {
            // A question needs no secrets.
            if verb.is_none() {
                service.check_headers()?;
            }
            Ok(service)
        });
        return match service {
            Ok(service) => runtime.block_on(run_foreign(service.function(), &config, verb)),
            Err(why) => stop(1, &format!("{name}: {why}")),
        };
    }
    runtime.block_on(async {
        let children = match Children::start(spec).await {
            Ok(children) => children,
            Err(why) => return stop(1, &format!("{name}: {why}")),
        };
        let code = run_foreign(children.function(), &config, verb).await;
        children.stop().await;
        code
    })
}

#[cfg(test)]
mod tests {
    /// The messages that the Python package reads at run time are those of this host. After a change of the `.proto` the
    /// failure says where to copy them from.
    #[test]
    fn the_python_package_speaks_this_protocol() {
        let made = concat!(env!("OUT_DIR"), "/function.binpb");
        let kept = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../runtime/python/oncue/function.binpb"
        );
        assert!(
            std::fs::read(made).ok() == std::fs::read(kept).ok(),
            "they differ: cp {made} {kept}"
        );
    }

    /// A function in Python and one in Rust call the outside under the same key.
    #[test]
    fn idempotency_keys_are_those_of_the_python_package() {
        let key = oncue_proto::event::idempotency_key("e1", "bill", "charge");
        assert_eq!(key, "zb1yNyDiQ4aLcfR7Jg8xTQ");
    }
}
