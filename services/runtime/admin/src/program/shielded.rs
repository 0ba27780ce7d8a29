//! A program that the kernel keeps off the network, with all that it starts, whatever its code does.
//!
//! A seccomp filter refuses the system calls that lead out of the process. It is laid on the thread that starts the
//! program, so it holds before the program's first instruction, for all its threads and children, and nothing takes it
//! off. The program begins with three pipes and no socket.
//!
//! Files are not kept from it: a handler that writes to the disk of this machine does so.

use tokio::process::{Child, Command};

/// A system on which nothing can be shielded, or a program that does not start.
#[derive(Debug, thiserror::Error)]
pub enum ShieldError {
    /// The kernel has no such filters, is too old, or forbids them here.
    #[error("{0}")]
    Unavailable(String),
    /// The program cannot be run.
    #[error(transparent)]
    Run(#[from] std::io::Error),
}

/// Starts a program that reaches no network.
///
/// Refused calls fail as they do on a machine without a network: `Network is unreachable`.
///
/// # Errors
///
/// [`ShieldError::Unavailable`]; nothing was started then.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub fn spawn(mut command: Command) -> Result<Child, ShieldError> {
    let filter = filter::program().map_err(ShieldError::Unavailable)?;
    let runtime = tokio::runtime::Handle::current();
    // The filter stays on the thread for good, so it is one that ends with this.
    let thread = std::thread::spawn(move || {
        let _in_runtime = runtime.enter();
        seccompiler::apply_filter(&filter)
            .map_err(|e| ShieldError::Unavailable(format!("seccomp: {e}")))?;
        Ok(command.spawn()?)
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(ShieldError::Unavailable("seccomp".to_owned())))
}

/// Refuses.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub fn spawn(_: Command) -> Result<Child, ShieldError> {
    Err(ShieldError::Unavailable(
        "only Linux on 64 bits has what it takes".to_owned(),
    ))
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod filter {
    use std::collections::BTreeMap;

    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule, TargetArch,
    };

    /// Calls by which a process makes or takes a connection, or sends elsewhere than to its peer. A pair of sockets
    /// (`socketpair`) leads nowhere but to itself, and the runtime needs one; `sendmsg` may name another address where no
    /// filter sees it.
    const NETWORK: [libc::c_long; 8] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
    ];
    /// Calls by which a process has others act for it: it takes their sockets, writes into their memory, stops them, sends
    /// them messages. And `io_uring`, through which any other call can be made.
    const OTHERS: [libc::c_long; 13] = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_mq_open,
        libc::SYS_msgget,
        libc::SYS_bpf,
    ];
    /// Bit of the numbers of the second set of calls that x86-64 has (x32).
    #[cfg(target_arch = "x86_64")]
    const X32: libc::c_long = 0x4000_0000;
    /// Calls of the above that have other numbers there: ptrace, sendmsg, sendmmsg, both of rt_sigqueueinfo,
    /// process_vm_writev.
    #[cfg(target_arch = "x86_64")]
    const OWN_X32: [libc::c_long; 6] = [521, 518, 538, 524, 536, 540];

    /// The filter for the processor this runs on.
    pub fn program() -> Result<BpfProgram, String> {
        compile().map_err(|e| format!("seccomp: {e}"))
    }

    fn compile() -> Result<BpfProgram, BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let mut rules = BTreeMap::new();
        for call in NETWORK.into_iter().chain(OTHERS) {
            // No condition: always.
            rules.insert(call, Vec::new());
        }
        // `send` is `sendto` without an address.
        let to_address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
        rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![to_address])?]);
        #[cfg(target_arch = "x86_64")]
        {
            let calls: Vec<libc::c_long> = rules.keys().copied().chain(OWN_X32).collect();
            rules.extend(calls.into_iter().map(|call| (call | X32, Vec::new())));
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENETUNREACH as u32),
            arch,
        )?;
        filter.try_into()
    }
}
