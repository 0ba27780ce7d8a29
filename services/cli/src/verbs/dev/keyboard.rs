//! Keys as they are pressed, without the Enter that a terminal otherwise waits for.

use std::io::{IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::sync::mpsc;

/// Terminal whose keys are read one by one; as it was before once this is dropped.
pub struct Keyboard {
    before: Termios,
    pub keys: mpsc::Receiver<u8>,
}

impl Keyboard {
    /// `None` where nobody sits in front of it: output or input are no terminal, or belong to another program just now, as behind
    /// `&` in a shell.
    pub fn open() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        if tcgetpgrp(&stdin).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut single = before.clone();
        // Ctrl-C stays a signal, and lines that are printed stay lines.
        single.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&stdin, OptionalActions::Now, &single).ok()?;
        Some(Self {
            before,
            keys: read(),
        })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Reads in a thread that nobody waits for: a read of a terminal cannot be called off.
fn read() -> mpsc::Receiver<u8> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        // A key at a time, through the buffer that standard input has.
        let mut key = [0];
        while std::io::stdin().read_exact(&mut key).is_ok() {
            if sender.blocking_send(key[0]).is_err() {
                return;
            }
        }
    });
    keys
}
