//! Who is there, by the NATS services API: `$SRV.PING`, `$SRV.STATS` [NATS ADR-32].

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_core::bus::Bus;
use serde::Deserialize;
use serde_json::Value;

use crate::exit::Failure;

/// One running instance of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Instance {
    pub name: String,
    pub id: String,
    pub version: String,
    pub started: String,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub num_requests: u64,
    pub num_errors: u64,
    pub last_error: Option<String>,
    /// Nanoseconds.
    pub processing_time: u64,
    pub data: Option<Value>,
}

impl Instance {
    /// One of the counters a worker keeps, over all its endpoints.
    pub fn count(&self, name: &str) -> u64 {
        let counts = self
            .endpoints
            .iter()
            .filter_map(|e| e.data.as_ref()?.get(name)?.as_u64());
        counts.sum()
    }
}

/// Everybody who answers, until nothing has come for `quiet`.
pub async fn ask(bus: &Bus, subject: &str, quiet: Duration) -> Result<Vec<Instance>, Failure> {
    let answers = bus.ask_all(subject, quiet).await.map_err(Failure::silent)?;
    // Whoever answers in another form is no worker of ours; that is no reason to fail.
    Ok(answers
        .iter()
        .filter_map(|note| serde_json::from_slice::<Instance>(&note.payload).ok())
        .filter(|i| !i.name.is_empty())
        .collect())
}

pub fn by_name(instances: Vec<Instance>) -> BTreeMap<String, Vec<Instance>> {
    let mut names: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for instance in instances {
        names
            .entry(instance.name.clone())
            .or_default()
            .push(instance);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_and_strangers_tolerated() {
        let json = r#"{"type":"io.nats.micro.v1.stats_response","name":"count-views","id":"a-1","endpoints":[
            {"name":"x","num_requests":3,"num_errors":1,"data":{"applied":2}},{"name":"y","data":{"applied":5}},{"name":"z"}]}"#;
        let instance: Instance = serde_json::from_str(json).unwrap();
        assert_eq!((instance.count("applied"), instance.count("dead")), (7, 0));
    }
}
