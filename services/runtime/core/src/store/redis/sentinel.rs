//! Redis behind sentinels [Redis Sentinel client spec]: which server is the primary is asked of them, at first and each
//! time the connection turns out to be dead, to a replica, or refused.
//!
//! The client library's own sentinel support asks only when a call fails, and blocks; the question is one command, so it
//! is asked here.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, RedisError, Value, cmd,
};

use super::login::Login;

/// Port of a sentinel that is named without one.
const DEFAULT_PORT: &str = "26379";
/// Behind the scheme of the servers in a URL that names sentinels.
const SCHEME_SUFFIX: &str = "+sentinel";
/// Longest wait for a sentinel, or for the server that it names.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Sentinels, and what a connection to the primary they know needs.
#[derive(Debug, Clone)]
pub(super) struct Sentinels {
    /// Scheme of all servers, `redis` or `rediss`.
    scheme: String,
    /// URL of each, with the credentials of sentinels.
    urls: Vec<String>,
    /// Name of the primary among them.
    name: String,
    /// `USER:PASSWORD@` of the primary; empty for none.
    login: String,
    /// `/DB?PARAMETERS` of the primary.
    rest: String,
}

/// Answer of one sentinel.
#[derive(Debug, Clone)]
pub struct SentinelAnswer {
    /// Host and port of the sentinel.
    pub sentinel: String,
    /// Host and port of the primary, or why it was not told.
    pub primary: Result<String, String>,
}

impl Sentinels {
    /// Reads `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../NAME[/DB][?sentinel_user=U&sentinel_pass=P]`, or
    /// `rediss+sentinel://...` for sentinels and servers with TLS; `None` for any other URL. No error quotes the URL, which may
    /// hold passwords.
    pub fn of_url(url: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = url.split_once("://")?;
        Some(Self::read(scheme.strip_suffix(SCHEME_SUFFIX)?, rest))
    }

    fn read(scheme: &str, rest: &str) -> Result<Self, String> {
        let (address, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, address) = match address.rsplit_once('@') {
            Some((login, address)) => (format!("{login}@"), address),
            None => (String::new(), address),
        };
        let mut path = address.split('/');
        let hosts = path.next().unwrap_or_default();
        let name = path.next().unwrap_or_default();
        let db = path.next().unwrap_or("0");
        if name.is_empty() || path.next().is_some() || db.parse::<u32>().is_err() {
            return Err("it must name the primary behind the sentinels, as in \
                 redis+sentinel://HOST:26379,HOST:26379/mymaster or .../mymaster/0"
                .to_owned());
        }
        let mut user = "";
        let mut password = "";
        let mut kept = Vec::new();
        for parameter in parameters
            .split('&')
            .filter(|parameter| !parameter.is_empty())
        {
            match parameter.split_once('=') {
                Some(("sentinel_user", value)) => user = value,
                Some(("sentinel_pass", value)) => password = value,
                Some(("protocol", _)) => kept.push(parameter),
                _ => {
                    return Err(
                        "behind the question mark may stand sentinel_user, sentinel_pass and protocol"
                            .to_owned(),
                    );
                }
            }
        }
        let sentinel_login = match (user, password) {
            ("", "") => String::new(),
            // The password is in a file.
            (user, "") => format!("{user}@"),
            (user, password) => format!("{user}:{password}@"),
        };
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return Err("a sentinel has no host".to_owned());
        }
        let urls = hosts.into_iter().map(|host| {
            let port = if has_port(host) {
                String::new()
            } else {
                format!(":{DEFAULT_PORT}")
            };
            format!("{scheme}://{sentinel_login}{host}{port}")
        });
        let parameters = if kept.is_empty() {
            String::new()
        } else {
            format!("?{}", kept.join("&"))
        };
        let read = Self {
            scheme: scheme.to_owned(),
            urls: urls.collect(),
            name: name.to_owned(),
            login,
            rest: format!("/{db}{parameters}"),
        };
        // What the client cannot read must show now, and not in the middle of a failover.
        for url in read.urls.iter().chain([&read.url_of("localhost", "6379")]) {
            let unreadable = url.as_str().into_connection_info().err();
            if let Some(why) = unreadable {
                return Err(why.to_string());
            }
        }
        Ok(read)
    }

    /// Name of the primary.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn url_of(&self, host: &str, port: &str) -> String {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let scheme = &self.scheme;
        format!("{scheme}://{}{host}:{port}{}", self.login, self.rest)
    }

    /// The primary, of the first sentinel that names a server which says so itself.
    ///
    /// # Errors
    ///
    /// What each of them answered.
    pub async fn primary(&self, login: &Login) -> Result<ConnectionInfo, RedisError> {
        let mut answers = Vec::new();
        for url in &self.urls {
            match self.ask(url, login).await {
                Ok(info) => return Ok(info),
                Err(why) => answers.push(format!("{}: {why}", shown(url))),
            }
        }
        let why = format!(
            "no sentinel names a primary {:?} that takes writes ({})",
            self.name,
            answers.join("; ")
        );
        Err(std::io::Error::new(std::io::ErrorKind::NotConnected, why).into())
    }

    /// Answers of all of them, for a person.
    pub async fn answers(&self, login: &Login) -> Vec<SentinelAnswer> {
        let answers = self.urls.iter().map(async |url| SentinelAnswer {
            sentinel: shown(url),
            primary: self
                .ask(url, login)
                .await
                .map(|info| info.addr().to_string())
                .map_err(|e| e.to_string()),
        });
        futures_util::future::join_all(answers).await
    }

    /// The primary by one sentinel, once that has said itself that it is one: around a failover a sentinel may be late.
    async fn ask(&self, url: &str, login: &Login) -> Result<ConnectionInfo, RedisError> {
        let sentinel = login.sentinel(url.into_connection_info()?)?;
        let told: Option<(String, String)> = cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.name)
            .query_async(&mut connect(&sentinel).await?)
            .await?;
        let Some((host, port)) = told else {
            return Err(other(format!("it knows no primary {:?}", self.name)));
        };
        let info = self.url_of(&host, &port).into_connection_info()?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let asked = async {
            let primary = login.client(info.clone())?;
            cmd("ROLE")
                .query_async::<Value>(&mut connect(&primary).await?)
                .await
        };
        match asked.await {
            Ok(role) if is_primary(&role) => Ok(info),
            Ok(_) => Err(other(format!("it names {host}:{port}, which is a replica"))),
            Err(e) => Err(other(format!("it names {host}:{port}: {e}"))),
        }
    }
}

/// Whether an answer to `ROLE` is that of a primary: a list that begins with `master`.
pub(super) fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else {
        return true;
    };
    matches!(parts.first(), Some(Value::BulkString(name)) if name == b"master")
}

/// A connection for one question.
async fn connect(server: &Client) -> Result<MultiplexedConnection, RedisError> {
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SENTINEL_TIMEOUT))
        .set_response_timeout(Some(SENTINEL_TIMEOUT));
    server
        .get_multiplexed_async_connection_with_config(&limits)
        .await
}

fn other(why: String) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, why).into()
}

/// Host and port of a URL of ours, without the login.
fn shown(url: &str) -> String {
    let address = url.rsplit(['@', '/']).next();
    address.unwrap_or_default().to_owned()
}

/// Whether a host is named with its port; an IPv6 address stands in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.contains(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Sentinels, String> {
        Sentinels::of_url(url).expect("of sentinels")
    }

    #[test]
    fn a_url_names_sentinels_and_the_primary() {
        let all = read(
            "redis+sentinel://me:p%40ss@a,b:1,[::1]/main/2?sentinel_user=s&sentinel_pass=w%26&protocol=resp3",
        )
        .expect("read");
        let urls = [
            "redis://s:w%26@a:26379",
            "redis://s:w%26@b:1",
            "redis://s:w%26@[::1]:26379",
        ];
        assert_eq!(all.urls, urls);
        assert_eq!(all.name(), "main");
        assert_eq!(
            all.url_of("h", "7"),
            "redis://me:p%40ss@h:7/2?protocol=resp3"
        );
        assert_eq!(
            all.url_of("::2", "7"),
            "redis://me:p%40ss@[::2]:7/2?protocol=resp3"
        );
        let plain = read("redis+sentinel://a/main").expect("read");
        assert_eq!(plain.urls, ["redis://a:26379"]);
        assert_eq!(plain.url_of("h", "7"), "redis://h:7/0");
        let encrypted = read("rediss+sentinel://me@a/main?sentinel_user=s").expect("read");
        assert_eq!(encrypted.urls, ["rediss://s@a:26379"]);
        assert_eq!(encrypted.url_of("h", "7"), "rediss://me@h:7/0");
        assert!(Sentinels::of_url("redis://a/main").is_none());
    }

    #[test]
    fn a_mistake_is_said_without_a_password() {
        for (url, why) in [
            ("redis+sentinel://:s3cret@a", "must name the primary"),
            ("redis+sentinel://:s3cret@a/", "must name the primary"),
            ("redis+sentinel://:s3cret@a/m/x", "must name the primary"),
            ("redis+sentinel://:s3cret@a/m/1/2", "must name the primary"),
            ("redis+sentinel://:s3cret@/m", "no host"),
            ("redis+sentinel://:s3cret@a,/m", "no host"),
            ("redis+sentinel://a/m?pass=s3cret", "sentinel_pass"),
            ("redis+sentinel://:s3cret@a:x/m", ""),
            ("http+sentinel://:s3cret@a/m", ""),
        ] {
            let said = read(url).expect_err(url);
            assert!(
                said.contains(why) && !said.contains("s3cret"),
                "{url}: {said}"
            );
        }
    }

    #[test]
    fn a_sentinel_is_shown_without_its_login() {
        assert_eq!(shown("redis://s:w@a:26379"), "a:26379");
        assert_eq!(shown("redis://[::1]:26379"), "[::1]:26379");
    }
}
