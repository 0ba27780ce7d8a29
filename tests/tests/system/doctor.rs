//! `oncue doctor` where something is wrong: it goes on, and promises nothing it should not.

use oncue_proto::event;
use oncue_tests::cluster::{Cluster, Servers};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

#[tokio::test]
async fn a_redis_that_evicts_is_named_and_all_the_rest_is_looked_at() {
    let redis_args = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"];
    let servers = Servers {
        redis_args: redis_args.map(str::to_owned).to_vec(),
        ..Servers::default()
    };
    let cluster = Cluster::with("", servers).await;
    let doctor = cluster.output("oncue", &["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(
        doctor.status.code(),
        Some(1),
        "to be set right, and not away: {said}"
    );
    for part in [
        "allkeys-lru",
        "function library",
        "Redis was not used by this app yet",
        "Not promised before what says FIX is set right",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(!said.contains("a server does not answer"), "{said}");
}

/// PEM of a certificate that ends so many days from now.
fn certificate(days: i64) -> String {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let end = event::now_ms().saturating_add_signed(days * 86_400_000);
    let date = event::format_time(end);
    let number = |from: usize, to: usize| date[from..to].parse::<u16>().expect("a date");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(
        i32::from(number(0, 4)),
        u8::try_from(number(5, 7)).expect("a month"),
        u8::try_from(number(8, 10)).expect("a day"),
    );
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem()
}

#[tokio::test]
async fn certificates_are_named_before_they_expire() {
    let config = "[gateway.tls]\ncertificate = \"gateway.pem\"\nkey = \"gateway.key\"\n\
                  [console.tls]\ncertificate = \"console.pem\"\nkey = \"console.key\"\n";
    let mut cluster = Cluster::new(config).await;
    // Read by servers alone, of which none runs here.
    let ca = cluster.dir.join("ca.pem");
    cluster.set("ONCUE_REDIS_CA", &ca.display().to_string());
    let look = |gateway: i64, console: i64, authorities: &[i64]| {
        let write = |name: &str, text: String| {
            std::fs::write(cluster.dir.join(name), text).expect("written");
        };
        write("gateway.pem", certificate(gateway));
        // With one behind it that leads to one which others know.
        write("console.pem", certificate(400) + &certificate(console));
        write(
            "ca.pem",
            authorities.iter().map(|days| certificate(*days)).collect(),
        );
        let doctor = cluster.output("oncue", &["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        (doctor.status.code(), said)
    };
    let (code, said) = look(29, -3, &[-9, 90]);
    assert_ne!(code, Some(0), "{said}");
    for part in [
        "certificate of the gateway expires at ",
        "certificate of the console has expired at ",
        "authority of Redis is good until ",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    std::fs::remove_file(cluster.dir.join("gateway.pem")).expect("removed");
    let doctor = cluster.output("oncue", &["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("certificate of the gateway: "), "{said}");
    let (_, said) = look(31, 31, &[-9]);
    for part in [
        "certificate of the gateway is good until ",
        "certificate of the console is good until ",
        "authority of Redis has expired at ",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}
