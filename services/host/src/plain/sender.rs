//! Headers by which a service knows who asks.

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use oncue_core::config::{Config, SecretSource};

/// Headers of every request, and where their values are.
pub struct Sender {
    headers: Vec<(HeaderName, SecretSource)>,
    config: Config,
}

impl Sender {
    /// Headers of a function's section. Nothing is read yet: a question about the function needs no secrets.
    ///
    /// # Errors
    /// A name that is none.
    pub fn new(headers: &BTreeMap<String, SecretSource>, config: &Config) -> Result<Self, String> {
        let headers = headers.iter().map(|(name, source)| {
            let header = name.parse().map_err(|e| format!("headers: {name}: {e}"))?;
            Ok((header, source.clone()))
        });
        Ok(Self {
            headers: headers.collect::<Result<_, String>>()?,
            config: config.clone(),
        })
    }

    /// Headers as they are now: a file may be replaced while the function runs.
    ///
    /// # Errors
    /// A value that is not to be had, or none for a header; a sentence without it.
    pub fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, source) in &self.headers {
            let text = source.read(&self.config);
            let text = text.map_err(|why| format!("headers: {name}: {why}"))?;
            let value = HeaderValue::from_str(&text);
            let mut value = value
                .map_err(|_| format!("headers: {name}: what is there is no value of a header"))?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }
}
