//! `oncue doctor` where something is wrong: it goes on, and promises nothing it should not.

use oncue_tests::cluster::{Cluster, Servers};

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
