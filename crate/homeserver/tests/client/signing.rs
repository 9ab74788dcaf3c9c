//! Clients that hold keys: what a device or a user signs, and whether it verifies.

use crate::support::TestUser;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey};
use serde_json::{Value, json};

/// An ed25519 key of a device, or of cross-signing.
pub struct Key(SigningKey);

impl Key {
    pub fn new(seed: u8) -> Self {
        Self(SigningKey::from_bytes(&[seed; 32]))
    }

    /// The public key in unpadded base64.
    pub fn public(&self) -> String {
        STANDARD_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Adds `user`'s signature with this key, named `ed25519:<name>`.
    pub fn sign(&self, object: &mut Value, user: &str, name: &str) {
        let signature = self.0.sign(signed_text(object).as_bytes());
        object["signatures"][user][format!("ed25519:{name}")] = STANDARD_NO_PAD.encode(signature.to_bytes()).into();
    }

    /// Whether `object` carries `user`'s signature with this key, named `ed25519:<name>`.
    pub fn has_signed(&self, object: &Value, user: &str, name: &str) -> bool {
        let Some(signature) = object["signatures"][user][format!("ed25519:{name}")].as_str() else { return false };
        let bytes = STANDARD_NO_PAD.decode(signature).expect("base64");
        let signature = Signature::from_slice(&bytes).expect("a signature");
        self.0.verifying_key().verify_strict(signed_text(object).as_bytes(), &signature).is_ok()
    }
}

fn signed_text(object: &Value) -> String {
    let mut object = object.clone();
    let fields = object.as_object_mut().expect("an object");
    fields.remove("signatures");
    fields.remove("unsigned");
    // The maps of serde_json sort their keys, and these tests have no text that canonical JSON
    // writes otherwise.
    object.to_string()
}

/// The identity keys of a user's device, signed by it.
pub fn device_keys(user: &TestUser, key: &Key) -> Value {
    let mut keys = json!({
        "user_id": user.id,
        "device_id": user.device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{}", user.device): Key::new(201).public(),
            format!("ed25519:{}", user.device): key.public(),
        },
    });
    key.sign(&mut keys, &user.id, &user.device);
    keys
}

/// A one-time or fallback key, signed by the device.
pub fn one_time_key(user: &TestUser, key: &Key, content: &str, fallback: bool) -> Value {
    let mut one_time_key = json!({ "key": STANDARD_NO_PAD.encode(content) });
    if fallback {
        one_time_key["fallback"] = true.into();
    }
    key.sign(&mut one_time_key, &user.id, &user.device);
    one_time_key
}

/// A cross-signing key that nobody has signed.
pub fn cross_signing_key(user: &TestUser, usage: &str, key: &Key) -> Value {
    json!({ "user_id": user.id, "usage": [usage], "keys": { format!("ed25519:{}", key.public()): key.public() } })
}
