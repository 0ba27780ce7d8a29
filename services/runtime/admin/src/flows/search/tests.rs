use super::*;

#[test]
fn ids_tell_where_to_look() {
    let told = time_of(&event::new_id()).unwrap();
    assert!(told.abs_diff(event::now_ms()) < 60_000);
    assert_eq!(
        time_of("019ad000-0000-7000-8000-000000000000"),
        Some(0x019a_d000_0000)
    );
    for other in [
        "",
        "order-17",
        &"z".repeat(32),
        &"a".repeat(32),
        "00000000000070008000000000000000",
    ] {
        assert!(time_of(other).is_none(), "{other}");
    }
}

fn function(triggers: &[&str], emits: &[&str]) -> Manifest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Manifest {
        name: "f".into(),
        version: "1".into(),
        stream: "s".into(),
        triggers: owned(triggers),
        filters: Vec::new(),
        key: None,
        table: None,
        row_version: 1,
        emits: owned(emits),
        delays: Vec::new(),
        changes: Vec::new(),
        files: oncue_core::model::manifest::FileUse::None,
        limits: oncue_core::config::Limits::default(),
    }
}

#[test]
fn types_lead_to_types() {
    let all = [
        function(&["a"], &["b", "c"]),
        function(&["c"], &["a", "d"]),
        function(&["x"], &["y"]),
    ];
    let reached = |root| reachable(&all, root).into_iter().collect::<Vec<_>>();
    assert_eq!(reached("a"), ["a", "b", "c", "d"]);
    assert_eq!(reached("x"), ["y"]);
    assert!(reached("nothing").is_empty());
}
