//! Address of NATS: one server, or those of a cluster, the user to be there, and the delays of reconnecting.

use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

use super::{BusError, credentials, failed};
use crate::backoff::Backoff;
use crate::config::{NatsServer, ServerUrl};
use oncue_proto::event;

/// Delays between attempts to connect anew: a server that restarts is back within a second or two.
const RECONNECT: Backoff = Backoff {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(4),
};

/// Servers of a URL, separated by commas. The error names the URL without its password.
pub fn servers(url: &ServerUrl) -> Result<Vec<ServerAddr>, BusError> {
    let servers = url
        .expose()
        .split(',')
        .map(|server| server.trim().parse::<ServerAddr>());
    servers
        .collect::<Result<_, _>>()
        .map_err(|e| failed(format_args!("{url} is no NATS URL"), e))
}

/// Options with the credentials of a file, else with the first user or token that a server's URL names, which the client itself
/// does not take from there; and with the files of TLS.
pub fn options(server: &NatsServer, servers: &[ServerAddr]) -> Result<ConnectOptions, BusError> {
    let user = servers.iter().find_map(user);
    let mut options = match (&server.credentials, user) {
        (Some(file), _) => {
            credentials::check(file).map_err(BusError)?;
            credentials::options(file.clone())
        }
        (None, Some(User::Named { user, password })) => {
            ConnectOptions::new().user_and_password(user, password)
        }
        (None, Some(User::Token(token))) => ConnectOptions::new().token(token),
        (None, None) => ConnectOptions::new(),
    };
    let prefix = &server.inbox_prefix;
    if !is_prefix(prefix) {
        return Err(BusError(format!(
            "[nats] inbox_prefix {prefix:?} is no beginning of a subject: write words with full stops between them, such as \
             _INBOX_shop"
        )));
    }
    options = options.custom_inbox_prefix(prefix);
    let tls = &server.tls;
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    let identity = tls.identity().map_err(|e| failed("TLS to NATS", e))?;
    if let Some((certificate, key)) = identity {
        options = options.add_client_certificate(certificate.to_owned(), key.to_owned());
    }
    // Not in the clear either where somebody pretends that the server speaks no TLS.
    Ok(if tls.is_used() {
        options.require_tls(true)
    } else {
        options
    })
}

/// Whether subjects can begin so.
fn is_prefix(text: &str) -> bool {
    text.split('.').all(|token| {
        !token.is_empty()
            && token
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '*' | '>'))
    })
}

/// Delay before the attempt `attempts` to connect, counted from 1. A start waits for nothing at first. A client that
/// was connected `before` waits 0 to 100 ms, then up to 4 s, of which a random half is taken off: all lost the server
/// at the same moment, and it must not get all of them back at once.
pub fn connect_delay(attempts: usize, before: bool) -> Duration {
    if attempts <= 1 && !before {
        return Duration::ZERO;
    }
    if attempts <= 1 {
        return RECONNECT.first.mul_f64(fastrand::f64());
    }
    RECONNECT.delay(u32::try_from(attempts).unwrap_or(u32::MAX))
}

/// Client as a server's URL names it.
#[derive(Debug, PartialEq, Eq)]
enum User {
    /// `nats://USER:PASSWORD@HOST`
    Named { user: String, password: String },
    /// `nats://TOKEN@HOST`
    Token(String),
}

fn user(server: &ServerAddr) -> Option<User> {
    let user = decoded(server.username().filter(|user| !user.is_empty())?);
    Some(match server.password() {
        Some(password) => User::Named {
            user,
            password: decoded(password),
        },
        None => User::Token(user),
    })
}

/// Part of a URL without its percent-encoding; a part that is not UTF-8 then stays as it is.
fn decoded(part: &str) -> String {
    event::percent_decode(part).unwrap_or_else(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_not_held_up_and_reconnects_do_not_march_in_step() {
        assert_eq!(connect_delay(1, false), Duration::ZERO);
        let delays: std::collections::BTreeSet<Duration> =
            (0..20).map(|_| connect_delay(1, true)).collect();
        assert!(
            delays.len() > 1
                && delays
                    .iter()
                    .all(|delay| *delay < Duration::from_millis(101))
        );
        assert!((1..100).all(|n| connect_delay(n, true) <= RECONNECT.longest));
    }

    #[test]
    fn a_url_may_list_servers_and_name_a_user() {
        let all = servers(&ServerUrl::from("nats://a:1, nats://me:se%40cret@b,c"))
            .expect("three servers");
        let places: Vec<_> = all
            .iter()
            .map(|server| (server.host().to_owned(), server.port()))
            .collect();
        assert_eq!(
            places,
            [
                ("a".to_owned(), 1),
                ("b".to_owned(), 4222),
                ("c".to_owned(), 4222)
            ]
        );
        assert_eq!(
            all.iter().find_map(user),
            Some(User::Named {
                user: "me".to_owned(),
                password: "se@cret".to_owned()
            })
        );
        let token = servers(&ServerUrl::from("nats://s%2Fcret@a")).expect("a server");
        assert_eq!(user(&token[0]), Some(User::Token("s/cret".to_owned())));
        let refused = servers(&ServerUrl::from("nats://me:secret@a:b"))
            .expect_err("no port")
            .to_string();
        assert!(!refused.contains("secret"), "{refused}");
    }
}
