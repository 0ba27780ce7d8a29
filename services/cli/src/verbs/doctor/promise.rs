//! Promise in plain words, derived from facts read back from the servers; what is not known counts as not so.

use super::report::Facts;

/// Profile of `deploy/` whose promise holds: `dev`, `durable` or `ha`.
pub fn profile(facts: &Facts) -> &'static str {
    if replicated(facts) && redis_stand_in(facts) && redis_fsyncs(facts) {
        "ha"
    } else if nats_fsyncs(facts) && redis_fsyncs(facts) {
        "durable"
    } else {
        "dev"
    }
}

/// Whether a replica has every commit before more are taken, so that it can take the place of Redis.
fn redis_stand_in(facts: &Facts) -> bool {
    facts.redis_replicas_required > 0 && facts.redis_replicas >= facts.redis_replicas_required
}

/// Whether streams survive the loss of a server: copies as they are now, not as they should be.
fn replicated(facts: &Facts) -> bool {
    facts.least_replicas >= Some(3) && facts.least_current >= Some(2)
}

/// Not known counts as no: a promise must not rest on a page that does not answer.
fn nats_fsyncs(facts: &Facts) -> bool {
    facts.nats_sync_always == Some(true)
}

/// Both settings: without the log there is nothing that could be written.
fn redis_fsyncs(facts: &Facts) -> bool {
    facts.appendonly.as_deref() == Some("yes") && facts.appendfsync.as_deref() == Some("always")
}

/// Sentences of the promise, the exceptions among them.
pub fn words(facts: &Facts) -> Vec<String> {
    let mut words = vec![
        "An event answered with 202 is handled to its end, set aside as a dead letter with its reason, or still waiting where `oncue ps` shows it.".to_owned(),
        "Each function's state and what follows from an event are written once, together or not at all, however often the event is delivered.".to_owned(),
    ];
    words.push(
        match (redis_fsyncs(facts), facts.appendonly.as_deref()) {
            (true, _) => "This holds when workers, the gateway, NATS or Redis are killed (kill -9) at any moment.",
            (false, Some("yes")) => {
                "This holds when workers, the gateway or NATS are killed (kill -9) at any moment; and Redis, unless its disk is slow just then (up to 2 seconds of state)."
            }
            (false, _) => "This holds when workers, the gateway or NATS are killed (kill -9). NOT when Redis restarts: nothing says that it keeps a log.",
        }
        .into(),
    );
    words.push(match (nats_fsyncs(facts), replicated(facts)) {
        (true, true) => "NATS keeps every event on three servers and writes to disk before it answers: accepted events survive a power cut, and the loss of one server.".to_owned(),
        (true, false) => "NATS writes to disk before it answers: accepted events survive a power cut.".to_owned(),
        (false, true) => "NATS keeps every event on three servers: accepted events survive the loss of one.".to_owned(),
        (false, false) => format!(
            "NOT when the power fails: NATS writes to disk {}, so the last accepted events may be lost.",
            nats_interval(facts)
        ),
    });
    words.push(match (redis_fsyncs(facts), facts.appendfsync.as_deref()) {
        (true, _) => "Redis writes to disk before it answers: committed state survives a power cut.".into(),
        (_, Some("everysec")) => {
            "NOT when the power fails: Redis writes to disk every second, so 1 to 2 seconds of state may be lost."
                .into()
        }
        _ => {
            "NOT when the power fails: when Redis writes to disk is left to the operating system, or not known.".into()
        }
    });
    if facts.redis_replicas_required > 0 {
        words.push(format!(
            "A replica that takes the place of Redis may lack what came last (up to {} s): workers notice and stop, and `oncue recover redis` restores it, once.",
            facts.redis_replica_lag
        ));
    }
    words.push("Never promised: that a handler runs only once (its effect counts once), or order between keys. Calls to the outside need the idempotency key.".into());
    words
}

fn nats_interval(facts: &Facts) -> String {
    match facts.nats_sync_seconds {
        Some(seconds) => format!("every {seconds} s"),
        None => {
            "at intervals (its monitoring page does not answer, so the worst is assumed)".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(appendonly: &str, appendfsync: &str) -> Facts {
        Facts {
            appendonly: Some(appendonly.into()),
            appendfsync: Some(appendfsync.into()),
            ..Facts::default()
        }
    }

    #[test]
    fn the_profile_needs_both_servers() {
        let both = Facts {
            nats_sync_always: Some(true),
            ..redis("yes", "always")
        };
        assert_eq!(profile(&both), "durable");
        assert_eq!(
            profile(&Facts {
                nats_sync_always: Some(true),
                ..redis("yes", "everysec")
            }),
            "dev"
        );
        assert_eq!(
            profile(&redis("yes", "always")),
            "dev",
            "what NATS does not say counts as no"
        );
        assert_eq!(profile(&Facts::default()), "dev");
    }

    #[test]
    fn what_stands_in_must_be_there() {
        let nats = || Facts {
            least_replicas: Some(3),
            least_current: Some(3),
            ..redis("yes", "always")
        };
        let whole = || Facts {
            redis_replicas_required: 1,
            redis_replicas: 1,
            redis_replica_lag: 10,
            ..nats()
        };
        assert_eq!(profile(&whole()), "ha");
        assert_eq!(
            profile(&Facts {
                least_current: Some(2),
                ..whole()
            }),
            "ha",
            "one of three may be away"
        );
        assert_eq!(
            profile(&Facts {
                least_current: Some(1),
                ..whole()
            }),
            "dev"
        );
        assert_eq!(
            profile(&Facts {
                redis_replicas: 0,
                ..whole()
            }),
            "dev",
            "nobody follows Redis"
        );
        assert_eq!(
            profile(&nats()),
            "dev",
            "nothing makes Redis wait for a replica"
        );
        let text = words(&whole()).join("\n");
        assert!(
            text.contains("on three servers") && text.contains("up to 10 s"),
            "{text}"
        );
    }

    #[test]
    fn weak_settings_are_said_in_words() {
        let text = words(&Facts {
            nats_sync_seconds: Some(120),
            ..redis("no", "everysec")
        })
        .join("\n");
        assert!(
            text.contains("NOT when Redis restarts") && text.contains("every 120 s"),
            "{text}"
        );
        assert!(
            !words(&Facts {
                nats_sync_always: Some(true),
                ..redis("yes", "always")
            })
            .join("\n")
            .contains("NOT")
        );
    }
}
