//! Push notifications (Client-Server API, Push Notifications): which events notify whom, and how many of them are unread.

mod rules;
mod unread;

pub use rules::{PUSH_RULES, RuleSets};
pub use unread::{Count, Unreads};
