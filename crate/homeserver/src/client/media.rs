//! Files: `/upload`, `/download` and what may be uploaded (Client-Server API, Content repository).
//! The bytes pass through as they come, in both directions.

use crate::{
    body::Body,
    error::{Error, Result},
    media::{Download, Receipt, Upload},
    router::UserCall,
    tables::{self, FileKey, Media},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use ruma::{
    OwnedServerName, UInt,
    api::{
        OutgoingResponseExt,
        client::{
            authenticated_media::{get_content, get_content_as_filename, get_media_config},
            media::{create_content, get_media_config as get_old_media_config},
        },
        error::ErrorKind,
    },
    http_headers::{CROSS_ORIGIN_RESOURCE_POLICY, ContentDisposition, ContentDispositionType},
};

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

/// `POST /_matrix/media/v3/upload`
pub async fn upload(call: UserCall, request: create_content::v3::Request, body: Body) -> Result<Response<Body>> {
    let limit = call.hs.max_upload();
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    let mut upload = Upload::begin(&call.hs).await;
    match store(&call, &mut upload, request, body, limit).await {
        Ok(()) => {
            let key = upload.key().clone();
            let uri = format!("mxc://{}/{}", key.0, key.1).into();
            let response = create_content::v3::Response::new(uri).try_into_http_response::<Vec<u8>>();
            let response = response.map_err(|error| Error::Internal(format!("could not serialize a response: {error}")))?;
            Ok(response.map(|bytes| Body::stream(Receipt::new(call.hs.clone(), key, bytes.into()))))
        }
        Err(error) => {
            upload.abandon().await;
            Err(error)
        }
    }
}

async fn store(call: &UserCall, upload: &mut Upload, request: create_content::v3::Request, mut body: Body, limit: u64) -> Result<()> {
    let declared = body.size_hint().exact();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broke_off(&error.to_string()))?.into_data() else { continue };
        if data.len() as u64 > limit - upload.size() {
            return Err(too_large(limit));
        }
        upload.append(data).await?;
    }
    if declared.is_some_and(|declared| declared != upload.size()) {
        return Err(broke_off("the length differs from Content-Length"));
    }
    // It may have taken long: who was logged out meanwhile uploads nothing any more.
    let generation = call.hs.begin_reading();
    tables::ACCESS_TOKENS.get(call.hs.store(), &call.token).await?.ok_or_else(Error::unknown_token)?;
    let media = Media {
        size: upload.size(),
        content_type: request.content_type.filter(|kind| kind.len() <= LONGEST_TEXT),
        file_name: request.filename.as_deref().and_then(file_name),
        uploader: Some(call.session.user),
        created: call.hs.host.now(),
    };
    upload.finish(media, generation).await
}

fn too_large(limit: u64) -> Error {
    Error::too_large(format!("Upload too large: at most {limit} bytes are allowed"))
}

fn broke_off(reason: &str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, format!("Upload failed: {reason}"))
}

/// A name without what is not to be seen, and not too long.
fn file_name(given: &str) -> Option<String> {
    let is_unseen = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut name: String = given.chars().filter(|c| !is_unseen(*c)).collect();
    name.truncate(name.floor_char_boundary(LONGEST_TEXT));
    Some(name).filter(|name| !name.is_empty())
}

/// `GET /_matrix/client/v1/media/config`
pub async fn config(call: UserCall, _: get_media_config::v1::Request) -> Result<get_media_config::v1::Response> {
    Ok(get_media_config::v1::Response::new(largest(&call)))
}

/// `GET /_matrix/media/v3/config`
#[expect(deprecated, reason = "clients that do not know the other one still ask")]
pub async fn old_config(call: UserCall, _: get_old_media_config::v3::Request) -> Result<get_old_media_config::v3::Response> {
    Ok(get_old_media_config::v3::Response::new(largest(&call)))
}

fn largest(call: &UserCall) -> UInt {
    UInt::new_saturating(call.hs.max_upload())
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub async fn download(call: UserCall, request: get_content::v1::Request, _: Body) -> Result<Response<Body>> {
    answer(call, request.server_name, request.media_id, None).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub async fn download_as(call: UserCall, request: get_content_as_filename::v1::Request, _: Body) -> Result<Response<Body>> {
    answer(call, request.server_name, request.media_id, file_name(&request.filename)).await
}

async fn answer(call: UserCall, server: OwnedServerName, media_id: String, name: Option<String>) -> Result<Response<Body>> {
    let key: FileKey = (server, media_id, String::new());
    let media = tables::MEDIA.get(call.hs.store(), &key).await?.ok_or_else(|| Error::not_found("Media not found"))?;
    let headers = headers(&media, name);
    let size = media.size;
    let mut response = match call.raw.method == Method::HEAD {
        true => {
            let mut response = Response::new(Body::from(""));
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
            response
        }
        false => Response::new(Body::stream(Download::new(call.hs, key, size))),
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

fn headers(media: &Media, name: Option<String>) -> HeaderMap {
    let mut headers: HeaderMap = SECURITY_HEADERS.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
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
    for (name, value) in [(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, disposition.to_string())] {
        // What came in a header goes in one.
        headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
    }
    headers
}
