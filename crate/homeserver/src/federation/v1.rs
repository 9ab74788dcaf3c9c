//! Requests of before 2019, for rooms of versions 1 and 2: their answers are wrapped as `[200,
//! ...]`. Servers that do not know the second version of one are sent the first (Server-Server API,
//! "Joining Rooms", "Leaving Rooms", "Inviting to a room").

use crate::json_answer::Json;
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        BytesBody, IncomingRequest, Metadata, OutgoingRequest,
        error::{DeserializationError, IntoHttpError},
        federation::{authentication::ServerSignatures, membership::create_leave_event},
        path_builder::{PathBuilder, SinglePath},
    },
};
use serde_json::value::RawValue;
use std::marker::PhantomData;

/// A request of before 2019, whose body is an event; the answer is wrapped as `[200, ...]`.
pub struct V1<P> {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The event's id.
    pub event_id: OwnedEventId,
    /// The event.
    pub pdu: Box<RawValue>,
    path: PhantomData<P>,
}

impl<P> V1<P> {
    /// Of an event of a room.
    pub fn new(room_id: OwnedRoomId, event_id: OwnedEventId, pdu: Box<RawValue>) -> Self {
        Self { room_id, event_id, pdu, path: PhantomData }
    }
}

impl<P> Clone for V1<P> {
    fn clone(&self) -> Self {
        Self::new(self.room_id.clone(), self.event_id.clone(), self.pdu.clone())
    }
}

/// Which of them.
pub trait V1Path {
    /// Where it is sent to.
    const PATH: SinglePath;
}

/// `send_join`.
pub struct SendJoin;
/// `send_leave`.
pub struct SendLeave;
/// `invite`.
pub struct Invite;

impl V1Path for SendJoin {
    const PATH: SinglePath = SinglePath::new("/_matrix/federation/v1/send_join/{room_id}/{event_id}");
}

impl V1Path for SendLeave {
    const PATH: SinglePath = SinglePath::new("/_matrix/federation/v1/send_leave/{room_id}/{event_id}");
}

impl V1Path for Invite {
    const PATH: SinglePath = SinglePath::new("/_matrix/federation/v1/invite/{room_id}/{event_id}");
}

impl<P: V1Path> Metadata for V1<P> {
    const METHOD: http::Method = http::Method::PUT;
    const RATE_LIMITED: bool = false;
    type Authentication = ServerSignatures;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: SinglePath = P::PATH;
}

impl<P: V1Path> IncomingRequest for V1<P> {
    type EndpointError = ruma::api::error::Error;
    type OutgoingResponse = Json;

    fn try_from_http_request_inner(request: http::Request<&[u8]>, path_args: &[&str]) -> Result<Self, DeserializationError> {
        let argument = |at: usize| path_args.get(at).copied().unwrap_or_default();
        let (room_id, event_id) = (OwnedRoomId::try_from(argument(0))?, OwnedEventId::try_from(argument(1))?);
        Ok(Self::new(room_id, event_id, serde_json::from_slice(request.body())?))
    }
}

impl<P: V1Path> OutgoingRequest for V1<P> {
    type Body = BytesBody;
    type EndpointError = ruma::api::error::Error;
    /// Nobody reads it as that: the answer is [`Wrapped`].
    type IncomingResponse = create_leave_event::v2::Response;

    fn try_into_http_request_inner(self, base_url: &str, input: ()) -> Result<http::Request<BytesBody>, IntoHttpError> {
        let url = Self::PATH_BUILDER.make_endpoint_url(input, base_url, &[&self.room_id, &self.event_id], "")?;
        let request = http::Request::builder().method(Self::METHOD).uri(url).header(http::header::CONTENT_TYPE, "application/json");
        Ok(request.body(BytesBody(self.pdu.get().as_bytes().to_vec()))?)
    }
}

/// An answer of before 2019.
pub type Wrapped<T> = (u16, T);
