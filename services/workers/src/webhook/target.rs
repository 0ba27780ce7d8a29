//! Where requests go: a URL that was checked, shown without what may be secret in it.

use std::fmt;

use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Position, Url};

/// Shorter values of a query are as likely to be a number or a flag, and would be blotted out all over a text.
const SHORTEST_SECRET: usize = 4;

pub struct Target {
    url: Url,
    host: Host,
    /// Parts of the URL that may be secret, longest first.
    secrets: Vec<String>,
}

impl Target {
    /// The mistake says what is wrong with the URL without quoting it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)
            .map_err(|e| format!("is no URL ({e}): write it like https://example.com/hook"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err("is neither https nor http: nothing else can be called".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "has a user name or password in it, which is not sent: take it out".to_owned(),
            );
        }
        let host = url
            .host()
            .map(|host| host.to_owned())
            .ok_or("has no host")?;
        let secrets = secrets(&url);
        Ok(Self { url, host, secrets })
    }

    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The header `Host`.
    pub fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// Path and query as they stand in the request line.
    pub fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }

    /// Name in the certificate that the server must show.
    pub fn server_name(&self) -> Result<ServerName<'static>, String> {
        match &self.host {
            Host::Domain(name) => {
                ServerName::try_from(name.clone()).map_err(|e| format!("{name:?}: {e}"))
            }
            Host::Ipv4(ip) => Ok(ServerName::IpAddress((*ip).into())),
            Host::Ipv6(ip) => Ok(ServerName::IpAddress((*ip).into())),
        }
    }

    /// `text` without what may be secret: an answer often quotes the URL it was asked for.
    pub fn blot_out(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// The query, whole and value by value, as it was written and as it is meant.
fn secrets(url: &Url) -> Vec<String> {
    let raw = url.query().unwrap_or_default();
    let written = raw.split('&').map(|pair| {
        pair.split_once('=')
            .map_or(pair, |(_, value)| value)
            .to_owned()
    });
    let meant = url
        .query_pairs()
        .map(|(name, value)| if value.is_empty() { name } else { value }.into_owned());
    let mut secrets: Vec<String> = written.chain(meant).chain([raw.to_owned()]).collect();
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// Scheme, host, port and path.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}:{}{}",
            self.url.scheme(),
            self.host,
            self.port(),
            self.url.path()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_taken() {
        for (url, part) in [
            ("file:///etc/passwd", "neither https nor http"),
            ("gopher://example.com/", "neither https nor http"),
            ("ftp://example.com/", "neither https nor http"),
            ("data:text/plain,x", "neither https nor http"),
            ("unix:/run/docker.sock", "neither https nor http"),
            ("http://user:hunter2@example.com/", "user name or password"),
            ("http://user@example.com/", "user name or password"),
            ("https://:hunter2@example.com/", "user name or password"),
            ("example.com/hook", "no URL"),
            ("//example.com/hook", "no URL"),
            ("https://", "no URL"),
            ("https://example.com:99999/", "no URL"),
            ("https://exa mple.com/", "no URL"),
            ("http://[::1", "no URL"),
            ("http://1.2.3.256/", "no URL"),
        ] {
            let mistake = Target::parse(url)
                .err()
                .unwrap_or_else(|| panic!("{url} was taken"));
            assert!(
                mistake.contains(part) && !mistake.contains("hunter2"),
                "{url}: {mistake}"
            );
        }
    }

    #[test]
    fn what_is_sent_and_what_is_shown() {
        let target =
            Target::parse("HTTPS://Example.com/a/b?token=s3cr%20et&n=1#part").expect("an address");
        assert_eq!(target.to_string(), "https://example.com:443/a/b");
        assert_eq!(
            (target.authority(), target.path_and_query()),
            ("example.com", "/a/b?token=s3cr%20et&n=1")
        );
        let target = Target::parse("http://[2606:4700::1]:8080").expect("an address");
        assert_eq!(target.to_string(), "http://[2606:4700::1]:8080/");
        assert_eq!(
            (target.authority(), target.path_and_query()),
            ("[2606:4700::1]:8080", "/")
        );
    }

    #[test]
    fn an_answer_that_quotes_the_query_gives_nothing_away() {
        let target = Target::parse("https://example.com/hook?token=s3cr%20et&n=1&barekey")
            .expect("an address");
        let answer = "no /hook?token=s3cr%20et&n=1&barekey; s3cr et, s3cr%20et and barekey are wrong, n is 1";
        assert_eq!(
            target.blot_out(answer),
            "no /hook?***; ***, *** and *** are wrong, n is 1"
        );
    }
}
