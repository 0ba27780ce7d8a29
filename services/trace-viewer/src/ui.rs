//! Jaeger UI, compiled in: one page and four assets. `ui/THIRD-PARTY.md` says where they come from and under which
//! licences.

use std::io::Read;

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use flate2::read::GzDecoder;

/// File of the UI under `/static/`, packed as it is sent.
struct Asset {
    name: &'static str,
    content_type: &'static str,
    gzipped: &'static [u8],
}

/// Names hold a hash of the content, so browsers may keep them for ever.
const ASSETS: [Asset; 4] = [
    Asset {
        name: "index-Ba4Pmzjs.js",
        content_type: "text/javascript; charset=utf-8",
        gzipped: include_bytes!("../ui/static/index-Ba4Pmzjs.js.gz"),
    },
    Asset {
        name: "index-BCPS3alI.css",
        content_type: "text/css; charset=utf-8",
        gzipped: include_bytes!("../ui/static/index-BCPS3alI.css.gz"),
    },
    Asset {
        name: "jaeger-logo-CNZsoUdk.svg",
        content_type: "image/svg+xml",
        gzipped: include_bytes!("../ui/static/jaeger-logo-CNZsoUdk.svg.gz"),
    },
    Asset {
        name: "favicon-BxcVf0am.ico",
        content_type: "image/x-icon",
        gzipped: include_bytes!("../ui/static/favicon-BxcVf0am.ico.gz"),
    },
];

/// Routes of the UI. Any path that is no asset is a view inside the page.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/static/{*name}", get(asset))
        .fallback_service(get(page))
}

/// Page of the UI. It names its assets by hash, so it alone must be asked for anew.
async fn page() -> Response {
    (
        [(header::CACHE_CONTROL, "no-cache")],
        Html(include_str!("../ui/index.html")),
    )
        .into_response()
}

async fn asset(Path(name): Path<String>, request: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        // Caches on the way must not hand the packed form to one who cannot read it.
        (header::VARY, "accept-encoding"),
    ];
    if accepts_gzip(&request) {
        return (headers, [(header::CONTENT_ENCODING, "gzip")], asset.gzipped).into_response();
    }
    (headers, unpacked(asset)).into_response()
}

/// Whether the request takes gzip: named, and not with the weight 0 [RFC 9110, section 12.5.3].
fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim().eq_ignore_ascii_case("gzip")
            && !matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

/// Asset unpacked, for plain `curl`: every browser takes gzip.
fn unpacked(asset: &Asset) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(asset.gzipped)
        .read_to_end(&mut bytes)
        .expect("the assets are valid gzip, a test reads each");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_no_asset_that_is_not_here() {
        let page = include_str!("../ui/index.html");
        let named: Vec<_> = page
            .split("./static/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(named.len(), 3, "{named:?}");
        for name in named {
            assert!(ASSETS.iter().any(|asset| asset.name == name), "{name}");
        }
        assert!(!page.contains("nomodule"));
    }

    #[test]
    fn every_asset_unpacks() {
        for asset in &ASSETS {
            assert!(
                unpacked(asset).len() > asset.gzipped.len(),
                "{}",
                asset.name
            );
        }
    }

    #[test]
    fn gzip_is_sent_only_where_it_is_accepted() {
        let accepts = |value: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(
                header::ACCEPT_ENCODING,
                value.parse().unwrap(),
            )]))
        };
        assert!(accepts("gzip"));
        assert!(accepts("br, GZIP;q=0.5"));
        assert!(!accepts("gzip;q=0, br"));
        assert!(!accepts("x-gzipped"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
