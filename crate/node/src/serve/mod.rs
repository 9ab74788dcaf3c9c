//! `ephapse serve`: opens the ports and the database, answers until SIGINT or SIGTERM, and leaves
//! with everything durable.
//!
//! No endpoint lives here: every request goes to `Homeserver::handle`.

mod connection;
mod federation;
mod host;
mod limits;
mod listening;
mod logged;
mod metrics;
mod pace;
mod pages;
mod request_body;
pub mod status_socket;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use crate::options::{self, Address};
use connection::Connections;
use ephapse_homeserver::{Homeserver, OpenError, Transport, tables::FORMAT};
use ephapse_store::{RedbOptions, RedbStore, Store, StoreError};
use federation::{Https, TrustError};
use host::NativeHost;
use metrics::Requests;
use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use tls::TlsError;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::LocalSet,
    time::{Instant, timeout_at},
};

/// How long requests may take to end after the signal; with the store's part, the process leaves
/// within two seconds.
const GRACE: Duration = Duration::from_millis(1_200);

/// How long the store may take to make everything durable after that.
const STORE_GRACE: Duration = Duration::from_millis(700);

/// The mode of a data directory: its owner may do everything and nobody else anything.
const OWN: u32 = 0o700;

/// Why `serve` does not start, or did not end well; the text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime or its signals.
    #[error("operating system error: {0}")]
    System(#[source] io::Error),
    /// Another process has the port.
    #[error("{0} is in use by another process: stop that one, or choose another port")]
    PortInUse(Address),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; give an address of this machine and a port that this user may open")]
    Listen {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of `--ca-cert`.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The data directory cannot be made or written.
    #[error("{} cannot be written: {source}; choose another directory with --data-dir, or let this user write there", .directory.display())]
    DataDirectory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error("{} was written by a newer version of ephapse (format {found}, this one knows up to {supported}): use that version; nothing was changed", .directory.display())]
    NewerDatabase {
        /// The directory.
        directory: PathBuf,
        /// The format on disk.
        found: u32,
        /// The newest format this build understands.
        supported: u32,
    },
    /// Another process has the database.
    #[error("{} is in use by another process: stop that one, or choose another directory with --data-dir", .0.display())]
    DatabaseInUse(PathBuf),
    /// A file of the database is damaged.
    #[error(transparent)]
    DatabaseDamaged(StoreError),
    /// What the server cannot run without is damaged.
    #[error(
        "{record}, and the server cannot run without it: stop the server, and put a backup of the directory {} in its place; nothing else brings it back",
        .directory.display()
    )]
    DatabaseUnreadable {
        /// The directory.
        directory: PathBuf,
        /// Which record, and why it cannot be read.
        record: String,
    },
    /// The database does not open.
    #[error("the database in {} cannot be opened: {reason}", .directory.display())]
    Database {
        /// The directory.
        directory: PathBuf,
        /// What the store or the server said.
        reason: String,
    },
    /// The store failed or took too long while leaving.
    #[error("the database was not closed cleanly: {0}; everything that was acknowledged is on disk")]
    Close(String),
}

/// Runs the server until a signal ends it.
pub fn serve(options: options::Serve) -> Result<(), ServeError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(threads).build().map_err(ServeError::System)?;
    let served = LocalSet::new().block_on(&runtime, run(options));
    // A password hash that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    served
}

async fn run(options: options::Serve) -> Result<(), ServeError> {
    let mut signals = Signals::new().map_err(ServeError::System)?;
    let acceptor = tls::acceptor(&options)?;
    let https = https(&options)?;
    let plain = listening::listen(options.plain_address()).await?;
    let tls = listening::listen(options.listen_tls.clone()).await?;
    let (homeserver, store) = open(&options, https.clone()).await?;
    if homeserver.federates() {
        https.open();
    }
    homeserver.begin_sending();

    let _socket = status_socket::open(&options.data_dir, homeserver.clone())
        .inspect_err(|error| tracing::warn!("`ephapse status` will not work: {}: {error}", options.data_dir.join(status_socket::SOCKET).display()));
    let requests = options.metrics.is_some().then(Rc::<Requests>::default);
    for (listener, _) in listening::listen(options.metrics.clone()).await? {
        metrics::serve(listener, homeserver.clone(), requests.clone().unwrap_or_default());
    }

    let connections = Connections::new(homeserver.clone(), requests);
    for (listener, address) in plain {
        ready(&homeserver, "http", address);
        connections.accept(listener, None);
    }
    for (listener, address) in tls {
        ready(&homeserver, "https", address);
        connections.accept(listener, acceptor.clone());
    }

    signals.wait().await;
    tracing::info!("shutting down");
    leave(&homeserver, &*store, connections).await
}

/// Answers what is held and what is under way, and ends when everything that was acknowledged is on
/// disk.
async fn leave(homeserver: &Homeserver, store: &dyn Store, connections: Connections) -> Result<(), ServeError> {
    homeserver.set_holding(false);
    connections.close(GRACE).await;
    let latest = Instant::now() + STORE_GRACE;
    // A write that failed was acknowledged to nobody.
    let Ok(_) = timeout_at(latest, store.barrier()).await else { return Err(ServeError::Close("timed out".to_owned())) };
    match timeout_at(latest, homeserver.shutdown()).await {
        Ok(Err(error)) => Err(ServeError::Close(error.to_string())),
        // What is late by now is not on its way to the log, but from there into the tables: the
        // next start goes on with it.
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

fn ready(homeserver: &Homeserver, scheme: &str, address: SocketAddr) {
    println!("{} listens on {scheme}://{address}", homeserver.server_name());
}

/// The way to other servers.
fn https(options: &options::Serve) -> Result<Rc<Https>, TrustError> {
    let authorities = options.ca_cert.as_deref().map(federation::extra_authorities).transpose()?.unwrap_or_default();
    Ok(Rc::new(Https::new(federation::Options {
        authorities,
        resolve: options.resolve.iter().flat_map(|listed| listed.0.clone()).collect(),
        any_address: options.allow_loopback_federation,
        most_connections: limits::outgoing(),
    })))
}

async fn open(options: &options::Serve, transport: Rc<dyn Transport>) -> Result<(Rc<Homeserver>, Rc<dyn Store>), ServeError> {
    let directory = &options.data_dir;
    let unwritable = |source| ServeError::DataDirectory { directory: directory.clone(), source };
    make_private(directory).map_err(unwritable)?;
    let probe = directory.join("writable");
    fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(unwritable)?;
    let store_options = RedbOptions { content_format: FORMAT, ..RedbOptions::default() };
    let store = RedbStore::open_with(directory, store_options).map_err(|error| database_error(directory, error.into()))?;
    let store: Rc<dyn Store> = Rc::new(store);
    match Homeserver::open(store.clone(), Rc::new(NativeHost::new(transport)), options.config()).await {
        Ok(homeserver) => Ok((homeserver, store)),
        Err(error) => Err(database_error(directory, error)),
    }
}

/// Makes the directory for this user alone where it is not there, and says so when one that is
/// there is open to others: it has the signing key and the hashes of passwords.
fn make_private(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().recursive(true).mode(OWN).create(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode() & 0o777;
    if mode & !OWN != 0 {
        let shown = directory.display();
        tracing::warn!("{shown} holds keys and password hashes, and others on this machine may enter it (mode {mode:o}): chmod 700 {shown}");
    }
    Ok(())
}

fn database_error(directory: &Path, error: OpenError) -> ServeError {
    let directory = directory.to_owned();
    match error {
        OpenError::Store(StoreError::NewerFormat { found, supported }) => ServeError::NewerDatabase { directory, found, supported },
        OpenError::Store(StoreError::InUse) => ServeError::DatabaseInUse(directory),
        OpenError::Store(damaged @ (StoreError::Damaged { .. } | StoreError::DamagedLog { .. })) => ServeError::DatabaseDamaged(damaged),
        OpenError::Unreadable(record) => ServeError::DatabaseUnreadable { directory, record },
        other => ServeError::Database { directory, reason: other.to_string() },
    }
}

/// The two signals that end the process.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
