//! What is said of a file when it is sent: its type and name, and what keeps a browser from running
//! it.

use crate::tables::Media;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ruma::http_headers::{CROSS_ORIGIN_RESOURCE_POLICY, ContentDisposition, ContentDispositionType};

/// Bytes that the name or the type of a file may have; a longer name is cut off.
const LONGEST_TEXT: usize = 255;

/// Types that browsers show without running anything (Client-Server API, Serving inline content).
const SHOWN_INLINE: [&str; 26] = [
    "application/json",
    "application/ld+json",
    "audio/aac",
    "audio/flac",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/wave",
    "audio/webm",
    "audio/x-flac",
    "audio/x-pn-wav",
    "audio/x-wav",
    "image/apng",
    "image/avif",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "text/css",
    "text/csv",
    "text/plain",
    "video/mp4",
    "video/ogg",
    "video/quicktime",
    "video/webm",
];

/// Texts that are not `text/`.
const TEXTS: [&str; 4] = ["application/json", "application/ld+json", "application/rtf", "image/svg+xml"];

/// What keeps a browser from running a file, or taking it for something else than it is said to be.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Files never change, and are for those who may see them.
    (header::CACHE_CONTROL, "private, max-age=86400"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow, noarchive, noimageindex"),
];

/// A name without what is not to be seen, and not too long.
pub fn file_name(given: &str) -> Option<String> {
    let is_unseen = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut name: String = given.chars().filter(|c| !is_unseen(*c)).collect();
    name.truncate(name.floor_char_boundary(LONGEST_TEXT));
    Some(name).filter(|name| !name.is_empty())
}

/// The type of a file, unless it is too long to be one.
pub fn content_type(given: String) -> Option<String> {
    Some(given).filter(|kind| kind.len() <= LONGEST_TEXT)
}

/// What came in a header goes in one.
pub fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
}

/// The type of a file and how it is shown, under the name that is asked for or its own.
pub fn description(media: &Media, name: Option<String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let kind = media.content_type.as_deref().unwrap_or("application/octet-stream");
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // What is text would else be read in the encoding of whoever looks at it.
    let is_bare_text = kind.len() == essence.len() && (essence.starts_with("text/") || TEXTS.contains(&essence.as_str()));
    let kind = if is_bare_text { format!("{kind}; charset=UTF-8") } else { kind.to_owned() };
    let disposition = match SHOWN_INLINE.contains(&essence.as_str()) {
        true => ContentDispositionType::Inline,
        false => ContentDispositionType::Attachment,
    };
    let disposition = ContentDisposition::new(disposition).with_filename(name.or_else(|| media.file_name.clone()));
    set(&mut headers, header::CONTENT_TYPE, kind);
    set(&mut headers, header::CONTENT_DISPOSITION, disposition.to_string());
    headers
}

/// All headers that a client is sent with a file.
pub fn headers(media: &Media, name: Option<String>) -> HeaderMap {
    let mut headers: HeaderMap = SECURITY_HEADERS.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    headers.extend(description(media, name));
    headers
}
