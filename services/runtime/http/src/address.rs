//! Clients told apart by their address, also behind a reverse proxy.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use oncue_core::config::Network;

/// Header in which proxies name who asked them, each behind those before.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Bits of an IPv6 address that its client cannot choose: everybody is given a /64 at least.
const CLIENT_BITS: u128 = !0 << 64;

/// Address of a client, as far as it cannot choose it: of an IPv6 address the /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// Client with this address. An IPv4 address written as IPv6 is the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & CLIENT_BITS)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Client that a request counts for, by [`client`]; none where that is a proxy, which speaks for many.
pub fn requester(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> Option<ClientAddress> {
    counted(client(peer, headers, proxies), proxies)
}

/// Address that a request came from: the peer's, or, where that is one of the `proxies`, the last one in
/// `X-Forwarded-For` that is not. What stands before it, its client may have made up.
fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let lines: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .collect();
    let mut hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    let mut client = peer;
    while is_proxy(client, proxies) {
        let Some(before) = hops.next().and_then(|hop| read(hop.trim())) else {
            break;
        };
        client = before;
    }
    client
}

/// Client that a connection from this address counts for.
pub(crate) fn counted(address: IpAddr, proxies: &[Network]) -> Option<ClientAddress> {
    (!is_proxy(address, proxies)).then(|| ClientAddress::of(address))
}

/// Name in a `Host` header, without the port.
pub fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.split(':').next().unwrap_or(host)
}

/// Whether a host is meant by its address or as this machine. Any other name belongs to somebody, who may make it lead
/// here, and whose pages then talk to us as if we were theirs (DNS rebinding).
pub fn is_nobodys(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn is_proxy(address: IpAddr, proxies: &[Network]) -> bool {
    proxies.iter().any(|network| network.contains(address))
}

/// Address as proxies write it, with a port or without.
fn read(hop: &str) -> Option<IpAddr> {
    match hop.parse::<SocketAddr>() {
        Ok(with_port) => Some(with_port.ip()),
        Err(_) => hop.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_has_a_whole_64() {
        let of = |text: &str| ClientAddress::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn names_belong_to_somebody_and_addresses_do_not() {
        for host in [
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.0.2.1",
        ] {
            assert!(is_nobodys(host_name(host)), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert!(!is_nobodys(host_name(host)), "{host}");
        }
    }

    #[test]
    fn only_a_proxy_is_believed() {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let of = |peer: &str, forwarded: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            client(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        assert_eq!(of("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        // The first ones are the client's own words.
        let made_up = ["203.0.113.9, 198.51.100.7:4711", "10.0.0.2"];
        assert_eq!(of("10.0.0.1", &made_up), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        assert!(counted("10.0.0.1".parse().unwrap(), &proxies).is_none());
    }
}
