//! `PUT /sendToDevice` (Client-Server API, Send-to-Device messaging).

use super::transaction::{self, First};
use crate::{error::Result, router::UserCall, to_device, transaction::Tx};
use ruma::api::client::to_device::send_event_to_device::v3 as send_event_to_device;

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub async fn send(call: UserCall, request: send_event_to_device::Request) -> Result<send_event_to_device::Response> {
    if let First::Now(once) = transaction::begin(&call).await? {
        let event_type = request.event_type.to_string();
        // Users of other servers get theirs by federation.
        let done = |tx: &mut Tx| once.done(&call, tx, None);
        to_device::send(&call.hs, call.raw.generation, &call.session.user_id, &event_type, &request.messages, &done).await?;
    }
    Ok(send_event_to_device::Response::new())
}
