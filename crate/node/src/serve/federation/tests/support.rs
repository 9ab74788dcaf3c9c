//! A small internet: a DNS server, web servers and Matrix servers on 127.0.0.1, and a certificate
//! authority.

use super::super::{Options, Ports, Ready, dns::Dns};
use bytes::Bytes;
use ephapse_homeserver::{Body, transport::TransportError};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
};
use http::{Request, Response, StatusCode, header::HOST};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::{cell::RefCell, collections::HashMap, future::Future, io, net::Ipv4Addr, rc::Rc, sync::Arc};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::{LocalSet, spawn_local},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// Runs a test of sockets.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

/// What a server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The `Host` header.
    pub host: String,
    /// The name that the certificate is to be for, as the TLS handshake has it; none for addresses.
    pub tls_name: Option<String>,
    pub path: String,
}

type Answer = Rc<dyn Fn(&Asked) -> Response<Full<Bytes>>>;

/// An HTTPS server.
pub struct Server {
    pub port: u16,
    asked: Rc<RefCell<Vec<Asked>>>,
    connections: Rc<RefCell<usize>>,
}

impl Server {
    /// What it was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.take()
    }

    /// How often somebody has connected.
    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        Self::named("the test's authority")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// TLS of a server with a certificate for these names and addresses.
    pub fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        self.acceptor_of(CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names"))
    }

    pub fn acceptor_of(&self, params: CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key))
            .expect("the key is the certificate's");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Starts an HTTPS server.
pub async fn serve(tls: TlsAcceptor, answer: impl Fn(&Asked) -> Response<Full<Bytes>> + 'static) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it listens").port();
    let (asked, connections) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(0)));
    let (answer, told, counted): (Answer, _, _) = (Rc::new(answer), asked.clone(), connections.clone());
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *counted.borrow_mut() += 1;
            let (tls, answer, told) = (tls.clone(), answer.clone(), told.clone());
            spawn_local(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let tls_name = stream.get_ref().1.server_name().map(str::to_owned);
                let service = service_fn(move |request: Request<Incoming>| {
                    let asked = Asked {
                        host: request.headers()[HOST].to_str().expect("ASCII").to_owned(),
                        tls_name: tls_name.clone(),
                        path: request.uri().to_string(),
                    };
                    told.borrow_mut().push(asked.clone());
                    let response = answer(&asked);
                    async move { Ok::<_, io::Error>(response) }
                });
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    Server { port, asked, connections }
}

pub fn text(status: u16, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// What a domain says where its Matrix server is.
pub fn leads_to(server: &str) -> Response<Full<Bytes>> {
    text(200, &format!(r#"{{"m.server":"{server}"}}"#))
}

/// A DNS server that knows these records.
pub struct Records(HashMap<(String, RecordType), Vec<RData>>);

impl Records {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// A host at this address.
    pub fn at(mut self, host: &str, address: &str) -> Self {
        let (kind, data) = match address.parse().expect("an address") {
            std::net::IpAddr::V4(address) => (RecordType::A, RData::A(address.into())),
            std::net::IpAddr::V6(address) => (RecordType::AAAA, RData::AAAA(address.into())),
        };
        self.0.entry((format!("{host}."), kind)).or_default().push(data);
        self
    }

    /// Hosts on this machine.
    pub fn here(self, hosts: &[&str]) -> Self {
        hosts.iter().fold(self, |records, host| records.at(host, "127.0.0.1"))
    }

    /// A service of a domain.
    pub fn service(mut self, name: &str, priority: u16, target: &str, port: u16) -> Self {
        let srv = SRV::new(priority, 1, port, Name::from_ascii(target).expect("a name"));
        self.0.entry((format!("{name}."), RecordType::SRV)).or_default().push(RData::SRV(srv));
        self
    }

    async fn serve(self) -> u16 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = socket.local_addr().expect("it is bound").port();
        spawn_local(async move {
            let mut buffer = [0; 4_096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                let answer = self.answer(&question).to_vec().expect("an answer");
                socket.send_to(&answer, client).await.ok();
            }
        });
        port
    }

    fn answer(&self, question: &Message) -> Message {
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_queries(question.queries.iter().cloned());
        let name = question.queries[0].name.to_ascii().to_lowercase();
        match self.0.get(&(name.clone(), question.queries[0].query_type)) {
            Some(found) => {
                let name = question.queries[0].name.clone();
                answer.add_answers(found.iter().map(|data| Record::from_rdata(name.clone(), 60, data.clone())));
            }
            None if self.0.keys().any(|(known, _)| *known == name) => {}
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer
    }
}

/// What asks in a test: by this DNS, trusting this authority, and with the port of `web` for web
/// servers and of `matrix` for Matrix servers of which no port is said.
pub async fn ready(records: Records, authority: &Authority, web: u16, matrix: u16) -> Ready {
    ready_with(
        records,
        Options { authorities: vec![authority.certificate()], any_address: true, most_connections: 100, ..Options::default() },
        web,
        matrix,
    )
    .await
}

pub async fn ready_with(records: Records, options: Options, web: u16, matrix: u16) -> Ready {
    let mut connection = ConnectionConfig::udp();
    connection.port = records.serve().await;
    let servers = vec![NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection])];
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    resolver.options_mut().use_hosts_file = ResolveHosts::Never;
    let dns = Dns::of(resolver.build().expect("a resolver"));
    Ready::new(&options, dns, Ports { server: matrix, web }).expect("an authority is trusted")
}

impl Ready {
    /// Asks a server for something.
    pub async fn ask(&self, server: &str) -> Result<Response<Body>, TransportError> {
        self.ask_for(server, "/_matrix/federation/v1/version").await
    }

    pub async fn ask_for(&self, server: &str, path: &str) -> Result<Response<Body>, TransportError> {
        let request = Request::get(path).body(Bytes::new()).expect("a request");
        self.send(server.try_into().expect("a name"), request).await
    }

    /// What users are told when a server is asked.
    pub async fn refusal(&self, server: &str) -> String {
        match self.ask(server).await {
            Ok(answer) => panic!("{server} answers {}", answer.status()),
            Err(error) => error.to_string(),
        }
    }
}
