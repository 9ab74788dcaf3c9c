//! Writes a local event: canonical JSON, content hash, signature, event id (server-server-api.md
//! "Adding hashes and signatures to outgoing events").
//!
//! Each field is written once, in the order of canonical JSON; what is hashed, signed and stored
//! are runs of the same pieces. A message is never parsed again on its way to disk.

use crate::pdu::{
    EventReference, JsonObject, MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS, Pdu, PduError, as_read, check, hash_of,
    room_id_of_create, unpadded,
};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey};
use ruma::{
    CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName,
    canonical_json::redact_content_in_place,
    events::TimelineEventType,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, PublicKeyMap},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// A server's signing key of 32 random bytes. Its id is `ed25519:` and `version`.
pub fn signing_key(seed: &[u8; 32], version: &str) -> Ed25519KeyPair {
    let der = SigningKey::from_bytes(seed).to_pkcs8_der().expect("a key has its form in DER");
    Ed25519KeyPair::from_der(der.as_bytes(), version.to_owned()).expect("every seed is a key")
}

/// What [`ReceivedPdu::verify`](crate::ReceivedPdu::verify) needs to know of a server with this
/// key.
pub fn public_keys(server: &ServerName, key: &Ed25519KeyPair) -> PublicKeyMap {
    let public_key = Base64::new(key.public_key().to_vec());
    [(server.to_string(), [(format!("ed25519:{}", key.version()), public_key)].into())].into()
}

/// An event before it is hashed and signed.
#[derive(Clone, Debug)]
pub struct NewPdu {
    /// None for the create event since v12, whose id makes the room's.
    pub room_id: Option<OwnedRoomId>,
    /// A user of the signing server.
    pub sender: OwnedUserId,
    /// The event's type.
    pub event_type: TimelineEventType,
    /// Makes it a state event.
    pub state_key: Option<String>,
    /// The content; `redacts` is added to it where the room version wants it there.
    pub content: JsonObject,
    /// The room's forward extremities, at most [`MAX_PREV_EVENTS`].
    pub prev_events: Vec<EventReference>,
    /// What `auth_types_for_event` selects from the state before it.
    pub auth_events: Vec<EventReference>,
    /// One more than the deepest of `prev_events`.
    pub depth: u64,
    /// Now.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The event that an `m.room.redaction` redacts.
    pub redacts: Option<OwnedEventId>,
    /// The localpart of the id in room versions 1 and 2: anything unique on this server. Unused
    /// since.
    pub event_localpart: String,
}

impl NewPdu {
    /// Hashes and signs it with the server's key.
    ///
    /// # Errors
    /// [`PduError::TooLarge`], [`PduError::Limit`], and [`PduError::Format`] if a reference has no
    /// hash where the room version writes one.
    pub fn sign(mut self, server: &ServerName, key: &impl KeyPair, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
        self.check_sizes()?;
        self.place_redacts(rules);
        let content = self.content.to_json()?;
        let given_id = self.given_id(server, rules)?;
        let pieces = self.pieces(given_id.as_ref(), rules)?;

        let content_hash = Sha256::new()
            .chain_update(&pieces.to_content)
            .chain_update(&content)
            .chain_update(&pieces.to_hashes)
            .chain_update(&pieces.to_redacts)
            .chain_update(&pieces.redacts)
            .chain_update(&pieces.to_signatures)
            .chain_update(&pieces.to_end)
            .finalize();
        let hashes = format!(r#","hashes":{{"sha256":"{}"}}"#, unpadded(&content_hash));

        let redacted_content = self.redacted_content(rules)?;
        let mut redacted = Vec::with_capacity(pieces.len() + hashes.len() + redacted_content.len());
        for piece in [
            &pieces.to_content[..],
            redacted_content.as_bytes(),
            &pieces.to_hashes,
            hashes.as_bytes(),
            &pieces.to_redacts,
            &pieces.to_signatures,
            &pieces.to_end,
        ] {
            redacted.extend_from_slice(piece);
        }
        let signature = key.sign(&redacted);
        let mut signatures = br#","signatures":{"#.to_vec();
        write_json(&mut signatures, server.as_str())?;
        signatures.extend_from_slice(b":{");
        write_json(&mut signatures, &signature.id())?;
        signatures.push(b':');
        write_json(&mut signatures, &signature.base64())?;
        signatures.extend_from_slice(b"}}");

        let mut json = Vec::with_capacity(pieces.len() + content.len() + hashes.len() + signatures.len());
        for piece in [
            &pieces.to_content[..],
            content.as_bytes(),
            &pieces.to_hashes,
            hashes.as_bytes(),
            &pieces.to_redacts,
            &pieces.redacts,
            &pieces.to_signatures,
            &signatures,
            &pieces.to_end,
        ] {
            json.extend_from_slice(piece);
        }
        if json.len() > MAX_PDU_BYTES {
            return Err(PduError::TooLarge("event"));
        }
        check(&json)?;

        let event_id = match given_id {
            Some(id) => id,
            None => format!("${}", hash_of(&redacted, rules)).try_into().map_err(|error| PduError::Format(format!("`event_id`: {error}")))?,
        };
        let gives_room_id = self.room_id.is_none();
        let room_id = match self.room_id {
            Some(room_id) => room_id,
            None => room_id_of_create(&event_id)?,
        };
        Ok(Pdu {
            event_id,
            room_id,
            sender: self.sender,
            content: as_read(&self.event_type, RawValue::from_string(content)?),
            event_type: self.event_type,
            state_key: self.state_key,
            prev_events: self.prev_events.into_iter().map(|r| r.event_id).collect(),
            auth_events: self.auth_events.into_iter().map(|r| r.event_id).collect(),
            depth: self.depth,
            origin_server_ts: self.origin_server_ts,
            redacts: self.redacts,
            rejected: false,
            auth_depth: 0,
            json: json.into(),
            gives_room_id,
        })
    }

    fn check_sizes(&self) -> Result<(), PduError> {
        if self.event_type.to_string().len() > MAX_ID_BYTES {
            return Err(PduError::TooLarge("type"));
        }
        if self.state_key.as_ref().is_some_and(|key| key.len() > MAX_ID_BYTES) {
            return Err(PduError::TooLarge("state_key"));
        }
        if self.prev_events.len() > MAX_PREV_EVENTS {
            return Err(PduError::TooLarge("prev_events"));
        }
        if self.auth_events.len() > MAX_AUTH_EVENTS {
            return Err(PduError::TooLarge("auth_events"));
        }
        Ok(())
    }

    /// Since v11: `redacts` is part of the content.
    fn place_redacts(&mut self, rules: &RoomVersionRules) {
        if let (true, Some(id)) = (rules.redaction.content_field_redacts, &self.redacts) {
            self.content.insert("redacts".to_owned(), CanonicalJsonValue::String(id.to_string()));
        }
    }

    /// v1 and v2: the server names its events.
    fn given_id(&self, server: &ServerName, rules: &RoomVersionRules) -> Result<Option<OwnedEventId>, PduError> {
        if rules.event_id_format != EventIdFormatVersion::V1 {
            return Ok(None);
        }
        OwnedEventId::try_from(format!("${}:{server}", self.event_localpart))
            .map(Some)
            .map_err(|error| PduError::Format(format!("`event_id`: {error}")))
    }

    /// Most events are messages, of whose content nothing remains.
    fn redacted_content(&mut self, rules: &RoomVersionRules) -> Result<String, PduError> {
        let event_type = self.event_type.to_string();
        redact_content_in_place(&mut self.content, &rules.redaction, &event_type);
        if self.content.is_empty() {
            return Ok("{}".to_owned());
        }
        Ok(self.content.to_json()?)
    }

    fn pieces(&self, given_id: Option<&OwnedEventId>, rules: &RoomVersionRules) -> Result<Pieces, PduError> {
        let mut to_content = br#"{"auth_events":"#.to_vec();
        write_references(&mut to_content, &self.auth_events, rules)?;
        to_content.extend_from_slice(br#","content":"#);

        let mut to_hashes = format!(r#","depth":{}"#, self.depth).into_bytes();
        if let Some(id) = given_id {
            to_hashes.extend_from_slice(br#","event_id":"#);
            write_json(&mut to_hashes, id)?;
        }

        let ts = self.origin_server_ts.get();
        let mut to_redacts = format!(r#","origin_server_ts":{ts},"prev_events":"#).into_bytes();
        write_references(&mut to_redacts, &self.prev_events, rules)?;

        let mut redacts = Vec::new();
        if let (false, Some(id)) = (rules.redaction.content_field_redacts, &self.redacts) {
            redacts.extend_from_slice(br#","redacts":"#);
            write_json(&mut redacts, id)?;
        }

        let mut to_signatures = Vec::new();
        if let Some(room_id) = &self.room_id {
            to_signatures.extend_from_slice(br#","room_id":"#);
            write_json(&mut to_signatures, room_id)?;
        }
        to_signatures.extend_from_slice(br#","sender":"#);
        write_json(&mut to_signatures, &self.sender)?;

        let mut to_end = Vec::new();
        if let Some(state_key) = &self.state_key {
            to_end.extend_from_slice(br#","state_key":"#);
            write_json(&mut to_end, state_key)?;
        }
        to_end.extend_from_slice(br#","type":"#);
        write_json(&mut to_end, &self.event_type)?;
        to_end.push(b'}');
        Ok(Pieces { to_content, to_hashes, to_redacts, redacts, to_signatures, to_end })
    }
}

/// Canonical JSON between the values that differ in what is hashed, signed and stored.
struct Pieces {
    to_content: Vec<u8>,
    to_hashes: Vec<u8>,
    to_redacts: Vec<u8>,
    redacts: Vec<u8>,
    to_signatures: Vec<u8>,
    to_end: Vec<u8>,
}

impl Pieces {
    fn len(&self) -> usize {
        self.to_content.len() + self.to_hashes.len() + self.to_redacts.len() + self.redacts.len() + self.to_signatures.len() + self.to_end.len()
    }
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), PduError> {
    Ok(serde_json::to_writer(out, value)?)
}

/// v1 and v2: an id with its hash; since v3: the id, which is a hash.
fn write_references(out: &mut Vec<u8>, references: &[EventReference], rules: &RoomVersionRules) -> Result<(), PduError> {
    out.push(b'[');
    for (i, reference) in references.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if rules.events_reference_format == EventsReferenceFormatVersion::V1 {
            let sha256 = reference.sha256.as_deref().ok_or_else(|| PduError::Format(format!("no hash given for {}", reference.event_id)))?;
            out.push(b'[');
            write_json(out, &reference.event_id)?;
            out.extend_from_slice(br#",{"sha256":"#);
            write_json(out, sha256)?;
            out.extend_from_slice(b"}]");
        } else {
            write_json(out, &reference.event_id)?;
        }
    }
    out.push(b']');
    Ok(())
}
