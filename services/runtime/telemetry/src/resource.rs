//! Resource, the sender of telemetry: service, function, host, process, container [OpenTelemetry resource
//! conventions]. The environment beats what was found.
//!
//! | attribute | from |
//! |---|---|
//! | `service.*`, `faas.*` | [`Service`] and the instance id |
//! | `host.name`, `os.version` | `/proc/sys/kernel` |
//! | `host.id` | `/etc/machine-id` |
//! | `host.arch`, `os.type`, `process.runtime.name` | the compiler |
//! | `process.pid`, `process.executable.*` | the process |
//! | `container.id` | `/proc/self/cgroup`, `/proc/self/mountinfo` |
//! | `telemetry.sdk.*` | the SDK |
//! | all but `process.pid`, and more | `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME` |
//!
//! Arguments of the command line are left out, since they may hold secrets.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use super::Service;
use oncue_proto::event::percent_decode;

/// Attributes of this process.
/// Precedence: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, what was found. Sent with every
/// request, so it is made once.
pub(super) fn resource(service: Service<'_>, instance: &str) -> Resource {
    let mut all = found(service, instance);
    all.extend(said(
        variable("OTEL_RESOURCE_ATTRIBUTES").as_deref(),
        variable("OTEL_SERVICE_NAME"),
    ));
    // The SDK's own detection of the environment would not decode values; it only adds `telemetry.sdk.*`.
    let mut attributes: Vec<KeyValue> = all
        .into_iter()
        .map(|(name, value)| KeyValue::new(name, value))
        .collect();
    attributes.push(KeyValue::new("process.pid", i64::from(std::process::id())));
    Resource::builder_empty()
        .with_detector(Box::new(
            opentelemetry_sdk::resource::TelemetryResourceDetector,
        ))
        .with_attributes(attributes)
        .build()
}

/// Attributes that tell this process from others, for `target_info` [OpenTelemetry, Prometheus compatibility]: name, version
/// and instance of the service, and what `OTEL_RESOURCE_ATTRIBUTES` says.
pub(super) fn target(service: Service<'_>, instance: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("service.name".to_owned(), service.name().to_owned()),
        ("service.version".to_owned(), service.version().to_owned()),
        ("service.instance.id".to_owned(), instance.to_owned()),
    ]);
    all.extend(said(
        variable("OTEL_RESOURCE_ATTRIBUTES").as_deref(),
        variable("OTEL_SERVICE_NAME"),
    ));
    all
}

/// Value of a variable; empty counts as unset.
/// Blank text as well, since it could only be a mistake.
fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.trim().is_empty())
}

/// Text of a file of the system, if it can be read.
/// Trimmed; such files end with a newline.
fn file(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Attributes that the process finds out by itself; what cannot be found is left out.
/// Without `/proc` that is everything read from there.
fn found(service: Service<'_>, instance: &str) -> BTreeMap<String, String> {
    let program = std::env::current_exe().ok();
    let all = [
        ("service.name", Some(service.name().to_owned())),
        ("service.version", Some(service.version().to_owned())),
        ("service.instance.id", Some(instance.to_owned())),
        ("host.name", file("/proc/sys/kernel/hostname")),
        ("host.id", file("/etc/machine-id")),
        ("host.arch", Some(arch().to_owned())),
        ("os.type", Some(std::env::consts::OS.to_owned())),
        ("os.version", file("/proc/sys/kernel/osrelease")),
        (
            "process.executable.path",
            program.as_ref().map(|path| path.display().to_string()),
        ),
        (
            "process.executable.name",
            program
                .as_ref()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        ),
        ("process.runtime.name", Some("rustc".to_owned())),
        (
            "container.id",
            container(
                &file("/proc/self/cgroup").unwrap_or_default(),
                &file("/proc/self/mountinfo").unwrap_or_default(),
            ),
        ),
    ];
    let function = match service {
        Service::Function { name, version } => [
            ("faas.name", Some(name.to_owned())),
            ("faas.version", Some(version.to_owned())),
            ("faas.instance", Some(instance.to_owned())),
        ],
        Service::Program { .. } => [
            ("faas.name", None),
            ("faas.version", None),
            ("faas.instance", None),
        ],
    };
    let known = all
        .into_iter()
        .chain(function)
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.filter(|(_, value)| !value.is_empty()).collect()
}

/// Architecture by the names of the conventions.
/// Others are as the compiler has them [OpenTelemetry host conventions, `host.arch`].
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Id of the container, from the text of `/proc/self/cgroup` and `/proc/self/mountinfo`: 64 hex
/// digits in the path of our control group, or, where that is hidden from us, in that of the files
/// a container engine mounts into every container. `None` outside of containers, and for engines
/// that name them otherwise.
fn container(cgroup: &str, mounts: &str) -> Option<String> {
    let mut mounted = mounts.lines().filter(|line| line.contains("/containers/"));
    container_id(cgroup).or_else(|| mounted.find_map(container_id))
}

/// First piece of exactly 64 lower-case hex digits between characters that are neither letters nor
/// digits.
fn container_id(text: &str) -> Option<String> {
    let mut pieces = text.split(|c: char| !c.is_ascii_alphanumeric());
    let id = pieces.find(|piece| {
        piece.len() == 64
            && piece
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    id.map(str::to_owned)
}

/// `OTEL_RESOURCE_ATTRIBUTES`, percent-decoded; with one pair broken all of it is dropped [OpenTelemetry resource
/// SDK]. Half of it could file the process under a wrong name. `service` is `OTEL_SERVICE_NAME`, which beats
/// `service.name` in the list.
fn said(attributes: Option<&str>, service: Option<String>) -> BTreeMap<String, String> {
    let pairs = attributes
        .unwrap_or_default()
        .split(',')
        .filter(|text| !text.trim().is_empty());
    let mut all: BTreeMap<String, String> =
        pairs.map(pair).collect::<Option<_>>().unwrap_or_default();
    if let Some(service) = service {
        all.insert("service.name".to_owned(), service);
    }
    all
}

/// `name=value`, both percent-decoded; `None` where it is broken.
fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((percent_decode(name.trim())?, percent_decode(value.trim())?))
        .filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_decoded_and_the_service_name_rules() {
        let all = said(
            Some("service.name=a, team = x%2Cy ,,deployment.environment.name=test"),
            Some("b".into()),
        );
        assert_eq!(all["service.name"], "b");
        assert_eq!(
            (
                all["team"].as_str(),
                all["deployment.environment.name"].as_str()
            ),
            ("x,y", "test")
        );
        assert!(said(Some("good=1,broken"), None).is_empty());
    }

    #[test]
    fn a_container_is_known_by_its_group_or_its_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let group = format!("0::/system.slice/docker-{id}.scope");
        assert_eq!(container(&group, "").as_ref(), Some(&id));
        let mounts = format!(
            "1 2 8:1 /other/{} / rw\n3 4 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname",
            "f".repeat(64)
        );
        assert_eq!(container("0::/", &mounts), Some(id));
        assert_eq!(container("0::/user.slice", "1 2 8:1 / / rw"), None);
    }

    #[test]
    fn a_process_says_where_and_what_it_is() {
        let function = Service::Function {
            name: "count-views",
            version: "7.1.0",
        };
        let resource = resource(function, "here-1");
        for name in ["service.version", "faas.version"] {
            let version = resource.get(&name.into()).map(|value| value.to_string());
            assert_eq!(version.as_deref(), Some("7.1.0"), "{name}");
        }
        for name in [
            "service.name",
            "service.instance.id",
            "faas.name",
            "host.name",
            "os.type",
            "process.pid",
            "telemetry.sdk.name",
        ] {
            assert!(resource.get(&name.into()).is_some(), "{name}");
        }
    }
}
