//! The command line: every option is a flag and an environment variable of the same meaning.

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use ephapse_homeserver::{Config, FederatesWith, Registration};
use ruma::{OwnedServerName, RoomVersionId, room_version_rules::RoomVersionRules};
use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

/// A Matrix homeserver.
#[derive(Parser)]
#[command(name = "ephapse", version, about)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Subcommand)]
pub enum Command {
    /// Runs the homeserver until SIGINT or SIGTERM
    Serve(Box<Serve>),
    /// Shows how the server on a data directory is
    Status(Status),
}

/// The options of `ephapse status`.
#[derive(Args)]
pub struct Status {
    /// The data directory of the server that runs
    #[arg(long, env = "HS_DATA_DIR", default_value = "ephapse-data", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,

    /// Shows it as JSON
    #[arg(long)]
    pub json: bool,
}

/// The options of `ephapse serve`.
#[derive(Args)]
pub struct Serve {
    /// The Matrix server name, such as example.org; without it, the k51... name that follows from
    /// the node's own key
    #[arg(long, env = "HS_SERVER_NAME", value_parser = server_name)]
    pub server_name: Option<OwnedServerName>,

    /// The data directory; created if it does not exist
    #[arg(long, env = "HS_DATA_DIR", default_value = "ephapse-data", value_name = "DIRECTORY")]
    pub data_dir: PathBuf,

    /// The address for plain HTTP: ip:port or name:port; a name means all its addresses [default:
    /// 127.0.0.1:8008, unless --listen-tls is given]
    #[arg(long, env = "HS_HTTP_BIND", value_name = "HOST:PORT")]
    pub listen: Option<Address>,

    /// The address for HTTPS: ip:port or name:port
    #[arg(long, env = "HS_HTTPS_BIND", value_name = "HOST:PORT", requires_all = ["tls_cert", "tls_key"])]
    pub listen_tls: Option<Address>,

    /// The certificate chain of --listen-tls, PEM
    #[arg(long, env = "HS_TLS_CERT", value_name = "FILE", requires = "listen_tls")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, PEM, as PKCS#1 or PKCS#8
    #[arg(long, env = "HS_TLS_KEY", value_name = "FILE", requires = "listen_tls")]
    pub tls_key: Option<PathBuf>,

    /// The public URL of this server, announced to clients in /.well-known/matrix/client [default:
    /// the address that the client used]
    #[arg(long, env = "HS_PUBLIC_BASEURL", value_name = "URL", value_parser = public_url)]
    pub public_url: Option<String>,

    /// Who may register an account
    #[arg(long, env = "HS_REGISTRATION", value_enum, default_value_t = RegistrationKind::Closed)]
    pub registration: RegistrationKind,

    /// The token required to register with --registration token
    #[arg(long, env = "HS_REGISTRATION_TOKEN", value_name = "TOKEN", hide_env_values = true, required_if_eq("registration", "token"))]
    pub registration_token: Option<String>,

    /// The shared secret to create accounts through /_synapse/admin/v1/register; without it, that
    /// endpoint is disabled
    #[arg(long, env = "HS_REGISTRATION_SHARED_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub registration_shared_secret: Option<String>,

    /// The room version of new rooms, unless the client asks for another
    #[arg(long, env = "HS_DEFAULT_ROOM_VERSION", value_name = "VERSION", default_value = "12", value_parser = room_version)]
    pub default_room_version: RoomVersionId,

    /// Whether to limit how often a client can send requests (429 when exceeded)
    #[arg(long, env = "HS_RATE_LIMITS", value_enum, default_value_t = Switch::On)]
    pub rate_limits: Switch,

    /// Whether users can see who is online in their rooms
    #[arg(long, env = "HS_PRESENCE", value_enum, default_value_t = Switch::On)]
    pub presence: Switch,

    /// Whether other servers are asked and answered; a server without --server-name does neither
    #[arg(long, env = "HS_FEDERATION", value_enum, default_value_t = Switch::On)]
    pub federation: Switch,

    /// The only other servers to federate with: names, in which * stands for any characters,
    /// separated by commas
    #[arg(long, env = "HS_FED_ALLOW", value_name = "SERVERS", value_delimiter = ',')]
    pub federation_allow: Vec<String>,

    /// Other servers not to federate with, as --federation-allow
    #[arg(long, env = "HS_FED_DENY", value_name = "SERVERS", value_delimiter = ',')]
    pub federation_deny: Vec<String>,

    /// Servers to ask for the signing keys of servers that do not answer themselves, separated by
    /// commas [default: none]
    #[arg(long, env = "HS_TRUSTED_KEY_SERVERS", value_name = "SERVERS", value_delimiter = ',', value_parser = one_of_server_names)]
    pub trusted_key_servers: Vec<Listed<OwnedServerName>>,

    /// Certificates of authorities, PEM, that other servers' certificates may be of, beside those
    /// that the system trusts
    #[arg(long, env = "HS_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,

    /// Where other servers are that are not looked up, as name=ip:port, separated by commas
    #[arg(long, env = "HS_FED_RESOLVE", value_name = "NAME=IP:PORT", value_delimiter = ',', value_parser = resolved)]
    pub resolve: Vec<Listed<(String, SocketAddr)>>,

    /// Allows other servers to have addresses that are not public: of this machine or its networks
    #[arg(long, env = "HS_ALLOW_LOOPBACK_FEDERATION", value_parser = BoolishValueParser::new())]
    pub allow_loopback_federation: bool,

    /// Where Prometheus finds /metrics, in plain HTTP: a port of this machine alone, ip:port or
    /// name:port [default: nowhere]
    #[arg(long, env = "HS_METRICS_BIND", value_name = "PORT", value_parser = metrics_address)]
    pub metrics: Option<Address>,

    /// The largest allowed upload, in bytes
    #[arg(long, visible_alias = "max-upload-size", env = "HS_MAX_UPLOAD", value_name = "BYTES", default_value_t = Config::default().max_upload)]
    pub max_upload: u64,

    /// The most bytes that all files together may have that one user uploads [default: no limit]
    #[arg(long, env = "HS_MEDIA_QUOTA", value_name = "BYTES")]
    pub media_quota: Option<u64>,

    /// Where users can read about --media-quota when they have reached it
    #[arg(long, env = "HS_MEDIA_QUOTA_INFO", value_name = "URL", default_value_t = Config::default().media_quota_info)]
    pub media_quota_info: String,

    /// The most bytes that files of other servers and thumbnails may take on disk; the oldest are
    /// deleted first
    #[arg(long, env = "HS_MEDIA_CACHE", value_name = "BYTES", default_value_t = Config::default().media_cache)]
    pub media_cache: u64,

    /// Whether files are for those who are logged in and for other servers only; files uploaded
    /// while this is off stay open to everyone who knows their address
    #[arg(long, env = "HS_AUTHENTICATED_MEDIA", value_enum, default_value_t = Switch::On)]
    pub authenticated_media: Switch,

    /// The log level, for standard error: off, error, warn, info, debug or trace; or one per module
    #[arg(long, env = "HS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// Who may register.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RegistrationKind {
    /// Nobody
    Closed,
    /// Anyone with the --registration-token
    Token,
    /// Anyone
    Open,
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At one address.
    Ip(SocketAddr),
    /// At every address that the name has.
    Name(String, u16),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected ip:port or name:port, such as 127.0.0.1:8008, [::1]:8008 or localhost:8008";
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (name, port) = text.rsplit_once(':').ok_or(wrong)?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
        match port.parse() {
            Ok(port) if is_name => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// The longest that a `/sync` is held: practically what the client asks for.
const LONGEST_SYNC: Duration = Duration::from_secs(24 * 60 * 60);

impl Serve {
    /// The address for plain HTTP, if there is to be one.
    pub fn plain_address(&self) -> Option<Address> {
        let default = || self.listen_tls.is_none().then(|| Address::Ip(([127, 0, 0, 1], 8008).into()));
        self.listen.clone().or_else(default)
    }

    /// The filter of `--log`. The library of the auth rules tells of every event it allows: more
    /// than the server itself, so it is to be asked for.
    pub fn log_filter(&self) -> String {
        format!("ruma_state_res=warn,{}", self.log)
    }

    /// What these options mean to the homeserver.
    pub fn config(&self) -> Config {
        Config {
            server_name: self.server_name.clone(),
            registration: match (self.registration, &self.registration_token) {
                (RegistrationKind::Open, _) => Registration::Open,
                (RegistrationKind::Token, Some(token)) => Registration::Token(token.clone()),
                // clap asks for the token before it comes to this.
                (RegistrationKind::Closed, _) | (RegistrationKind::Token, None) => Registration::Closed,
            },
            registration_shared_secret: self.registration_shared_secret.clone(),
            default_room_version: self.default_room_version.clone(),
            longest_sync: LONGEST_SYNC,
            rate_limits: self.rate_limits == Switch::On,
            presence: self.presence == Switch::On,
            federation: self.federation == Switch::On,
            federates_with: FederatesWith::new(&named(&self.federation_allow), &named(&self.federation_deny)),
            trusted_key_servers: self.trusted_key_servers.iter().filter_map(|server| server.0.clone()).collect(),
            public_url: self.public_url.clone(),
            max_upload: self.max_upload,
            media_quota: self.media_quota,
            media_quota_info: self.media_quota_info.clone(),
            media_cache: self.media_cache,
            authenticated_media: self.authenticated_media == Switch::On,
            storage_full: "The server's disk is full: leave and forget rooms that you no longer need, or ask the administrator to free disk space"
                .to_owned(),
            ..Config::default()
        }
    }
}

/// Whoever can read metrics learns when how much is said: a port alone is one of this machine.
fn metrics_address(text: &str) -> Result<Address, &'static str> {
    match text.parse() {
        Ok(port) => Ok(Address::Ip(([127, 0, 0, 1], port).into())),
        Err(_) => text.parse(),
    }
}

fn server_name(text: &str) -> Result<OwnedServerName, String> {
    OwnedServerName::try_from(text).map_err(|_| "expected a host or host:port, such as example.org or localhost:8448".to_owned())
}

/// One of several values that are separated by commas; none where the list is empty, as that of an
/// environment variable may be.
#[derive(Clone, Debug)]
pub struct Listed<T>(pub Option<T>);

fn one_of_server_names(text: &str) -> Result<Listed<OwnedServerName>, String> {
    (!text.trim().is_empty()).then(|| server_name(text.trim())).transpose().map(Listed)
}

fn resolved(text: &str) -> Result<Listed<(String, SocketAddr)>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Listed(None));
    }
    let pair = text.split_once('=').and_then(|(name, address)| Some((server_name(name.trim()).ok()?, address.trim().parse().ok()?)));
    let (name, address) = pair.ok_or("expected name=ip:port, such as example.org=192.0.2.1:8448")?;
    Ok(Listed(Some((name.as_str().to_lowercase(), address))))
}

fn named(patterns: &[String]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.trim().to_owned()).filter(|pattern| !pattern.is_empty()).collect()
}

fn room_version(text: &str) -> Result<RoomVersionId, String> {
    let version = RoomVersionId::try_from(text).map_err(|error| error.to_string())?;
    match version.rules() {
        Some(RoomVersionRules { .. }) => Ok(version),
        None => Err("expected a supported room version: 1 to 12".to_owned()),
    }
}

fn public_url(text: &str) -> Result<String, String> {
    match text.parse::<http::Uri>() {
        Ok(url) if matches!(url.scheme_str(), Some("https" | "http")) && url.host().is_some_and(|host| !host.is_empty()) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected a URL that begins with https:// or http://, such as https://matrix.example.org".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn serve(arguments: &[&str]) -> Result<Serve, String> {
        match Options::try_parse_from(["ephapse", "serve"].iter().chain(arguments)).map_err(|error| error.to_string())?.command {
            Command::Serve(serve) => Ok(*serve),
            Command::Status(_) => panic!("it is serve that was parsed"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn registration_is_closed_unless_said_otherwise_and_a_token_has_a_value() {
        assert_eq!(serve(&[]).expect("defaults are complete").config().registration, Registration::Closed);
        assert!(serve(&["--registration", "token"]).is_err_and(|error| error.contains("--registration-token")));
        let token = serve(&["--registration", "token", "--registration-token", "abc"]).expect("complete");
        assert_eq!(token.config().registration, Registration::Token("abc".to_owned()));
    }

    #[test]
    fn the_storage_full_message_names_the_disk() {
        let said = serve(&[]).expect("valid").config().storage_full;
        assert!(said.contains("disk is full") && !said.contains("site"), "{said}");
    }

    #[test]
    fn presence_can_be_switched_off() {
        assert!(serve(&[]).expect("valid").config().presence);
        assert!(!serve(&["--presence", "off"]).expect("valid").config().presence);
    }

    #[test]
    fn other_servers_are_named_in_lists() {
        let config = |arguments: &[&str]| serve(arguments).expect("valid").config();
        let includes = |config: Config, server: &str| config.federates_with.includes(server.try_into().expect("a name"));
        assert!(config(&[]).federation && includes(config(&[]), "one.example"));
        assert!(!config(&["--federation", "off"]).federation);
        let some = ["--federation-allow", "*.example, localhost:1", "--federation-deny", "evil.example"];
        for (server, expected) in [("one.example", true), ("localhost:1", true), ("localhost:2", false), ("evil.example", false)] {
            assert_eq!(includes(config(&some), server), expected, "{server}");
        }
        // An environment variable that is set and empty.
        assert!(includes(config(&["--federation-allow", ""]), "one.example"));
        assert!(config(&["--trusted-key-servers", ""]).trusted_key_servers.is_empty());
        assert_eq!(config(&["--trusted-key-servers", "one.example,[::1]:8448"]).trusted_key_servers, ["one.example", "[::1]:8448"]);
        assert!(serve(&["--trusted-key-servers", "no spaces"]).is_err());

        let found: Vec<_> = serve(&["--resolve", "One.example=127.0.0.1:1,localhost:8448=[::1]:2,"])
            .expect("valid")
            .resolve
            .into_iter()
            .filter_map(|listed| listed.0)
            .collect();
        assert_eq!(
            found,
            [("one.example".to_owned(), ([127, 0, 0, 1], 1).into()), ("localhost:8448".to_owned(), ([0, 0, 0, 0, 0, 0, 0, 1], 2).into())]
        );
        assert!(serve(&["--resolve", "one.example"]).is_err_and(|error| error.contains("name=ip:port")));
        assert!(!serve(&[]).expect("valid").allow_loopback_federation);
        assert!(serve(&["--allow-loopback-federation"]).expect("valid").allow_loopback_federation);
    }

    #[test]
    fn a_file_may_have_as_many_bytes_as_is_said() {
        assert_eq!(serve(&[]).expect("valid").config().max_upload, 100 << 20);
        assert_eq!(serve(&["--max-upload", "5"]).expect("valid").config().max_upload, 5);
        assert_eq!(serve(&["--max-upload-size", "6"]).expect("valid").config().max_upload, 6);
        assert!(serve(&["--max-upload", "-1"]).is_err());
        assert_eq!(serve(&[]).expect("valid").config().media_quota, None);
        assert_eq!(serve(&["--media-quota", "7"]).expect("valid").config().media_quota, Some(7));
        assert!(serve(&[]).expect("valid").config().authenticated_media);
        assert!(!serve(&["--authenticated-media", "off"]).expect("valid").config().authenticated_media);
    }

    #[test]
    fn plain_http_is_the_default_and_tls_replaces_it() {
        assert_eq!(serve(&[]).expect("valid").plain_address(), Some(Address::Ip(([127, 0, 0, 1], 8008).into())));
        assert!(serve(&["--listen-tls", "127.0.0.1:8448"]).is_err_and(|error| error.contains("--tls-cert")));
        for option in ["--tls-cert", "--tls-key"] {
            assert!(
                serve(&[option, "file.pem"]).is_err_and(|error| error.contains("--listen-tls <HOST:PORT>")),
                "{option} alone would have no effect"
            );
        }
        let tls = serve(&["--listen-tls", "127.0.0.1:8448", "--tls-cert", "c.pem", "--tls-key", "k.pem"]).expect("valid");
        assert_eq!(tls.plain_address(), None);
    }

    #[test]
    fn an_address_is_a_number_or_a_name_and_a_port() {
        let listen = |address: &str| serve(&["--listen", address]).map(|serve| serve.plain_address().expect("as given"));
        assert_eq!(listen("localhost:8008"), Ok(Address::Name("localhost".to_owned(), 8008)));
        assert_eq!(listen("[::1]:8008"), Ok(Address::Ip(([0, 0, 0, 0, 0, 0, 0, 1], 8008).into())));
        for wrong in ["localhost", "8008", ":8008", "localhost:", "localhost:99999", "::1:8008", "http://localhost:8008", "a b:1"] {
            assert!(listen(wrong).is_err_and(|error| error.contains("localhost:8008")), "{wrong}");
        }
    }

    #[test]
    fn metrics_are_for_this_machine_unless_said_otherwise() {
        let metrics = |value: &str| serve(&["--metrics", value]).map(|serve| serve.metrics.expect("as given"));
        assert_eq!(metrics("9000"), Ok(Address::Ip(([127, 0, 0, 1], 9000).into())));
        assert_eq!(metrics("0.0.0.0:9000"), Ok(Address::Ip(([0, 0, 0, 0], 9000).into())));
        assert!(metrics("99999").is_err());
        assert!(serve(&[]).expect("valid").metrics.is_none());
    }

    #[test]
    fn wrong_values_are_refused_with_an_example() {
        assert!(serve(&["--server-name", "no spaces"]).is_err_and(|error| error.contains("example.org")));
        assert!(serve(&["--default-room-version", "99"]).is_err_and(|error| error.contains("1 to 12")));
        assert!(serve(&["--public-url", "matrix.example.org"]).is_err_and(|error| error.contains("https://")));
        assert_eq!(serve(&["--public-url", "https://m.example/"]).expect("valid").public_url.as_deref(), Some("https://m.example"));
    }
}
