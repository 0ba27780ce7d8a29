//! The command as a person or a container starts it.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
};

fn command(ports: [u16; 4]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncue-trace-viewer"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Not what the one who runs the tests has set.
    command
        .env_remove("JAEGER_LISTEN_HOST")
        .env_remove("ONCUE_VIEWER_LISTEN");
    let flags = [
        "--ui-port",
        "--otlp-grpc-port",
        "--otlp-http-port",
        "--health-port",
    ];
    for (flag, port) in flags.into_iter().zip(ports) {
        command.args([flag, &port.to_string()]);
    }
    command
}

/// Starts, waits for the line that says it is up, stops with a signal.
fn start_and_stop(mut command: Command, signal: &str) -> (String, Output) {
    let mut child = command.spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    kill(&child, signal);
    (line, child.wait_with_output().expect("ends"))
}

fn kill(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
}

#[test]
fn says_where_it_is_and_stops_on_either_signal() {
    for signal in ["-TERM", "-INT"] {
        let (line, output) = start_and_stop(command([0; 4]), signal);
        for part in [
            "UI http://127.0.0.1:",
            "OTLP gRPC http://127.0.0.1:",
            "/v1/traces",
            "/status",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(
            output.status.code(),
            Some(0),
            "{signal}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_host_comes_from_the_flag_else_from_jaegers_variable() {
    let mut jaegers = command([0; 4]);
    jaegers.env("JAEGER_LISTEN_HOST", "0.0.0.0");
    assert!(
        start_and_stop(jaegers, "-TERM")
            .0
            .contains("UI http://0.0.0.0:")
    );
    let mut flag = command([0; 4]);
    flag.env("JAEGER_LISTEN_HOST", "0.0.0.0")
        .args(["--listen", "localhost"]);
    assert!(!start_and_stop(flag, "-TERM").0.contains("0.0.0.0"));
}

#[test]
fn a_port_in_use_is_one_line_with_the_flag_to_change_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let flags = [
        "--ui-port",
        "--otlp-grpc-port",
        "--otlp-http-port",
        "--health-port",
    ];
    for (index, flag) in flags.into_iter().enumerate() {
        let mut ports = [0; 4];
        ports[index] = port;
        let output = command(ports).output().expect("ends");
        assert_eq!(output.status.code(), Some(2));
        let expected = format!(
            "oncue-trace-viewer: port {port} on 127.0.0.1 is already in use; choose another with {flag}\n"
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert!(output.stdout.is_empty());
    }
}
