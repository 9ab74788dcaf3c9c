//! The socket in the data directory by which `ephapse status` asks the server that runs there.

use super::pages::{self, Page};
use ephapse_homeserver::Homeserver;
use std::{
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};
use tokio::net::UnixListener;

/// The socket's name in the data directory.
pub const SOCKET: &str = "status.sock";

/// The path that is asked for.
pub const STATUS: &str = "/status";

/// A socket that is there while the server runs.
pub struct StatusSocket(PathBuf);

/// Answers by a socket in `directory`, which is the server's own as long as it has the database
/// open. Only its owner may enter it.
pub fn open(directory: &Path, homeserver: Rc<Homeserver>) -> io::Result<StatusSocket> {
    let path = directory.join(SOCKET);
    // That of a server that was killed.
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&path)?;
    let accept = async move || Ok(listener.accept().await?.0);
    pages::serve(accept, Rc::new(move |path| (path == STATUS).then(|| page(&homeserver))));
    Ok(StatusSocket(path))
}

fn page(homeserver: &Homeserver) -> Page {
    let content = serde_json::to_string(&homeserver.status()).expect("it has nothing that JSON cannot have");
    Page { kind: "application/json", content }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}
