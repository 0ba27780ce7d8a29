//! The page: a few files, embedded; nothing is fetched from anywhere else.

use axum::extract::Path;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

use crate::problem::{NOT_FOUND, Problem};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const ASSETS: [(&str, &str, &[u8]); 22] = [
    ("console.css", STYLE, include_bytes!("page/console.css")),
    ("parts.css", STYLE, include_bytes!("page/parts.css")),
    ("main.js", SCRIPT, include_bytes!("page/main.js")),
    ("address.js", SCRIPT, include_bytes!("page/address.js")),
    ("dom.js", SCRIPT, include_bytes!("page/dom.js")),
    ("chart.js", SCRIPT, include_bytes!("page/chart.js")),
    ("map.js", SCRIPT, include_bytes!("page/map.js")),
    ("dots.js", SCRIPT, include_bytes!("page/dots.js")),
    ("layout.js", SCRIPT, include_bytes!("page/layout.js")),
    ("panel.js", SCRIPT, include_bytes!("page/panel.js")),
    ("find.js", SCRIPT, include_bytes!("page/find.js")),
    ("flow.js", SCRIPT, include_bytes!("page/flow.js")),
    ("letters.js", SCRIPT, include_bytes!("page/letters.js")),
    ("log.js", SCRIPT, include_bytes!("page/log.js")),
    ("news.js", SCRIPT, include_bytes!("page/news.js")),
    ("publish.js", SCRIPT, include_bytes!("page/publish.js")),
    ("rows.js", SCRIPT, include_bytes!("page/rows.js")),
    ("schedules.js", SCRIPT, include_bytes!("page/schedules.js")),
    ("streams.js", SCRIPT, include_bytes!("page/streams.js")),
    ("search.js", SCRIPT, include_bytes!("page/search.js")),
    ("dagre.js", SCRIPT, include_bytes!("../vendor/dagre.js")),
    ("icon.svg", PICTURE, include_bytes!("page/icon.svg")),
];

fn file(media_type: &'static str, content: &'static [u8]) -> Response {
    let headers: [(HeaderName, &str); 2] = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

pub async fn html() -> Response {
    file(HTML, include_bytes!("page/index.html"))
}

pub async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = ASSETS.iter().find(|(known, _, _)| *known == name);
    let (_, media_type, content) =
        found.ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no /{name}")))?;
    Ok(file(media_type, content))
}
