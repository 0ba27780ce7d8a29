//! Lock of a data folder: one `oncue up` at a time. The lock goes with the process, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::exit::Failure;

/// Holds the folder until it is dropped.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Takes the lock, and makes the folder if it is missing.
pub fn take(data: &Path) -> Result<DataLock, Failure> {
    let mut file = open(data).map_err(|e| unusable(data, &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(data, &mut file)),
        Err(TryLockError::Error(e)) => return Err(unusable(data, &e)),
    }
    // Only once it is ours: the number of the one that holds it is what the other is told.
    write_own_pid(&mut file).map_err(|e| unusable(data, &e))?;
    Ok(DataLock { _file: file })
}

fn open(data: &Path) -> io::Result<File> {
    fs::create_dir_all(data)?;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        // The one that is refused reads what is in it.
        .truncate(false)
        .open(data.join("up.lock"))
}

/// Writes the process id, for the one that is refused.
fn write_own_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn held(data: &Path, file: &mut File) -> Failure {
    let mut pid = String::new();
    let _ = file.read_to_string(&mut pid);
    let pid = pid.trim();
    Failure::failed(format_args!(
        "`oncue up` already runs here (process {pid}, data in {})",
        data.display()
    ))
    .advise(format!(
        "stop it with Ctrl-C in its terminal or `kill {pid}`, or use another folder with --data"
    ))
}

fn unusable(data: &Path, e: &io::Error) -> Failure {
    Failure::failed(format_args!("cannot use {}: {e}", data.display()))
        .advise("name another folder with --data")
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
