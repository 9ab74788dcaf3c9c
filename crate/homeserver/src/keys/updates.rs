//! What other servers are told when the devices or keys of a user of this server change
//! (Server-Server API, Device Management): `m.device_list_update` and `m.signing_key_update`.
//!
//! Each change of a device gives the user's list another version, and says which one was before.
//! So a server that has missed one notices, and asks for the whole list. A change of cross-signing
//! keys alone is no other version.

use super::{Error, query::keys_of};
use crate::{
    damaged::LeaveOut,
    federation::outbox::{Queues, WaitingEdu},
    homeserver::Homeserver,
    tables::{self, Change, UserNid},
    transaction::Tx,
};
use ephapse_store::StoreError;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UInt,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::to_raw_value;
use std::rc::Rc;

/// That a user's devices or keys are about to change, and which servers have to hear of it.
#[must_use = "it is told by being staged"]
pub struct DeviceListChange {
    user: UserNid,
    /// The version of the list until now.
    version: Option<u64>,
    servers: Vec<Rc<Queues>>,
}

/// What changes.
pub enum Changed {
    /// A device is new, has other keys or another name, or is gone.
    Device(OwnedDeviceId),
    /// The master key or the self-signing key, or signatures of them.
    CrossSigning,
}

impl Homeserver {
    /// That a user's devices or keys change, for who holds the account's lock. The user's rooms are
    /// brought to memory, since they say who has to wake up for it.
    pub(crate) async fn device_list_change(&self, user: UserNid) -> Result<DeviceListChange, StoreError> {
        self.user_rooms(user).await?;
        let version = tables::DEVICE_LIST_VERSIONS.get(self.store(), &user).await?;
        let mut servers = Vec::new();
        for server in self.servers_sharing_rooms(user).await? {
            servers.push(self.queues(&server).await?);
        }
        Ok(DeviceListChange { user, version, servers })
    }
}

impl DeviceListChange {
    /// Tells the user's clients, those who share rooms, and other servers.
    pub fn stage(self, tx: &mut Tx, now: u64, changed: impl IntoIterator<Item = Changed>) {
        let user = self.user;
        let mut version = self.version;
        for changed in changed {
            let position = tx.change(Change::DeviceList { user });
            let edu = match changed {
                Changed::Device(device) => {
                    let previous = version.replace(position.0.unsigned_abs());
                    WaitingEdu::Device { user, device, version: position.0.unsigned_abs(), previous }
                }
                Changed::CrossSigning => WaitingEdu::CrossSigning { user },
            };
            self.servers.iter().for_each(|queues| queues.append_edu(tx, now, &edu));
        }
        if let Some(version) = version.filter(|_| version != self.version) {
            tables::DEVICE_LIST_VERSIONS.put(tx, &user, &version);
        }
    }
}

/// The version of a user's device list, for other servers: the `stream_id` of its last update.
pub async fn device_list_version(hs: &Homeserver, user: UserNid) -> Result<u64, StoreError> {
    Ok(tables::DEVICE_LIST_VERSIONS.get(hs.store(), &user).await?.unwrap_or_default())
}

/// The content of an EDU about one device, with an empty `prev_id` in the first one too, which ruma
/// leaves out: other servers look for it.
#[derive(Serialize)]
pub struct DeviceListUpdate {
    #[serde(flatten)]
    content: DeviceListUpdateContent,
    #[serde(rename = "prev_id", skip_serializing_if = "Option::is_none")]
    no_prev_id: Option<[UInt; 0]>,
}

/// The content of the EDU about one device, as it is now.
pub async fn device_update(
    hs: &Homeserver,
    user: UserNid,
    device: &DeviceId,
    version: u64,
    previous: Option<u64>,
) -> Result<Option<DeviceListUpdate>, Error> {
    let Some(user_id) = hs.user_id(user).await.leave_out()? else { return Ok(None) };
    let mut content = DeviceListUpdateContent::new(user_id.clone(), device.to_owned(), UInt::new_saturating(version));
    content.prev_id = previous.map(UInt::new_saturating).into_iter().collect();
    match tables::DEVICES.get(hs.store(), &(user, device.to_owned())).await?.filter(|_| hs.is_local(&user_id)) {
        // Its name may say much of who uses it: that is not for others.
        Some(_) => {
            let keys = keys_of(hs, user, &user_id, None, std::slice::from_ref(&device.to_owned())).await?;
            let keys = keys.devices.into_values().next().and_then(|device| to_raw_value(&device.keys).ok());
            content.keys = keys.map(Raw::from_json);
        }
        None => content.deleted = Some(true),
    }
    let no_prev_id = content.prev_id.is_empty().then_some([]);
    Ok(Some(DeviceListUpdate { content, no_prev_id }))
}

/// The content of the EDU about cross-signing keys, as they are now.
pub async fn signing_key_update(hs: &Homeserver, user: UserNid) -> Result<Option<SigningKeyUpdateContent>, Error> {
    let Some(user_id): Option<OwnedUserId> = hs.user_id(user).await.leave_out()? else { return Ok(None) };
    let keys = keys_of(hs, user, &user_id, None, &[]).await?;
    if keys.master.is_none() && keys.self_signing.is_none() {
        return Ok(None);
    }
    let mut content = SigningKeyUpdateContent::new(user_id);
    (content.master_key, content.self_signing_key) = (keys.master, keys.self_signing);
    Ok(Some(content))
}
