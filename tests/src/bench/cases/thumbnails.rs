//! Photographs of a camera's size, uploaded over HTTP, made small by the real function.

use serde_json::Value;

use crate::bench::arena::{Arena, Profile};
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Plan, Row};
use crate::bench::usage::{cpu, memory};
use crate::cluster::{free_port, wait_for_port};
use crate::pictures;

const PLACE: &str = "files.make-thumbnails";
/// 12 megapixels.
const SIZE: (u32, u32) = (4000, 3000);

pub async fn thumbnails(plan: Plan) -> Case {
    let mut case = Case::default();
    let mut arena = Arena::open(Profile::Fast).await;
    arena.cluster.set("QUOTA_BYTES", "10000000000");
    let port = free_port();
    arena
        .cluster
        .set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
    let gateway = arena.cluster.spawn("oncue-gateway", &[]);
    wait_for_port(port).await;
    let mut workers = arena
        .cluster
        .start_all(&["make-thumbnails", "inspect-file", "enforce-quota"])
        .await;
    let photo = pictures::photo(SIZE.0, SIZE.1);
    let (count, http) = (plan.size(8_u32, 3), reqwest::Client::new());
    let (mut rates, mut per_core) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        progress(&format!("thumbnails: round {round} of {}", plan.rounds));
        arena
            .pause(PLACE, oncue_proto::event::now_ms() + 3_600_000)
            .await;
        for number in 0..count {
            let url = format!("http://127.0.0.1:{port}/v1/files/photo-{round}-{number}.jpg");
            let answer = http
                .put(url)
                .body(photo.clone())
                .send()
                .await
                .expect("the gateway answers");
            assert_eq!(answer.status(), 202, "{:?}", answer.text().await);
        }
        arena
            .cluster
            .drained(&arena.bus, "files", "enforce-quota")
            .await;
        let begin = oncue_proto::event::now_ms() + 300;
        let before = cpu(workers[0].pid());
        arena.pause(PLACE, begin).await;
        let end = arena.drained(PLACE, &mut workers).await;
        rates.push(f64::from(count) / (end - begin as f64 / 1000.0));
        per_core.push(f64::from(count) / ((cpu(workers[0].pid()) - before) / 1e6));
        let made = arena
            .bus
            .api(
                "STREAM.INFO.files",
                &serde_json::json!({ "subjects_filter": ">" }),
            )
            .await;
        let made = made.expect("the stream")["state"]["subjects"].clone();
        let all = made
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(s, _)| s.starts_with("files.thumbnail.made"));
        let all: u64 = all.filter_map(|(_, n): (&String, &Value)| n.as_u64()).sum();
        assert_eq!(
            all,
            u64::from(count) * 3 * round as u64,
            "thumbnails of three sizes"
        );
    }
    let peak = memory(workers[0].pid(), "VmHWM") as f64 / 1024.0;
    let figures = vec![
        Figure::new("photographs per core", "/s", per_core),
        Figure::new("per worker", "/s", rates),
    ];
    let name = format!(
        "{}x{}, {} kB, three thumbnails",
        SIZE.0,
        SIZE.1,
        photo.len() / 1000
    );
    case.rows.push(Row {
        name,
        figures,
        details: vec![Figure::new("peak", "MB", [peak])],
    });
    drop(gateway);
    case
}
