//! Name of whoever runs a command, for what stays on record.

/// user@host, as far as they are known.
pub fn who() -> String {
    let user = named("USER")
        .or_else(|| named("LOGNAME"))
        .unwrap_or_else(|| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| named("HOSTNAME"));
    format!("{user}@{}", host.as_deref().map_or("somewhere", str::trim))
}

/// Value of an environment variable that is not empty.
fn named(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
