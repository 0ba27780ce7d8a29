//! `oncue test`: an app's own tests on servers of their own.

use std::path::PathBuf;
use std::process::Output;

use oncue_tests::cluster::{SMALL_STREAMS, built};

/// Runs `oncue test` in a folder with this `oncue.toml`.
fn oncue_test(name: &str, config: &str, more: &[&str]) -> (Output, PathBuf) {
    let folder =
        std::env::temp_dir().join(format!("oncue-own-tests-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("oncue.toml"), config).expect("written");
    let output = std::process::Command::new(built("oncue"))
        .arg("test")
        .args(more)
        .current_dir(&folder)
        // Servers that others use are no concern of it.
        .env("ONCUE_NATS_URL", "nats://127.0.0.1:1")
        .env("ONCUE_REDIS_URL", "redis://127.0.0.1:1")
        .env("TMPDIR", &folder)
        .output()
        .expect("oncue runs");
    (output, folder)
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Files that are left in the folder.
fn left(folder: &PathBuf) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder");
    let names = files.map(|file| file.expect("a file").file_name().display().to_string());
    let left = names.collect();
    std::fs::remove_dir_all(folder).expect("removed");
    left
}

#[test]
fn the_apps_tests_find_its_servers_and_end_with_their_own_code() {
    let tests = built("own-tests");
    let config = format!(
        "[app]\nname = \"tested\"\n[test]\ncommand = [{tests:?}]\n[functions.count-views]\n{SMALL_STREAMS}"
    );
    let (output, folder) = oncue_test("client", &config, &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    let expected = r#"new true, flows [String("done"), String("done")], views 2, gateway 200 OK"#;
    assert!(said.contains(expected), "{said}");
    assert_eq!(left(&folder), ["oncue.toml"], "{said}");
}

#[test]
fn a_command_behind_the_dashes_is_run_instead() {
    let config = format!(
        "[app]\nname = \"tested\"\n[test]\ncommand = [\"false\"]\n[functions.count-views]\n{SMALL_STREAMS}"
    );
    let words = ["--", "sh", "-c", "echo $ONCUE_GATEWAY_URL; exit 3"];
    let (output, folder) = oncue_test("dashes", &config, &words);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("http://127.0.0.1:"), "{said}");
    assert_eq!(left(&folder), ["oncue.toml"], "{said}");
}

#[test]
fn an_app_that_does_not_start_is_told_with_its_log() {
    let config = "[app]\nname = \"tested\"\n[functions.no-such-function]\n";
    let (output, folder) = oncue_test("log", config, &["--", "true"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not built: no-such-function"), "{said}");
    assert!(said.contains("the app does not start"), "{said}");
    assert_eq!(left(&folder), ["oncue.toml"], "{said}");
}
