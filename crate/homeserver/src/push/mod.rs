//! Push notifications (Client-Server API, Push Notifications): which events notify whom, and how
//! many of them are unread.

mod conditions;
mod rules;
mod ruleset;
mod unread;
pub mod user_rules;

pub use rules::{PUSH_RULES, RuleSets};
pub use ruleset::{NewRule, Rule, Rules};
pub(crate) use unread::Receipts;
pub use unread::{Count, Unreads};
pub use user_rules::Refused;
