//! Proofs among servers that stand in for each other (`deploy/ha`): nats-servers in their routes, a redis-server to the
//! one that it follows, sentinels to both redis-servers and among themselves.

use std::io;
use std::path::Path;

use oncue_core::config::{LockedServers, SENTINEL_USER};

use super::keys::{KeyFolder, named, replace};
use super::users::hash;

/// Folders for each kind of server, beside those of roles.
pub(super) const FOLDERS: [&str; 3] = ["nats", "replica", "sentinel"];
/// Port of routes.
const ROUTES: u16 = 6222;
/// Name of the primary where the URL of Redis names no sentinels.
const PRIMARY: &str = "mymaster";
/// Rights of a replica in Redis, and of sentinels [Redis: ACL rules for Sentinel and replicas].
const REPLICA_RULES: &str = "-@all +psync +replconf +ping";
const SENTINEL_RULES: &str = "-@all allchannels +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info \
     +client|setname +client|kill +script|kill";
/// Rights of our programs among sentinels: they ask for the primary, and order nothing.
const ASK_RULES: &str = "-@all +auth +hello +ping +sentinel|get-master-addr-by-name";

/// Credentials of servers among themselves, as far as others need them.
pub(super) struct Peers {
    /// Lines of users for the `aclfile` of both redis-servers.
    pub users: String,
    /// Password of [`SENTINEL_USER`].
    pub sentinel_password: String,
}

/// Writes `nats/`, `replica/` and `sentinel/`, each with a secret that is kept and what its servers include.
///
/// # Errors
/// A file that cannot be read or written, by its path.
pub(super) fn write(root: &Path, servers: &LockedServers) -> io::Result<Peers> {
    let [nats, replica, sentinel] = FOLDERS.map(|name| KeyFolder::new(root.join(name)));
    let routes = routes(
        servers.nats.as_deref().unwrap_or_default(),
        &nats.secret("routes.secret")?,
    );
    put(&nats, "routes.conf", &routes)?;
    let password = replica.secret("replica.redis")?;
    let follow = format!(
        "# For `include` by each redis-server: whichever is the replica follows as this user.\n\
         masteruser replica\nmasterauth {password}\n"
    );
    put(&replica, "replication.conf", &follow)?;
    let at_servers = sentinel.secret("sentinel.redis")?;
    let among = sentinel.secret("sentinels.redis")?;
    let sentinel_password = sentinel.secret("clients.redis")?;
    let name = primary(servers.redis.as_deref().unwrap_or_default());
    let watch = format!(
        "# Behind `sentinel monitor {name} ...` in the configuration of each sentinel.\n\
         user default off\n\
         user {SENTINEL_USER} on #{} {ASK_RULES}\n\
         user sentinels on #{} ~* &* +@all\n\
         sentinel sentinel-user sentinels\nsentinel sentinel-pass {among}\n\
         sentinel auth-user {name} sentinel\nsentinel auth-pass {name} {at_servers}\n",
        hash(&sentinel_password),
        hash(&among),
    );
    put(&sentinel, "sentinel.conf", &watch)?;
    Ok(Peers {
        users: format!(
            "user replica reset on #{} {REPLICA_RULES}\nuser sentinel reset on #{} {SENTINEL_RULES}\n",
            hash(&password),
            hash(&at_servers),
        ),
        sentinel_password,
    })
}

fn put(folder: &KeyFolder, name: &str, text: &str) -> io::Result<()> {
    let file = folder.path().join(name);
    replace(&file, text).map_err(|e| named(&file, &e))
}

/// Routes between the servers of a URL: who would join has to prove it.
fn routes(nats: &str, secret: &str) -> String {
    let hosts = nats.split(',').map(|server| {
        let address = server.split_once("://").map_or(server, |(_, rest)| rest);
        let address = address.rsplit_once('@').map_or(address, |(_, host)| host);
        match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            _ => address,
        }
    });
    let routes =
        hosts.map(|host| format!("  \"nats://route:{secret}@{}:{ROUTES}\"\n", host.trim()));
    format!(
        "# For `include` within `cluster` by each nats-server.\n\
         authorization {{ user: route, password: \"{secret}\", timeout: 2 }}\nroutes: [\n{}]\n",
        routes.collect::<String>()
    )
}

/// Name of the primary that the sentinels of a URL watch.
fn primary(redis: &str) -> &str {
    let behind = redis
        .split_once("+sentinel://")
        .and_then(|(_, rest)| rest.rsplit('@').next()?.split(['/', '?']).nth(1));
    behind.filter(|name| !name.is_empty()).unwrap_or(PRIMARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_lead_to_the_hosts_of_the_url() {
        let text = routes(
            "nats://nats-1:4222, nats://me:p@nats-2:4222,tls://[::1]",
            "s",
        );
        for route in [
            "route:s@nats-1:6222\"",
            "route:s@nats-2:6222\"",
            "route:s@[::1]:6222\"",
        ] {
            assert!(text.contains(route), "{text}");
        }
    }

    #[test]
    fn the_primary_is_the_one_that_sentinels_are_asked_for() {
        assert_eq!(
            primary("redis+sentinel://a:1,b/main/0?protocol=resp3"),
            "main"
        );
        assert_eq!(primary("redis+sentinel://me@a/main"), "main");
        assert_eq!(primary("redis://a:6379/0"), "mymaster");
    }
}
