//! Verifies every event of a database that no server has open: content hash, signature and id by
//! ruma's own functions, the events it stands on, and that each is found by its id. A bench or a
//! test whose stored events do not verify is void.

#[cfg(target_arch = "wasm32")]
mod browser;

use ephapse_homeserver::tables::{self, EventRecord, Room, RoomNid};
use ephapse_store::{Direction, Reader};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{PublicKeyMap, Verified, reference_hash, verify_event},
};
use std::error::Error;

/// What went wrong, with the event that it was.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Events read at a time.
const PAGE: usize = 2_000;

/// Verifies every event in `store`; resolves to how many there are.
pub async fn verify(store: &Reader) -> Result<usize> {
    let keys = own_key(store).await?;
    let mut verified = 0;
    for (number, room) in tables::ROOMS.scan(store, &(), Direction::Forward, usize::MAX).await? {
        verified += verify_room(store, &keys, number, &room).await.map_err(|error| format!("{}: {error}", room.id))?;
    }
    Ok(verified)
}

async fn own_key(store: &Reader) -> Result<PublicKeyMap> {
    let identity = tables::IDENTITY.get(store, &()).await?.ok_or("there is no server in this database")?;
    let public = ed25519_dalek::SigningKey::from_bytes(&identity.seed).verifying_key();
    let key = (format!("ed25519:{}", ephapse_homeserver::identity::KEY_VERSION), Base64::new(public.to_bytes().to_vec()));
    Ok([(identity.server_name.to_string(), [key].into())].into())
}

async fn verify_room(store: &Reader, keys: &PublicKeyMap, number: RoomNid, room: &Room) -> Result<usize> {
    let rules = room.version.rules().ok_or("its version is not known")?;
    let mut range = tables::EVENTS.range(&number);
    let mut verified = 0;
    loop {
        let page = tables::EVENTS.scan_range(store, range.clone(), Direction::Forward, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(verified) };
        range.start = [tables::EVENTS.key(last), vec![0]].concat();
        for (key, event) in &page {
            verify_one(keys, event, &rules).map_err(|error| format!("{}: {error}", event.event_id))?;
            if tables::EVENT_IDS.get(store, &event.event_id).await? != Some(*key) {
                return Err(format!("{}: it is not found by its id", event.event_id).into());
            }
        }
        verified += page.len();
    }
}

fn verify_one(keys: &PublicKeyMap, event: &EventRecord, rules: &RoomVersionRules) -> Result<()> {
    let object: CanonicalJsonObject = serde_json::from_slice(&event.pdu.0)?;
    if CanonicalJsonValue::Object(object.clone()).to_string().as_bytes() != event.pdu.0 {
        return Err("it is not kept as canonical JSON".into());
    }
    match verify_event(keys, &object, rules)? {
        Verified::All => {}
        Verified::Signatures if event.redacted_by.is_some() => {}
        Verified::Signatures => return Err("its content is not what was hashed".into()),
    }
    if rules.event_id_format != EventIdFormatVersion::V1 && event.event_id.as_str() != format!("${}", reference_hash(&object, rules)?) {
        return Err("its id does not follow from it".into());
    }
    Ok(())
}
