//! Credentials in a folder for each role, to be mounted where its process runs and nowhere else, and what the servers read.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use oncue_core::config::LockedServers;

use super::accounts::{self, PublicKeys};
use super::keys::{KeyFolder, named, replace};
use super::{Rights, Role, users};

/// Folder of what the servers read.
const SERVERS: &str = "servers";
/// Accounts, for `include` in the configuration of nats-server.
const ACCOUNTS: &str = "accounts.conf";
/// Users, for `--aclfile` of redis-server.
const USERS: &str = "redis.acl";

/// Writes `ROLE/` for each role, with its credentials as `.oncue/keys` beside `oncue.toml` holds them, and `servers/`. Credentials
/// that are there are kept. A folder of a role is for its owner, and for `group` where one is named; what servers read holds
/// public keys and hashes, and is for all.
///
/// # Errors
/// A file or folder that cannot be written or given to the group, by its path.
pub fn write(
    root: &Path,
    rights: &Rights,
    servers: &LockedServers,
    group: Option<u32>,
) -> io::Result<()> {
    let shared = root.join(SERVERS);
    fs::create_dir_all(&shared).map_err(|e| named(&shared, &e))?;
    let mut public_keys = PublicKeys::new();
    for role in rights.roles() {
        let folder = folder(root, role);
        public_keys.insert(role.clone(), vec![folder.public_key(role)?]);
        folder.password(role)?;
        servers
            .write(folder.path())
            .map_err(|e| named(folder.path(), &e))?;
        if let Some(group) = group {
            give(folder.path(), group).map_err(|e| named(folder.path(), &e))?;
        }
    }
    let users = users::file(&users::users(rights), |role| {
        Ok(vec![folder(root, role).password(role)?])
    })?;
    let accounts = accounts::configuration(rights, &public_keys);
    for (name, text) in [(ACCOUNTS, accounts), (USERS, users)] {
        let file = shared.join(name);
        let written = replace(&file, &text);
        written
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o644)))
            .map_err(|e| named(&file, &e))?;
    }
    Ok(())
}

fn folder(root: &Path, role: &Role) -> KeyFolder {
    KeyFolder::new(root.join(role.name()))
}

/// Lets a group read a folder and its files.
fn give(folder: &Path, group: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        chown(&file, None, Some(group))?;
        fs::set_permissions(&file, Permissions::from_mode(0o640))?;
    }
    chown(folder, None, Some(group))?;
    fs::set_permissions(folder, Permissions::from_mode(0o750))
}
