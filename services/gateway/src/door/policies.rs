//! Policies of the configuration, made once, and named by what they guard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::config::{AuthConfig, Config};
use oncue_core::store::Store;
use oncue_http::brake::Brake;
use oncue_http::rate::Rate;

use super::auth::{Auth, Shared};
use super::keys::Keys;
use super::limit::Limit;

/// Credentials that are none, of one address.
const PER_ADDRESS: Rate = Rate {
    interval: Duration::from_millis(500),
    burst: 20,
};
/// Credentials that are none, of all addresses.
const IN_ALL: Rate = Rate {
    interval: Duration::from_millis(2),
    burst: 1000,
};

/// Policies by their names.
pub struct Policies {
    auths: BTreeMap<String, Arc<Auth>>,
    limits: BTreeMap<String, Arc<Limit>>,
}

/// Policy before a path; by default it asks nothing.
#[derive(Clone, Default)]
pub struct Policy {
    /// Credentials that are asked for; `None` for none.
    pub auth: Option<Arc<Auth>>,
    /// How often; `None` for as often as they like.
    pub limit: Option<Arc<Limit>>,
}

impl Policies {
    /// Policies of a configuration.
    ///
    /// # Errors
    /// A line that names the policy.
    pub fn new(config: &Config, store: &Store) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            store: store.clone(),
            keys: Keys::default(),
            brake: Brake::new(PER_ADDRESS, IN_ALL),
        });
        let mut auths = BTreeMap::new();
        for (name, auth) in &config.auths {
            let auth = Auth::new(auth.clone(), shared.clone());
            let auth = auth.map_err(|why| format!("[auth.{name}] {why}"))?;
            auths.insert(name.clone(), Arc::new(auth));
        }
        let limits = config.limits.iter().map(|(name, limit)| {
            let limit = Limit::new(name, limit, store);
            (name.clone(), Arc::new(limit))
        });
        Ok(Self {
            auths,
            limits: limits.collect(),
        })
    }

    /// Settings of all that ask for a credential, by their names.
    pub fn auth_configs(&self) -> BTreeMap<String, AuthConfig> {
        let auths = self.auths.iter();
        auths
            .map(|(name, auth)| (name.clone(), auth.config.clone()))
            .collect()
    }

    /// First of these names that is none here, with its section.
    pub fn unknown(&self, auth: Option<&str>, limit: Option<&str>) -> Option<String> {
        let auth = auth.filter(|name| !self.auths.contains_key(*name));
        let limit = limit.filter(|name| !self.limits.contains_key(*name));
        auth.map(|name| format!("[auth.{name}]"))
            .or(limit.map(|name| format!("[limit.{name}]")))
    }

    /// Policy of these names, which the configuration was checked to have.
    pub fn policy(&self, auth: Option<&str>, limit: Option<&str>) -> Policy {
        Policy {
            auth: auth.and_then(|name| self.auths.get(name).cloned()),
            limit: limit.and_then(|name| self.limits.get(name).cloned()),
        }
    }
}
