//! Message to a receiver: all that it does not know yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_proto::event;
use serde_json::{Value, json};

use super::notice::Notice;

/// Notices of which a message has the text; of more it says how many.
const MAX_LINES: usize = 20;

/// Notices that a receiver does not know, or whose end it does not.
pub struct Message {
    pub app: String,
    /// Address of the console's page.
    pub page: String,
    pub notices: Vec<(String, Notice)>,
}

impl Message {
    /// Id of the message, however often it is sent.
    pub fn id(&self) -> String {
        let parts = self.notices.iter();
        let parts: Vec<String> = parts
            .map(|(name, notice)| format!("{name} {} {:?}", notice.since, notice.ended))
            .collect();
        let bytes: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        URL_SAFE_NO_PAD.encode(event::hash(&bytes))
    }

    /// Body: `data` for programs, `text` for chats that show it.
    pub fn body(&self, now: u64) -> String {
        let notices = self.notices.iter();
        let notices: Vec<Value> = notices
            .map(|(name, notice)| {
                json!({
                    "name": name,
                    "kind": notice.kind,
                    "state": if notice.ended.is_some() { "ended" } else { "began" },
                    "text": notice.text,
                    "advice": notice.advice,
                    "since": event::format_time(notice.since),
                    "ended": notice.ended.map(event::format_time),
                    "link": self.link(notice),
                })
            })
            .collect();
        json!({
            "type": "oncue.notices",
            "timestamp": event::format_time(now),
            "text": self.text(),
            "data": { "app": self.app, "notices": notices },
        })
        .to_string()
    }

    fn link(&self, notice: &Notice) -> String {
        format!("{}/#/{}", self.page.trim_end_matches('/'), notice.link)
    }

    pub fn text(&self) -> String {
        let lines = self.notices.iter().take(MAX_LINES);
        let mut lines: Vec<String> = lines
            .map(|(_, notice)| {
                let state = if notice.ended.is_some() { "Over: " } else { "" };
                format!("{state}{} {}", notice.text, self.link(notice))
            })
            .collect();
        if self.notices.len() > MAX_LINES {
            lines.push(format!("and {} more", self.notices.len() - MAX_LINES));
        }
        format!("[{}] {}", self.app, lines.join("\n"))
    }
}
