//! Rights compared with those that running servers give: what they give beyond, and what they lack. Each party asks NATS with
//! its own credentials who it is there; of Redis the operator asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::info::{Allowed, UserInfo};
use oncue_core::config::{Config, LockedServers};
use oncue_core::store::{Store, StoreError, StoredUser};

use super::accounts::{self, Permissions};
use super::keys::KeyFolder;
use super::users;
use super::{Grant, Rights, Role};

/// Longest wait for a server that does not take a key.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Differences between the rights and the servers.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Whether other apps use the servers too: then everybody has a key, and nobody the whole of Redis.
    shared: bool,
    /// Roles that were compared in NATS.
    pub in_nats: usize,
    /// Roles among them that got no answer in time: refused, or NATS is away where these are all.
    pub silent: usize,
    /// Users that were compared in Redis.
    pub in_redis: usize,
    /// Roles without credentials here, which therefore could not ask NATS.
    pub without_key: Vec<Role>,
    /// Sentences by whose rights they are about.
    pub differences: BTreeMap<String, Vec<String>>,
}

impl Comparison {
    /// Compares with the servers of the configuration; `folder` has the credentials. A server that the folder has none for is
    /// compared as far as the configuration's own credentials allow.
    ///
    /// # Errors
    /// Redis does not answer, or does not let the operator ask.
    pub async fn of(
        rights: &Rights,
        config: &Config,
        folder: &KeyFolder,
        store: &Store,
    ) -> Result<Self, StoreError> {
        let servers = LockedServers::read(folder.of(&Role::Operator).path());
        let mut compared = Self {
            shared: servers.is_some_and(|servers| servers.shared),
            ..Self::default()
        };
        for grant in &rights.grants {
            compared.look_in_nats(rights, grant, config, folder).await;
        }
        compared.look_in_redis(rights, folder, store).await?;
        Ok(compared)
    }

    fn say(&mut self, whose: &impl ToString, sentence: String) {
        let said = self.differences.entry(whose.to_string()).or_default();
        said.push(sentence);
    }

    async fn look_in_nats(
        &mut self,
        rights: &Rights,
        grant: &Grant,
        config: &Config,
        folder: &KeyFolder,
    ) {
        let role = &grant.role;
        let folder = folder.of(role);
        let mut server = config.nats.clone();
        if *role == Role::Public && !self.shared {
            server.url = server.url.anonymous();
            server.credentials = None;
        } else if folder.nats(role).is_file() {
            server.credentials = Some(folder.nats(role));
        } else if *role != Role::Operator {
            self.without_key.push(role.clone());
            return;
        }
        let asked = async {
            let bus = Bus::connect(server, "oncue-rights").await?;
            bus.user_info().await
        };
        let answer = tokio::time::timeout(LOGIN_TIMEOUT, asked).await;
        self.in_nats += 1;
        match answer {
            Ok(Ok(user)) => self.compare_nats(rights, grant, &user),
            Ok(Err(e)) => self.say(role, format!("NATS does not say what it may: {e}")),
            Err(_) => {
                self.silent += 1;
                self.say(role, "NATS does not let it in".to_owned());
            }
        }
    }

    fn compare_nats(&mut self, rights: &Rights, grant: &Grant, user: &UserInfo) {
        let role = &grant.role;
        let account = role.account(&rights.app);
        if user.account != account {
            let found = &user.account;
            self.say(
                role,
                format!("NATS has it in the account {found}, and not in {account}"),
            );
        }
        let expected = accounts::permissions(rights, grant);
        if user.may_everything() {
            if expected.is_some() {
                self.say(role, "NATS lets it do everything in its account".to_owned());
            }
            return;
        }
        let Some(expected) = expected else {
            self.say(role, "NATS restricts what it may do".to_owned());
            return;
        };
        let Permissions {
            publish, subscribe, ..
        } = expected;
        let parts = [
            ("publish", publish, &user.permissions.publish),
            ("hear", subscribe, &user.permissions.subscribe),
        ];
        for (verb, expected, found) in parts {
            let Allowed { allow, deny } = found;
            for subject in allow.difference(&expected) {
                let line = format!("NATS lets it {verb} {subject}, which nothing declares");
                self.say(role, line);
            }
            for subject in expected.difference(allow).chain(deny) {
                self.say(role, format!("NATS does not let it {verb} {subject}"));
            }
        }
    }

    async fn look_in_redis(
        &mut self,
        rights: &Rights,
        folder: &KeyFolder,
        store: &Store,
    ) -> Result<(), StoreError> {
        let expected = if self.shared {
            users::tenants(rights)
        } else {
            users::users(rights)
        };
        let beginning = format!("{}.", rights.app);
        let names = store.user_names().await?;
        for name in names.iter().filter(|name| name.starts_with(&beginning)) {
            if !expected.iter().any(|(_, user)| user.name == *name) {
                let line = "Redis has this user, who belongs to nobody of the app".to_owned();
                self.say(&format!("user {name}"), line);
            }
        }
        if store.user("default").await?.is_some_and(|user| user.is_on) {
            let line = "Redis lets in whoever gives no name: ACL SETUSER default off".to_owned();
            self.say(&"user default", line);
        }
        for (role, user) in expected {
            self.in_redis += 1;
            match store.user(&user.name).await? {
                Some(found) => {
                    let expected = user.described_by(store, &rights.app).await?;
                    self.compare_redis(role, &expected, &found, &folder.of(role));
                }
                None => self.say(role, format!("Redis has no user {}", user.name)),
            }
        }
        Ok(())
    }

    fn compare_redis(
        &mut self,
        role: &Role,
        expected: &BTreeSet<String>,
        found: &StoredUser,
        folder: &KeyFolder,
    ) {
        if !found.is_on {
            self.say(role, "Redis has switched its user off".to_owned());
        }
        if found.is_open {
            self.say(role, "Redis lets it in without a password".to_owned());
        }
        if found.has_selectors {
            self.say(role, "Redis gives it more by selectors".to_owned());
        }
        for right in found.rights.difference(expected) {
            self.say(
                role,
                format!("Redis gives it {right}, which nothing declares"),
            );
        }
        for right in expected.difference(&found.rights) {
            self.say(role, format!("Redis does not give it {right}"));
        }
        let file = folder.redis(role);
        if file.is_file() {
            let password = folder.password(role).unwrap_or_default();
            let own: BTreeSet<String> = [users::hash(&password)].into();
            if found.passwords.is_disjoint(&own) {
                self.say(
                    role,
                    format!("Redis does not take the password of {}", file.display()),
                );
            }
            if found.passwords.difference(&own).next().is_some() {
                self.say(role, "Redis takes another password as well".to_owned());
            }
        }
    }
}
