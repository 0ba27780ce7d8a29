//! Process: its name among others, the environment of a function's, and the signal to stop.

use std::collections::BTreeSet;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Variables that every function's process gets from whoever starts it; the rest of that environment is no business of a
/// function. `*` stands for any end.
pub const PASSED_ON: [&str; 14] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "LD_LIBRARY_PATH",
    "HOSTNAME",
    "OTEL_*",
    "ONCUE_*",
];
/// Variables of the platform that are no function's.
const KEPT_BACK: [&str; 2] = ["ONCUE_CONSOLE_TOKEN", "ONCUE_INSTANCE"];

/// Part of this process's environment that a function's process gets: what is [`PASSED_ON`], and what `inherit` names.
pub fn environment(inherit: &BTreeSet<String>) -> Vec<(String, String)> {
    let here = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    chosen(here, inherit)
}

fn chosen(
    here: impl Iterator<Item = (String, String)>,
    inherit: &BTreeSet<String>,
) -> Vec<(String, String)> {
    here.filter(|(name, _)| inherit.contains(name) || is_passed_on(name))
        .collect()
}

fn is_passed_on(name: &str) -> bool {
    let is_listed = PASSED_ON
        .iter()
        .any(|listed| match listed.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *listed,
        });
    is_listed && !KEPT_BACK.contains(&name)
}

/// Name of this process: `ONCUE_INSTANCE`, or `HOST-PID`, with `-` for anything but letters, digits, `-` and `_`.
pub fn instance() -> String {
    std::env::var("ONCUE_INSTANCE").unwrap_or_else(|_| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .or_else(|_| std::env::var("HOSTNAME"));
        let name = format!(
            "{}-{}",
            host.unwrap_or_else(|_| "host".into()).trim(),
            std::process::id()
        );
        name.replace(
            |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_',
            "-",
        )
    })
}

/// Turns true at the first SIGTERM or Ctrl-C, and stays so: whoever looks later sees it, too. Fails where the
/// handlers cannot be set. The second signal does nothing here; a supervisor that has waited long enough kills.
pub fn stop_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        // Kept until nobody looks any more: a dropped sender would look like an error to them.
        let _ = stop.send(true);
        stop.closed().await;
    });
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_gets_what_is_listed_and_what_is_named() {
        let here = [
            "PATH",
            "LC_ALL",
            "ONCUE_NATS_URL",
            "ONCUE_CONSOLE_TOKEN",
            "OTEL_SERVICE_NAME",
            "AWS_SECRET_ACCESS_KEY",
            "WEBHOOK_SECRET",
            "PATHS",
        ];
        let here = here.map(|name| (name.to_owned(), "x".to_owned()));
        let names = |inherit: &[String]| -> Vec<String> {
            let inherit = inherit.iter().cloned().collect();
            let made = chosen(here.clone().into_iter(), &inherit);
            made.into_iter().map(|(name, _)| name).collect()
        };
        let always = ["PATH", "LC_ALL", "ONCUE_NATS_URL", "OTEL_SERVICE_NAME"];
        assert_eq!(names(&[]), always);
        let named = names(&["WEBHOOK_SECRET".to_owned()]);
        assert_eq!(named, [&always[..], &["WEBHOOK_SECRET"]].concat());
    }
}
