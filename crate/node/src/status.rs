//! `ephapse status`: asks the server that runs on a data directory how it is.

use crate::{
    options,
    serve::status_socket::{SOCKET, STATUS},
};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    fmt::{self, Write},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::UnixStream, time::timeout};

/// How long the server may take to answer. It answers others meanwhile.
const WITHIN: Duration = Duration::from_secs(10);

/// Why nothing can be told. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no server.
    #[error("no server runs on {}: {source}; say with --data-dir on which directory yours does, as the user that it runs as", .directory.display())]
    NotRunning {
        /// The data directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is one, and it does not answer.
    #[error("the server on {} did not answer: {reason}", .directory.display())]
    NoAnswer {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Prints what the server says.
pub fn status(options: &options::Status) -> Result<(), StatusError> {
    let directory = &options.data_dir;
    let no_answer = |reason: String| StatusError::NoAnswer { directory: directory.clone(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| no_answer(error.to_string()))?;
    let said = runtime.block_on(async { timeout(WITHIN, ask(directory)).await.map_err(|_| no_answer("timed out".to_owned()))? })?;
    if options.json {
        println!("{said}");
    } else {
        let value: Value = serde_json::from_slice(said.as_bytes()).map_err(|error| no_answer(error.to_string()))?;
        print!("{}", in_lines(&value));
    }
    Ok(())
}

/// What the server on a directory says, as JSON.
pub async fn ask(directory: &Path) -> Result<String, StatusError> {
    let socket = directory.join(SOCKET);
    let stream = UnixStream::connect(socket).await.map_err(|source| StatusError::NotRunning { directory: directory.to_owned(), source })?;
    answer(stream).await.map_err(|error| StatusError::NoAnswer { directory: directory.to_owned(), reason: error.to_string() })
}

async fn answer(stream: UnixStream) -> Result<String, Box<dyn std::error::Error>> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get(STATUS).header(HOST, "localhost").body(Empty::<Bytes>::new())?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, Box<dyn std::error::Error>>(String::from_utf8(body.to_vec())?)
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = connection => {
            ended?;
            answered.await
        }
    }
}

/// A status, as people read it: a line for each value, and lists indented below their names. What
/// a newer server says is shown too.
fn in_lines(status: &Value) -> String {
    let mut text = String::new();
    write_fields(&mut text, status, 0).expect("a string takes everything");
    text
}

fn write_fields(text: &mut String, value: &Value, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = in_words(name);
        match value {
            Value::Null => {}
            Value::Array(list) if list.is_empty() => writeln!(text, "{indent}{name}: none")?,
            Value::Array(list) => {
                writeln!(text, "{indent}{name}:")?;
                list.iter().try_for_each(|item| write_item(text, item, depth + 1))?;
            }
            Value::Object(_) => {
                writeln!(text, "{indent}{name}:")?;
                write_fields(text, value, depth + 1)?;
            }
            Value::Number(at) if name == "next try" => writeln!(text, "{indent}{name}: in {} s", seconds_until(at.as_u64().unwrap_or_default()))?,
            plain => writeln!(text, "{indent}{name}: {}", scalar(plain))?,
        }
    }
    Ok(())
}

/// One of a list: what names it, and below that what else is said of it.
fn write_item(text: &mut String, item: &Value, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    let Some(fields) = item.as_object() else { return writeln!(text, "{indent}{}", scalar(item)) };
    let name = ["name", "server", "subject"].into_iter().find_map(|name| Some((name, fields.get(name)?.as_str()?)));
    let Some((key, name)) = name else {
        writeln!(text, "{indent}-")?;
        return write_fields(text, item, depth + 1);
    };
    writeln!(text, "{indent}{name}")?;
    let rest = fields.iter().filter(|(field, _)| *field != key).map(|(field, value)| (field.clone(), value.clone()));
    write_fields(text, &Value::Object(rest.collect()), depth + 1)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Seconds from now to a time in ms since the epoch.
fn seconds_until(at: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(at).saturating_sub(now).as_secs()
}

/// `bytesStored` as people write it.
fn in_words(camel: &str) -> String {
    words(camel, ' ')
}

/// The words of a name such as `bytesStored`, with something between them.
pub fn words(camel: &str, between: char) -> String {
    camel.chars().flat_map(|letter| letter.is_uppercase().then_some(between).into_iter().chain(letter.to_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_shown_in_lines() {
        let status = json!({
            "serverName": "one.example",
            "bytesStored": 4096,
            "streams": [{ "name": "to_device", "length": 2, "newestDeadLetters": [] }],
            "federation": { "destinations": [{ "server": "two.example", "reachable": false, "lastError": "connection refused", "nextTry": null }] },
            "later": [1, "a"],
        });
        let expected = "\
bytes stored: 4096
federation:
  destinations:
    two.example
      last error: connection refused
      reachable: no
later:
  1
  a
server name: one.example
streams:
  to_device
    length: 2
    newest dead letters: none
";
        assert_eq!(in_lines(&status), expected);
        let text = in_lines(&json!({ "nextTry": 1 }));
        assert_eq!(text, "next try: in 0 s\n");
    }
}
