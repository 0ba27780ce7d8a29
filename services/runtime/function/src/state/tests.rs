//! A row is a struct on one side and readable text fields on the other.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    text: String,
    number: u64,
    below: i64,
    share: f64,
    small: u8,
    yes: bool,
    letter: Option<char>,
    note: Option<String>,
    limit: Option<u64>,
    kind: Kind,
    parts: Vec<Part>,
    nested: Option<Part>,
    names: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    New,
    Code(u64),
    Moved {
        to: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Part {
    name: String,
    sizes: Vec<u64>,
}

impl State for Row {
    const TABLE: &'static str = "rows";
}

fn text(fields: &Fields) -> BTreeMap<&str, &str> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).expect("text")))
        .collect()
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let mut fields: Fields = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    fields
}

fn full() -> Row {
    let part = Part {
        name: "12".into(),
        sizes: vec![1, u64::MAX],
    };
    Row {
        text: "an € text".into(),
        number: (1 << 53) + 1,
        below: i64::MIN,
        share: 0.1,
        small: 255,
        yes: true,
        letter: Some('ж'),
        note: Some(String::new()),
        limit: Some(u64::MAX),
        kind: Kind::Moved { to: "/new".into() },
        parts: vec![part.clone(), Part::default()],
        nested: Some(part),
        names: BTreeMap::from([("1".into(), "true".into())]),
    }
}

#[test]
fn rows_come_back_as_they_were() {
    for row in [
        Row::default(),
        full(),
        Row {
            kind: Kind::Code(9_007_199_254_740_993),
            ..full()
        },
    ] {
        let fields = to_fields(&row).expect("fields");
        assert!(fields.is_sorted());
        assert_eq!(from_fields::<Row>(&fields), Ok(row));
    }
}

#[test]
fn fields_are_what_a_person_would_write() {
    let fields = to_fields(&full()).expect("fields");
    let shown = text(&fields);
    for (name, value) in [
        ("text", "an € text"),
        ("number", "9007199254740993"),
        ("below", "-9223372036854775808"),
        ("yes", "true"),
        ("letter", "ж"),
        ("note", ""),
        ("kind", r#"{"moved":{"to":"/new"}}"#),
        (
            "nested",
            r#"{"name":"12","sizes":[1,18446744073709551615]}"#,
        ),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let fields = to_fields(&Row::default()).expect("fields");
    assert_eq!(text(&fields).get("kind"), Some(&"new"));
    assert!(
        !text(&fields).contains_key("note"),
        "None is an absent field"
    );
}

#[test]
fn text_that_looks_like_something_else_stays_text() {
    for odd in [
        "12",
        "0012",
        "1e3",
        "true",
        "null",
        "{}",
        "[1]",
        "\"quoted\"",
        "",
        " ",
        "{not json",
    ] {
        let row = Row {
            text: odd.into(),
            note: Some(odd.into()),
            ..Row::default()
        };
        assert_eq!(
            from_fields::<Row>(&to_fields(&row).expect("fields")),
            Ok(row),
            "{odd:?}"
        );
    }
}

#[test]
fn what_does_not_fit_is_named() {
    for (name, value) in [
        ("number", "many"),
        ("number", "-1"),
        ("small", "256"),
        ("yes", "1"),
        ("kind", "lost"),
        ("parts", "{"),
    ] {
        let why = from_fields::<Row>(&fields(&[(name, value)])).expect_err(name);
        assert!(why.starts_with(&format!("field {name}: ")), "{why}");
    }
    let nested = [(
        "parts",
        r#"[{"name":"a","sizes":[1]},{"name":"b","sizes":["x"]}]"#,
    )];
    let why = from_fields::<Row>(&fields(&nested)).expect_err("a text among sizes");
    assert!(why.starts_with("field parts.1.sizes.0: "), "{why}");
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ranking(BTreeMap<String, u64>);

impl State for Ranking {
    const TABLE: &'static str = "rankings";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Days(BTreeMap<u32, Option<String>>);

impl State for Days {
    const TABLE: &'static str = "days";
}

#[test]
fn a_map_is_a_row_whose_fields_are_data() {
    let ranking = Ranking(BTreeMap::from([
        ("/home".into(), u64::MAX),
        ("12".into(), 1),
        ("true".into(), 0),
    ]));
    let row = to_fields(&ranking).expect("fields");
    assert_eq!(text(&row).get("/home"), Some(&"18446744073709551615"));
    assert_eq!(from_fields::<Ranking>(&row), Ok(ranking));
    assert_eq!(
        from_fields::<Ranking>(&Fields::new()),
        Ok(Ranking::default())
    );
    let days = Days(BTreeMap::from([
        (7, Some("12".into())),
        (365, Some("x".into())),
    ]));
    assert_eq!(
        from_fields::<Days>(&to_fields(&days).expect("fields")),
        Ok(days)
    );
}

fn state<S: State>(row: &mut Box<dyn AnyRow>) -> &mut S {
    row.as_any()
        .downcast_mut()
        .expect("the type it was opened with")
}

fn changes(row: &dyn AnyRow) -> (Fields, Vec<String>) {
    row.changes().expect("changes")
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Page {
    views: u64,
    note: Option<String>,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

#[test]
fn only_what_changed_is_written() {
    let mut row = open::<Page>(&fields(&[("views", "3"), ("note", "old")])).expect("a row");
    assert_eq!(changes(row.as_ref()), (Fields::new(), vec![]));
    state::<Page>(&mut row).views = 4;
    row.keep();
    assert_eq!(changes(row.as_ref()), (fields(&[("views", "4")]), vec![]));
    state::<Page>(&mut row).note = None;
    row.keep();
    assert_eq!(
        changes(row.as_ref()),
        (fields(&[("views", "4")]), vec!["note".to_owned()])
    );
    // Changed back in the same run: nothing to write.
    *state::<Page>(&mut row) = Page {
        views: 3,
        note: Some("old".into()),
    };
    row.keep();
    assert_eq!(changes(row.as_ref()), (Fields::new(), vec![]));
}

/// Whatever form a field was stored in, by another version or another language: cleared, it goes.
#[test]
fn a_field_in_another_form_is_cleared() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Address {
        street: String,
        zip: String,
    }
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Customer {
        address: Option<Address>,
        score: Option<f64>,
    }
    impl State for Customer {
        const TABLE: &'static str = "customers";
    }
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Cart(BTreeMap<String, Address>);
    impl State for Cart {
        const TABLE: &'static str = "carts";
    }

    let stored = fields(&[("address", r#"{"street":"Main St"}"#), ("score", "1")]);
    let mut row = open::<Customer>(&stored).expect("a row");
    *state::<Customer>(&mut row) = Customer::default();
    row.keep();
    let (set, mut gone) = changes(row.as_ref());
    gone.sort();
    assert_eq!(
        (set, gone),
        (Fields::new(), vec!["address".into(), "score".into()])
    );
    let mut row = open::<Cart>(&fields(&[("book", r#"{"street":"x"}"#)])).expect("a row");
    state::<Cart>(&mut row).0.remove("book");
    row.keep();
    assert_eq!(
        changes(row.as_ref()),
        (Fields::new(), vec!["book".to_owned()])
    );
}

/// Least and greatest, before there is any, as one writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Range {
    count: u64,
    min: f64,
    max: f64,
    mean: Option<f64>,
    within: Vec<Option<f32>>,
    inner: Limits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Limits {
    most: f64,
    by_day: BTreeMap<u32, f64>,
}

impl Default for Range {
    fn default() -> Self {
        Self {
            count: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            mean: None,
            within: Vec::new(),
            inner: Limits {
                most: f64::INFINITY,
                by_day: BTreeMap::new(),
            },
        }
    }
}

impl State for Range {
    const TABLE: &'static str = "ranges";
}

#[test]
fn numbers_that_are_not_finite_come_back() {
    let mut row = open::<Range>(&Fields::new()).expect("a new row");
    state::<Range>(&mut row).count = 1;
    row.keep();
    let (first, _) = changes(row.as_ref());
    let text = |name: &str| {
        let at = first.binary_search_by(|(field, _)| field.as_str().cmp(name));
        std::str::from_utf8(&first[at.expect("it is there")].1).expect("text")
    };
    assert_eq!((text("min"), text("max")), ("Infinity", "-Infinity"));
    assert_eq!(text("inner"), r#"{"by_day":{},"most":"Infinity"}"#);
    let mut row = open::<Range>(&first).expect("it is read again");
    let now = state::<Range>(&mut row);
    assert_eq!((now.min, now.max), (f64::INFINITY, f64::NEG_INFINITY));
    now.min = 2.5;
    now.within = vec![Some(f32::NEG_INFINITY), None, Some(1.5)];
    now.inner.by_day.insert(7, f64::NAN);
    now.mean = Some(f64::NAN);
    row.keep();
    let (set, gone) = changes(row.as_ref());
    assert!(gone.is_empty());
    let mut second = first.clone();
    for field in set {
        second.retain(|(name, _)| *name != field.0);
        second.push(field);
    }
    second.sort();
    let mut row = open::<Range>(&second).expect("it is read again");
    let now = state::<Range>(&mut row).clone();
    assert_eq!((now.min, now.max), (2.5, f64::NEG_INFINITY));
    assert_eq!(now.within, [Some(f32::NEG_INFINITY), None, Some(1.5)]);
    assert!(now.inner.by_day[&7].is_nan() && now.mean.expect("a mean").is_nan());
    row.keep();
    assert_eq!(changes(row.as_ref()), (Fields::new(), Vec::new()));
    // A row from before these fields has their defaults.
    let mut old = open::<Range>(&fields(&[("count", "3"), ("inner", r#"{"by_day":{}}"#)]))
        .expect("an old row");
    let now = state::<Range>(&mut old);
    assert_eq!((now.min, now.inner.most), (f64::INFINITY, f64::INFINITY));
}

#[test]
fn a_number_that_could_not_be_read_again_is_refused() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Whole {
        name: String,
        #[serde(flatten)]
        share: Share,
    }
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Share {
        part: f64,
    }
    impl State for Whole {
        const TABLE: &'static str = "wholes";
    }
    let mut row = open::<Whole>(&Fields::new()).expect("a new row");
    // A text that is such a word is none.
    state::<Whole>(&mut row).name = "Infinity".to_owned();
    row.keep();
    row.changes().expect("it is read again");
    state::<Whole>(&mut row).share.part = f64::INFINITY;
    row.keep();
    let refused = row.changes().expect_err("nobody could read it");
    assert!(refused.contains("not finite"), "{refused}");
}

#[test]
fn a_failed_handler_leaves_no_trace() {
    let mut row = open::<Page>(&fields(&[("views", "3")])).expect("a row");
    state::<Page>(&mut row).views = 4;
    row.keep();
    *state::<Page>(&mut row) = Page {
        views: 99,
        note: Some("half".into()),
    };
    assert_eq!(
        changes(row.as_ref()),
        (fields(&[("views", "4")]), vec![]),
        "not kept, so not written"
    );
    row.undo();
    assert_eq!(
        *state::<Page>(&mut row),
        Page {
            views: 4,
            note: None
        }
    );
    assert_eq!(changes(row.as_ref()), (fields(&[("views", "4")]), vec![]));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newer {
    views: u64,
    weight: u64,
}

impl Default for Newer {
    fn default() -> Self {
        Self {
            views: 0,
            weight: 7,
        }
    }
}

impl State for Newer {
    const TABLE: &'static str = "pages";
}

#[test]
fn a_row_of_another_version_is_read_and_left_whole() {
    let mut row =
        open::<Newer>(&fields(&[("views", "3"), ("retired", "kept by nobody")])).expect("a row");
    assert_eq!(
        *state::<Newer>(&mut row),
        Newer {
            views: 3,
            weight: 7
        },
        "a new field has its default"
    );
    // The default is written once; a field of others is neither written nor deleted.
    assert_eq!(changes(row.as_ref()), (fields(&[("weight", "7")]), vec![]));
}

#[test]
fn no_state_is_never_written() {
    let mut row = open::<()>(&fields(&[("views", "3")])).expect("a row");
    let (): () = *state::<()>(&mut row);
    row.keep();
    assert_eq!(changes(row.as_ref()), (Fields::new(), vec![]));
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Shelf {
    place: String,
    reserve: Reserve,
    more: Vec<Box3>,
    named: BTreeMap<String, Box3>,
    kind: Form,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reserve {
    least: u64,
    inner: Box3,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            least: 3,
            inner: Box3 {
                size: 9,
                ..Box3::default()
            },
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Box3 {
    size: u64,
    label: String,
    note: Option<String>,
    parts: Vec<String>,
    #[serde(default = "seven")]
    seven: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Form {
    #[default]
    Flat,
    Round {
        width: u64,
        depth: u64,
    },
}

fn seven() -> u64 {
    7
}

impl State for Shelf {
    const TABLE: &'static str = "shelves";
}

#[test]
fn a_field_that_is_missing_has_its_default_at_every_depth() {
    let shelf: Shelf = from_fields(&fields(&[
        ("reserve", r#"{"inner":{"label":"x"}}"#),
        ("more", r#"[{"size":1},{"label":"y","seven":8}]"#),
        ("named", r#"{"a":{}}"#),
        ("kind", r#"{"Round":{"width":2}}"#),
    ]))
    .expect("a row");
    assert_eq!((shelf.reserve.least, shelf.reserve.inner.size), (3, 9));
    assert_eq!(shelf.reserve.inner.label, "x");
    let more = &shelf.more;
    assert_eq!(
        (more[0].size, more[0].label.as_str(), more[0].seven),
        (1, "", 7)
    );
    assert_eq!(
        (more[1].size, more[1].label.as_str(), more[1].seven),
        (0, "y", 8)
    );
    assert_eq!(shelf.named["a"].parts, Vec::<String>::new());
    assert_eq!(shelf.kind, Form::Round { width: 2, depth: 0 });
    // Neither a wrong type nor a missing enum is filled.
    let why = from_fields::<Shelf>(&fields(&[("more", r#"[{"size":"1"}]"#)])).expect_err("a text");
    assert!(why.starts_with("field more.0.size: "), "{why}");
}

/// [`Page`] with a field renamed, and the third version with another made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counted {
    visits: u64,
    twice: u64,
    note: Option<String>,
}

impl State for Counted {
    const TABLE: &'static str = "pages";
    const VERSION: u32 = 3;

    fn upgrade(from: u32, fields: &mut BTreeMap<String, String>) -> crate::Result<()> {
        if from == 1 {
            let views = fields.remove("views").unwrap_or_default();
            fields.insert("visits".into(), views);
        } else {
            let visits: u64 = fields["visits"].parse()?;
            fields.insert("twice".into(), (visits * 2).to_string());
        }
        Ok(())
    }
}

#[test]
fn an_older_row_is_upgraded_step_by_step_and_written_whole() {
    let mut row = open::<Counted>(&fields(&[("views", "3"), ("note", "n"), ("foreign", "f")]));
    let row = row.as_mut().expect("a row");
    let counted = Counted {
        visits: 3,
        twice: 6,
        note: Some("n".into()),
    };
    assert_eq!(*state::<Counted>(row), counted);
    let written = fields(&[("_schema", "3"), ("twice", "6"), ("visits", "3")]);
    assert_eq!(changes(row.as_ref()), (written, vec!["views".to_owned()]));
    let mut second = open::<Counted>(&fields(&[("_schema", "2"), ("visits", "4")])).expect("a row");
    assert_eq!(state::<Counted>(&mut second).twice, 8);
    let third = fields(&[("_schema", "3"), ("visits", "4"), ("twice", "1")]);
    let mut third = open::<Counted>(&third).expect("a row");
    assert_eq!(state::<Counted>(&mut third).twice, 1);
    assert_eq!(changes(third.as_ref()), (Fields::new(), vec![]));
    // A new row begins with the newest version.
    let new = open::<Counted>(&Fields::new()).expect("a row");
    let written = fields(&[("_schema", "3"), ("twice", "0"), ("visits", "0")]);
    assert_eq!(changes(new.as_ref()), (written, vec![]));
}

#[test]
fn a_row_that_cannot_be_upgraded_or_is_newer_is_refused() {
    let refused = |stored: &[(&str, &str)]| open::<Counted>(&fields(stored)).err();
    let newer = RowError::Newer {
        stored: 4,
        known: 3,
    };
    assert_eq!(refused(&[("_schema", "4"), ("visits", "4")]), Some(newer));
    let why = refused(&[("_schema", "2"), ("visits", "many")]).map(|e| e.to_string());
    let why = why.expect("refused");
    assert!(why.starts_with("upgrade from version 2: "), "{why}");
    let first = open::<Page>(&fields(&[("_schema", "2"), ("views", "1")])).err();
    let newer = RowError::Newer {
        stored: 2,
        known: 1,
    };
    assert_eq!(first, Some(newer));
}

#[test]
fn data_that_is_called_as_the_version_is_data() {
    let data = BTreeMap::from([("_schema".to_owned(), 5), ("__schema".to_owned(), 6)]);
    let ranking = Ranking(data);
    let row = to_fields(&ranking).expect("fields");
    assert_eq!(text(&row).get("_schema"), None);
    assert_eq!(from_fields::<Ranking>(&row), Ok(ranking));
}

/// Fields without JSON in between are those that JSON would give.
#[test]
fn plain_fields_are_those_of_json() {
    fn same<S: State + std::fmt::Debug>(state: &S) {
        let mut by_json = fields_by_json(state).expect("a row");
        by_json.sort();
        assert_eq!(plain_sorted(state), Some(by_json.clone()), "{state:?}");
        assert_eq!(to_fields(state), Ok(by_json), "{state:?}");
    }
    fn plain_sorted<S: State>(state: &S) -> Option<Fields> {
        let mut fields = plain::fields(state).ok()?;
        fields.sort();
        Some(fields)
    }
    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    struct Counts(BTreeMap<i64, Option<u8>>);
    impl State for Counts {
        const TABLE: &'static str = "counts";
    }
    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    struct Flat {
        a: f32,
        b: (u8, bool),
        _schema: Option<i8>,
        #[serde(flatten)]
        rest: BTreeMap<String, u64>,
    }
    impl State for Flat {
        const TABLE: &'static str = "flat";
    }

    same(&Row::default());
    let part = || Part {
        name: "\u{1f600}\n".to_owned(),
        sizes: vec![1, u64::MAX],
    };
    same(&Row {
        text: String::new(),
        number: u64::MAX,
        below: i64::MIN,
        share: 1e300,
        small: 255,
        yes: true,
        letter: Some('"'),
        note: Some(String::new()),
        limit: Some(0),
        kind: Kind::Moved { to: "x".to_owned() },
        parts: vec![part(), Part::default()],
        nested: Some(part()),
        names: [("a".to_owned(), "b".to_owned())].into(),
    });
    for kind in [Kind::New, Kind::Code(7)] {
        same(&Row {
            share: 0.5,
            kind,
            ..Row::default()
        });
    }
    same(&Counts([(-1, None), (2, Some(3))].into()));
    let flat = |name: &str| Flat {
        a: 0.1,
        b: (1, true),
        _schema: Some(-1),
        rest: [(name.to_owned(), 9)].into(),
    };
    same(&flat("other"));
    // A name that comes twice counts once, as in JSON.
    let twice = flat("a");
    let mut by_json = fields_by_json(&twice).expect("a row");
    by_json.sort();
    assert_eq!(to_fields(&twice), Ok(by_json));
}
