//! `POST /rooms/{roomId}/read_markers` (Client-Server API, Fully read markers): marker and receipts
//! at once.

use crate::{
    client::receipts::{Marks, mark},
    error::Result,
    router::UserCall,
    tables::ReceiptKind,
};
use ruma::api::client::read_marker::set_read_marker::v3::{Request, Response};

/// Moves the read marker, the public and the private receipt, as far as the request names them.
pub async fn set_read_marker(call: UserCall, request: Request) -> Result<Response> {
    let place = call.hs.joined_room(call.session.user, &request.room_id).await?;
    let receipts = [(false, request.read_receipt), (true, request.private_read_receipt)];
    let receipts = receipts.into_iter().filter_map(|(private, event)| Some((ReceiptKind { private, thread: None }, event?))).collect();
    mark(&call, place, Marks { fully_read: request.fully_read, receipts }).await?;
    Ok(Response::new())
}
