//! Which addresses a request may go to: those of the public internet.
//!
//! A worker stands inside somebody's network. An address taken from configuration or from DNS must not turn it into a
//! way in: to the machine itself, to its neighbours, to the metadata service of a cloud [OWASP SSRF Prevention].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kind of an address that is not public; `None` for a public one.
pub fn refusal(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => refusal_v4(ip),
        IpAddr::V6(ip) => refusal_v6(ip),
    }
}

/// [IANA IPv4 Special-Purpose Address Registry], and one by custom.
fn refusal_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "an unspecified address",
        [127, ..] => "a loopback address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
        [169, 254, ..] => "a link-local address",
        [100, 64..=127, ..] => "an address behind a carrier's NAT",
        [192, 0, 0, _] => "an address for protocols",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "an address for documentation",
        [198, 18..=19, ..] => "an address for benchmarks",
        [192, 88, 99, _] => "an address of a 6to4 relay",
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved or broadcast address",
        // Public by number, but inside Azure it is the host's own agent.
        [168, 63, 129, 16] => "the host agent of a cloud",
        _ => return None,
    })
}

/// All that is given out lies in 2000::/3 [IANA IPv6 Address Space], so what lies elsewhere is refused unless it
/// carries an IPv4 address that is public.
fn refusal_v6(ip: Ipv6Addr) -> Option<&'static str> {
    // Mapped [RFC 4291 section 2.5.5.2], NAT64 [RFC 6052 section 2.1], 6to4 [RFC 3056 section 2].
    if let [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
    | [0x20, 0x02, a, b, c, d, ..] = ip.octets()
    {
        return refusal_v4(Ipv4Addr::new(a, b, c, d));
    }
    let [first, second, ..] = ip.segments();
    Some(match first {
        0 if ip.is_unspecified() => "an unspecified address",
        0 if ip.is_loopback() => "a loopback address",
        0x2001 if second < 0x200 => "an address for protocols", // among them Teredo, which hides an IPv4 address
        0x2001 if second == 0xdb8 => "an address for documentation",
        0x3fff if second < 0x1000 => "an address for documentation",
        0x2000..=0x3fff => return None,
        0xfc00..=0xfdff => "a private address",
        0xfe80..=0xfebf => "a link-local address",
        0xff00.. => "a multicast address",
        _ => "no address of the public internet",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ip: &str) -> &'static str {
        refusal(ip.parse().unwrap_or_else(|e| panic!("{ip}: {e}"))).unwrap_or("public")
    }

    #[test]
    fn every_class_of_ipv4_is_known_up_to_its_edges() {
        for (class, ips) in [
            ("unspecified", &["0.0.0.0", "0.1.2.3", "0.255.255.255"][..]),
            ("loopback", &["127.0.0.1", "127.255.255.255"]),
            (
                "private",
                &[
                    "10.0.0.0",
                    "10.255.255.255",
                    "172.16.0.0",
                    "172.31.255.255",
                    "192.168.0.0",
                    "192.168.255.255",
                ],
            ),
            (
                "link-local",
                &["169.254.0.0", "169.254.169.254", "169.254.255.255"],
            ),
            (
                "carrier",
                &["100.64.0.0", "100.100.100.200", "100.127.255.255"],
            ),
            ("protocols", &["192.0.0.0", "192.0.0.192", "192.0.0.255"]),
            (
                "documentation",
                &["192.0.2.1", "198.51.100.1", "203.0.113.255"],
            ),
            ("benchmarks", &["198.18.0.0", "198.19.255.255"]),
            ("6to4", &["192.88.99.1"]),
            ("multicast", &["224.0.0.1", "239.255.255.255"]),
            ("broadcast", &["240.0.0.1", "255.255.255.255"]),
            ("cloud", &["168.63.129.16"]),
            (
                "public",
                &[
                    "1.1.1.1",
                    "9.255.255.255",
                    "11.0.0.0",
                    "100.63.255.255",
                    "100.128.0.0",
                    "126.255.255.255",
                    "128.0.0.0",
                    "168.63.129.15",
                    "169.253.255.255",
                    "169.255.0.0",
                    "172.15.255.255",
                    "172.32.0.0",
                    "191.255.255.255",
                    "192.0.1.0",
                    "192.0.3.0",
                    "192.167.255.255",
                    "192.169.0.0",
                    "198.17.255.255",
                    "198.20.0.0",
                    "203.0.114.0",
                    "223.255.255.255",
                ],
            ),
        ] {
            for ip in ips {
                assert!(
                    told(ip).contains(class),
                    "{ip} is {}, not {class}",
                    told(ip)
                );
            }
        }
    }

    #[test]
    fn every_class_of_ipv6_is_known_up_to_its_edges() {
        for (class, ips) in [
            ("unspecified", &["::"][..]),
            ("loopback", &["::1"]),
            ("private", &["fc00::1", "fd00:ec2::254", "fdff:ffff::1"]),
            ("link-local", &["fe80::1", "febf::1"]),
            ("multicast", &["ff02::1", "ffff::1"]),
            (
                "protocols",
                &[
                    "2001::1",
                    "2001:0:a00:1::f5ff:fffe",
                    "2001:2::1",
                    "2001:1ff::1",
                ],
            ),
            ("documentation", &["2001:db8::1", "3fff::1", "3fff:fff::1"]),
            (
                "no address of the public internet",
                // Compatible with IPv4, discard, local NAT64, segment routing, site-local, never given out.
                &[
                    "::10.0.0.1",
                    "::8.8.8.8",
                    "100::1",
                    "64:ff9b:1::a00:1",
                    "5f00::1",
                    "fec0::1",
                    "1fff::1",
                    "4000::1",
                ],
            ),
            (
                "public",
                &[
                    "2000::1",
                    "2001:200::1",
                    "2001:4860:4860::8888",
                    "2606:4700::1111",
                    "3fff:1000::1",
                    "2a00::1",
                ],
            ),
        ] {
            for ip in ips {
                assert!(
                    told(ip).contains(class),
                    "{ip} is {}, not {class}",
                    told(ip)
                );
            }
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_address_counts() {
        for (class, ips) in [
            (
                "private",
                ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1"],
            ),
            (
                "loopback",
                ["::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"],
            ),
            (
                "link-local",
                [
                    "::ffff:169.254.169.254",
                    "64:ff9b::a9fe:a9fe",
                    "2002:a9fe:a9fe::1",
                ],
            ),
            (
                "public",
                ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
            ),
        ] {
            for ip in ips {
                assert!(
                    told(ip).contains(class),
                    "{ip} is {}, not {class}",
                    told(ip)
                );
            }
        }
    }
}
