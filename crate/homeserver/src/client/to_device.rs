//! `PUT /sendToDevice` (Client-Server API, Send-to-Device messaging).

use super::answered::{self, Request};
use crate::{error::Result, router::UserCall, to_device, transaction::Tx};
use ruma::api::client::to_device::send_event_to_device::v3 as send_event_to_device;

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub async fn send(call: UserCall, request: send_event_to_device::Request) -> Result<send_event_to_device::Response> {
    if let Request::New(new) = answered::look_up(&call, &request.txn_id).await? {
        let event_type = request.event_type.to_string();
        // Users of other servers get theirs by federation.
        let remember = |tx: &mut Tx| new.remember(&call, tx, None);
        to_device::send(&call.hs, call.raw.generation, &call.session.user_id, &event_type, &request.messages, &remember).await?;
    }
    Ok(send_event_to_device::Response::new())
}
