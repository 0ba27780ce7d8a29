//! All of `[[route]]`, checked against the contract: what a request becomes, and which request.

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_proto::event::{PLATFORM_DOMAINS, stream_of_type};
use oncue_proto::{Catalog, Entry, Format, TextField};
use serde_json::{Map, Value};

use super::{AnswerMode, ConfigErrors, FieldSource, Method, RequestPart, Route};

/// Wait of a route that says none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Routes that fit the contract, found by host, method and path.
#[derive(Debug, Default)]
pub struct Routes {
    endpoints: Vec<Endpoint>,
    /// By host, `None` for any, and method; the value is the place in `endpoints`.
    paths: BTreeMap<(Option<String>, Method), matchit::Router<usize>>,
}

/// A route, and what it needs of the contract.
#[derive(Debug)]
pub struct Endpoint {
    pub route: Route,
    pub target: Target,
}

/// Thing that a request is about.
#[derive(Debug)]
pub enum Target {
    Event(Box<EventTarget>),
    Row { table: String, key: FieldSource },
}

/// Event that a request becomes.
#[derive(Debug)]
pub struct EventTarget {
    pub entry: Entry,
    /// Fields that are set over those of the body, in the order of their names.
    pub fields: Vec<BoundField>,
    pub response: Response,
}

/// Field of an event, and where its value comes from.
#[derive(Debug)]
pub struct BoundField {
    /// Name in JSON.
    pub name: String,
    /// Every name under which a body could hold it.
    pub names: [String; 2],
    pub origin: Origin,
}

/// Origin of a field's value.
#[derive(Debug)]
pub enum Origin {
    /// Text of the path, the query, a header or a claim.
    Text {
        part: RequestPart,
        field: TextField,
        default: Option<Value>,
    },
    /// Member of the body, which is JSON already.
    Member {
        names: Vec<String>,
        default: Option<Value>,
    },
    Constant(Value),
}

/// When a request is answered, and with what.
#[derive(Debug)]
pub enum Response {
    /// 202, at once.
    Accepted,
    /// The whole flow, once it is complete.
    Flow(Duration),
    /// First event of one of these types.
    Event {
        /// Status by type.
        statuses: BTreeMap<String, u16>,
        timeout: Duration,
    },
}

/// Route that a request is for.
#[derive(Debug, Clone)]
pub struct Match {
    /// Which of [`Routes::endpoints`].
    pub place: usize,
    /// Parameters of the path, percent-encoded as they came.
    pub parameters: BTreeMap<String, String>,
}

impl Routes {
    /// Compares routes with the contract.
    ///
    /// # Errors
    /// Every mistake, with its line.
    pub fn new(routes: &[Route], catalog: &Catalog) -> Result<Self, ConfigErrors> {
        let mut made = Self::default();
        let mut errors = Vec::new();
        for route in routes {
            let mut checked = Checked {
                route,
                catalog,
                mistakes: Vec::new(),
            };
            let target = checked.target();
            if let Err(why) = made.place(route) {
                checked.mistakes.push(why);
            }
            let said = checked.mistakes.into_iter();
            errors.extend(
                said.map(|why| format!("{}[[route]] {}: {why}", route.place, route.title())),
            );
            if let Some(target) = target {
                made.endpoints.push(Endpoint {
                    route: route.clone(),
                    target,
                });
            }
        }
        if errors.is_empty() {
            Ok(made)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// Enters a route under its path; of two that fit, the one whose earlier segment is no parameter is found.
    fn place(&mut self, route: &Route) -> Result<(), String> {
        let paths = self
            .paths
            .entry((route.host.clone(), route.method()))
            .or_default();
        let entered = paths.insert(route.path.clone(), self.endpoints.len());
        entered.map_err(|e| match e {
            matchit::InsertError::Conflict { with } => {
                let other = self.endpoints.iter().find(|endpoint| {
                    endpoint.route.path == with
                        && endpoint.route.host == route.host
                        && endpoint.route.method() == route.method()
                });
                let place = other.map_or("", |other| other.route.place());
                format!(
                    "the same requests are for {with} ({})",
                    place.trim_end_matches([':', ' '])
                )
            }
            other => other.to_string(),
        })
    }

    /// Every route, in the order of the file.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether a route is for this host by name.
    pub fn has_host(&self, host: &str) -> bool {
        self.endpoints.iter().any(|endpoint| {
            let named = endpoint.route.host.as_deref();
            named.is_some_and(|named| named.eq_ignore_ascii_case(host))
        })
    }

    /// Route for a request; one that names the host before one that does not.
    pub fn find(&self, host: &str, method: &str, path: &str) -> Option<Match> {
        let method = if method == "HEAD" { "GET" } else { method };
        let mut paths = self
            .paths_of(host)
            .filter(|paths| paths.method.name() == method);
        paths.find_map(|paths| {
            let found = paths.router.at(path).ok()?;
            let parameters = found.params.iter();
            let parameters = parameters.map(|(name, raw)| (name.to_owned(), raw.to_owned()));
            Some(Match {
                place: *found.value,
                parameters: parameters.collect(),
            })
        })
    }

    /// Methods for which there is a route of this path.
    pub fn methods(&self, host: &str, path: &str) -> Vec<Method> {
        let known = self
            .paths_of(host)
            .filter(|paths| paths.router.at(path).is_ok());
        let mut methods: Vec<Method> = known.map(|paths| paths.method).collect();
        methods.sort();
        methods.dedup();
        methods
    }

    /// Paths of a host, those of any host last.
    fn paths_of(&self, host: &str) -> impl Iterator<Item = Paths<'_>> {
        let host = host.to_ascii_lowercase();
        let all = self.paths.iter().rev();
        all.filter(move |((of, _), _)| of.as_ref().is_none_or(|of| *of == host))
            .map(|((_, method), router)| Paths {
                method: *method,
                router,
            })
    }
}

/// Paths of one method.
struct Paths<'r> {
    method: Method,
    router: &'r matchit::Router<usize>,
}

/// Comparison of one route with the contract.
struct Checked<'c> {
    route: &'c Route,
    catalog: &'c Catalog,
    mistakes: Vec<String>,
}

impl Checked<'_> {
    /// Target of the route, as far as nothing is wrong.
    fn target(&mut self) -> Option<Target> {
        let route = self.route;
        if let Some(table) = &route.row {
            let parameter = route.parameters().first().map(|name| FieldSource::Of {
                part: RequestPart::Path((*name).to_owned()),
                default: None,
            });
            return Some(Target::Row {
                table: table.clone(),
                key: route.key.clone().or(parameter)?,
            });
        }
        let response = self.response();
        let entry = self.entry(route.event.as_deref()?)?;
        let fields = self.fields(&entry);
        Some(Target::Event(Box::new(EventTarget {
            entry,
            fields,
            response,
        })))
    }

    /// Event type of the app; its own events are nobody's to send or to wait for.
    fn entry(&mut self, ty: &str) -> Option<Entry> {
        if PLATFORM_DOMAINS.contains(&stream_of_type(ty)) {
            self.mistakes
                .push(format!("{ty} is an event of the platform's own"));
            return None;
        }
        match self.catalog.get(ty) {
            Ok(entry) => Some(entry.clone()),
            Err(e) => {
                self.mistakes.push(e.to_string());
                None
            }
        }
    }

    fn response(&mut self) -> Response {
        let route = self.route;
        let timeout = route.timeout.map_or(TIMEOUT, |span| span.0);
        let Some(response) = &route.response else {
            return match route.answer {
                Some(AnswerMode::Wait) => Response::Flow(timeout),
                _ => Response::Accepted,
            };
        };
        let failures = route.failure.iter();
        let failures = failures.map(|failure| (failure.ty.clone(), failure.status));
        let success = (response.clone(), route.status.unwrap_or(200));
        let statuses: BTreeMap<String, u16> = failures.chain([success]).collect();
        for ty in statuses.keys() {
            self.entry(ty);
        }
        Response::Event { statuses, timeout }
    }

    /// Fields that the route sets, those of the path by their own names included.
    fn fields(&mut self, entry: &Entry) -> Vec<BoundField> {
        let route = self.route;
        let mut sources = route.fields.clone();
        let parts = route.fields.values().filter_map(FieldSource::part);
        let named: Vec<&RequestPart> = parts.collect();
        for name in route.parameters() {
            let part = RequestPart::Path(name.to_owned());
            if named.contains(&&part) {
                continue;
            }
            if entry.json_name(name).is_err() {
                self.mistakes.push(format!(
                    "{{{name}}} of the path is no field of {} and no field takes it; it has {}",
                    entry.schema(),
                    entry.field_names().collect::<Vec<_>>().join(", ")
                ));
                continue;
            }
            let source = FieldSource::Of {
                part,
                default: None,
            };
            sources.entry(name.to_owned()).or_insert(source);
        }
        let mut bound = Vec::new();
        for (name, source) in &sources {
            match bind(entry, name, source) {
                Ok(field) => bound.push(field),
                Err(why) => self.mistakes.push(why),
            }
        }
        let key = &entry.key_field;
        let has_key = key.is_empty() || bound.iter().any(|field| field.names.contains(key));
        if !has_key && !route.merges_body() && !route.fields.contains_key(key) {
            self.mistakes.push(format!(
                "nothing says {key:?}, the key of {}: name a parameter of the path so, or give it in `fields`",
                entry.ty
            ));
        }
        bound
    }
}

/// Field with its origin, which must fit.
fn bind(entry: &Entry, name: &str, source: &FieldSource) -> Result<BoundField, String> {
    let names = entry.names_of(name)?;
    let origin = match source {
        FieldSource::Constant(value) => Origin::Constant(constant(entry, name, value)?),
        FieldSource::Of { part, default } => {
            let default = default.as_ref();
            let default = default
                .map(|value| constant(entry, name, value))
                .transpose()?;
            match part {
                RequestPart::Body(names) => Origin::Member {
                    names: names.clone(),
                    default,
                },
                part => {
                    let field = entry.text_field(name)?;
                    if field.is_list()
                        && !matches!(part, RequestPart::Query(_) | RequestPart::Claim(_))
                    {
                        return Err(format!(
                            "field {name:?} is a list, which only a query or a claim can hold: {part} is one value"
                        ));
                    }
                    Origin::Text {
                        part: part.clone(),
                        field,
                        default,
                    }
                }
            }
        }
    };
    Ok(BoundField {
        name: names[0].clone(),
        names,
        origin,
    })
}

/// Value of the file as JSON, if the field can hold it.
fn constant(entry: &Entry, name: &str, value: &toml::Value) -> Result<Value, String> {
    let json = match value {
        // An object of the library's own otherwise.
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        other => serde_json::to_value(other).map_err(|e| format!("{name}: {e}"))?,
    };
    let mut message = Map::new();
    message.insert(name.to_owned(), json.clone());
    let payload = Value::Object(message).to_string();
    match entry.to_protobuf(Format::Json, payload.as_bytes()) {
        Ok(_) => Ok(json),
        Err(e) => Err(format!("field {name:?} cannot be {json}: {e}")),
    }
}
