//! Credentials in a folder for each role, to be mounted where its process runs and nowhere else, and what the servers read.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use oncue_core::config::LockedServers;
use oncue_core::store::Store;

use super::accounts::{self, PublicKeys, Quota};
use super::keys::{KeyFolder, named, replace};
use super::{Rights, Role, peers, users};

/// Folder of what the servers read.
const SERVERS: &str = "servers";
/// Accounts, for `include` in the configuration of nats-server.
const ACCOUNTS: &str = "accounts.conf";
/// Users, for `--aclfile` of redis-server.
const USERS: &str = "redis.acl";

/// Parts of [`ACCOUNTS`] and [`USERS`] where several apps share servers, by the ends of their names, and the function library,
/// which the owner of Redis loads.
const PART_OF_ACCOUNTS: &str = "accounts";
const PART_OF_USERS: &str = "app.acl";
const END_OF_USERS: &str = "acl";
const LIBRARY: &str = "lua";

/// Folder of what servers read that several apps share, and what one of them may take.
#[derive(Debug, Clone, Copy)]
pub struct SharedServers<'f> {
    /// Folder, of which each app writes its own files and those that join all.
    pub folder: &'f Path,
    /// Bounds of this app.
    pub quota: Quota,
}

/// Servers for which credentials are written.
#[derive(Debug, Clone, Copy)]
pub enum Audience<'f> {
    /// One of each kind, of this app alone.
    Own,
    /// Several of each kind, which stand in for each other.
    Replicated,
    /// Servers that several apps share.
    Shared(SharedServers<'f>),
}

/// Whether a folder has been written for servers that stand in for each other.
pub fn is_replicated(root: &Path) -> bool {
    peers::FOLDERS.iter().all(|name| root.join(name).is_dir())
}

/// Writes `ROLE/` for each role, with its credentials as `.oncue/keys` beside `oncue.toml` holds them, and `servers/`, or
/// what belongs to this app in the folder of shared ones; for replicated ones also `nats/`, `replica/` and `sentinel/`, with what they
/// prove to each other. Credentials that are there are kept. A folder is for its owner, and for `group` where one is named; what
/// all servers read holds public keys and hashes, and is for all.
///
/// # Errors
/// A file or folder that cannot be written or given to the group, by its path.
pub fn write(
    root: &Path,
    rights: &Rights,
    servers: &LockedServers,
    group: Option<u32>,
    audience: Audience<'_>,
) -> io::Result<()> {
    let peers = match audience {
        Audience::Replicated => Some(peers::write(root, servers)?),
        Audience::Own | Audience::Shared(_) => None,
    };
    let mut public_keys = PublicKeys::new();
    for role in rights.roles() {
        let folder = folder(root, role);
        public_keys.insert(role.clone(), vec![folder.public_key(role)?]);
        folder.password(role)?;
        servers
            .write(folder.path())
            .map_err(|e| named(folder.path(), &e))?;
        if let Some(peers) = &peers {
            let file = folder.path().join(format!("{}.sentinel", role.name()));
            replace(&file, &peers.sentinel_password).map_err(|e| named(&file, &e))?;
        }
    }
    if let Some(group) = group {
        let of_roles = rights.roles().map(Role::name);
        let of_servers = peers.iter().flat_map(|_| peers::FOLDERS.map(str::to_owned));
        for name in of_roles.chain(of_servers) {
            let folder = root.join(name);
            give(&folder, group).map_err(|e| named(&folder, &e))?;
        }
    }
    let Audience::Shared(SharedServers { folder, quota }) = audience else {
        let folder = root.join(SERVERS);
        fs::create_dir_all(&folder).map_err(|e| named(&folder, &e))?;
        let users = users::users(rights);
        let mut users = users::file(&users, |role| password(root, role))?;
        users.extend(peers.map(|peers| peers.users));
        put(
            &folder.join(ACCOUNTS),
            &accounts::configuration(rights, &public_keys),
        )?;
        return put(&folder.join(USERS), &users);
    };
    fs::create_dir_all(folder).map_err(|e| named(folder, &e))?;
    // Two apps may be written at once, and what joins all is written by each.
    let lock = folder.join(".lock");
    let lock = fs::File::create(&lock).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|e| named(folder, &e))?;
    let users = users::tenants(rights);
    let parts = [
        (
            PART_OF_ACCOUNTS,
            accounts::accounts(rights, &public_keys, quota),
        ),
        (
            PART_OF_USERS,
            users::lines(&users, |role| password(root, role))?,
        ),
        (LIBRARY, Store::library_of(&rights.app)),
    ];
    for (end, text) in parts {
        put(&folder.join(format!("{}.{end}", rights.app)), &text)?;
    }
    join(folder)
}

/// Passwords of a role, of which there is one.
fn password(root: &Path, role: &Role) -> io::Result<Vec<String>> {
    Ok(vec![folder(root, role).password(role)?])
}

/// Joins the parts of all apps in a folder, for servers that read one file each.
fn join(folder: &Path) -> io::Result<()> {
    let mut accounts = "# Written by Oncue; one file for each app. Nobody comes in without credentials.\naccounts {\n".to_owned();
    let mut users = users::default_user();
    let mut names: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(|e| named(folder, &e))?
        .into_iter()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    for path in names {
        let end = path.extension().and_then(OsStr::to_str);
        match end {
            Some(PART_OF_ACCOUNTS) => {
                let name = path.file_name().unwrap_or_default().display();
                let _ = writeln!(accounts, "  include \"{name}\"");
            }
            Some(END_OF_USERS) if path.file_name() != Some(OsStr::new(USERS)) => {
                users += &fs::read_to_string(&path).map_err(|e| named(&path, &e))?;
            }
            _ => {}
        }
    }
    accounts.push_str("}\n");
    put(&folder.join(ACCOUNTS), &accounts)?;
    put(&folder.join(USERS), &users)
}

/// Writes a file that all may read.
fn put(file: &Path, text: &str) -> io::Result<()> {
    replace(file, text)
        .and_then(|()| fs::set_permissions(file, Permissions::from_mode(0o644)))
        .map_err(|e| named(file, &e))
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
