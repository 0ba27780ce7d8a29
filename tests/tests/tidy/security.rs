//! `deploy/SECURITY.md` names tests for what it claims: each of them is there.

use crate::tree::{root, rust_files};

#[test]
fn each_test_that_the_table_names_is_there() {
    let page = std::fs::read_to_string(root().join("deploy/SECURITY.md")).expect("the page");
    let table = page.split_once("## The OWASP API top ten");
    let table = table.expect("the table").1;
    let named = table.split('`').filter(|part| part.contains("::"));
    let named: Vec<&str> = named.collect();
    let sources: Vec<(String, String)> = rust_files().into_iter().collect();
    let missing: Vec<&&str> = named
        .iter()
        .filter(|name| {
            let (module, test) = name.split_once("::").expect("a module and a test");
            let is_there = |path: &str, text: &str| {
                path.split('/')
                    .any(|part| part.trim_end_matches(".rs") == module)
                    && text.contains(&format!("fn {test}()"))
            };
            !sources.iter().any(|(path, text)| is_there(path, text))
        })
        .collect();
    assert!(missing.is_empty(), "named, and not there: {missing:?}");
    assert!(named.len() > 30, "only {} are named", named.len());
    for number in 1..=10 {
        assert!(table.contains(&format!("| API{number} ")), "API{number}");
    }
}
