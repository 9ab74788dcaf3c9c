//! Where this server is (Server-Server API, "Resolving server names").

use crate::{
    error::{Error, Result},
    router::Call,
};
use http::Uri;
use ruma::{
    OwnedServerName,
    api::federation::discovery::discover_homeserver::{Request, Response},
};

/// `GET /.well-known/matrix/server`: host and port of the public URL, for a web server that passes
/// this path on, or where both have the same name.
pub async fn server(call: Call, _: Request) -> Result<Response> {
    let public = call.hs.config.public_url.as_deref().and_then(named_by);
    public.map(Response::new).ok_or_else(|| Error::not_found("This server has no public URL that other servers could use"))
}

/// Other servers come by HTTPS, and begin their paths at the root.
fn named_by(public_url: &str) -> Option<OwnedServerName> {
    let url: Uri = public_url.parse().ok()?;
    if url.scheme_str() != Some("https") || url.path() != "/" {
        return None;
    }
    // Without a port the name would mean SRV records, or 8448.
    OwnedServerName::try_from(format!("{}:{}", url.host()?, url.port_u16().unwrap_or(443))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_url_names_host_and_port() {
        let named = |url| named_by(url).map(|name| name.to_string());
        assert_eq!(named("https://chat.example").as_deref(), Some("chat.example:443"));
        assert_eq!(named("https://[::1]:8443").as_deref(), Some("[::1]:8443"));
        for useless in ["http://chat.example", "https://chat.example/matrix", "https://ch%61t.example"] {
            assert_eq!(named(useless), None, "{useless}");
        }
    }
}
