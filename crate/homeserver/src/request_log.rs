//! What the log says of a request that failed by a mistake of the server: method, path template,
//! who sent it, and the room and event that it is about.

use http::Method;
use ruma::ServerName;
use std::{
    cell::{OnceCell, RefCell},
    fmt::Display,
    rc::Rc,
};

thread_local! {
    /// The request that is being worked on. There is one thread, and requests take turns on it.
    static CURRENT: RefCell<Option<Rc<RequestLog>>> = const { RefCell::new(None) };
}

/// Says what is wrong, and in which request it was found, if in one.
pub(crate) fn error(error: &dyn Display) {
    match CURRENT.with_borrow(Clone::clone) {
        Some(log) => log.error(error),
        None => tracing::error!("{error}"),
    }
}

/// A request, as far as it is known yet. Nothing of the path but ids is kept: it may hold what is
/// nobody's business.
#[derive(Debug)]
pub(crate) struct RequestLog {
    method: Method,
    path: OnceCell<&'static str>,
    user: OnceCell<String>,
    server: OnceCell<String>,
    room: OnceCell<String>,
    event: OnceCell<String>,
}

impl RequestLog {
    pub(crate) fn new(method: &Method) -> Self {
        Self {
            method: method.clone(),
            path: OnceCell::new(),
            user: OnceCell::new(),
            server: OnceCell::new(),
            room: OnceCell::new(),
            event: OnceCell::new(),
        }
    }

    /// Does a piece of the request's work.
    pub(crate) fn during<T>(self: &Rc<Self>, work: impl FnOnce() -> T) -> T {
        CURRENT.set(Some(self.clone()));
        let done = work();
        CURRENT.set(None);
        done
    }

    /// The endpoint is known: `path` with names in braces, of which `arguments` are the values.
    pub(crate) fn found(&self, path: &'static str, arguments: &[String]) {
        // Later attempts at the same request find the same.
        self.path.set(path).ok();
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for (name, value) in names.zip(arguments) {
            match name {
                "room_id" | "room_id_or_alias" => self.room.set(value.clone()).ok(),
                "event_id" => self.event.set(value.clone()).ok(),
                _ => None,
            };
        }
    }

    /// Whose request it is.
    pub(crate) fn by(&self, user: impl Display) {
        self.user.set(user.to_string()).ok();
    }

    /// Which other server's request it is.
    pub(crate) fn by_server(&self, server: &ServerName) {
        self.server.set(server.to_string()).ok();
    }

    /// The method.
    pub(crate) fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The path with names in braces; none where no endpoint was found.
    pub(crate) fn path(&self) -> Option<&'static str> {
        self.path.get().copied()
    }

    /// Says what the server did wrong.
    pub(crate) fn error(&self, error: &dyn Display) {
        let [user, server, room, event] = [&self.user, &self.server, &self.room, &self.event].map(|id| id.get().map(String::as_str));
        tracing::error!(method = self.method(), path = self.path(), user, server, room, event, "{error}");
    }

    /// Says what the server could not do now.
    pub(crate) fn warn(&self, error: &dyn Display) {
        let [user, server] = [&self.user, &self.server].map(|id| id.get().map(String::as_str));
        tracing::warn!(method = self.method(), path = self.path(), user, server, "{error}");
    }
}
