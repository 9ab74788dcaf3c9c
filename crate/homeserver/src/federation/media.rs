//! Files of this server for other servers (Server-Server API, "Content Repository").

use super::multipart;
use crate::{
    body::Body,
    error::Result,
    media::{Download, served, thumbnail_of},
    router::PeerCall,
    tables::FileKey,
};
use http::Response;
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

/// Letters of what stands between the parts of an answer: nobody guesses it, so that no file has
/// it in it.
const BOUNDARY: usize = 32;

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
pub async fn download(call: PeerCall, request: get_content::v1::Request) -> Result<Response<Body>> {
    let hs = &call.hs;
    let key: FileKey = (hs.server_name().to_owned(), request.media_id, String::new());
    let media = hs.media(&key, request.timeout_ms).await?;
    let file = Download::new(hs.clone(), key, 0..media.size);
    Ok(multipart::answer(&hs.random_string(BOUNDARY), &served::description(&media, None), file))
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
pub async fn thumbnail(call: PeerCall, request: get_content_thumbnail::v1::Request) -> Result<Response<Body>> {
    let hs = &call.hs;
    let key: FileKey = (hs.server_name().to_owned(), request.media_id, String::new());
    let asked = thumbnail_of(request.width, request.height, request.method.as_ref(), request.animated);
    let (media, body) = hs.find_thumbnail(&key, asked, request.timeout_ms, false).await?;
    Ok(multipart::answer(&hs.random_string(BOUNDARY), &served::description(&media, None), body))
}
