//! `oncue new --lang typescript`, and the package for functions in TypeScript itself.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use oncue_tests::cluster::{Cluster, built, in_repository};

use super::{is_made_tested_and_run, is_run_anew, text};

/// Stands for `npm install`, which needs a network: what `make test` has set up, with the package as npm has packed it.
fn install(app: &Path) {
    let manifest = std::fs::read_to_string(app.join("package.json")).expect("written");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let package = manifest["dependencies"]["oncue"].as_str().expect("a text");
    let package = package.strip_prefix("file:").expect("a file");
    assert!(Path::new(package).is_file(), "{package}");
    let modules = in_repository(".oncue/typescript/node_modules");
    for name in manifest["devDependencies"]
        .as_object()
        .expect("some")
        .keys()
    {
        assert!(modules.join(name).is_dir(), "{name}");
    }
    symlink(modules, app.join("node_modules")).expect("linked");
}

#[test]
fn an_app_in_typescript_is_made_tested_and_run() {
    is_made_tested_and_run("typescript", install, "# pass 5", "functions/bill-order.ts");
}

#[tokio::test]
async fn oncue_dev_runs_typescript_that_is_saved() {
    is_run_anew(
        "typescript",
        install,
        "functions/bill-order.ts",
        "TAX = 19n",
    )
    .await;
}

/// The package's own tests, with their types checked, against the package as it is packed.
#[tokio::test]
async fn tests_of_the_typescript_package_pass() {
    const SHELL: &str = "node_modules/.bin/oncue-node generate gen && node_modules/.bin/tsc -p tests && \
        exec node --import oncue/register --test tests/*.test.ts";
    let cluster = Cluster::new("proto = \"proto\"\n").await;
    let modules = in_repository(".oncue/typescript/node_modules");
    let sources = in_repository("services/runtime/typescript/tests");
    let tests = cluster.dir.join("tests");
    std::fs::create_dir_all(cluster.dir.join("proto")).expect("a folder");
    std::fs::create_dir_all(&tests).expect("a folder");
    for entry in std::fs::read_dir(sources).expect("tests") {
        let path = entry.expect("a file").path();
        let folder = if path.extension().is_some_and(|end| end == "proto") {
            cluster.dir.join("proto")
        } else {
            tests.clone()
        };
        std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    std::fs::write(cluster.dir.join("package.json"), r#"{"type":"module"}"#).expect("written");
    symlink(modules, cluster.dir.join("node_modules")).expect("linked");
    let tested = Command::new("sh")
        .args(["-c", SHELL])
        .current_dir(&cluster.dir)
        .env("ONCUE_HOST", built("oncue-host"))
        .output()
        .expect("a shell");
    let said = text(&tested);
    assert!(tested.status.success(), "{said}");
    assert!(
        said.contains("# fail 0") && !said.contains("# pass 0"),
        "{said}"
    );
}
