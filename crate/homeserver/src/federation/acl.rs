//! Which servers a room lets take part (Server-Server API, "Server Access Control Lists").

use crate::{
    glob::{Glob, folded},
    homeserver::Homeserver,
    room::{self, NodeId, RoomInfo},
};
use ephapse_events::StateKey;
use ruma::{ServerName, events::StateEventType};
use serde::Deserialize;
use serde_json::Value;

/// Whether the current state of a room lets a server take part. Without an `m.room.server_acl`
/// event every server may.
pub async fn allows(hs: &Homeserver, room: &RoomInfo, server: &ServerName) -> Result<bool, room::Error> {
    let head = hs.room_head(room.nid).await?;
    let key: StateKey = (StateEventType::RoomServerAcl, String::new());
    let Some(event) = hs.state_event(room.nid, NodeId(head.state), key).await? else { return Ok(true) };
    Ok(is_allowed(event.pdu.content.get(), server))
}

/// What the content of an `m.room.server_acl` event says of a server. What has not the form that it
/// should have is as if it were not there.
fn is_allowed(content: &str, server: &ServerName) -> bool {
    #[derive(Default, Deserialize)]
    struct Content {
        #[serde(default)]
        allow: Value,
        #[serde(default)]
        deny: Value,
        #[serde(default)]
        allow_ip_literals: Value,
    }
    let content: Content = serde_json::from_str(content).unwrap_or_default();
    let host = server.host();
    if content.allow_ip_literals == Value::Bool(false) && is_ip_literal(host) {
        return false;
    }
    let host = folded(host);
    let is_among = |patterns: &Value| {
        let patterns = patterns.as_array().into_iter().flatten().filter_map(Value::as_str);
        patterns.filter_map(Glob::new).any(|pattern| pattern.matches(&host))
    };
    !is_among(&content.deny) && is_among(&content.allow)
}

fn is_ip_literal(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_decides_as_the_specification_says() {
        let allowed = |content: &str, server: &str| is_allowed(content, server.try_into().expect("a name"));
        let list = r#"{"allow":["*"],"deny":["*.evil.example","evil.example"],"allow_ip_literals":false}"#;
        for good in ["one.example", "one.example:8448", "notevil.example"] {
            assert!(allowed(list, good), "{good}");
        }
        for bad in ["evil.example", "EVIL.example:1234", "a.evil.example", "1.2.3.4", "1.2.3.4:80", "[::1]"] {
            assert!(!allowed(list, bad), "{bad}");
        }
        assert!(allowed(r#"{"allow":["*"]}"#, "1.2.3.4"));
        assert!(allowed(r#"{"allow":["*"],"allow_ip_literals":"no","deny":"*"}"#, "1.2.3.4"), "malformed fields are not there");
        assert!(!allowed("{}", "one.example"), "nobody is allowed where nothing is");
        assert!(!allowed(r#"{"allow":"one.example"}"#, "one.example"));
        assert!(allowed(r#"{"allow":["on?.example"]}"#, "one.example"));
    }
}
