//! The Client-Server API: one file for each group of endpoints, named as the specification's
//! chapters.

mod account;
mod account_data;
mod aliases;
mod answered;
mod capabilities;
mod create_room;
mod cross_signing;
mod devices;
mod directory;
mod filters;
mod hierarchy;
pub mod interactive;
mod key_backup;
mod keys;
mod media;
mod membership;
mod messages;
mod old_sync;
mod openid;
mod presence;
mod profile;
mod push_rules;
mod read_markers;
mod receipts;
mod refused;
mod register;
mod relations;
mod send;
mod session;
mod shared_secret;
mod state;
mod sync;
mod to_device;
mod typing;
mod upgrade;
mod versions;
mod wire;

pub use versions::{with_stable_names, with_stable_path};

use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
    profiles,
    router::Table,
    tables::UserNid,
};
use ephapse_events::{JsonObject, MAX_PDU_BYTES};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId, room_version_rules::RoomVersionRules};

/// Everything of this API that is implemented, and for whom. What is for guests is what the
/// specification lists, and joining by an alias: clients know no other way to join.
pub fn routes(table: &mut Table) {
    table.public(versions::versions).public(versions::well_known);
    table.public(session::login_types).public(session::login).user(session::logout).user(session::logout_all);
    table.public(register::register).public(register::username_available).public(register::token_validity);
    table.public(shared_secret::nonce).public(shared_secret::register);
    table.guest(account::whoami).user(account::change_password).user(account::deactivate);
    table.guest(devices::list).guest(devices::get).guest(devices::update).user(devices::delete).user(devices::delete_many);
    table.user(capabilities::capabilities);
    table.public(profile::get).public(profile::get_field).guest(profile::set_field).guest(profile::delete_field);
    table.user(account_data::get_global).large(account_data::set_global).user(account_data::get_room).large(account_data::set_room);
    table.user(account_data::tags).user(account_data::set_tag).user(account_data::delete_tag);
    table.user(filters::create).user(filters::get);
    table
        .user(push_rules::get_all)
        .user(push_rules::get_global)
        .user(push_rules::get_kind)
        .user(push_rules::get)
        .user(push_rules::set)
        .user(push_rules::delete);
    table.user(push_rules::get_enabled).user(push_rules::set_enabled).user(push_rules::get_actions).user(push_rules::set_actions);
    table.guest(sync::sync_events).user(receipts::create_receipt).user(read_markers::set_read_marker).user(typing::create_typing_event);
    table.guest(old_sync::events).user(old_sync::event).user(old_sync::initial_sync).guest(old_sync::room_initial_sync);
    table.user(presence::get).user(presence::set);
    table.large(create_room::create_room).user(upgrade::upgrade);
    table.user(aliases::create).public(aliases::get).user(aliases::delete).user(aliases::of_room);
    table.public(directory::rooms).user(directory::filtered_rooms).public(directory::visibility).user(directory::set_visibility);
    table.user(hierarchy::hierarchy).optional(hierarchy::summary);
    table.guest(membership::join).guest(membership::join_by_id).user(membership::knock).guest(membership::leave).user(membership::forget);
    table.user(membership::invite).user(membership::kick).user(membership::ban).user(membership::unban);
    table.guest(state::all).guest(state::one).guest(state::put);
    table.guest(state::members).user(state::joined_members).user(state::joined_rooms);
    table.guest(send::message).user(send::redact).user(send::message_without_txn_id).user(send::redact_without_txn_id);
    table.guest(messages::messages).guest(messages::context).guest(messages::event).user(messages::at_time);
    table.guest_many(to_device::send);
    table.guest_many(keys::upload).guest_many(keys::query).guest_many(keys::claim).user(keys::changes);
    table.user(cross_signing::upload_keys).many(cross_signing::upload_signatures);
    table.user(key_backup::create).user(key_backup::latest).user(key_backup::get).user(key_backup::update).user(key_backup::delete);
    table.many(key_backup::put_keys).many(key_backup::put_keys_of_room).user(key_backup::put_key);
    table.user(key_backup::get_keys).user(key_backup::get_keys_of_room).user(key_backup::get_key);
    table.user(key_backup::delete_keys).user(key_backup::delete_keys_of_room).user(key_backup::delete_key);
    table.user_stream(media::upload).user(media::create).user_stream(media::upload_to).user(media::config).user(media::old_config);
    table.page_stream(media::download).page_stream(media::download_as).page_stream(media::thumbnail);
    table.public_stream(media::old_download).public_stream(media::old_download_as).public_stream(media::old_thumbnail);
    table.user(openid::request_token);
    table.user(relations::all).user(relations::by_type).user(relations::by_types);
}

/// Bytes of an object as a client writes it: of 64 KiB, with every character that is not ASCII
/// escaped.
const LARGEST_OBJECT: usize = 256 << 10;

/// A JSON object of a client as canonical JSON: 400 M_BAD_JSON for what has no canonical form, such
/// as fractions; 413 M_TOO_LARGE for one that would take long and much memory to read.
fn object(json: &str) -> Result<CanonicalJsonObject> {
    if json.len() > LARGEST_OBJECT {
        return Err(Error::too_large(format!("JSON object too large: at most {LARGEST_OBJECT} bytes are allowed")));
    }
    serde_json::from_str(json).map_err(|error| Error::bad_json(format!("Not a canonical JSON object: {error}")))
}

/// As [`object`], for what becomes part of an event: with the numbers that the room's version
/// allows. `None`: a version that is not known here.
fn part_of_event(json: &str, rules: Option<&RoomVersionRules>) -> Result<JsonObject> {
    if json.len() > LARGEST_OBJECT {
        return Err(Error::too_large(format!("JSON object too large: at most {LARGEST_OBJECT} bytes are allowed")));
    }
    let strict = rules.is_none_or(|rules| rules.authorization.strict_canonical_json);
    JsonObject::read(json, strict).map_err(|error| match JsonObject::read(json, false) {
        Ok(_) => Error::bad_json("Numbers in events must be integers between -(2^53 - 1) and 2^53 - 1 since room version 6"),
        Err(_) => Error::bad_json(format!("Not a canonical JSON object: {error}")),
    })
}

/// As [`part_of_event`], for the content: 413 M_TOO_LARGE for what no event can hold, before
/// anything is made of it.
fn content(json: &str, rules: &RoomVersionRules) -> Result<JsonObject> {
    let content = part_of_event(json, Some(rules))?;
    if content.to_json().expect("canonical JSON can be written").len() > MAX_PDU_BYTES {
        return Err(Error::too_large(format!("Event too large: at most {MAX_PDU_BYTES} bytes are allowed")));
    }
    Ok(content)
}

/// The canonical JSON of an object.
fn canonical(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).expect("canonical JSON can be written")
}

/// The content of a member event, with the profile of its user, who has an account here.
async fn member_content(hs: &Homeserver, user: UserNid, membership: &str, reason: Option<String>) -> Result<CanonicalJsonObject> {
    let mut content = bare_member_content(membership, reason);
    content.extend(profiles::shown_in_rooms(hs, user).await?);
    Ok(content)
}

/// The content of an invitation. Whom it cannot reach has no profile here, and no number yet.
async fn invite_content(hs: &Homeserver, user: &UserId, reason: Option<String>) -> Result<CanonicalJsonObject> {
    match hs.find_account(user).await? {
        Some(user) => member_content(hs, user, "invite", reason).await,
        None => Ok(bare_member_content("invite", reason)),
    }
}

/// The content of a member event that says no more than the membership.
fn bare_member_content(membership: &str, reason: Option<String>) -> CanonicalJsonObject {
    let reason = reason.map(|reason| ("reason".to_owned(), CanonicalJsonValue::String(reason)));
    let mut content: CanonicalJsonObject = reason.into_iter().collect();
    content.insert("membership".to_owned(), CanonicalJsonValue::String(membership.to_owned()));
    content
}
