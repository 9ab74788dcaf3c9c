//! What proves that somebody knows the secret that this server shares with the operator's tools: an
//! HMAC over a nonce of this server and what is wanted.
//!
//! Nonces are signed rather than remembered: one used twice asks for a username that is taken.

use crate::homeserver::Homeserver;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use std::time::Duration;

/// How long a nonce is good for.
const NONCE_LIFETIME: Duration = Duration::from_secs(60);

/// A new nonce.
pub fn nonce(hs: &Homeserver, secret: &str) -> String {
    let made = format!("{:x}.{}", hs.host.now(), hs.random_string(24));
    let mac = hex(&signed(secret, &made).finalize().into_bytes());
    format!("{made}.{mac}")
}

/// Whether a nonce was made here and is still good.
pub fn is_nonce(hs: &Homeserver, secret: &str, nonce: &str) -> bool {
    let Some((made, mac)) = nonce.rsplit_once('.') else { return false };
    let at = made.split_once('.').and_then(|(at, _)| u64::from_str_radix(at, 16).ok());
    is_signature(secret, made, mac) && at.is_some_and(|at| hs.host.now().saturating_sub(at) <= NONCE_LIFETIME.as_millis() as u64)
}

fn signed(secret: &str, message: &str) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("keys of HMAC have any length");
    mac.update(message.as_bytes());
    mac
}

/// Whether `mac`, in hexadecimal digits, is the HMAC-SHA1 of a message.
pub fn is_signature(secret: &str, message: &str, mac: &str) -> bool {
    unhex(mac).is_some_and(|mac| signed(secret, message).verify_slice(&mac).is_ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).ok());
    digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}
