//! The ports of `--listen` and `--listen-tls`.

use super::ServeError;
use crate::options::Address;
use std::{collections::BTreeSet, io, net::SocketAddr};
use tokio::net::{TcpListener, lookup_host};

/// Listens at `address`; at every address of a name, as far as this machine has it.
pub async fn listen(address: Option<Address>) -> Result<Vec<(TcpListener, SocketAddr)>, ServeError> {
    let Some(address) = address else { return Ok(Vec::new()) };
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse(address.clone()),
        _ => ServeError::Listen { address: address.clone(), source },
    };
    let mut listening: Vec<(TcpListener, SocketAddr)> = Vec::new();
    let mut missing = None;
    for mut candidate in addresses(&address).await.map_err(refused)? {
        // Where the system chooses the port, all have the one that it gave the first.
        if let Some((_, first)) = listening.first() {
            candidate.set_port(first.port());
        }
        match bind(candidate).await {
            Ok(bound) => listening.push(bound),
            // A name may have an IPv6 address where the machine has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || error.kind() == io::ErrorKind::Unsupported => {
                missing = Some((candidate, error));
            }
            Err(error) => return Err(refused(error)),
        }
    }
    match missing {
        Some((_, error)) if listening.is_empty() => Err(refused(error)),
        Some((candidate, error)) => {
            tracing::warn!("{address} is also {candidate}, where this machine cannot listen: {error}");
            Ok(listening)
        }
        None if listening.is_empty() => Err(refused(io::Error::new(io::ErrorKind::NotFound, "the name does not resolve to an address"))),
        None => Ok(listening),
    }
}

/// Each once.
async fn addresses(address: &Address) -> io::Result<BTreeSet<SocketAddr>> {
    match address {
        Address::Ip(address) => Ok(BTreeSet::from([*address])),
        Address::Name(name, port) => Ok(lookup_host((name.as_str(), *port)).await?.collect()),
    }
}

async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_name_is_listened_at_by_all_of_its_addresses_and_one_port() {
        let listening = listen(Some("localhost:0".parse().expect("an address"))).await.expect("this machine has that name");
        let ports: BTreeSet<u16> = listening.iter().map(|(_, address)| address.port()).collect();
        assert_eq!(ports.len(), 1);
        let known: Vec<SocketAddr> = lookup_host(("localhost", 0)).await.expect("this machine has that name").collect();
        for (_, address) in &listening {
            assert!(known.iter().any(|known| known.ip() == address.ip()));
            TcpStream::connect(address).await.expect("listens");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_listened_at_is_named_as_it_was_given() {
        let (_listener, taken) = bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let said = |address: String| async move { listen(Some(address.parse().expect("an address"))).await.expect_err("refused").to_string() };
        let port = taken.port();
        assert!(said(format!("localhost:{port}")).await.starts_with(&format!("localhost:{port} is in use by another process")));
        assert!(said("nowhere.invalid:8008".to_owned()).await.starts_with("cannot listen on nowhere.invalid:8008: "));
    }
}
