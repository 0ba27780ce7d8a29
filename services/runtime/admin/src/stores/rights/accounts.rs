//! Rights as accounts of a nats-server's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use oncue_core::bus::info::USER_INFO;
use oncue_core::config::JETSTREAM_API;

use super::{Answers, Grant, Publish, Rights, Role};

/// Beginning of the API's subjects in an account that imports them: under its own name the server takes a request for one to
/// the account's own JetStream, which it does not have.
pub const IMPORTED_API: &str = "$JS.APX";
/// Subjects that a service answers to, besides those with its name.
const QUESTIONS: [&str; 3] = ["$SRV.PING", "$SRV.INFO", "$SRV.STATS"];

/// Public keys of a role, of which each is good: one, or two while it is replaced.
pub type PublicKeys = BTreeMap<Role, Vec<String>>;

/// Accounts of an app, and who a client without credentials is, for a server's configuration.
pub fn configuration(rights: &Rights, keys: &PublicKeys) -> String {
    let mut text = String::from(
        "# Written by Oncue from what the functions of the app declare: `oncue rights` says why each right is there.\n",
    );
    if let Some(key) = keys.get(&Role::Public).and_then(|keys| keys.first()) {
        let _ = writeln!(text, "no_auth_user: {key}");
    }
    text.push_str("accounts {\n");
    text += &accounts(rights, keys, Quota::default());
    text.push_str("}\n");
    text
}

/// Quota of an app on servers that several share.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quota {
    /// Bytes of all its streams; `None` for what the server has.
    pub storage: Option<u64>,
    /// Connections of each function, and of its gateways together; `None` for any number.
    pub connections: Option<u32>,
}

/// Accounts of an app, to stand among those of others.
pub fn accounts(rights: &Rights, keys: &PublicKeys, quota: Quota) -> String {
    let mut text = String::new();
    trusted_account(&mut text, rights, keys, quota);
    for grant in rights
        .grants
        .iter()
        .filter(|grant| !grant.role.is_trusted())
    {
        small_account(&mut text, rights, grant, keys, quota);
    }
    text
}

/// Subject as the account that imports it calls it.
pub fn local(subject: &str) -> String {
    match subject.strip_prefix(JETSTREAM_API) {
        Some(rest) => format!("{IMPORTED_API}{rest}"),
        None => subject.to_owned(),
    }
}

/// The app's own account: it has the streams, and says who may do what with them.
fn trusted_account(text: &mut String, rights: &Rights, keys: &PublicKeys, quota: Quota) {
    let app = &rights.app;
    let jetstream = match quota.storage {
        Some(bytes) => format!("{{ max_file: {bytes}, max_memory: 0 }}"),
        None => "enabled".to_owned(),
    };
    let _ = writeln!(
        text,
        "  {} {{\n    jetstream: {jetstream}\n    users: [",
        quoted(app.as_str())
    );
    for role in [Role::Operator, Role::Console] {
        for key in keys.get(&role).into_iter().flatten() {
            let _ = writeln!(text, "      {{ nkey: {key} }} # {role}");
        }
    }
    text.push_str("    ]\n    exports: [\n");
    let mut services: BTreeMap<&str, (Answers, Vec<String>)> = BTreeMap::new();
    let mut streams: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for grant in &rights.grants {
        let account = grant.role.account(app);
        for Publish {
            subject, answers, ..
        } in &grant.publishes
        {
            let exported = services
                .entry(subject)
                .or_insert_with(|| (*answers, Vec::new()));
            exported.1.push(account.clone());
        }
        for (subject, _) in &grant.hears {
            streams.entry(subject).or_default().push(account.clone());
        }
    }
    for (subject, (answers, accounts)) in services {
        let kind = match answers {
            Answers::One => "",
            Answers::Many => "response_type: stream, ",
        };
        let _ = writeln!(
            text,
            "      {{ service: {}, {kind}accounts: [{}] }}",
            quoted(subject),
            list(&accounts)
        );
    }
    for (subject, accounts) in streams {
        let _ = writeln!(
            text,
            "      {{ stream: {}, accounts: [{}] }}",
            quoted(subject),
            list(&accounts)
        );
    }
    text.push_str("    ]\n    imports: [\n");
    for grant in &rights.grants {
        for question in questions(grant) {
            let account = quoted(&grant.role.account(app));
            let _ = writeln!(
                text,
                "      {{ service: {{ account: {account}, subject: {} }} }}",
                quoted(&question)
            );
        }
    }
    text.push_str("    ]\n  }\n");
}

/// Account of a role that may do what it declares.
fn small_account(
    text: &mut String,
    rights: &Rights,
    grant: &Grant,
    keys: &PublicKeys,
    quota: Quota,
) {
    let app = &rights.app;
    let role = &grant.role;
    let permissions = permissions(rights, grant).unwrap_or_default();
    let _ = writeln!(text, "  {} {{ # {role}", quoted(&role.account(app)));
    if let Some(connections) = quota.connections.filter(|_| *role != Role::Public) {
        let _ = writeln!(text, "    limits: {{ max_connections: {connections} }}");
    }
    text.push_str("    users: [\n");
    for key in keys.get(role).into_iter().flatten() {
        let _ = writeln!(text, "      {{ nkey: {key}, {permissions} }}");
    }
    text.push_str("    ]\n    imports: [\n");
    let account = quoted(app.as_str());
    for publish in &grant.publishes {
        let subject = quoted(&publish.subject);
        let local = local(&publish.subject);
        let to = if local == publish.subject {
            String::new()
        } else {
            format!(", to: {}", quoted(&local))
        };
        let _ = writeln!(
            text,
            "      {{ service: {{ account: {account}, subject: {subject} }}{to} }} # {}",
            publish.why
        );
    }
    for (subject, why) in &grant.hears {
        let subject = quoted(subject);
        let _ = writeln!(
            text,
            "      {{ stream: {{ account: {account}, subject: {subject} }} }} # {why}"
        );
    }
    text.push_str("    ]\n");
    let questions = questions(grant);
    if !questions.is_empty() {
        text.push_str("    exports: [\n");
        for question in questions {
            let _ = writeln!(
                text,
                "      {{ service: {}, response_type: stream, accounts: [{account}] }}",
                quoted(&question)
            );
        }
        text.push_str("    ]\n");
    }
    text.push_str("  }\n");
}

/// Permissions of a user in an account of its own. The account isolates; these bring an error where there would be silence.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    /// Subjects that it may publish to.
    pub publish: BTreeSet<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: BTreeSet<String>,
    /// Whether it may answer where it was asked.
    answers: bool,
}

/// Permissions of a role; `None` for one that may do everything in its account.
pub(super) fn permissions(rights: &Rights, grant: &Grant) -> Option<Permissions> {
    if grant.role.is_trusted() {
        return None;
    }
    let mut permissions = Permissions::default();
    let Permissions {
        publish, subscribe, ..
    } = &mut permissions;
    publish.insert(USER_INFO.to_owned());
    publish.extend(
        grant
            .publishes
            .iter()
            .map(|publish| local(&publish.subject)),
    );
    subscribe.insert(format!("{}.>", rights.inbox_prefix));
    subscribe.extend(grant.hears.iter().map(|(subject, _)| subject.clone()));
    if let Some(name) = &grant.answers_as {
        let vouchers = format!("oncue.survived.{}", rights.app.consumer(name));
        publish.insert(vouchers.clone());
        // In its own account it asks itself, as the check of a container's health does.
        publish.extend([format!("$SRV.PING.{name}"), format!("$SRV.PING.{name}.*")]);
        subscribe.insert(vouchers);
        subscribe.extend(questions(grant));
        permissions.answers = true;
    }
    Some(permissions)
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let responses = if self.answers {
            ", allow_responses: { max: 1, expires: \"5s\" }"
        } else {
            ""
        };
        write!(
            f,
            "permissions: {{ publish: {{ allow: [{}] }}, subscribe: {{ allow: [{}] }}{responses} }}",
            list(&self.publish),
            list(&self.subscribe)
        )
    }
}

/// Subjects of the questions that a role answers.
fn questions(grant: &Grant) -> Vec<String> {
    let Some(name) = &grant.answers_as else {
        return Vec::new();
    };
    let own = QUESTIONS
        .iter()
        .flat_map(|question| [format!("{question}.{name}"), format!("{question}.{name}.*")]);
    QUESTIONS
        .iter()
        .map(|question| (*question).to_owned())
        .chain(own)
        .collect()
}

fn list<'t>(texts: impl IntoIterator<Item = &'t String>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| self::quoted(text)).collect();
    quoted.join(", ")
}

/// Text in quotes. Names of apps, functions and types hold nothing that would have to be escaped.
fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}
