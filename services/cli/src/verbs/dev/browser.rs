//! Browser of whoever sits in front of the terminal.

use std::process::Stdio;

use tokio::process::Command;

/// Opens an address; whether there is something that took it.
pub async fn open(address: &str) -> bool {
    let Some(program) = program(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    else {
        return false;
    };
    let opened = Command::new(program)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A browser that this starts outlives it, and a Ctrl-C here is not meant for it.
        .process_group(0)
        .spawn();
    match opened {
        // Some openers stay for as long as the browser does: they have not failed.
        Ok(mut opener) => {
            let ended =
                tokio::time::timeout(std::time::Duration::from_secs(2), opener.wait()).await;
            ended.is_err() || ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
        }
        Err(_) => false,
    }
}

/// Program that opens addresses; `None` where there is no screen to open them on.
fn program(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(named) = variable("BROWSER") {
        return Some(named);
    }
    if cfg!(target_os = "macos") {
        return Some("open".to_owned());
    }
    let screen = variable("WAYLAND_DISPLAY").or_else(|| variable("DISPLAY"));
    screen.map(|_| "xdg-open".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_named_or_there_is_a_screen() {
        let named = program(|name| (name == "BROWSER").then(|| "lynx".to_owned()));
        assert_eq!(named.as_deref(), Some("lynx"));
        if !cfg!(target_os = "macos") {
            let screen = program(|name| (name == "DISPLAY").then(|| ":0".to_owned()));
            assert_eq!(screen.as_deref(), Some("xdg-open"));
            assert_eq!(program(|_| None), None);
        }
    }
}
