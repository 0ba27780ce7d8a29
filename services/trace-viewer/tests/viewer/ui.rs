//! The page for every view, the assets as they were packed.

use crate::harness::{Viewer, http};

const SCRIPT: &str = "/static/index-Ba4Pmzjs.js";

#[tokio::test]
async fn every_view_is_the_page() {
    let viewer = Viewer::start().await;
    for path in [
        "/",
        "/search",
        "/trace/0123456789abcdef",
        "/dependencies?x=1",
        "/trace/a...b",
    ] {
        let answer = viewer.get(path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/html; charset=utf-8")),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert!(answer.text().contains(SCRIPT), "{path}");
    }
}

#[tokio::test]
async fn assets_go_out_gzipped_and_may_be_kept_for_ever() {
    let viewer = Viewer::start().await;
    let types = [
        (SCRIPT, "text/javascript; charset=utf-8"),
        ("/static/index-BCPS3alI.css", "text/css; charset=utf-8"),
        ("/static/jaeger-logo-CNZsoUdk.svg", "image/svg+xml"),
        ("/static/favicon-BxcVf0am.ico", "image/x-icon"),
    ];
    for (path, content_type) in types {
        let answer = http(
            viewer.at.ui,
            "GET",
            path,
            &[("accept-encoding", "gzip, deflate, br")],
            b"",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("content-encoding")),
            (200, Some("gzip")),
            "{path}"
        );
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert!(
            answer
                .header("cache-control")
                .is_some_and(|value| value.contains("immutable"))
        );
        assert_eq!(answer.body[..2], [0x1f, 0x8b]);
    }
}

#[tokio::test]
async fn a_client_without_gzip_gets_plain_text() {
    let viewer = Viewer::start().await;
    let answer = viewer.get(SCRIPT).await;
    assert_eq!(
        (answer.status, answer.header("content-encoding")),
        (200, None)
    );
    assert!(answer.body.starts_with(b"var "), "JavaScript");
}

#[tokio::test]
async fn an_asset_that_is_not_there_is_404_and_not_the_page() {
    let viewer = Viewer::start().await;
    for path in ["/static/none.js", "/static/../Cargo.toml", "/static/a/b"] {
        assert_eq!(viewer.get(path).await.status, 404, "{path}");
    }
}
