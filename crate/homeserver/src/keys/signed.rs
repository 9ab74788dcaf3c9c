//! Signatures of devices and cross-signing keys (Appendices, Signing JSON).

use ruma::{CanonicalJsonObject, CanonicalJsonValue, SigningKeyAlgorithm, UserId, serde::Base64, signatures};

/// The ed25519 key that unpadded base64 stands for; none when it is no such key.
pub fn ed25519_key(text: &str) -> Option<[u8; 32]> {
    let bytes: [u8; 32] = Base64::<ruma::serde::base64::Standard>::parse(text).ok()?.into_inner().try_into().ok()?;
    ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok()?;
    Some(bytes)
}

/// The public key of a cross-signing key, in base64: what it is named by.
pub fn public_key(key: &CanonicalJsonObject) -> Option<&str> {
    key.get("keys")?.as_object()?.values().next()?.as_str()
}

/// The ed25519 key `key_id` of a device or cross-signing key.
pub fn key_of(keys: &CanonicalJsonObject, key_id: &str) -> Option<[u8; 32]> {
    ed25519_key(keys.get("keys")?.as_object()?.get(key_id)?.as_str()?)
}

/// The signature in `object` that `user` made with `key_id`.
pub fn signature<'a>(object: &'a CanonicalJsonObject, user: &UserId, key_id: &str) -> Option<&'a str> {
    signatures_of(object, user)?.get(key_id)?.as_str()
}

/// Every signature in `object` that `user` made, by key.
pub fn signatures_of<'a>(object: &'a CanonicalJsonObject, user: &UserId) -> Option<&'a CanonicalJsonObject> {
    object.get("signatures")?.as_object()?.get(user.as_str())?.as_object()
}

/// Whether `signature` of `object` was made with the private half of `key`.
pub fn is_signed(object: &CanonicalJsonObject, key: &[u8; 32], signature: &str) -> bool {
    let Ok(signature) = Base64::<ruma::serde::base64::Standard>::parse(signature) else { return false };
    let Ok(text) = signatures::to_canonical_json_string_for_signing(object) else { return false };
    signatures::verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key, signature.as_bytes(), text.as_bytes()).is_ok()
}

/// Whether two objects are the same to whoever signs them.
pub fn is_same(a: &CanonicalJsonObject, b: &CanonicalJsonObject) -> bool {
    let signed = |object: &CanonicalJsonObject| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    signed(a) == signed(b)
}

/// Removes signatures by anybody but `user`: whose they are only a later upload can show.
pub fn keep_own_signatures(object: &mut CanonicalJsonObject, user: &UserId) {
    if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut("signatures") {
        signatures.retain(|signer, _| signer == user.as_str());
    }
}

/// Adds a signature.
pub fn add_signature(object: &mut CanonicalJsonObject, user: &UserId, key_id: String, signature: String) {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let CanonicalJsonValue::Object(signatures) = object.entry("signatures".to_owned()).or_insert_with(empty) else { return };
    let CanonicalJsonValue::Object(own) = signatures.entry(user.to_string()).or_insert_with(empty) else { return };
    own.insert(key_id, CanonicalJsonValue::String(signature));
}
