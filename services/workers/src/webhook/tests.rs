//! Requests to a receiver in this process that answers as no decent receiver would.

use std::future::pending;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::settings::connector;
use super::*;

/// A certificate of its own issue for the name localhost, and its key.
const PEM: &[u8] = include_bytes!("localhost.pem");

fn webhook(url: &str) -> Webhook {
    let signer = Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    Webhook {
        target: Target::parse(url).unwrap_or_else(|mistake| panic!("{url} {mistake}")),
        signer: signer.unwrap_or_else(|mistakes| panic!("{mistakes:?}")),
        tls: None,
        allow_private: true,
        timeout: Duration::from_millis(500),
    }
}

async fn told(webhook: &Webhook) -> String {
    format!("{:?}", webhook.deliver("id", "{}".to_owned()).await)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// Reads until the head is over.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("UTF-8")
}

/// What is said to one who asked and got `answer`, over and over if so told, with the connection left open.
async fn told_after(answer: &str, repeat: Option<&'static str>) -> String {
    let (listener, port) = listener().await;
    let answer = answer.to_owned();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        while let Some(more) = repeat {
            if stream.write_all(more.as_bytes()).await.is_err() {
                break;
            }
        }
        pending::<()>().await;
    });
    let mut webhook = webhook(&format!("http://127.0.0.1:{port}/hook?token=hidden%20word"));
    if repeat.is_some() {
        // What never ends must be given up for its size, long before the time is up.
        webhook.timeout = Duration::from_mins(10);
    }
    let told = tokio::time::timeout(Duration::from_secs(20), told(&webhook))
        .await
        .expect("given up for its size");
    server.abort();
    told.replace(&port.to_string(), "PORT")
}

#[test]
fn each_status_has_its_verdict() {
    let target = Target::parse("https://example.com/hook?token=hidden").expect("an address");
    let told = |status| {
        let status = StatusCode::from_u16(status).expect("a status");
        format!(
            "{:?}",
            verdict(
                &target,
                Answer {
                    status,
                    piece: "why".into()
                }
            )
        )
    };
    for done in [200, 201, 202, 204, 299] {
        assert_eq!(told(done), "Ok(())");
    }
    for again in [408, 409, 425, 429, 500, 501, 502, 503, 504, 599] {
        assert!(
            told(again).starts_with("Err(Retry("),
            "{again}: {}",
            told(again)
        );
    }
    for never in [
        300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 410, 413, 422, 451, 600, 999,
    ] {
        assert!(
            told(never).starts_with("Err(Reject("),
            "{never}: {}",
            told(never)
        );
    }
    assert_eq!(
        told(410),
        r#"Err(Reject("https://example.com:443/hook answered 410 Gone: why"))"#
    );
    assert!(told(302).contains("redirects are not followed: set WEBHOOK_URL"));
}

/// The listener would take the connection; that nobody comes is what is tested.
#[tokio::test]
async fn a_private_address_is_refused_however_it_is_written() {
    let (listener, port) = listener().await;
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7F000001",
        "017700000001",
        "0177.0.0.01",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:a00:1::]",
        "[fe80::1]",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "localhost",
        "LOCALHOST",
    ] {
        let webhook = Webhook {
            allow_private: false,
            ..webhook(&format!("http://{host}:{port}/hook?token=hidden"))
        };
        let told = told(&webhook).await;
        assert!(
            told.starts_with("Err(Reject(\"ssrf: http://") && !told.contains("hidden"),
            "{host}: {told}"
        );
    }
    let nobody = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(nobody.is_err(), "somebody connected");
}

#[tokio::test]
async fn an_answer_is_waited_for_in_vain() {
    for (answer, repeat) in [
        ("", None),
        ("HTTP/1.1 200 OK\r\nX: y", None),
        ("HTTP/1.1 100 Continue\r\n\r\n", None),
    ] {
        let told = told_after(answer, repeat).await;
        assert_eq!(
            told, r#"Err(Retry("http://127.0.0.1:PORT/hook: HTTP: no answer within 500ms"))"#,
            "{answer:?}"
        );
    }
    for (answer, repeat) in [
        ("HTTP/1.1 200 OK\r\n", Some("X: yyyyyyyyyyyyyyyy\r\n")),
        ("SSH-2.0\r\n", Some("garbage")),
    ] {
        let told = told_after(answer, repeat).await;
        assert!(
            told.starts_with(r#"Err(Retry("http://127.0.0.1:PORT/hook: HTTP: "#),
            "{answer:?}: {told}"
        );
        assert!(
            !told.contains("no answer within"),
            "refused at once: {told}"
        );
    }
}

#[tokio::test]
async fn the_status_decides_whatever_the_body_does() {
    let done = told_after(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
        None,
    )
    .await;
    assert_eq!(done, "Ok(())");
    let endless = told_after(
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        Some("a long \u{1b}[31mstory "),
    )
    .await;
    assert!(endless.starts_with(
        r#"Err(Reject("http://127.0.0.1:PORT/hook answered 400 Bad Request: a long [31mstory a"#
    ));
    assert!(endless.len() < 400, "{endless}");
    let stuck = told_after(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\nbecause",
        None,
    )
    .await;
    assert_eq!(
        stuck,
        r#"Err(Reject("http://127.0.0.1:PORT/hook answered 400 Bad Request: because"))"#
    );
    let body = "nothing at /hook?token=hidden%20word for hidden word";
    let quoting = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let quoted = told_after(&quoting, None).await;
    assert_eq!(
        quoted,
        r#"Err(Reject("http://127.0.0.1:PORT/hook answered 404 Not Found: nothing at /hook?*** for ***"))"#
    );
}

#[tokio::test]
async fn nobody_there_is_a_failure_that_may_pass() {
    let (listener, port) = listener().await;
    drop(listener);
    let closed = told(&webhook(&format!("http://localhost:{port}/?token=hidden"))).await;
    assert!(
        closed.starts_with(&format!(
            "Err(Retry(\"http://localhost:{port}/: cannot connect: "
        )),
        "{closed}"
    );
    let unknown = told(&webhook("http://no-such-name.invalid/?token=hidden")).await;
    assert!(
        unknown.starts_with("Err(Retry(\"http://no-such-name.invalid:80/: name look-up: "),
        "{unknown}"
    );
}

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(PEM).expect("a certificate")
}

/// Answers 200 over TLS, always.
async fn secure(listener: TcpListener) {
    let key = PrivateKeyDer::from_pem_slice(PEM).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        if let Ok(mut stream) = acceptor.accept(stream).await {
            assert!(
                read_head(&mut stream)
                    .await
                    .contains("\r\nwebhook-signature: v1,")
            );
            answer(&mut stream).await;
        }
    }
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin)) {
    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn only_the_holder_of_the_name_is_spoken_to() {
    let (listener, port) = listener().await;
    let server = tokio::spawn(secure(listener));
    let call = async |host: &str, roots| {
        let tls = Some(connector(roots).expect("TLS"));
        told(&Webhook {
            tls,
            ..webhook(&format!("https://{host}:{port}/"))
        })
        .await
    };
    assert_eq!(call("localhost", vec![certificate()]).await, "Ok(())");
    let unknown = call("localhost", vec![]).await;
    assert!(
        unknown.starts_with("Err(Retry(") && unknown.contains("TLS: invalid peer certificate"),
        "{unknown}"
    );
    let other = call("127.0.0.1", vec![certificate()]).await;
    assert!(
        other.starts_with("Err(Retry(") && other.contains("TLS: invalid peer certificate"),
        "{other}"
    );
    server.abort();
}
