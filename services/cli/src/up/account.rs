//! Account that has the streams in a data folder of nats-server: the server's own where it is unlocked, the app's where it is
//! locked. It keeps the streams of each in a folder of its own and shows an account no others, so a server that is locked
//! for the first time would look as if it had been emptied.

use std::fs;
use std::io;
use std::path::Path;

/// Account of everybody on a server without accounts.
pub const GLOBAL: &str = "$G";

/// Gives the streams of `former` to `account`, unless that has some. The server must not run.
///
/// Returns whether there were any to give.
///
/// # Errors
/// A folder that cannot be read or renamed.
pub fn hand_over(data: &Path, former: &str, account: &str) -> io::Result<bool> {
    let [from, to] = [former, account].map(|account| data.join("jetstream").join(account));
    if !has_streams(&from)? || has_streams(&to)? {
        return Ok(false);
    }
    match fs::remove_dir_all(&to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => fs::rename(&from, &to)?,
    }
    Ok(true)
}

fn has_streams(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder.join("streams")) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_go_to_an_account_that_has_none() {
        let data = std::env::temp_dir().join(format!("oncue-account-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        let streams = |account: &str| data.join("jetstream").join(account).join("streams");
        assert!(!hand_over(&data, GLOBAL, "app").unwrap());
        fs::create_dir_all(streams(GLOBAL).join("web")).unwrap();
        fs::create_dir_all(streams("app")).unwrap();
        assert!(hand_over(&data, GLOBAL, "app").unwrap());
        assert!(streams("app").join("web").is_dir() && !streams(GLOBAL).exists());
        fs::create_dir_all(streams(GLOBAL).join("other")).unwrap();
        assert!(!hand_over(&data, GLOBAL, "app").unwrap());
        assert!(streams("app").join("web").is_dir() && streams(GLOBAL).join("other").is_dir());
        let _ = fs::remove_dir_all(&data);
    }
}
