//! How an event relates to another one (Client-Server API, "Forming relationships between events").

use ruma::{CanonicalJsonObject, OwnedEventId};
use serde::Deserialize;
use serde_json::Value;

/// A relation as it stands in an event's content.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct RelatesTo {
    /// How it relates.
    pub rel_type: String,
    /// To what.
    pub event_id: OwnedEventId,
    /// What an annotation says.
    key: Option<Value>,
}

impl RelatesTo {
    /// The relation in an event's content; `None` also for one that is malformed.
    pub fn in_json(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Option<RelatesTo>,
        }
        // Most contents have none, and need not be parsed.
        content.contains("m.relates_to").then(|| serde_json::from_str::<Content>(content).ok()?.relates_to)?
    }

    /// As [`Self::in_json`].
    pub fn in_object(content: &CanonicalJsonObject) -> Option<Self> {
        let relates_to = serde_json::to_value(content.get("m.relates_to")?).ok()?;
        serde_json::from_value(relates_to).ok()
    }

    /// What an annotation says, such as an emoji; `None` for relations of other types.
    pub fn annotation_key(&self) -> Option<&str> {
        self.key.as_ref()?.as_str().filter(|_| self.rel_type == "m.annotation")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_relations_count() {
        let content = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$root","m.in_reply_to":{"event_id":"$x"}}}"#;
        let root = RelatesTo { rel_type: "m.thread".to_owned(), event_id: "$root".try_into().expect("an id"), key: None };
        assert_eq!(RelatesTo::in_json(content), Some(root));
        for none in ["{}", r#"{"m.relates_to":{"m.in_reply_to":{"event_id":"$x"}}}"#, r#"{"m.relates_to":7}"#] {
            assert_eq!(RelatesTo::in_json(none), None, "{none}");
        }
    }

    #[test]
    fn only_annotations_have_a_key() {
        let key_of = |content| RelatesTo::in_json(content).expect("a relation").annotation_key().map(str::to_owned);
        assert_eq!(key_of(r#"{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"+1"}}"#).as_deref(), Some("+1"));
        for none in [
            r#"{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":7}}"#,
            r#"{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x"}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$x","key":"+1"}}"#,
        ] {
            assert_eq!(key_of(none), None, "{none}");
        }
    }
}
