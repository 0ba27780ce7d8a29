//! `[[route]]`: a request of HTTP as an event, or as a row. Here is a route as it is written, and what of it can be checked
//! without the contract; [`Routes`](super::Routes) has the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Span;

/// `[[route]]`: method, host and path of requests, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Default: POST for an event, GET for a row, which answers HEAD as well.
    pub method: Option<Method>,
    /// Name under which it is asked for, without port. Default: any that the gateway answers to.
    pub host: Option<String>,
    /// Path with parameters, `/orders/{order}`; the last segment may be `{*rest}`, which takes all that follows.
    pub path: String,
    /// Type of the event that a request becomes.
    pub event: Option<String>,
    /// Fields of the event by where their values come from. A parameter of the path that is called as a field needs no line.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldSource>,
    /// Whether the members of a JSON body are the event's fields, under those of `fields`. Default: where the method has a
    /// body and no field is taken from it by name.
    pub body: Option<bool>,
    /// Table of the row that is shown.
    pub row: Option<String>,
    /// Key of that row. Default: the one parameter of the path.
    pub key: Option<FieldSource>,
    /// When the request is answered. Default [`AnswerMode::Accepted`].
    pub answer: Option<AnswerMode>,
    /// Type of the event that is the answer: the first of the flow that is of it, or of a type in `failure`.
    pub response: Option<String>,
    /// Status with that event. Default 200.
    pub status: Option<u16>,
    /// Types that are an answer as well, each with its status.
    #[serde(default)]
    pub failure: Vec<FailureType>,
    /// Longest wait for the flow or for the response. Default 5 s; at most `[flows] max_wait`.
    pub timeout: Option<Span>,
    /// Name of the `[auth.NAME]` that must know the client. Default: that of `[gateway]`, or anybody.
    pub auth: Option<String>,
    /// Name of the `[limit.NAME]` that counts its requests. Default: that of `[gateway]`, or none.
    pub limit: Option<String>,
    /// `oncue.toml:LINE: `, for mistakes that show only once every contract is known.
    #[serde(skip)]
    pub(super) place: String,
}

/// Method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Name of it in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether its requests have a body that means something [RFC 9110 section 9.3].
    pub fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

/// When a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerMode {
    /// Once its event is in its stream: 202.
    Accepted,
    /// Once the flow is complete: 200 with the whole flow.
    Wait,
}

/// Type of an event that is a refusal, and the status with which it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureType {
    #[serde(rename = "type")]
    pub ty: String,
    pub status: u16,
}

/// Origin of a field: a part of the request (`"path.order"`, `"query.page"`, `"header.x-visitor"`, `"body.customer.name"`,
/// `"body"`, `"claim.tenant"`), with a default (`{ from = "query.page", default = 1 }`), or always the same
/// (`{ value = "web" }`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum FieldSource {
    Of {
        part: RequestPart,
        default: Option<toml::Value>,
    },
    Constant(toml::Value),
}

/// Part of a request that holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPart {
    /// Parameter of the path.
    Path(String),
    /// Parameter of the query.
    Query(String),
    /// Header, in lower case.
    Header(String),
    /// Member of the JSON body, by the names that lead to it; none for the whole body.
    Body(Vec<String>),
    /// Claim of the credential with which the request came in, by its whole name.
    Claim(String),
}

impl std::fmt::Display for RequestPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(name) => write!(f, "path.{name}"),
            Self::Query(name) => write!(f, "query.{name}"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Body(names) if names.is_empty() => f.write_str("body"),
            Self::Body(names) => write!(f, "body.{}", names.join(".")),
            Self::Claim(name) => write!(f, "claim.{name}"),
        }
    }
}

impl std::str::FromStr for RequestPart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('.').unwrap_or((text, ""));
        match (kind, name) {
            ("path", name) if !name.is_empty() => Ok(Self::Path(name.into())),
            ("query", name) if !name.is_empty() => Ok(Self::Query(name.into())),
            ("header", name) if is_token(name) => Ok(Self::Header(name.to_ascii_lowercase())),
            ("claim", name) if !name.is_empty() => Ok(Self::Claim(name.into())),
            ("body", "") if text == "body" => Ok(Self::Body(Vec::new())),
            ("body", names) if names.split('.').all(|name| !name.is_empty()) => {
                Ok(Self::Body(names.split('.').map(str::to_owned).collect()))
            }
            _ => Err(format!(
                "{text:?} is no part of a request; it is path.NAME, query.NAME, header.NAME, body.NAME, body or claim.NAME"
            )),
        }
    }
}

/// Whether a name can be that of a header [RFC 9110 section 5.6.2].
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl TryFrom<toml::Value> for FieldSource {
    type Error = String;

    fn try_from(written: toml::Value) -> Result<Self, String> {
        let mut table = match written {
            toml::Value::String(text) => {
                let part = text.parse()?;
                return Ok(Self::Of {
                    part,
                    default: None,
                });
            }
            toml::Value::Table(table) => table,
            _ => {
                return Err(
                    "a field says where it comes from, such as \"query.NAME\"; for always the same write { value = 1 }"
                        .to_owned(),
                );
            }
        };
        let source = match (table.remove("from"), table.remove("value")) {
            (Some(toml::Value::String(from)), None) => Self::Of {
                part: from.parse()?,
                default: table.remove("default"),
            },
            (None, Some(value)) => Self::Constant(value),
            _ => {
                return Err(
                    "a field has either `from`, such as \"query.page\", or `value`".to_owned(),
                );
            }
        };
        match table.keys().next() {
            Some(unknown) => Err(format!(
                "unknown {unknown:?}; a field has `from` and `default`, or `value`"
            )),
            None => Ok(source),
        }
    }
}

impl FieldSource {
    /// Part of the request that it is taken from.
    pub fn part(&self) -> Option<&RequestPart> {
        match self {
            Self::Of { part, .. } => Some(part),
            Self::Constant(_) => None,
        }
    }
}

/// Paths that are the gateway's own.
const OWN: [&str; 5] = ["/v1", "/healthz", "/readyz", "/metrics", "/openapi.json"];

impl Route {
    /// Method of its requests.
    pub fn method(&self) -> Method {
        let by_target = if self.row.is_some() {
            Method::Get
        } else {
            Method::Post
        };
        self.method.unwrap_or(by_target)
    }

    /// Whether the members of a body are fields of the event.
    pub fn merges_body(&self) -> bool {
        self.body
            .unwrap_or_else(|| self.method().has_body() && !self.names_body())
    }

    /// Whether a body is read at all.
    pub fn reads_body(&self) -> bool {
        self.merges_body() || self.names_body()
    }

    /// Whether a field is taken from the body by its name.
    fn names_body(&self) -> bool {
        let mut parts = self.fields.values().filter_map(FieldSource::part);
        parts.any(|part| matches!(part, RequestPart::Body(_)))
    }

    /// First claim that a value is taken from: somebody must have said it.
    pub fn claim(&self) -> Option<&RequestPart> {
        let sources = self.fields.values().chain(&self.key);
        let mut parts = sources.filter_map(FieldSource::part);
        parts.find(|part| matches!(part, RequestPart::Claim(_)))
    }

    /// Names of the parameters of the path.
    pub fn parameters(&self) -> Vec<&str> {
        let segments = self.path.split('/').filter_map(parameter);
        segments
            .map(|name| name.strip_prefix('*').unwrap_or(name))
            .collect()
    }

    /// `POST shop.example.com/orders/{order}`, for people.
    pub fn title(&self) -> String {
        let host = self.host.as_deref().unwrap_or_default();
        format!("{} {host}{}", self.method().name(), self.path)
    }

    /// `oncue.toml:LINE: `
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Everything that can be told to be wrong without the contract, a sentence each.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.wrong_path());
        let host = self.host.as_deref().unwrap_or("localhost");
        let is_host = host.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)
        });
        if host.is_empty() || !is_host {
            found.push(format!(
                "host {host:?} is no name in lower case, without port, like \"shop.example.com\""
            ));
        }
        match (&self.event, &self.row) {
            (Some(_), None) => found.extend(self.wrong_event()),
            (None, Some(table)) => found.extend(self.wrong_row(table)),
            _ => found.push("a route leads either to an `event` or to a `row`".to_owned()),
        }
        let parameters = self.parameters();
        for source in self.fields.values().chain(&self.key) {
            if let Some(RequestPart::Path(name)) = source.part()
                && !parameters.contains(&&**name)
            {
                found.push(format!(
                    "the path has no {{{name}}}, of which path.{name} would be"
                ));
            }
        }
        found
    }

    fn wrong_path(&self) -> Option<String> {
        let path = &self.path;
        let Some(rest) = path.strip_prefix('/') else {
            return Some(format!("path {path:?} does not begin with /"));
        };
        if let Some(own) = OWN.iter().find(|own| is_under(path, own)) {
            return Some(format!(
                "path {path:?}: what is under {own} is the gateway's own"
            ));
        }
        let segments: Vec<&str> = rest.split('/').collect();
        let mut names = BTreeSet::new();
        for (at, segment) in segments.iter().enumerate() {
            let Some(name) = parameter(segment) else {
                if !segment.bytes().all(is_plain) || [".", ".."].contains(segment) {
                    return Some(format!(
                        "path {path:?}: {segment:?} is neither letters, digits and -._~ nor one parameter like {{order}}"
                    ));
                }
                continue;
            };
            let bare = name.strip_prefix('*').unwrap_or(name);
            if bare != name && at + 1 < segments.len() {
                return Some(format!(
                    "path {path:?}: only the last segment can be {{{name}}}"
                ));
            }
            let is_name = !bare.is_empty()
                && bare
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name {
                return Some(format!(
                    "path {path:?}: {segment:?} is no parameter like {{order}} or {{*rest}}"
                ));
            }
            if !names.insert(bare) {
                return Some(format!("path {path:?} has {{{bare}}} twice"));
            }
        }
        None
    }

    /// Mistakes of a route to an event.
    fn wrong_event(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.key.is_some() {
            found.push("`key` is for a `row`: the key of an event is a field of it".to_owned());
        }
        if self.reads_body() && !self.method().has_body() {
            let method = self.method().name();
            found.push(format!("a {method} has no body to take fields from"));
        }
        if self.answer.is_some() && self.response.is_some() {
            found.push("`answer` and `response` exclude each other".to_owned());
        }
        if self.response.is_none() && (self.status.is_some() || !self.failure.is_empty()) {
            found.push("`status` and `failure` belong to a `response`".to_owned());
        }
        let waits = self.response.is_some() || self.answer == Some(AnswerMode::Wait);
        if self.timeout.is_some() && !waits {
            found.push(
                "`timeout` is for `response` and for answer = \"wait\": nothing else is waited for"
                    .to_owned(),
            );
        }
        if let Some(status) = self.status.filter(|status| !(200..=299).contains(status)) {
            found.push(format!(
                "status {status} is no success, which is 200 to 299"
            ));
        }
        let mut types: BTreeSet<&str> = self.response.as_deref().into_iter().collect();
        for failure in &self.failure {
            let FailureType { ty, status } = failure;
            if !(400..=599).contains(status) {
                found.push(format!(
                    "status {status} of {ty} is no failure, which is 400 to 599"
                ));
            }
            if !types.insert(ty) {
                found.push(format!("{ty} is an answer twice"));
            }
        }
        for (name, source) in &self.fields {
            if let FieldSource::Of {
                part: RequestPart::Path(_),
                default: Some(_),
            } = source
            {
                found.push(format!(
                    "{name} is of the path, which is never without it: no default"
                ));
            }
        }
        found
    }

    /// Mistakes of a route to a row.
    fn wrong_row(&self, table: &str) -> Vec<String> {
        let mut found = Vec::new();
        let is_table = !table.is_empty()
            && table
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if !is_table {
            found.push(format!("row {table:?} is no name of a table"));
        }
        if self.method() != Method::Get {
            let method = self.method().name();
            found.push(format!("a row is shown by GET, not by {method}"));
        }
        let of_events = [
            ("fields", !self.fields.is_empty()),
            ("body", self.body.is_some()),
            ("answer", self.answer.is_some()),
            ("response", self.response.is_some()),
            ("status", self.status.is_some()),
            ("failure", !self.failure.is_empty()),
            ("timeout", self.timeout.is_some()),
        ];
        let wrong = of_events.iter().filter(|(_, is_set)| *is_set);
        found.extend(wrong.map(|(name, _)| format!("`{name}` is for an event, and this is a row")));
        match (&self.key, self.parameters().len()) {
            (None, 1) => {}
            (None, _) => found.push(
                "`key` is missing: it says which row, such as \"path.NAME\" or { value = \"all\" }"
                    .to_owned(),
            ),
            (Some(FieldSource::Constant(value)), _) if !value.is_str() => {
                found.push("the key of a row is text".to_owned());
            }
            (Some(FieldSource::Of { part, default }), _) => {
                let is_text = default.as_ref().is_none_or(toml::Value::is_str);
                if matches!(part, RequestPart::Body(_)) || !is_text {
                    found.push(
                        "the key of a row is text of path, query, header or claim".to_owned(),
                    );
                }
            }
            (Some(FieldSource::Constant(_)), _) => {}
        }
        found
    }
}

/// Whether a path is another one, or below it.
fn is_under(path: &str, other: &str) -> bool {
    path.strip_prefix(other)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Name in a segment that is a parameter, with the `*` of one that takes the rest.
fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Whether a byte stands for itself in a path [RFC 3986 section 2.3].
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
