//! What tests of several servers share.

pub use ephapse_homeserver::test_support::{Answer, TestServer, TestUser, network::Network};

use ephapse_events::signing_key;
use ephapse_homeserver::{Body, Entrance};
use ruma::{
    OwnedServerName,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    signatures::Ed25519KeyPair,
};
use serde_json::Value;

/// A server that a test plays itself: its key follows from its name.
pub struct Peer {
    /// Its name.
    pub name: OwnedServerName,
    /// Its key.
    pub key: Ed25519KeyPair,
}

impl Peer {
    /// The server of a seed.
    pub fn new(seed: u8) -> Self {
        let seed = [seed; 32];
        let name = ephapse_homeserver::identity::name_of_key(&ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key());
        Self { name, key: signing_key(&seed, "0") }
    }

    /// What it is answered to a request that it signs.
    #[track_caller]
    pub fn ask(&self, server: &TestServer, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path).body(body.clone().into_bytes()).expect("a request");
        let input = XMatrixSigningInput::new(self.name.clone(), server.hs.server_name().to_owned(), &self.key);
        let authorization = XMatrix::sign_http_request(&request, input).expect("it is signed");
        let request = http::Request::builder().method(method).uri(path).header("authorization", authorization.to_string());
        server.run(server.start_at(Entrance::Peer, request.body(Body::from(body)).expect("a request")))
    }
}
