//! Tokens by which a user shows to others who they are (Client-Server API, "OpenID"). Whoever has
//! one can ask this server whose it is, and do nothing else with it.
//!
//! A token begins with the time of its end, by which it is found and cleared away.

use crate::{
    homeserver::Homeserver,
    rate_limits::TooMany,
    tables::{self, Session},
};
use ephapse_store::StoreError;
use ruma::OwnedUserId;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long a token counts.
pub const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user asks too often.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The store could not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new token of a user.
pub fn token(hs: &Homeserver, generation: u64, session: &Session) -> Result<String, Error> {
    let now = hs.host.now();
    if hs.config.rate_limits {
        hs.rate_limits.openid_tokens.take(session.user_id.as_str(), now)?;
    }
    let ends = now + LIFETIME.as_millis() as u64;
    let token = format!("{ends}_{}", hs.random_string(43));
    hs.write(generation, |tx| tables::OPENID_TOKENS.put(tx, &(ends, hash(&token)), &session.user))?.visible();
    Ok(token)
}

/// Whose a token is; nobody's when it has ended, or the account has.
pub async fn user_of(hs: &Homeserver, token: &str) -> Result<Option<OwnedUserId>, StoreError> {
    let ends = token.split_once('_').and_then(|(ends, _)| ends.parse::<u64>().ok()).filter(|ends| *ends > hs.host.now());
    let Some(ends) = ends else { return Ok(None) };
    let Some(user) = tables::OPENID_TOKENS.get(hs.store(), &(ends, hash(token))).await? else { return Ok(None) };
    match tables::ACCOUNTS.get(hs.store(), &user).await? {
        Some(account) if !account.deactivated => hs.user_id(user).await.map(Some),
        _ => Ok(None),
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Homeserver {
    /// Deletes the tokens that have ended.
    pub(crate) async fn forget_openid_tokens(&self) -> Result<(), StoreError> {
        let generation = self.begin_reading();
        let ended = tables::OPENID_TOKENS.range(&()).start..tables::OPENID_TOKENS.prefix_of(&self.host.now());
        if self.store().scan(ended.clone(), ephapse_store::Direction::Forward, 1).await?.is_empty() {
            return Ok(());
        }
        self.write(generation, |tx| tables::OPENID_TOKENS.delete_range(tx, ended))?.durable().await
    }
}
