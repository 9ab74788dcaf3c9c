//! Who this node is: its ed25519 key, the server name that follows from it, and its instance id.
//!
//! The name of a node without a domain is its libp2p peer id as a CIDv1 in base36 (`k51…`), so that
//! anyone can derive the key from the name offline.

use crate::{
    host::Host,
    tables::{self, StoredIdentity},
    transaction::write_at_opening,
};
use ephapse_events::signing_key;
use ephapse_store::{Reader, Store, StoreError};
use ruma::{OwnedServerName, ServerName, signatures::Ed25519KeyPair};
use std::{cell::OnceCell, rc::Rc};

/// CIDv1, libp2p-key, identity multihash of 36 bytes, then the protobuf `{type: ed25519, data: 32
/// bytes}`.
const CID_PREFIX: [u8; 8] = [0x01, 0x72, 0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// What multibase puts before base36 in small letters.
const BASE36: char = 'k';
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Letters of the label that says a key.
const KEY_LABEL: usize = 62;

/// The key id of a node's one key, which is never rotated.
pub const KEY_VERSION: &str = "0";

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database belongs to a server of another name.
    #[error("this database belongs to {stored}, not {asked}: use another data directory, or leave the name out")]
    OtherName {
        /// The name the database was made with.
        stored: OwnedServerName,
        /// The name asked for now.
        asked: OwnedServerName,
    },
}

/// A node's name, key and instance.
pub struct Identity {
    /// The Matrix server name.
    pub server_name: OwnedServerName,
    seed: [u8; 32],
    key_pair: OnceCell<Ed25519KeyPair>,
    /// Tells this database from every other one, also of the same name.
    pub instance: u32,
}

impl Identity {
    /// Reads the node's identity, or makes one on the first start (durable when this returns).
    pub async fn open(store: &Rc<dyn Store>, host: &dyn Host, asked: Option<&ServerName>) -> Result<Self, IdentityError> {
        let stored = match tables::IDENTITY.get(&Reader::new(store.clone()), &()).await? {
            Some(stored) => stored,
            // Apart, since only the first start needs it.
            None => Box::pin(Self::create(&**store, host, asked)).await?,
        };
        if let Some(asked) = asked
            && stored.server_name != asked
        {
            return Err(IdentityError::OtherName { stored: stored.server_name, asked: asked.to_owned() });
        }
        Ok(Self { server_name: stored.server_name, seed: stored.seed, key_pair: OnceCell::new(), instance: stored.instance })
    }

    /// The signing key; made when something is signed first, since that takes some milliseconds of
    /// a start.
    pub fn key_pair(&self) -> &Ed25519KeyPair {
        self.key_pair.get_or_init(|| signing_key(&self.seed, KEY_VERSION))
    }

    /// The public half of the signing key.
    pub fn public_key(&self) -> ed25519_dalek::VerifyingKey {
        ed25519_dalek::SigningKey::from_bytes(&self.seed).verifying_key()
    }

    async fn create(store: &dyn Store, host: &dyn Host, asked: Option<&ServerName>) -> Result<StoredIdentity, IdentityError> {
        let mut seed = [0; 32];
        host.random(&mut seed);
        let mut instance = [0; 4];
        host.random(&mut instance);
        let server_name = match asked {
            Some(name) => name.to_owned(),
            None => name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key()),
        };
        let stored = StoredIdentity { seed, server_name, instance: u32::from_be_bytes(instance) };
        write_at_opening(store, |tx| tables::IDENTITY.put(tx, &(), &stored)).await?;
        Ok(stored)
    }

    /// The id of the signing key, `ed25519:0`.
    pub fn key_id(&self) -> String {
        format!("ed25519:{KEY_VERSION}")
    }
}

/// The `k51…` name of a key.
pub fn name_of_key(key: &ed25519_dalek::VerifyingKey) -> OwnedServerName {
    let cid = [&CID_PREFIX[..], key.as_bytes()].concat();
    let name = format!("{BASE36}{}", base_x::encode(ALPHABET, &cid));
    OwnedServerName::try_from(name).expect("base36 letters are a DNS label")
}

/// The key that a `k51…` name (or a name below a gateway, by its first label) stands for; `None`
/// for ordinary names and for any but the canonical form.
pub fn key_of_name(name: &ServerName) -> Option<ed25519_dalek::VerifyingKey> {
    let label = name.host().split('.').next()?;
    if !label.starts_with("k51") {
        return None;
    }
    let cid = base_x::decode(ALPHABET, label.strip_prefix(BASE36)?).ok()?;
    let bytes: [u8; 32] = cid.strip_prefix(&CID_PREFIX)?.try_into().ok()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok()?;
    (name_of_key(&key).as_str() == label).then_some(key)
}

/// Whether the first label of a name has the form of one that says its key, so that no other key
/// counts for it, also where it is not the canonical form of any.
pub fn looks_like_a_key(name: &ServerName) -> bool {
    let label = name.host().split('.').next().unwrap_or_default();
    label.len() == KEY_LABEL && label.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("k51"))
}

/// Whether other servers can reach `name` over HTTPS. A `k51…` name that is not below a gateway is
/// no domain: its server has no such address, and asks and answers nobody there.
pub fn has_address(name: &ServerName) -> bool {
    key_of_name(name).is_none_or(|key| name_of_key(&key) != name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_key_back_and_only_in_canonical_form() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let name = name_of_key(&key);
        assert!(name.as_str().starts_with("k51qzi5uqu5d"), "{name}");
        assert_eq!(name.as_str().len(), 62);
        assert_eq!(key_of_name(&name), Some(key));
        let below_gateway = OwnedServerName::try_from(format!("{name}.gateway.example")).expect("a name");
        assert_eq!(key_of_name(&below_gateway), Some(key));
        let upper = OwnedServerName::try_from(name.as_str().replace("qzi", "QZI")).expect("a name");
        assert_eq!(key_of_name(&upper), None);
        assert_eq!(key_of_name(ruma::server_name!("matrix.org")), None);
        assert!([&name, &below_gateway, &upper].into_iter().all(|name| looks_like_a_key(name)));
        assert!(!looks_like_a_key(ruma::server_name!("k51.example.org")));
    }

    #[test]
    fn a_name_that_is_only_a_key_is_no_address() {
        let name = name_of_key(&ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
        assert!(!has_address(&name), "{name}");
        for domain in ["example.org", "example.org:8448", "localhost", "k51", &format!("{name}.gateway.example")] {
            assert!(has_address(&OwnedServerName::try_from(domain).expect("a name")), "{domain}");
        }
    }
}
