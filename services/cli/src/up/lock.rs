//! One `oncue up` for a data folder. The lock goes with the process, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::exit::Failure;

/// Holds the folder until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

pub fn take(data: &Path) -> Result<Lock, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::failed(format_args!("cannot use {}: {e}", data.display()))
            .advise("name another folder with --data")
    };
    fs::create_dir_all(data).map_err(|e| failed(&e))?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(data.join("up.lock"));
    let mut file = file.map_err(|e| failed(&e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let what = format!(
                "`oncue up` already runs here (process {pid}, data in {})",
                data.display()
            );
            return Err(Failure::failed(what).advise(format!(
                "stop it with Ctrl-C in its terminal or `kill {pid}`, or use another folder with --data"
            )));
        }
        Err(TryLockError::Error(e)) => return Err(failed(&e)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    written.map_err(|e| failed(&e))?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn the_second_is_refused_and_told_by_whom() {
        let folder = std::env::temp_dir().join(format!("oncue-lock-{}", std::process::id()));
        let held = take(&folder).unwrap();
        let refused = take(&folder).unwrap_err();
        assert!(
            refused.what.contains(&std::process::id().to_string()),
            "{}",
            refused.what
        );
        drop(held);
        assert!(take(&folder).is_ok());
        let _ = std::fs::remove_dir_all(folder);
    }
}
