//! Check of ports: whether one is free, and which process has it, for the line that says why something cannot start.

use std::fmt;
use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::process::{Command, Stdio};

use crate::exit::Failure;

/// Process that listens on a port.
#[derive(Debug, PartialEq, Eq)]
pub struct PortOwner {
    pub name: String,
    pub pid: u32,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Owner of a taken port as words, `by redis-server (process 42)`, as far as this user may know.
pub fn taken_by(port: u16) -> String {
    owner(port).map_or_else(
        || "by a process of another user".to_owned(),
        |owner| format!("by {owner}"),
    )
}

/// Whether one could listen on every address the name stands for.
/// Taken and given back at once, so somebody may take it in between; the server that starts says so then.
pub fn is_free(address: &str) -> bool {
    let addresses = address.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    addresses.is_ok_and(|all| all.iter().all(|address| TcpListener::bind(address).is_ok()))
}

/// Refuses an address nobody can listen on, with the process that has the port and the setting that names another.
/// Tries it rather than reading a table: only the system knows what may be listened on.
pub fn must_be_free(who: &str, address: &str, setting: &str) -> Result<(), Failure> {
    let addresses = address
        .to_socket_addrs()
        .map_err(|e| cannot_listen(who, address, setting, &e))?;
    for candidate in addresses {
        match TcpListener::bind(candidate) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let port = candidate.port();
                let what = format!("port {port} is taken {}; {who} needs it", taken_by(port));
                return Err(
                    Failure::failed(what).advise(format!("stop that process, or change {setting}"))
                );
            }
            Err(e) => return Err(cannot_listen(who, address, setting, &e)),
        }
    }
    Ok(())
}

fn cannot_listen(who: &str, address: &str, setting: &str, e: &io::Error) -> Failure {
    Failure::usage(format_args!("{who} cannot listen on {address:?}: {e}"))
        .advise(format!("change {setting}"))
}

/// Owner of a port. Linux: the socket's inode in `/proc/net/tcp`, then the process that has it open. Elsewhere
/// `lsof`, if it is there.
pub fn owner(port: u16) -> Option<PortOwner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    match tables.iter().find_map(|table| listening_inode(table, port)) {
        Some(inode) => holder(&inode),
        None => lsof(port),
    }
}

/// Inode of the socket that listens. Fields of a line: slot, local address, remote address, state (0A = listening),
/// ... the inode is the tenth.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        let inode = fields.get(9)?;
        (local == port && *fields.get(3)? == "0A").then(|| (*inode).to_owned())
    })
}

/// Process that has the socket open; `None` when it is another user's.
fn holder(inode: &str) -> Option<PortOwner> {
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
            return Some(PortOwner {
                name: name.trim().to_owned(),
                pid,
            });
        }
    }
    None
}

fn lsof(port: u16) -> Option<PortOwner> {
    let asked = Command::new("lsof")
        .args(["-nP", &format!("-iTCP:{port}"), "-sTCP:LISTEN", "-Fpc"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    lsof_owner(&String::from_utf8_lossy(&asked.stdout))
}

/// Owner in the answer of `lsof -Fpc`: `p42` and `cname`, a line each.
fn lsof_owner(output: &str) -> Option<PortOwner> {
    let mut lines = output.lines();
    let pid = lines.clone().find_map(|line| line.strip_prefix('p'))?;
    let name = lines.find_map(|line| line.strip_prefix('c'));
    Some(PortOwner {
        pid: pid.parse().ok()?,
        name: name.unwrap_or("a process").to_owned(),
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
            Some(PortOwner {
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
