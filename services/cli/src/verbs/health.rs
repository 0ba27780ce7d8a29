//! `oncue health NAME`: the command of a container's health check. The image has no shell and no curl, so it is a
//! verb.

use std::time::Duration;

use oncue_core::config::{Config, ConsoleConfig, GatewayConfig, Role, TlsConfig};

use crate::exit::{self, Failure};
use crate::settings::{Address, Settings};
use crate::terminal::paint::say;
use crate::{http, services};

/// Time for an answer: shorter than any health check's own limit, so that the reason still reaches the log.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pause between two answers.
const REPLY_GAP: Duration = Duration::from_secs(1);
const VIEWER: &str = "127.0.0.1:13133";

#[derive(clap::Args)]
pub struct Args {
    /// `gateway`, `console`, `viewer`, or a function. Default: whatever this container runs.
    name: Option<String>,
}

pub async fn run(args: &Args, mut settings: Settings) -> Result<u8, Failure> {
    let name = args
        .name
        .clone()
        .or_else(|| first_process().filter(|n| is_ours(&settings, n)))
        .ok_or_else(no_name)?;
    let healthy = match name.as_str() {
        "gateway" => page(&gateway_url(&settings.config), "/readyz").await,
        "console" => page(&console_url(&settings.config), "/readyz").await,
        "viewer" => page(VIEWER, "/status").await,
        function => {
            // Its container holds no other credentials.
            settings.config.log_in(&Role::Function(function.to_owned()));
            answers(&settings, function).await
        }
    };
    // Not 4: container engines know 0 and 1 only.
    let why =
        healthy.map_err(|why| Failure::failed(format_args!("{name} is not healthy: {why}")))?;
    say(format_args!("{name}: {why}"));
    Ok(exit::OK)
}

fn no_name() -> Failure {
    Failure::usage("which part? process 1 here is none of ours")
        .advise("for example: oncue health gateway")
}

/// Whether a page says 200; its words otherwise, since they name the server that is away.
async fn page(address: &str, path: &str) -> Result<String, String> {
    let (status, body) = http::get(address, path, TIMEOUT).await?;
    if status == 200 {
        Ok(format!("{address}{path} is 200"))
    } else {
        Err(format!("{address}{path} is {status} {}", body.trim()))
    }
}

/// Where this machine asks the gateway, with its scheme.
pub fn gateway_url(config: &Config) -> String {
    let GatewayConfig { listen, tls, .. } = &config.gateway;
    url(listen, tls.as_ref())
}

/// Where this machine asks the console, with its scheme.
pub fn console_url(config: &Config) -> String {
    let ConsoleConfig { listen, tls, .. } = &config.console;
    url(listen, tls.as_ref())
}

/// Where this machine asks a server of ours.
pub fn url(listen: &str, tls: Option<&TlsConfig>) -> String {
    let scheme = if tls.is_some() {
        http::TLS
    } else {
        http::PLAIN
    };
    format!("{scheme}{}", gateway_address(listen))
}

/// A server that listens everywhere is asked on loopback.
fn gateway_address(listen: &str) -> String {
    match Address::of(listen, 8080) {
        Some(place) if place.host == "::" => format!("[::1]:{}", place.port),
        Some(place) if place.host == "0.0.0.0" => format!("127.0.0.1:{}", place.port),
        Some(place) if place.host.contains(':') => format!("[{}]:{}", place.host, place.port),
        Some(place) => format!("{}:{}", place.host, place.port),
        None => listen.to_owned(),
    }
}

/// Whether a worker answers on the bus: a process that lives but has lost NATS is not healthy.
async fn answers(settings: &Settings, function: &str) -> Result<String, String> {
    let subject = match instance(function) {
        Some(id) => format!("$SRV.PING.{function}.{id}"),
        None => format!("$SRV.PING.{function}"),
    };
    match tokio::time::timeout(TIMEOUT, first_instance(settings, &subject)).await {
        Ok(Ok(Some(id))) => Ok(format!("{id} answers")),
        Ok(Ok(None)) => Err(format!("nobody answers on {subject}")),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer on {subject} within {TIMEOUT:?}")),
    }
}

/// Id of the first instance that answers.
async fn first_instance(settings: &Settings, subject: &str) -> Result<Option<String>, String> {
    let bus = settings.bus().await.map_err(|e| e.what)?;
    let found = services::ask(&bus, subject, REPLY_GAP)
        .await
        .map_err(|e| e.what)?;
    Ok(found.into_iter().next().map(|instance| instance.id))
}

/// The instance to ask for: the one the environment names, or the worker that is process 1 of this container. `None`
/// outside containers, where any instance will do.
fn instance(function: &str) -> Option<String> {
    if let Some(id) = std::env::var("ONCUE_INSTANCE")
        .ok()
        .filter(|id| !id.is_empty())
    {
        return Some(token(&id));
    }
    if first_process()? != function {
        return None;
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(token(&format!("{}-1", host.trim())))
}

/// Part this container runs, as health checks name it. The image is the same for every part, and so is its check.
fn first_process() -> Option<String> {
    let line = std::fs::read("/proc/1/cmdline").ok()?;
    let program = String::from_utf8(line.split(|byte| *byte == 0).next()?.to_vec()).ok()?;
    Some(part(&program).to_owned())
}

fn part(program: &str) -> &str {
    match program.rsplit('/').next().unwrap_or_default() {
        "oncue-gateway" => "gateway",
        "oncue-console" => "console",
        "oncue-trace-viewer" => "viewer",
        function => function,
    }
}

fn is_ours(settings: &Settings, name: &str) -> bool {
    ["gateway", "console", "viewer"].contains(&name) || settings.config.functions.contains_key(name)
}

/// As workers name themselves.
fn token(id: &str) -> String {
    id.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_listens_everywhere_is_asked_on_loopback() {
        assert_eq!(gateway_address("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(gateway_address("[::]:81"), "[::1]:81");
        assert_eq!(gateway_address("10.0.0.7:82"), "10.0.0.7:82");
    }

    #[test]
    fn programs_are_known_by_their_part() {
        assert_eq!(part("/usr/local/bin/oncue-gateway"), "gateway");
        assert_eq!(part("oncue-console"), "console");
        assert_eq!(part("count-views"), "count-views");
    }

    #[test]
    fn instance_names_are_subject_tokens() {
        assert_eq!(token("my.host-1"), "my-host-1");
    }
}
