//! An event as another server sends it, and checks 1 to 3 on receipt of a PDU: format and sizes,
//! signatures, and the content hash.

use super::{Fields, JsonObject, MAX_PDU_BYTES, Pdu, PduError, check, event_id_of, format, read, to_be_signed, write};
use crate::signatures::{Signed, Verifier};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    canonical_json::RedactingSerializer,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, required_server_signatures_to_verify_event},
};
use sha2::{Digest, Sha256};
use std::{borrow::Borrow, collections::BTreeSet};

/// Why nobody can say that an event is from the servers that it must be from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It has no content hash.
    #[error("no content hash")]
    NoHash,
    /// A server that must sign it has not.
    #[error("no signature of {0}")]
    NotSigned(OwnedServerName),
    /// No key is given of those that a server has signed it with.
    #[error("no known key of {0} among those that signed it")]
    NoKey(OwnedServerName),
    /// What stands there is no signature.
    #[error("malformed signature by {1} of {0}")]
    Malformed(OwnedServerName, String),
    /// It is not by that key, or of something else.
    #[error("wrong signature by {1} of {0}")]
    Wrong(OwnedServerName, String),
}

/// An event from another server: well formed, its signatures not verified yet.
#[derive(Clone, Debug)]
pub struct ReceivedPdu {
    pdu: Pdu,
    /// What is signed of it.
    signed: String,
    /// By server and key.
    signatures: CanonicalJsonObject,
    /// Who must have signed it; an error where it says that by what is no server.
    signing_servers: Result<BTreeSet<OwnedServerName>, String>,
    /// Whether the content is what its hash says; none where it has no hash.
    is_intact: Option<bool>,
}

/// A signature that has to be good.
struct Needed {
    /// The event, by its number, and who signed it by which key.
    event: usize,
    server: OwnedServerName,
    key_id: String,
    key: Vec<u8>,
    signature: Vec<u8>,
}

impl ReceivedPdu {
    /// Reads an event and checks its format and sizes for the room version (receipt check 1).
    /// `unsigned` is dropped.
    ///
    /// # Errors
    /// [`PduError`], all but [`PduError::Signature`]: the event is to be discarded.
    pub fn parse(json: &[u8], rules: &RoomVersionRules) -> Result<Self, PduError> {
        // Past any whitespace and `unsigned` that a real event carries, so that reading is bounded.
        if json.len() > 4 * MAX_PDU_BYTES {
            return Err(PduError::TooLarge("event"));
        }
        let mut read = read(json, rules)?;
        read.remove("unsigned");
        let json = write(&read, &RedactingSerializer::new())?;
        check(json.as_bytes())?;
        format::check(&read, json.len(), rules)?;
        let signed = write(&read, &to_be_signed(rules))?;
        let event_id = event_id_of(&read, &signed, rules)?;
        let is_intact = is_intact(&read, &json);
        let signing_servers = required_server_signatures_to_verify_event(&read, &rules.signatures).map_err(|error| error.to_string());
        let signatures = match read.remove("signatures") {
            Some(CanonicalJsonValue::Object(signatures)) => signatures,
            _ => CanonicalJsonObject::new(),
        };
        let fields: Fields = serde_json::from_str(&json)?;
        let pdu = fields.into_pdu(event_id, json.into(), false, rules)?;
        Ok(Self { pdu, signed, signatures, signing_servers, is_intact })
    }

    /// What it says, unverified: enough to find the room and the signing keys.
    pub fn unverified(&self) -> &Pdu {
        &self.pdu
    }

    /// The servers whose signing keys [`ReceivedPdu::verify`] needs: that of the sender, up to v2
    /// that of the event's id too, and who let the user into a restricted room.
    ///
    /// # Errors
    /// [`PduError::Format`] if a field does not name a server.
    pub fn signing_servers(&self) -> Result<&BTreeSet<OwnedServerName>, PduError> {
        self.signing_servers.as_ref().map_err(|error| PduError::Format(error.clone()))
    }

    /// The ids of the keys that `server` signed it with.
    pub fn key_ids(&self, server: &ServerName) -> Vec<String> {
        self.signatures_of(server).map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
    }

    fn signatures_of(&self, server: &ServerName) -> Option<&CanonicalJsonObject> {
        self.signatures.get(server.as_str())?.as_object()
    }

    /// Verifies signatures and content hash (receipt checks 2 and 3). With a wrong hash the
    /// redacted event is what is true, and is what this returns.
    ///
    /// # Errors
    /// [`PduError::Signature`]: the event is to be discarded.
    pub fn verify(self, keys: &PublicKeyMap, rules: &RoomVersionRules) -> Result<Pdu, PduError> {
        Self::verify_all(vec![(self, Ok(keys))], &mut Verifier::default(), rules).pop().expect("one is verified")
    }

    /// As [`Self::verify`], of several events of a room, each with the keys that it may be signed
    /// by; the answers are in their order.
    pub fn verify_all<K: Borrow<PublicKeyMap>>(
        events: Vec<(Self, Result<K, PduError>)>,
        verifier: &mut Verifier,
        rules: &RoomVersionRules,
    ) -> Vec<Result<Pdu, PduError>> {
        let mut needed = Vec::new();
        let mut verified: Vec<Result<(), PduError>> = Vec::with_capacity(events.len());
        let mut received = Vec::with_capacity(events.len());
        for (number, (event, keys)) in events.into_iter().enumerate() {
            let found = keys.and_then(|keys| event.needed(number, keys.borrow()));
            verified.push(found.map(|found| needed.extend(found)));
            received.push(event);
        }
        let signed: Vec<Signed<'_>> = needed
            .iter()
            .map(|Needed { event, key, signature, .. }| Signed { key, message: received[*event].signed.as_bytes(), signature })
            .collect();
        let good = verifier.verify(&signed);
        for (Needed { event, server, key_id, .. }, is_good) in needed.into_iter().zip(good) {
            if !is_good && verified[event].is_ok() {
                verified[event] = Err(SignatureError::Wrong(server, key_id).into());
            }
        }
        let pdu = |event: Self| if event.is_intact == Some(true) { Ok(event.pdu) } else { event.pdu.redacted(rules) };
        received.into_iter().zip(verified).map(|(event, verified)| verified.and_then(|()| pdu(event))).collect()
    }

    /// The signatures that have to be good: of each server that must sign it, all by keys that are
    /// given, and at least one.
    fn needed(&self, event: usize, keys: &PublicKeyMap) -> Result<Vec<Needed>, PduError> {
        if self.is_intact.is_none() {
            return Err(SignatureError::NoHash.into());
        }
        let mut needed = Vec::new();
        for server in self.signing_servers()? {
            let signatures = self.signatures_of(server).ok_or_else(|| SignatureError::NotSigned(server.clone()))?;
            let of_others = needed.len();
            for (key_id, signature) in signatures {
                let key = keys.get(server.as_str()).and_then(|keys| keys.get(key_id));
                let Some(key) = key.filter(|_| key_id.starts_with("ed25519:")) else { continue };
                let malformed = || SignatureError::Malformed(server.clone(), key_id.clone());
                let signature = signature.as_str().and_then(|signature| Base64::<Standard>::parse(signature).ok()).ok_or_else(malformed)?;
                needed.push(Needed {
                    event,
                    server: server.clone(),
                    key_id: key_id.clone(),
                    key: key.as_bytes().to_vec(),
                    signature: signature.into_inner(),
                });
            }
            if needed.len() == of_others {
                return Err(SignatureError::NoKey(server.clone()).into());
            }
        }
        Ok(needed)
    }
}

/// Whether the content is what the event's hash says; none where it has no hash.
fn is_intact(read: &JsonObject, json: &str) -> Option<bool> {
    let given = read.get("hashes")?.as_object()?.get("sha256")?.as_str()?;
    let mut hash = Sha256::new();
    hash.update("{");
    let mut is_first = true;
    for member in members(json) {
        if member.starts_with("\"hashes\":") || member.starts_with("\"signatures\":") {
            continue;
        }
        if !is_first {
            hash.update(",");
        }
        hash.update(member);
        is_first = false;
    }
    let hash = hash.chain_update("}").finalize();
    Some(Base64::<Standard>::parse(given).is_ok_and(|given| given.as_bytes() == &hash[..]))
}

/// The members of an object in canonical JSON, as they are written.
fn members(json: &str) -> impl Iterator<Item = &str> {
    let bytes = json.as_bytes();
    let mut at = 1;
    std::iter::from_fn(move || {
        let start = at;
        let mut depth = 0_usize;
        let mut in_string = false;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'\\' if in_string => at += 1,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b',' | b'}' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        let member = json.get(start..at).filter(|member| !member.is_empty());
        at += 1;
        member
    })
}
