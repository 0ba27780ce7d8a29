//! Process: its name among others, and the signal to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

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
