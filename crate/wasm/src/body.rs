//! Bodies between JavaScript and the core. What is small crosses as bytes in the one call that a
//! request is; what is large crosses chunk by chunk, as it is asked for.

use crate::calls::Turns;
use bytes::Bytes;
use ephapse_homeserver::{Body, BodyError, PIECE};
use http_body::{Body as _, Frame};
use js_sys::{Promise, Uint8Array};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};

#[wasm_bindgen]
extern "C" {
    /// What is still to come of a request's body.
    pub type Rest;
    /// Resolves to a `Uint8Array`, or to `undefined` at the end; rejects when the body breaks off.
    #[wasm_bindgen(method)]
    fn next(this: &Rest) -> Promise;
}

/// A request's body: what has come, and what is still to come.
pub fn incoming(begun: Vec<u8>, rest: Option<Rest>) -> Body {
    match rest {
        None => Body::from(begun),
        Some(rest) => Body::stream(Incoming { begun: Bytes::from(begun), rest, next: None }),
    }
}

struct Incoming {
    begun: Bytes,
    rest: Rest,
    next: Option<JsFuture>,
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.begun)))));
        }
        let Self { rest, next, .. } = &mut *self;
        let chunk = std::task::ready!(Pin::new(next.get_or_insert_with(|| JsFuture::from(rest.next()))).poll(context));
        *next = None;
        Poll::Ready(match chunk {
            Ok(chunk) => chunk.dyn_into::<Uint8Array>().ok().map(|chunk| Ok(Frame::data(Bytes::from(chunk.to_vec())))),
            Err(error) => Some(Err(format!("{error:?}").into())),
        })
    }
}

/// The body of a large answer, asked for piece by piece.
#[wasm_bindgen]
pub struct Pieces(Outgoing);

enum Outgoing {
    /// Bytes that are there need no turns, so the end of the instance does not keep them from
    /// leaving.
    Whole {
        bytes: Bytes,
        sent: Cell<usize>,
    },
    Stream {
        call: u32,
        streaming: Rc<Streaming>,
    },
}

#[derive(Default)]
struct Streaming {
    /// `None` when it was cancelled.
    body: RefCell<Option<Body>>,
    waiting: RefCell<Option<Waker>>,
}

impl Pieces {
    pub(crate) fn new(call: u32, body: Body) -> Self {
        Self(match body {
            Body::Whole(bytes) => Outgoing::Whole { bytes, sent: Cell::new(0) },
            body => Outgoing::Stream { call, streaming: Rc::new(Streaming { body: RefCell::new(Some(body)), ..Streaming::default() }) },
        })
    }
}

#[wasm_bindgen]
impl Pieces {
    /// Whether all of it is there, so that it can be had from an instance that has ended.
    #[wasm_bindgen(getter)]
    pub fn whole(&self) -> bool {
        matches!(self.0, Outgoing::Whole { .. })
    }

    /// Resolves to a `Uint8Array`, or to `undefined` at the end; rejects when the body breaks off.
    pub fn next(&self) -> Promise {
        match &self.0 {
            Outgoing::Whole { bytes, sent } => {
                let rest = &bytes[sent.get()..];
                let piece = &rest[..rest.len().min(PIECE)];
                sent.set(sent.get() + piece.len());
                Promise::resolve(&if piece.is_empty() { JsValue::UNDEFINED } else { Uint8Array::from(piece).into() })
            }
            Outgoing::Stream { call, streaming } => {
                let streaming = streaming.clone();
                let task = Box::pin(poll_fn(move |context| streaming.poll_next(context)));
                future_to_promise(Turns { call: *call, task })
            }
        }
    }

    /// Drops what nobody will read.
    pub fn cancel(&self) {
        match &self.0 {
            Outgoing::Whole { bytes, sent } => sent.set(bytes.len()),
            Outgoing::Stream { streaming, .. } => {
                streaming.body.take();
                if let Some(waiting) = streaming.waiting.take() {
                    waiting.wake();
                }
            }
        }
    }
}

impl Streaming {
    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<JsValue, JsValue>> {
        loop {
            let polled = match &mut *self.body.borrow_mut() {
                Some(body) => Pin::new(body).poll_frame(context),
                None => Poll::Ready(None),
            };
            match polled {
                Poll::Pending => {
                    self.waiting.replace(Some(context.waker().clone()));
                    return Poll::Pending;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(JsValue::UNDEFINED)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(JsError::new(&error.to_string()).into())),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers have no place in a Response.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Uint8Array::from(&data[..]).into()));
                    }
                }
            }
        }
    }
}
