//! TLS: certificates that are renewed, HTTP/2, and clients of it that take nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use oncue_gateway::server::Guards;
use oncue_proto::Catalog;
use oncue_tests::cluster::{Cluster, wait_for};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Gateway, VIEWED};

const CONFIG: &str = "[gateway]\ntls = { certificate = \"cert.pem\", key = \"key.pem\" }\nhosts = [\"shop.example\"]\n";

/// Writes a new certificate for a name and its key; returns what a client has to trust.
fn certify(folder: &Path, name: &str) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

async fn start(guards: Guards) -> (Gateway, CertificateDer<'static>) {
    let cluster = Cluster::new(CONFIG).await;
    let trusted = certify(&cluster.dir, "shop.example");
    (Gateway::on(cluster, guards).await, trusted)
}

/// A connection that trusts one certificate.
async fn connect(
    gateway: &Gateway,
    trusted: &CertificateDer<'static>,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(gateway.at).await?;
    let name = ServerName::try_from("shop.example").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Answer to one request over HTTP/1.1.
async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Without a farewell of TLS the bytes count all the same.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_renewed_certificate_needs_no_restart() {
    let (gateway, first) = start(Guards::default()).await;
    let mut stream = connect(&gateway, &first, &[b"http/1.1"])
        .await
        .expect("TLS");
    let answer = exchange(&mut stream, HEALTH).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("strict-transport-security: max-age="),
        "{answer}"
    );
    // Plain bytes are no TLS, and get no answer.
    assert!(gateway.raw(HEALTH.as_bytes()).await.is_none());
    // Halfway through a renewal the two files do not fit together.
    std::fs::write(gateway.cluster.dir.join("key.pem"), "no key").unwrap();
    assert!(connect(&gateway, &first, &[]).await.is_ok());
    let second = certify(&gateway.cluster.dir, "shop.example");
    wait_for("the new certificate", async || {
        connect(&gateway, &second, &[]).await.is_ok()
    })
    .await;
    assert!(
        connect(&gateway, &first, &[]).await.is_err(),
        "the old one is gone"
    );
}

#[tokio::test]
async fn files_that_are_no_certificate_are_said_by_name() {
    let cluster = Cluster::new(CONFIG).await;
    let config = super::config(&cluster);
    cluster.provide_gateway();
    let refused = async || {
        let mut catalog = Catalog::builtin();
        catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
        let started = oncue_gateway::App::start(&config, catalog, Guards::default()).await;
        started.err().expect("it does not start").to_string()
    };
    let why = refused().await;
    assert!(
        why.contains("[gateway] tls: ") && why.contains("cert.pem"),
        "{why}"
    );
    certify(&cluster.dir, "shop.example");
    let other = generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let key = other.signing_key.serialize_pem();
    std::fs::write(cluster.dir.join("key.pem"), key).unwrap();
    let why = refused().await;
    assert!(
        why.contains("key.pem"),
        "a key of another certificate: {why}"
    );
}

/// Many requests on one connection, each with its own host in the target.
#[tokio::test]
async fn http_2_has_many_requests_in_hand() {
    let (gateway, trusted) = start(Guards::default()).await;
    let stream = connect(&gateway, &trusted, &[b"h2", b"http/1.1"])
        .await
        .expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driven = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut answers = Vec::new();
    for number in 0..20 {
        let request = Request::post(format!("https://shop.example{VIEWED}"))
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        let view = format!(r#"{{"page":"/{number}","visitor":"v"}}"#);
        body.send_data(view.into(), true).unwrap();
        answers.push(answer);
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 202);
    }
    assert_eq!(gateway.messages("web").await, 20);
    // Two hosts that differ are two hosts here as well.
    let request = Request::get("https://shop.example/healthz")
        .header("host", "other.example")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 400);
    drop(client);
    driven.abort();
}

/// A client of HTTP/2 need not take its answer: its connection stays quiet, and its place taken.
#[tokio::test]
async fn a_client_of_http_2_that_takes_nothing_is_cut_off() {
    let guards = Guards {
        write: Duration::from_millis(400),
        ..Guards::default()
    };
    let cluster = Cluster::new(CONFIG).await;
    let trusted = certify(&cluster.dir, "shop.example");
    let gateway = Gateway::on(cluster, guards).await;
    let stream = connect(&gateway, &trusted, &[b"h2"]).await.expect("TLS");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, bytes::Bytes>(stream)
        .await
        .expect("HTTP/2");
    let driven = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::get("https://shop.example/metrics")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    // Kept, since dropping it would cancel it.
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(30), driven).await;
    ended.expect("the connection is still open").unwrap().ok();
    drop(answer);
    let mut shown = connect(&gateway, &trusted, &[]).await.expect("TLS");
    let metrics = "GET /metrics HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    let text = exchange(&mut shown, metrics).await;
    let line = text.lines().find(|line| line.contains("reason=\"reader\""));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
}

/// One that takes its time, and takes all of it, is not.
#[tokio::test]
async fn a_slow_client_of_http_2_gets_all_of_its_answer() {
    let guards = Guards {
        write: Duration::from_millis(800),
        ..Guards::default()
    };
    let (gateway, trusted) = start(guards).await;
    let stream = connect(&gateway, &trusted, &[b"h2"]).await.expect("TLS");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(500)
        .handshake::<_, bytes::Bytes>(stream)
        .await
        .expect("HTTP/2");
    let driven = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::get("https://shop.example/metrics")
        .body(())
        .unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut taken = 0;
    while let Some(part) = body.data().await {
        let part = part.expect("it goes on");
        taken += part.len();
        tokio::time::sleep(Duration::from_millis(200)).await;
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    assert!(taken > 1_000, "{taken}");
    driven.abort();
}
