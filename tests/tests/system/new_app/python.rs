//! `oncue new --lang python`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oncue_tests::cluster::in_repository;

use super::{is_made_tested_and_run, is_run_anew};

/// Stands for `python3 -m venv .venv && .venv/bin/pip install -r requirements.txt`, which needs a network: the Python that
/// `make test` has set up, with the package that `requirements.txt` names.
pub fn install(app: &Path) {
    let requirements = std::fs::read_to_string(app.join("requirements.txt")).expect("written");
    let package = requirements.lines().last().expect("a line");
    assert!(
        Path::new(package).join("oncue/__init__.py").is_file(),
        "{package}"
    );
    let python = in_repository(".oncue/venv/bin/python");
    let bin = app.join(".venv/bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let script = format!(
        "#!/bin/sh\nPYTHONPATH={package} exec {} \"$@\"\n",
        python.display()
    );
    std::fs::write(bin.join("python"), script).expect("written");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("python"), all).expect("changed");
}

#[test]
fn an_app_in_python_is_made_tested_and_run() {
    is_made_tested_and_run("python", install, "Ran 3 tests", "bill_order.py");
}

#[tokio::test]
async fn oncue_dev_runs_python_that_is_saved() {
    is_run_anew("python", install, "functions/bill_order.py", "TAX = 19").await;
}
