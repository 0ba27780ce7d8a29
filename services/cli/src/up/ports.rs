//! Who listens on a port, for the line that says why something cannot start.

use std::fmt;
use std::fs;
use std::net::{TcpListener, ToSocketAddrs};
use std::process::{Command, Stdio};

use crate::exit::Failure;

/// A process that listens.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: String,
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// `by redis-server (process 42)`, as far as this user may know.
pub fn taken_by(port: u16) -> String {
    owner(port).map_or_else(
        || "by a process of another user".to_owned(),
        |owner| format!("by {owner}"),
    )
}

/// Whether one could listen there.
pub fn is_free(address: &str) -> bool {
    let addresses = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    addresses.is_ok_and(|all| all.iter().all(|address| TcpListener::bind(address).is_ok()))
}

pub fn must_be_free(who: &str, address: &str, setting: &str) -> Result<(), Failure> {
    let mistake = |e: &dyn fmt::Display| {
        Failure::usage(format_args!("{who} cannot listen on {address:?}: {e}"))
            .advise(format!("change {setting}"))
    };
    for address in address.to_socket_addrs().map_err(|e| mistake(&e))? {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                let what = format!(
                    "port {} is taken {}; {who} needs it",
                    address.port(),
                    taken_by(address.port())
                );
                return Err(
                    Failure::failed(what).advise(format!("stop that process, or change {setting}"))
                );
            }
            Err(e) => return Err(mistake(&e)),
        }
    }
    Ok(())
}

/// Linux: the socket's inode in `/proc/net/tcp`, then the process that has it open. Elsewhere `lsof`, if it is there.
pub fn owner(port: u16) -> Option<Owner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    match tables.iter().find_map(|table| listening_inode(table, port)) {
        Some(inode) => holder(&inode),
        None => lsof(port),
    }
}

/// Fields of a line: slot, local address, remote address, state (0A = listening), ... the inode is the tenth.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let inode = fields.get(9)?;
        (local == port && *fields.get(3)? == "0A").then(|| (*inode).to_owned())
    })
}

fn holder(inode: &str) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in processes {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        if open.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        }) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(Owner {
                name: name.trim().to_owned(),
                pid,
            });
        }
    }
    None
}

fn lsof(port: u16) -> Option<Owner> {
    let asked = Command::new("lsof")
        .args(["-nP", &format!("-iTCP:{port}"), "-sTCP:LISTEN", "-Fpc"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    lsof_owner(&String::from_utf8_lossy(&asked.stdout))
}

/// `p42` and `cname`, a line each.
fn lsof_owner(output: &str) -> Option<Owner> {
    let field = |tag: char| output.lines().find_map(|line| line.strip_prefix(tag));
    Some(Owner {
        pid: field('p')?.parse().ok()?,
        name: field('c').unwrap_or("a process").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9876 1 0000000000000000 100 0 0 10 0
   1: 0100007F:107E 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 20 4 30 10 -1
";

    #[test]
    fn only_listening_sockets_count() {
        assert_eq!(listening_inode(TABLE, 6379).as_deref(), Some("9876"));
        assert_eq!(listening_inode(TABLE, 4222), None);
    }

    #[test]
    fn the_answer_of_lsof_is_read() {
        assert_eq!(
            lsof_owner("p42\ncredis-server\nf6\n"),
            Some(Owner {
                name: "redis-server".into(),
                pid: 42
            })
        );
        assert_eq!(lsof_owner(""), None);
    }

    #[test]
    fn our_own_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        assert!(!is_free(&address));
        let refused = must_be_free("the gateway", &address, "listen").unwrap_err();
        assert!(
            refused.what.contains(&format!("port {port} is taken")),
            "{}",
            refused.what
        );
        if cfg!(target_os = "linux") {
            assert_eq!(owner(port).map(|o| o.pid), Some(std::process::id()));
        }
        drop(listener);
        assert!(is_free(&address));
    }
}
