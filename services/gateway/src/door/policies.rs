//! Policies of the configuration, made once, and named by what they guard.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncue_core::config::Config;
use oncue_core::store::Store;

use super::auth::{Auth, Shared};
use super::brake::Brake;
use super::keys::Keys;

/// Policies by their names.
pub struct Policies {
    auths: BTreeMap<String, Arc<Auth>>,
}

/// Policy before a path; by default it asks nothing.
#[derive(Clone, Default)]
pub struct Policy {
    /// Credentials that are asked for; `None` for none.
    pub auth: Option<Arc<Auth>>,
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
            brake: Brake::default(),
        });
        let mut auths = BTreeMap::new();
        for (name, auth) in &config.auths {
            let auth = Auth::new(auth.clone(), shared.clone());
            let auth = auth.map_err(|why| format!("[auth.{name}] {why}"))?;
            auths.insert(name.clone(), Arc::new(auth));
        }
        Ok(Self { auths })
    }

    /// Policy of these names, which the configuration was checked to have.
    pub fn policy(&self, auth: Option<&str>) -> Policy {
        Policy {
            auth: auth.and_then(|name| self.auths.get(name).cloned()),
        }
    }
}
