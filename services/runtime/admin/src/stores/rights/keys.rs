//! Credentials of the roles of an app, in files that only their owner may read: the seed of an nkey for NATS
//! (`ROLE.nk`), and a password for Redis (`ROLE.redis`).

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::Role;

/// Folder with the credentials of an app.
#[derive(Debug, Clone)]
pub struct KeyFolder(PathBuf);

/// Credentials of a role before they were replaced.
#[derive(Clone)]
pub struct Former {
    seed: String,
    /// Public key of the nkey.
    pub public_key: String,
    /// Password for Redis.
    pub password: String,
}

impl KeyFolder {
    /// Folder, which may not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Folder with the credentials of a role: this one, or its own in it, as they are written for processes elsewhere.
    #[must_use]
    pub fn of(&self, role: &Role) -> Self {
        let own = Self(self.0.join(role.name()));
        if own.nats(role).is_file() {
            own
        } else {
            self.clone()
        }
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// File with the seed of a role's nkey.
    pub fn nats(&self, role: &Role) -> PathBuf {
        self.0.join(format!("{}.nk", role.name()))
    }

    /// File with the password of a role.
    pub fn redis(&self, role: &Role) -> PathBuf {
        self.0.join(format!("{}.redis", role.name()))
    }

    /// Public key of a role; makes the key where there is none.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no seed.
    pub fn public_key(&self, role: &Role) -> io::Result<String> {
        let file = self.nats(role);
        let seed = self.kept(&file, seed)?;
        let key = KeyPair::from_seed(&seed);
        let key = key.map_err(|e| io::Error::other(format!("{}: {e}", file.display())))?;
        Ok(key.public_key())
    }

    /// Password of a role; makes one where there is none.
    ///
    /// # Errors
    /// The file cannot be read or made.
    pub fn password(&self, role: &Role) -> io::Result<String> {
        self.kept(&self.redis(role), password)
    }

    /// Secret in a file of this name; makes one where there is none.
    ///
    /// # Errors
    /// The file cannot be read or made.
    pub fn secret(&self, name: &str) -> io::Result<String> {
        self.kept(&self.0.join(name), password)
    }

    /// Replaces the credentials of a role by new ones, and returns those before, for the time in which both are good.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn replace(&self, role: &Role) -> io::Result<Former> {
        let former = Former {
            public_key: self.public_key(role)?,
            seed: self.kept(&self.nats(role), seed)?,
            password: self.password(role)?,
        };
        self.put(role, &seed()?, &password()?)?;
        Ok(former)
    }

    /// Puts former credentials back.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn put_back(&self, role: &Role, former: &Former) -> io::Result<()> {
        self.put(role, &former.seed, &former.password)
    }

    fn put(&self, role: &Role, seed: &str, password: &str) -> io::Result<()> {
        for (file, text) in [(self.nats(role), seed), (self.redis(role), password)] {
            replace(&file, text)?;
        }
        Ok(())
    }

    /// Text of a file; one that is not there is written with what `make` makes.
    fn kept(&self, file: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
        match fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            // It would pass for a password that everybody knows.
            Ok(_) => {
                let why =
                    "is empty, as a full disk leaves it; remove it, and a new credential is made";
                return Err(io::Error::other(format!("{} {why}", file.display())));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(named(file, &e)),
        }
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.0).map_err(|e| named(file, &e))?;
        let text = make()?;
        replace(file, &text).map_err(|e| named(file, &e))?;
        Ok(text)
    }
}

/// Writes a file that only its owner may read, in place of what is there: whole or not at all, since somebody may read it at
/// any moment.
///
/// # Errors
/// The file cannot be written.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    let beside = file.with_extension("new");
    let _ = fs::remove_file(&beside);
    write(&beside, text)?;
    fs::rename(&beside, file)
}

/// Error with the path of its file.
pub(super) fn named(file: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", file.display()))
}

/// Writes a file that is not there: not for a moment readable by others, and in nobody else's place.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()
}

/// Seed of a new key.
fn seed() -> io::Result<String> {
    KeyPair::new_user().seed().map_err(io::Error::other)
}

/// Password of 256 random bits, as text that needs no quotes anywhere.
///
/// # Errors
/// The system gives no randomness.
fn password() -> io::Result<String> {
    // An nkey's seed is just that.
    Ok(seed()?.trim_start_matches("SU").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a full disk or a power cut leaves is no password: it would be everybody's.
    #[test]
    fn an_empty_credential_is_refused() {
        let folder = std::env::temp_dir().join(format!("oncue-keys-{}", std::process::id()));
        let keys = KeyFolder::new(folder.clone());
        let password = keys.password(&Role::Operator).expect("made");
        assert_eq!(keys.password(&Role::Operator).expect("kept"), password);
        fs::write(keys.redis(&Role::Operator), "\n").expect("truncated");
        let refused = keys.password(&Role::Operator).expect_err("empty");
        assert!(refused.to_string().contains("is empty"), "{refused}");
        fs::remove_dir_all(folder).expect("removed");
    }
}
