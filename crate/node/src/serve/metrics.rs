//! What `--metrics` shows, in the text format of Prometheus: requests by endpoint and status, and
//! what `status` says in numbers.

use super::pages::{self, Page};
use crate::status::words;
use ephapse_homeserver::Homeserver;
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write},
    rc::Rc,
    time::Duration,
};
use tokio::net::TcpListener;

/// Upper bounds of the durations that are counted together, in ms.
const BOUNDS: [u32; 11] = [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];

/// The status of a request whose client went away before it was answered.
const ABORTED: u16 = 499;

/// Requests that were answered.
#[derive(Default)]
pub struct Requests(RefCell<BTreeMap<Kind, Durations>>);

/// Requests that are counted together. There are few of these: names in paths are no part of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    endpoint: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Default)]
struct Durations {
    within: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Requests {
    /// One that took so long, with the status of its answer; none: its client went away.
    pub fn count(&self, method: &'static str, endpoint: &'static str, status: Option<u16>, took: Duration) {
        let kind = Kind { endpoint, method, status: status.unwrap_or(ABORTED) };
        let mut all = self.0.borrow_mut();
        let durations = all.entry(kind).or_default();
        durations.count += 1;
        durations.sum += took;
        for (bound, within) in BOUNDS.iter().zip(&mut durations.within) {
            *within += u64::from(took <= Duration::from_millis(u64::from(*bound)));
        }
    }
}

/// Shows them on a port of their own.
pub fn serve(listener: TcpListener, homeserver: Rc<Homeserver>, requests: Rc<Requests>) {
    let accept = async move || Ok(listener.accept().await?.0);
    let page = move || Page { kind: "text/plain; version=0.0.4; charset=utf-8", content: text(&homeserver, &requests) };
    pages::serve(accept, Rc::new(move |path| (path == "/metrics").then(&page)));
}

fn text(homeserver: &Homeserver, requests: &Requests) -> String {
    let mut text = String::new();
    let status = serde_json::to_value(homeserver.status()).expect("it has nothing that JSON cannot have");
    write_requests(&mut text, requests).and_then(|()| write_status(&mut text, &status)).expect("a string takes everything");
    text
}

fn write_requests(text: &mut String, requests: &Requests) -> fmt::Result {
    let name = "ephapse_http_request_duration_seconds";
    writeln!(text, "# HELP {name} How long requests took, by endpoint and status; {ABORTED}: their clients went away")?;
    writeln!(text, "# TYPE {name} histogram")?;
    for (Kind { endpoint, method, status }, durations) in &*requests.0.borrow() {
        let labels = format!("method=\"{method}\",endpoint=\"{}\",status=\"{status}\"", escaped(endpoint));
        for (bound, within) in BOUNDS.iter().zip(durations.within) {
            writeln!(text, "{name}_bucket{{{labels},le=\"{}\"}} {within}", f64::from(*bound) / 1_000.0)?;
        }
        writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", durations.count)?;
        writeln!(text, "{name}_sum{{{labels}}} {}", durations.sum.as_secs_f64())?;
        writeln!(text, "{name}_count{{{labels}}} {}", durations.count)?;
    }
    Ok(())
}

/// The numbers of the status. Of a list of things with names each is shown by its name: streams,
/// but not other servers, of which there may be thousands: these are counted.
fn write_status(text: &mut String, status: &Value) -> fmt::Result {
    let fields = status.as_object().into_iter().flatten();
    for (field, value) in fields {
        if let Some(number) = value.as_f64() {
            gauge(text, &snake(field), [("", number)])?;
        }
    }
    let streams = status["streams"].as_array().map_or(&[][..], Vec::as_slice);
    for field in ["subjects", "length", "bytes", "deadLetters", "dropped"] {
        let of_each = streams.iter().filter_map(|stream| Some((stream["name"].as_str()?, stream[field].as_f64()?)));
        gauge(text, &format!("stream_{}", snake(field)), of_each.map(|(name, number)| (format!("{{stream=\"{}\"}}", escaped(name)), number)))?;
    }
    if let Some(servers) = status["federation"]["destinations"].as_array() {
        let queued: f64 = servers.iter().filter_map(|server| server["queued"].as_f64()).sum();
        let unreachable = servers.iter().filter(|server| server["reachable"] == false).count();
        gauge(text, "federation_destinations", [("", count(servers.len()))])?;
        gauge(text, "federation_unreachable", [("", count(unreachable))])?;
        gauge(text, "federation_queued", [("", queued)])?;
    }
    Ok(())
}

fn gauge(text: &mut String, name: &str, samples: impl IntoIterator<Item = (impl fmt::Display, f64)>) -> fmt::Result {
    writeln!(text, "# TYPE ephapse_{name} gauge")?;
    samples.into_iter().try_for_each(|(labels, number)| writeln!(text, "ephapse_{name}{labels} {number}"))
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

/// `bytesStored` as Prometheus names things.
fn snake(camel: &str) -> String {
    words(camel, '_')
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_are_counted_by_what_they_took() {
        let requests = Requests::default();
        for ms in [1, 7, 60_000] {
            requests.count("GET", "/_matrix/client/v3/rooms/{room_id}/state", Some(200), Duration::from_millis(ms));
        }
        requests.count("GET", "/_matrix/client/v3/sync", None, Duration::from_secs(1));
        let mut text = String::new();
        write_requests(&mut text, &requests).expect("it is written");
        let name = "ephapse_http_request_duration_seconds";
        let labels = "method=\"GET\",endpoint=\"/_matrix/client/v3/rooms/{room_id}/state\",status=\"200\"";
        for (bound, expected) in [("0.001", 1), ("0.005", 1), ("0.01", 2), ("30", 2), ("+Inf", 3)] {
            assert!(text.contains(&format!("{name}_bucket{{{labels},le=\"{bound}\"}} {expected}\n")), "{text}");
        }
        assert!(text.contains(&format!("{name}_sum{{{labels}}} 60.008\n")), "{text}");
        assert!(text.contains(&format!("{name}_count{{method=\"GET\",endpoint=\"/_matrix/client/v3/sync\",status=\"499\"}} 1\n")), "{text}");
    }

    #[test]
    fn the_status_is_shown_in_numbers() {
        let status = json!({
            "serverName": "one.example",
            "bytesStored": 5,
            "streams": [{ "name": "to_device", "length": 2, "deadLetters": 0 }],
            "federation": { "destinations": [{ "queued": 3, "reachable": false }, { "queued": 4, "reachable": true }, { "queued": 0, "reachable": null }] },
        });
        let mut text = String::new();
        write_status(&mut text, &status).expect("it is written");
        for expected in [
            "# TYPE ephapse_bytes_stored gauge\nephapse_bytes_stored 5\n",
            "ephapse_stream_length{stream=\"to_device\"} 2\n",
            "ephapse_federation_destinations 3\n",
            "ephapse_federation_unreachable 1\n",
            "ephapse_federation_queued 7\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("one.example"), "{text}");
    }
}
