//! Files: `/upload`, `/download` and what may be uploaded (Client-Server API, Content repository).
//! The bytes pass through as they come, in both directions.

use crate::{
    body::Body,
    error::{Error, Result},
    failure::Failure,
    media::{Download, Found, Receipt, Refused, ThumbnailWanted, Upload, Wanted, served, thumbnail_of},
    router::{Call, RawRequest, UserCall},
    tables::{self, FileKey, Media},
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, UInt,
    api::{
        OutgoingResponseExt,
        client::{
            authenticated_media::{get_content, get_content_as_filename, get_content_thumbnail, get_media_config},
            media::{
                create_content, create_content_async, create_mxc_uri, get_content as get_old_content,
                get_content_as_filename as get_old_content_as_filename, get_content_thumbnail as get_old_content_thumbnail,
                get_media_config as get_old_media_config,
            },
        },
        error::ErrorKind,
    },
};
use std::time::Duration;

/// `POST /_matrix/media/v3/upload`
pub async fn upload(call: UserCall, request: create_content::v3::Request, body: Body) -> Result<Response<Body>> {
    let upload = Upload::begin(&call.hs).await;
    let key = receive(&call, upload, request.content_type, request.filename, body).await?;
    let response = create_content::v3::Response::new(uri(&key).into()).try_into_http_response::<Vec<u8>>();
    let response = response.map_err(|error| Error::Internal(format!("could not serialize a response: {error}")))?;
    Ok(response.map(|bytes| Body::stream(Receipt::new(call.hs.clone(), key, bytes.into()))))
}

/// `POST /_matrix/media/v1/create`
pub async fn create(call: UserCall, _: create_mxc_uri::v1::Request) -> Result<create_mxc_uri::v1::Response> {
    let created = call.hs.create_media(call.raw.generation, call.session.user).await?;
    let mut response = create_mxc_uri::v1::Response::new(uri(&created.key).into());
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(created.expires)));
    Ok(response)
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
pub async fn upload_to(call: UserCall, request: create_content_async::v3::Request, body: Body) -> Result<Response<Body>> {
    let key: FileKey = (request.server_name, request.media_id, String::new());
    call.hs.may_fill(call.session.user, &key).await?;
    let upload = Upload::begin_as(&call.hs, key).await?.ok_or(Failure::Refused(Refused::HasContent))?;
    // It may have got its file before this one was begun.
    if let Err(refused) = call.hs.may_fill(call.session.user, upload.key()).await {
        upload.abandon().await;
        return Err(refused.into());
    }
    receive(&call, upload, request.content_type, request.filename, body).await?;
    let mut response = Response::new(Body::from("{}"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn uri(key: &FileKey) -> String {
    format!("mxc://{}/{}", key.0, key.1)
}

/// Takes in a file. Nothing is left of one that is refused or breaks off.
async fn receive(call: &UserCall, mut upload: Upload, kind: Option<String>, name: Option<String>, body: Body) -> Result<FileKey> {
    match store(call, &mut upload, kind, name, body).await {
        Ok(()) => Ok(upload.key().clone()),
        Err(error) => {
            upload.abandon().await;
            Err(error)
        }
    }
}

async fn store(call: &UserCall, upload: &mut Upload, kind: Option<String>, name: Option<String>, mut body: Body) -> Result<()> {
    let hs = &call.hs;
    let largest = hs.max_upload();
    let left = hs.media_left(call.session.user).await?;
    let limit = largest.min(left.unwrap_or(largest));
    let refused = || match limit < largest {
        true => Failure::from(Refused::OverQuota(hs.config.media_quota_info.clone())).into(),
        false => too_large(largest),
    };
    if body.size_hint().lower() > limit {
        return Err(refused());
    }
    let declared = body.size_hint().exact();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broke_off(&error.to_string()))?.into_data() else { continue };
        if data.len() as u64 > limit - upload.size() {
            return Err(refused());
        }
        upload.append(data).await?;
    }
    if declared.is_some_and(|declared| declared != upload.size()) {
        return Err(broke_off("the length differs from Content-Length"));
    }
    // It may have taken long: who was logged out meanwhile uploads nothing any more.
    let generation = hs.begin_reading();
    tables::ACCESS_TOKENS.get(hs.store(), &call.token).await?.ok_or_else(Error::unknown_token)?;
    let media = Media {
        size: upload.size(),
        content_type: kind.and_then(served::content_type),
        file_name: name.as_deref().and_then(served::file_name),
        uploader: Some(call.session.user),
        created: hs.host.now(),
    };
    hs.keep_upload(upload, media, call.session.user, generation).await
}

fn too_large(limit: u64) -> Error {
    Error::too_large(format!("Upload too large: at most {limit} bytes are allowed"))
}

fn broke_off(reason: &str) -> Error {
    Error::new(StatusCode::BAD_REQUEST, ErrorKind::Unknown, format!("Upload failed: {reason}"))
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
pub async fn download(call: Call, request: get_content::v1::Request) -> Result<Response<Body>> {
    answer(call, Access::Known, wanted(request.server_name, request.media_id), None, request.timeout_ms).await
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub async fn download_as(call: Call, request: get_content_as_filename::v1::Request) -> Result<Response<Body>> {
    let name = served::file_name(&request.filename);
    answer(call, Access::Known, wanted(request.server_name, request.media_id), name, request.timeout_ms).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
#[expect(deprecated, reason = "clients that do not know the other one still ask")]
pub async fn old_download(call: Call, request: get_old_content::v3::Request) -> Result<Response<Body>> {
    let access = Access::of_anybody(&call);
    answer(call, access, wanted(request.server_name, request.media_id), None, request.timeout_ms).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated, reason = "clients that do not know the other one still ask")]
pub async fn old_download_as(call: Call, request: get_old_content_as_filename::v3::Request) -> Result<Response<Body>> {
    let (access, name) = (Access::of_anybody(&call), served::file_name(&request.filename));
    answer(call, access, wanted(request.server_name, request.media_id), name, request.timeout_ms).await
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub async fn thumbnail(call: Call, request: get_content_thumbnail::v1::Request) -> Result<Response<Body>> {
    let asked = thumbnail_of(request.width, request.height, request.method.as_ref(), request.animated);
    answer_thumbnail(call, Access::Known, wanted(request.server_name, request.media_id), asked, request.timeout_ms).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated, reason = "clients that do not know the other one still ask")]
pub async fn old_thumbnail(call: Call, request: get_old_content_thumbnail::v3::Request) -> Result<Response<Body>> {
    let asked = thumbnail_of(request.width, request.height, request.method.as_ref(), request.animated);
    let access = Access::of_anybody(&call);
    answer_thumbnail(call, access, wanted(request.server_name, request.media_id), asked, request.timeout_ms).await
}

async fn answer_thumbnail(call: Call, access: Access, key: FileKey, asked: ThumbnailWanted, wait: Duration) -> Result<Response<Body>> {
    if access == Access::Unknown && tables::PUBLIC_MEDIA.get(call.hs.store(), &key).await?.is_none() {
        call.hs.media(&key, wait).await?;
        return Err(Failure::from(Refused::NotFound).into());
    }
    let (media, body) = call.hs.find_thumbnail(&key, asked, wait, access == Access::Known).await?;
    let mut response = Response::new(body);
    response.headers_mut().extend(served::headers(&media, None));
    if call.raw.method == Method::HEAD {
        *response.body_mut() = Body::from("");
        response.headers_mut().insert(header::CONTENT_LENGTH, media.size.into());
    }
    Ok(response)
}

/// Who asks for a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A user of this server, or a page of its own.
    Known,
    /// Anybody, at the paths that came before access tokens did. As on Synapse a token makes no
    /// difference there.
    Unknown,
}

impl Access {
    fn of_anybody(call: &Call) -> Self {
        if call.raw.is_own_page || !call.hs.config.authenticated_media { Self::Known } else { Self::Unknown }
    }
}

fn wanted(server: OwnedServerName, media_id: String) -> FileKey {
    (server, media_id, String::new())
}

async fn answer(call: Call, access: Access, key: FileKey, name: Option<String>, wait: Duration) -> Result<Response<Body>> {
    let may_fetch = access == Access::Known;
    let _reading = call.hs.reads_media(&key);
    let mut found = call.hs.find_media(&key, wait, may_fetch).await?;
    if access == Access::Unknown && tables::PUBLIC_MEDIA.get(call.hs.store(), &key).await?.is_none() {
        return Err(Failure::from(Refused::NotFound).into());
    }
    // A part of a file is known once all of it is, and so is its size.
    if call.raw.method == Method::HEAD || call.raw.headers.contains_key(header::RANGE) {
        found = found.whole().await?;
    }
    let (media, mut response) = match found {
        Found::Whole(media) => {
            let response = content(&call, key, media.size);
            (media, response)
        }
        Found::Coming(fetch, media) => (media, Response::new(Body::stream(fetch.body(&call.hs)))),
    };
    response.headers_mut().extend(served::headers(&media, name));
    Ok(response)
}

/// The bytes of a file that a request is for.
fn content(call: &Call, key: FileKey, size: u64) -> Response<Body> {
    let mut response = Response::new(Body::from(""));
    let body = |bytes| Body::stream(Download::new(call.hs.clone(), key, bytes));
    match range(&call.raw, size) {
        _ if call.raw.method == Method::HEAD => {
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
        }
        Wanted::All => *response.body_mut() = body(0..size),
        Wanted::Part(bytes) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            served::set(response.headers_mut(), header::CONTENT_RANGE, format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1));
            *response.body_mut() = body(bytes);
        }
        Wanted::Unsatisfiable => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            served::set(response.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
        }
    }
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// `If-Range` names a version by something that was never sent, so that it is another's.
fn range(request: &RawRequest, size: u64) -> Wanted {
    let header = request.headers.get(header::RANGE).filter(|_| !request.headers.contains_key(header::IF_RANGE));
    header.and_then(|header| header.to_str().ok()).map_or(Wanted::All, |header| Wanted::of(header, size))
}
