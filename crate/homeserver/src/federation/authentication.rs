//! Which server sent a request (Server-Server API, "Request Authentication"). The headers are
//! parsed by ruma, and the keys are those of `keys`.

use super::keys::{KnownKeys, Wanted};
use crate::{
    error::{Error, Result},
    homeserver::Homeserver,
};
use bytes::Bytes;
use ephapse_events::write_canonical;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    api::{error::ErrorKind, federation::authentication::XMatrix},
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};

/// How many headers of a request are looked at.
const MOST_HEADERS: usize = 8;

/// Who a request says it is from, before it is known whether they signed it.
pub struct Claim {
    /// Of one server: who has several keys may sign with each, in a header of its own.
    authorizations: Vec<XMatrix>,
}

/// The same, with the keys that can say whether it is true.
pub struct KnownClaim {
    claim: Claim,
    keys: PublicKeyMap,
}

impl Claim {
    /// What the headers of a request to the server `destination` say.
    ///
    /// # Errors
    /// 401 M_UNAUTHORIZED where they say nothing, or are for another server.
    pub fn of(headers: &HeaderMap, destination: &ServerName) -> Result<Self> {
        let mut refused = Error::unauthorized("Missing Authorization header");
        let mut authorizations: Vec<XMatrix> = Vec::new();
        for (number, header) in headers.get_all(AUTHORIZATION).iter().take(MOST_HEADERS).enumerate() {
            match authorization(header, destination) {
                Ok(found) if authorizations.first().is_none_or(|first| first.origin == found.origin) => authorizations.push(found),
                Ok(_) => {}
                Err(error) if number == 0 => refused = error,
                Err(_) => {}
            }
        }
        if authorizations.is_empty() { Err(refused) } else { Ok(Self { authorizations }) }
    }

    /// Who it says it is from.
    pub fn origin(&self) -> &ServerName {
        &self.authorizations[0].origin
    }

    /// The keys that it says it is signed with.
    fn wanted(&self, now: u64) -> Wanted {
        let key_ids = self.authorizations.iter().map(|authorization| authorization.key.to_string()).collect();
        Wanted { server: self.origin().to_owned(), key_ids, at: Some(now) }
    }

    fn with_keys(self, keys: &KnownKeys, now: u64) -> Result<KnownClaim> {
        let keys = keys.of([self.origin().as_str()].into_iter(), now).into_owned();
        let of_origin = keys.get(self.origin().as_str());
        if !self.authorizations.iter().any(|authorization| of_origin.is_some_and(|keys| keys.contains_key(authorization.key.as_str()))) {
            return Err(Error::unauthorized(format!("Signing key of server {} not found", self.origin())));
        }
        Ok(KnownClaim { claim: self, keys })
    }
}

fn authorization(header: &HeaderValue, destination: &ServerName) -> Result<XMatrix> {
    // What ruma says of it repeats the header, which may be long.
    // One of another scheme is as good as none.
    let is_ours = header.to_str().is_ok_and(|header| header.split(' ').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("X-Matrix")));
    if !is_ours {
        return Err(Error::unauthorized("Missing Authorization header"));
    }
    let malformed = |_| Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unauthorized, "Malformed Authorization header");
    let authorization = XMatrix::try_from(header).map_err(malformed)?;
    if authorization.destination.as_ref().is_some_and(|named| named != destination) {
        return Err(Error::unauthorized("Destination mismatch in Authorization header"));
    }
    Ok(authorization)
}

impl KnownClaim {
    /// The server that signed the request.
    ///
    /// # Errors
    /// 401 M_UNAUTHORIZED where it is not the one that the headers say.
    pub fn verify(self, request: &Request<Bytes>, destination: &ServerName) -> Result<OwnedServerName> {
        let origin = self.claim.origin();
        let refused = || Error::unauthorized(format!("Invalid signature for server {origin}"));
        let signed = signed_text(request, origin, destination).ok_or_else(refused)?;
        let keys = self.keys.get(origin.as_str()).ok_or_else(refused)?;
        let is_signed = |authorization: &XMatrix| {
            let key = keys.get(authorization.key.as_str());
            key.is_some_and(|key| {
                let signature = authorization.sig.as_bytes();
                verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key.as_bytes(), signature, signed.as_bytes()).is_ok()
            })
        };
        if !self.claim.authorizations.iter().any(is_signed) {
            return Err(refused());
        }
        Ok(origin.to_owned())
    }
}

/// What is signed of a request, which may hold what is no canonical JSON: other servers sign that
/// too, as they write it. None where the body is no JSON.
fn signed_text(request: &Request<Bytes>, origin: &ServerName, destination: &ServerName) -> Option<String> {
    let body = str::from_utf8(request.body()).ok()?;
    let uri = request.uri().path_and_query()?.as_str();
    let mut signed = String::with_capacity(body.len() + uri.len() + 256);
    signed.push('{');
    if !body.is_empty() {
        signed.push_str("\"content\":");
        write_canonical(body, &mut signed).ok()?;
        signed.push(',');
    }
    let quoted = |text: &str| serde_json::to_string(text).ok();
    let (destination, method) = (quoted(destination.as_str())?, quoted(request.method().as_str())?);
    let (origin, uri) = (quoted(origin.as_str())?, quoted(uri)?);
    signed.push_str(&format!(r#""destination":{destination},"method":{method},"origin":{origin},"uri":{uri}}}"#));
    Some(signed)
}

impl Homeserver {
    /// Who a request says it is from, with the keys of that server, which are fetched where they
    /// are not known.
    ///
    /// # Errors
    /// 401 M_UNAUTHORIZED, as [`Claim::of`], and where there is no such key. 403 M_FORBIDDEN where
    /// the operator wants nothing of that server.
    pub(crate) async fn claim(&self, headers: &HeaderMap) -> Result<KnownClaim> {
        let claim = Claim::of(headers, self.server_name())?;
        if !self.config.federates_with.includes(claim.origin()) {
            return Err(Error::forbidden("Federation denied"));
        }
        let now = self.host.now();
        let keys = self.server_keys(vec![claim.wanted(now)]).await?;
        claim.with_keys(&keys, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KEY_VERSION, name_of_key};
    use ephapse_events::signing_key;
    use futures_executor::block_on;
    use ruma::{api::federation::authentication::XMatrixSigningInput, server_name};

    const SEED: [u8; 32] = [7; 32];

    fn peer() -> OwnedServerName {
        name_of_key(&ed25519_dalek::SigningKey::from_bytes(&SEED).verifying_key())
    }

    fn request(body: &str) -> Request<Bytes> {
        Request::put("/_matrix/federation/v1/send/1?a=b").body(Bytes::from(body.to_owned())).expect("a request")
    }

    /// The header by which `origin` would sign `request` with a key.
    fn signed(request: &Request<Bytes>, origin: &ServerName, seed: &[u8; 32], version: &str) -> XMatrix {
        let key = signing_key(seed, version);
        let input = XMatrixSigningInput::new(origin.to_owned(), server_name!("test.example").to_owned(), &key);
        XMatrix::sign_http_request(request, input).expect("JSON")
    }

    /// Who `request` is from, with these credentials, at the server test.example.
    fn origin(request: &Request<Bytes>, authorization: &str) -> Result<OwnedServerName> {
        origin_of(request, &[authorization])
    }

    fn origin_of(request: &Request<Bytes>, authorizations: &[&str]) -> Result<OwnedServerName> {
        let mut headers = HeaderMap::new();
        for authorization in authorizations {
            headers.append(AUTHORIZATION, (*authorization).try_into().expect("a header"));
        }
        let hs = crate::test_support::TestServer::new().hs;
        let claim = block_on(hs.claim(&headers))?;
        claim.verify(request, server_name!("test.example"))
    }

    #[test]
    fn a_request_is_from_the_server_that_signed_it() {
        let sent = request(r#"{"pdus":[]}"#);
        let authorization = signed(&sent, &peer(), &SEED, KEY_VERSION).to_string();
        assert_eq!(origin(&sent, &authorization).expect("it is signed"), peer());
        // Spaces and the order of members do not count: canonical JSON is signed.
        assert_eq!(origin(&request(r#"{ "pdus" : [] }"#), &authorization).expect("it is signed"), peer());
        // "For compatibility with older servers, recipients should accept requests without this
        // parameter".
        let without_destination = authorization.replace("destination=test.example,", "");
        assert_ne!(without_destination, authorization);
        assert_eq!(origin(&sent, &without_destination).expect("it is signed"), peer());
    }

    #[test]
    fn a_server_below_a_gateway_signs_by_the_key_of_its_first_label() {
        let sent = request("");
        let gateway = format!("{}.{}", ["g"; 50].concat(), [["g"; 58].concat(), ["g"; 57].concat()].join("."));
        let name = OwnedServerName::try_from(format!("{}.{gateway}", peer())).expect("a name");
        assert_eq!(name.as_str().len(), 230);
        let authorization = signed(&sent, &name, &SEED, KEY_VERSION).to_string();
        assert_eq!(origin(&sent, &authorization).expect("it is signed"), name);
        // It is not the server of the label alone.
        let plain = authorization.replace(&format!(".{gateway}"), "");
        assert_ne!(plain, authorization);
        assert_refused(origin(&sent, &plain), &plain);
    }

    #[test]
    fn of_several_keys_the_known_one_counts() {
        let sent = request("");
        let known = signed(&sent, &peer(), &SEED, KEY_VERSION).to_string();
        let unknown = signed(&sent, &peer(), &[8; 32], "1").to_string();
        for both in [[known.as_str(), &unknown], [&unknown, &known], ["Basic abc", &known], [&known, "X-Matrix"]] {
            assert_eq!(origin_of(&sent, &both).expect("it is signed"), peer());
        }
        assert_refused(origin_of(&sent, &[&unknown, "Bearer abc"]), "two that are not known");
    }

    #[test]
    fn the_path_is_signed_as_it_was_sent() {
        let get = |uri: &str| Request::get(uri).body(Bytes::new()).expect("a request");
        let sent = get("/_matrix/federation/v1/query/directory?room_alias=%23a%3Atest.example&x=%e4");
        let authorization = signed(&sent, &peer(), &SEED, KEY_VERSION).to_string();
        // Where it was sent to does not count: a host or a proxy may have put it in front.
        let absolute = get("https://elsewhere.example/_matrix/federation/v1/query/directory?room_alias=%23a%3Atest.example&x=%e4");
        for same in [&sent, &absolute] {
            assert_eq!(origin(same, &authorization).expect("it is signed"), peer());
        }
        for other in ["room_alias=%23a:test.example&x=%e4", "room_alias=%23a%3Atest.example&x=%E4", "room_alias=%23a%3Atest.example"] {
            assert_refused(origin(&get(&format!("/_matrix/federation/v1/query/directory?{other}")), &authorization), other);
        }
    }

    #[test]
    fn what_is_refused_is_not_repeated() {
        let long = format!("X-Matrix origin={}", "=".repeat(50_000));
        let unknown = format!("X-Matrix origin={},key=\"ed25519:{}\",sig=AA", peer(), "a".repeat(50_000));
        for header in [&long, &unknown] {
            let Err(Error::Matrix(error)) = origin(&request(""), header) else { panic!("it is not refused") };
            assert!(error.to_string().len() < 1000, "{error}");
        }
    }

    #[test]
    fn whoever_did_not_sign_a_request_did_not_send_it() {
        let sent = request(r#"{"pdus":[]}"#);
        let good = signed(&sent, &peer(), &SEED, KEY_VERSION);
        let elsewhere = Request::put("/_matrix/federation/v1/send/2?a=b").body(sent.body().clone()).expect("a request");
        let by_another_method = Request::post(sent.uri()).body(sent.body().clone()).expect("a request");
        for other in [request(r#"{"pdus":[1]}"#), request(""), request("[1"), request(&"[".repeat(60_000)), elsewhere, by_another_method] {
            assert_refused(origin(&other, &good.to_string()), &format!("{other:?}"));
        }
        let other_destination = good.to_string().replace("test.example", "other.example");
        let other_key = signed(&sent, &peer(), &[8; 32], KEY_VERSION).to_string();
        let other_key_id = signed(&sent, &peer(), &SEED, "1").to_string();
        // Its name says no key, and none is fetched.
        let ordinary = signed(&sent, server_name!("one.example"), &SEED, KEY_VERSION).to_string();
        for authorization in [&other_destination, &other_key, &other_key_id, &ordinary, "", "Bearer abc"] {
            assert_refused(origin(&sent, authorization), authorization);
        }
        for malformed in ["X-Matrix", "X-Matrix origin=", "X-Matrix \"\\"] {
            let Err(Error::Matrix(error)) = origin(&sent, malformed) else { panic!("{malformed} is not refused") };
            assert_eq!(error.status_code, http::StatusCode::BAD_REQUEST, "{malformed}");
        }
        assert_refused(Claim::of(&HeaderMap::new(), server_name!("test.example")), "no credentials");
    }

    fn assert_refused<T>(answer: Result<T>, what: &str) {
        let Err(Error::Matrix(error)) = answer else { panic!("{what} is not refused") };
        assert_eq!(error.status_code, http::StatusCode::UNAUTHORIZED, "{what}");
    }
}
