//! Static files of the app, from the folder that `[gateway] site` names. Read anew for every request: who works on a
//! page sees it at the next reload, and a folder can be replaced as a whole.
//!
//! Only regular files that lie in the folder are served: no way up, no link that leads out, nothing whose name or
//! folder begins with a dot, no listing.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;
use tokio_util::io::ReaderStream;

use crate::problem::{INTERNAL, METHOD, Problem};
use crate::request::is_none_match;

/// Own files only, nothing inline, no frame around it; `data:` and `blob:` pictures are not needed either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Served where a path ends in `/`.
const INDEX: &str = "index.html";
/// Bytes read from a file at a time.
const READ_BYTES: usize = 64 << 10;

/// Media types by extension; any other file is bytes to download.
const MEDIA_TYPES: [(&str, &str); 19] = [
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("webmanifest", "application/manifest+json"),
    ("txt", "text/plain; charset=utf-8"),
    ("xml", "application/xml"),
    ("pdf", "application/pdf"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("ico", "image/x-icon"),
    ("woff2", "font/woff2"),
    ("wasm", "application/wasm"),
];

pub struct Site {
    dir: PathBuf,
}

/// A file of the site, open, as it was when it was opened.
struct SiteFile {
    file: File,
    metadata: Metadata,
}

impl Site {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The file the request asks for, or that it has not changed; `None` where the site has no such file.
    pub async fn answer(&self, request: &Parts) -> Result<Option<Response>, Problem> {
        let Some(relative) = relative(request.uri.path()) else {
            return Ok(None);
        };
        let media_type = media_type(&relative);
        let dir = self.dir.clone();
        // File systems block, network ones for long.
        let opened = tokio::task::spawn_blocking(move || open(&dir, &relative)).await;
        let opened = opened.map_err(|e| Problem::new(INTERNAL, e.to_string()))?;
        let Some(found) = opened else {
            return Ok(None);
        };
        let method = &request.method;
        if !matches!(*method, Method::GET | Method::HEAD) {
            let why = format!("{method} is not among those in Allow");
            let allowed = HeaderValue::from_static("GET,HEAD");
            return Err(Problem::new(METHOD, why).with_header(header::ALLOW, allowed));
        }
        Ok(Some(found.answer(request, media_type)))
    }
}

impl SiteFile {
    fn answer(self, request: &Parts, media_type: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        let fixed: [(HeaderName, &'static str); 4] = [
            (header::CONTENT_TYPE, media_type),
            // Kept, but asked about each time: a new version of the site is seen at once.
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let tag = self.tag();
        if let Ok(value) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, value);
        }
        let modified = self.modified();
        if let Some(Ok(value)) = modified.as_deref().map(HeaderValue::from_str) {
            headers.insert(header::LAST_MODIFIED, value);
        }
        if is_unchanged(&request.headers, &tag, modified.as_deref()) {
            headers.remove(header::CONTENT_TYPE);
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from(self.metadata.len()),
        );
        if request.method == Method::HEAD {
            return (headers, Body::empty()).into_response();
        }
        let file = tokio::fs::File::from_std(self.file);
        let content = ReaderStream::with_capacity(file, READ_BYTES);
        (headers, Body::from_stream(content)).into_response()
    }

    /// Size and time to the nanosecond: two versions of one size and one second still differ.
    fn tag(&self) -> String {
        let modified = self.metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let nanos = since.map_or(0, |since| since.as_nanos());
        format!("\"{:x}-{nanos:x}\"", self.metadata.len())
    }

    /// As an HTTP date [RFC 9110 section 5.6.7]; none where the file system keeps no time.
    fn modified(&self) -> Option<String> {
        let modified = self.metadata.modified().ok()?;
        // Earlier ones cannot be written as a date of HTTP.
        (modified >= UNIX_EPOCH).then(|| httpdate::fmt_http_date(modified))
    }
}

/// The path below the folder of the site that a request path means, if it may mean one.
fn relative(path: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let path = decoded.strip_prefix('/')?;
    let index = if path.is_empty() || path.ends_with('/') {
        INDEX
    } else {
        ""
    };
    let mut relative = PathBuf::new();
    for part in format!("{path}{index}").split('/') {
        // The dot is for hidden files as well as for `..`.
        if part.is_empty() || part.starts_with('.') {
            return None;
        }
        if part.contains(|c: char| c == '\\' || c.is_control()) {
            return None;
        }
        relative.push(part);
    }
    Some(relative)
}

fn media_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let extension = extension.unwrap_or_default().to_ascii_lowercase();
    let known = MEDIA_TYPES.iter().find(|(name, _)| *name == extension);
    known.map_or("application/octet-stream", |(_, media_type)| media_type)
}

/// Opens a regular file of the folder. Links are followed first and judged by where they lead; a pipe is never
/// opened, which would wait for somebody to write.
fn open(dir: &Path, relative: &Path) -> Option<SiteFile> {
    let root = dir.canonicalize().ok()?;
    let path = root.join(relative).canonicalize().ok()?;
    let inside = path.strip_prefix(&root).ok()?;
    let hidden = inside
        .iter()
        .any(|part| part.as_encoded_bytes().starts_with(b"."));
    if hidden || !path.metadata().ok()?.is_file() {
        return None;
    }
    let file = File::open(&path).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(SiteFile { file, metadata })
}

/// Whether the client has this version already. A date counts only without a tag [RFC 9110 section 13.2.2].
fn is_unchanged(asked: &HeaderMap, tag: &str, modified: Option<&str>) -> bool {
    if asked.contains_key(header::IF_NONE_MATCH) {
        return is_none_match(asked, tag);
    }
    let since = asked.get(header::IF_MODIFIED_SINCE);
    let since = since.and_then(|value| value.to_str().ok());
    let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
    let modified = modified.and_then(|text| httpdate::parse_http_date(text).ok());
    since
        .zip(modified)
        .is_some_and(|(since, modified)| modified <= since)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder `site` with a few files, and a secret beside it; gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let dir =
                std::env::temp_dir().join(format!("oncue-gateway-site-{:016x}", fastrand::u64(..)));
            let site = dir.join("site");
            std::fs::create_dir_all(site.join("docs")).unwrap();
            std::fs::create_dir_all(site.join(".git")).unwrap();
            let files = [
                ("secret.txt", "secret"),
                ("site/index.html", "<p>home"),
                ("site/docs/index.html", "<p>docs"),
                ("site/a b.JS", "a()"),
                ("site/data.bin", "\0"),
                ("site/.env", "secret"),
                ("site/.git/config", "secret"),
            ];
            for (name, content) in files {
                std::fs::write(dir.join(name), content).unwrap();
            }
            symlink("../secret.txt", site.join("out.txt")).unwrap();
            symlink(".env", site.join("env.txt")).unwrap();
            symlink("index.html", site.join("in.html")).unwrap();
            symlink("..", site.join("up")).unwrap();
            Self(dir)
        }

        fn site(&self) -> Site {
            Site::new(self.0.join("site"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn request(method: Method, path: &str) -> Parts {
        let request = axum::http::Request::builder().method(method).uri(path);
        request.body(()).unwrap().into_parts().0
    }

    async fn get(site: &Site, path: &str) -> Option<Response> {
        site.answer(&request(Method::GET, path)).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await;
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn files_of_the_folder_are_served_with_their_type() {
        let folder = Folder::new();
        let site = folder.site();
        for (path, media_type, content) in [
            ("/", "text/html; charset=utf-8", "<p>home"),
            ("/index.html", "text/html; charset=utf-8", "<p>home"),
            ("/in.html", "text/html; charset=utf-8", "<p>home"),
            ("/docs/", "text/html; charset=utf-8", "<p>docs"),
            ("/a%20b.JS", "text/javascript; charset=utf-8", "a()"),
            ("/data.bin", "application/octet-stream", "\0"),
        ] {
            let response = get(&site, path).await.expect(path);
            assert_eq!(response.headers()[header::CONTENT_TYPE], media_type);
            let policy = &response.headers()[header::CONTENT_SECURITY_POLICY];
            assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
            assert_eq!(text(response).await, content, "{path}");
        }
        let head = site.answer(&request(Method::HEAD, "/")).await.unwrap();
        let head = head.expect("a file");
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "7");
        assert_eq!(text(head).await, "");
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let folder = Folder::new();
        let site = folder.site();
        for path in [
            "/docs",
            "/none.html",
            "/.env",
            "/.git/config",
            "/env.txt",
            "/out.txt",
            "/up/secret.txt",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/docs/..%2f..%2fsecret.txt",
            "/..%5csecret.txt",
            "//index.html",
            "/docs//index.html",
            "/./index.html",
            "/index.html/",
            "/index.html%00",
            "/%ff",
        ] {
            assert!(get(&site, path).await.is_none(), "{path}");
        }
        assert!(
            get(&Site::new(folder.0.join("none")), "/").await.is_none(),
            "the folder is gone"
        );
        let refused = site.answer(&request(Method::POST, "/index.html")).await;
        let allow = refused.unwrap_err().into_response();
        assert_eq!(allow.headers()[header::ALLOW], "GET,HEAD");
        let nothing = site.answer(&request(Method::POST, "/none.html")).await;
        assert!(nothing.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_unchanged_file_is_not_sent_again() {
        let folder = Folder::new();
        let site = folder.site();
        let first = get(&site, "/").await.unwrap();
        let tag = first.headers()[header::ETAG].clone();
        let modified = first.headers()[header::LAST_MODIFIED].clone();
        let status = async |headers: &[(HeaderName, HeaderValue)]| {
            let mut request = request(Method::GET, "/");
            request.headers.extend(headers.iter().cloned());
            let response = site.answer(&request).await.unwrap();
            response.expect("a file").status().as_u16()
        };
        let other = HeaderValue::from_static("\"other\"");
        let early = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        let since = (header::IF_MODIFIED_SINCE, modified);
        assert_eq!(status(&[(header::IF_NONE_MATCH, tag.clone())]).await, 304);
        assert_eq!(status(&[(header::IF_NONE_MATCH, other.clone())]).await, 200);
        assert_eq!(status(std::slice::from_ref(&since)).await, 304);
        assert_eq!(status(&[(header::IF_MODIFIED_SINCE, early)]).await, 200);
        assert_eq!(
            status(&[(header::IF_NONE_MATCH, other), since]).await,
            200,
            "the tag counts"
        );
        std::fs::write(folder.0.join("site/index.html"), "<p>home, sweet").unwrap();
        assert_eq!(status(&[(header::IF_NONE_MATCH, tag)]).await, 200);
    }
}
