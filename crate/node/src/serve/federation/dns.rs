//! What DNS says of a name: its addresses, and where a service of it is (SRV).

use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, rdata::SRV},
};
use std::{
    cmp::Reverse,
    fs,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// How long one question to one DNS server may take.
const QUESTION: Duration = Duration::from_secs(3);

/// Answers that are remembered, for as long as they say.
const REMEMBERED: u64 = 4_096;

/// Hosts of one service that are tried.
const MOST_TARGETS: usize = 8;

/// What says which DNS servers to ask, and of which hosts none is asked. Both change while the
/// server runs, as when the machine comes into another network.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The system's DNS servers, and its hosts file.
#[derive(Clone)]
pub struct Dns(Arc<Mutex<System>>);

/// What was read of the system.
struct System {
    resolver: TokioResolver,
    /// When each of the files was changed last before that; none: they are not looked at.
    read: Option<Changed>,
}

type Changed = [Option<SystemTime>; SYSTEM_FILES.len()];

/// Where a service of a domain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none.
    #[error("there is no domain {0}")]
    NoDomain(String),
    /// It has no address.
    #[error("the domain {0} has no address")]
    NoAddress(String),
    /// It says that it has no such service.
    #[error("the domain {0} says that it has no Matrix server")]
    NoService(String),
    /// DNS does not work.
    #[error("the DNS servers did not answer for {0}")]
    NoAnswer(String),
    /// DNS does not work.
    #[error("DNS failed for {name}: {reason}")]
    Failed {
        /// The name that was looked up.
        name: String,
        /// What the resolver says.
        reason: String,
    },
}

impl Dns {
    /// As the system is configured.
    pub fn of_system() -> Self {
        // First, so that what changes meanwhile is read again.
        let read = Some(changed());
        Self(Arc::new(Mutex::new(System { read, resolver: system_resolver() })))
    }

    #[cfg(test)]
    pub fn of(resolver: TokioResolver) -> Self {
        Self(Arc::new(Mutex::new(System { resolver, read: None })))
    }

    fn resolver(&self) -> TokioResolver {
        let mut system = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = system.read.is_some().then(changed);
        if system.read != now {
            *system = System { read: now, resolver: system_resolver() };
        }
        system.resolver.clone()
    }

    /// The addresses of a host.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.resolver().lookup_ip(named(host)?).await.map_err(|error| failure(host, &error))?;
        let found: Vec<_> = found.iter().collect();
        if found.is_empty() { Err(LookupError::NoAddress(host.to_owned())) } else { Ok(found) }
    }

    /// Where a service of a domain is, in the order in which to try; none: it is not said.
    pub async fn service(&self, service: &str, domain: &str) -> Result<Vec<Target>, LookupError> {
        let name = format!("{service}.{domain}");
        let found = match self.resolver().srv_lookup(named(&name)?).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(failure(&name, &error)),
        };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        });
        let ordered = in_order(records.collect());
        if ordered.first().is_some_and(|srv| srv.target.is_root()) {
            return Err(LookupError::NoService(domain.to_owned()));
        }
        let target = |srv: SRV| Target { host: srv.target.to_ascii().trim_end_matches('.').to_owned(), port: srv.port };
        Ok(ordered.into_iter().filter(|srv| !srv.target.is_root()).take(MOST_TARGETS).map(target).collect())
    }
}

fn changed() -> Changed {
    SYSTEM_FILES.map(|file| fs::metadata(file).and_then(|file| file.modified()).ok())
}

fn system_resolver() -> TokioResolver {
    let built = TokioResolver::builder_tokio().and_then(|builder| with_options(builder).build());
    built.unwrap_or_else(|error| {
        tracing::warn!("cannot read which DNS servers to use: {error}; without them other servers are found by the hosts file and by --resolve");
        let none = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        let alone = TokioResolver::builder_with_config(none, TokioRuntimeProvider::default());
        with_options(alone).build().expect("it reads nothing of the system but the hosts file, which may be missing")
    })
}

fn with_options<P: hickory_resolver::ConnectionProvider>(mut builder: hickory_resolver::ResolverBuilder<P>) -> hickory_resolver::ResolverBuilder<P> {
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = QUESTION;
    options.cache_size = REMEMBERED;
    builder
}

/// A name with dots is meant as it is; one without may be of the search list, as `hs1` in a network
/// of containers.
fn named(name: &str) -> Result<Name, LookupError> {
    let mut parsed = Name::from_ascii(name).map_err(|error| LookupError::Failed { name: name.to_owned(), reason: error.to_string() })?;
    parsed.set_fqdn(name.contains('.'));
    Ok(parsed)
}

fn failure(name: &str, error: &NetError) -> LookupError {
    let name = name.to_owned();
    match error {
        error if error.is_nx_domain() => LookupError::NoDomain(name),
        error if error.is_no_records_found() => LookupError::NoAddress(name),
        NetError::Timeout | NetError::NoConnections => LookupError::NoAnswer(name),
        other => LookupError::Failed { name, reason: other.to_string() },
    }
}

/// By priority, and among those of one priority by chance, more often first the larger the weight
/// is (RFC 2782).
fn in_order(mut records: Vec<SRV>) -> Vec<SRV> {
    let mut ordered = Vec::with_capacity(records.len());
    records.sort_by_key(|srv| (Reverse(srv.priority), Reverse(srv.weight)));
    while let Some(priority) = records.last().map(|srv| srv.priority) {
        let first = records.partition_point(|srv| srv.priority > priority);
        let weights: u32 = records[first..].iter().map(|srv| u32::from(srv.weight)).sum();
        let mut chosen = getrandom::u32().unwrap_or_default() % (weights + 1);
        let at = (first..records.len()).rev().find(|at| {
            let weight = u32::from(records[*at].weight);
            let is_chosen = chosen <= weight;
            chosen = chosen.saturating_sub(weight);
            is_chosen
        });
        ordered.push(records.remove(at.unwrap_or(first)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_tried_by_priority_and_then_by_weight() {
        let srv = |priority, weight, port| SRV::new(priority, weight, port, Name::root());
        let ports = |records: Vec<SRV>| in_order(records).into_iter().map(|srv| srv.port).collect::<Vec<_>>();
        assert_eq!(ports(vec![srv(2, 0, 3), srv(1, 5, 2), srv(0, 0, 1)]), [1, 2, 3]);
        let often = (0..200).filter(|_| ports(vec![srv(1, 10, 10), srv(1, 90, 90)])[0] == 90).count();
        assert!((120..=199).contains(&often), "{often}");
        let (mut seen, mut all) = (ports(vec![srv(1, 0, 1), srv(1, 0, 2), srv(1, 7, 3)]), vec![1, 2, 3]);
        seen.sort_unstable();
        all.sort_unstable();
        assert_eq!(seen, all);
    }
}
