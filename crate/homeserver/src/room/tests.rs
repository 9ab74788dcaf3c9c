//! Rooms with a second server in them: forks, late events, conflicting bans, through the one
//! append.

mod auth_rules;
mod bans;
mod forked;
mod forks;
mod order;
mod turns;
