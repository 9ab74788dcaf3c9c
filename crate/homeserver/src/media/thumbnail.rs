//! Small pictures of files (Client-Server API, "Thumbnails"): made by the host when they are asked
//! for, in few sizes, and kept where all is kept that can be had again (`cache.rs`).

use super::{Download, Found, Refused, Upload};
use crate::{
    body::Body,
    error::Result,
    failure::Failure,
    homeserver::Homeserver,
    locks::LockKey,
    tables::{self, FileKey, Media},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use ruma::{UInt, media::Method};
use std::{rc::Rc, time::Duration};

/// The sizes that there are, as on Synapse: a few thumbnails of a picture serve all who look at it.
const SIZES: [ThumbnailSize; 5] = [
    ThumbnailSize { width: 32, height: 32, is_cropped: true },
    ThumbnailSize { width: 96, height: 96, is_cropped: true },
    ThumbnailSize { width: 320, height: 240, is_cropped: false },
    ThumbnailSize { width: 640, height: 480, is_cropped: false },
    ThumbnailSize { width: 800, height: 600, is_cropped: false },
];

/// Bytes of the largest file that a thumbnail is made of: it is in memory while that is done.
const LARGEST_SOURCE: u64 = 32 << 20;
/// What the files begin with that a thumbnail can be made of: JPEG, PNG, GIF, and RIFF for WebP.
const BEGINNINGS: [&[u8]; 4] = [b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF"];
/// Thumbnails that may be made at a time, and wait for that.
pub const MOST_THUMBNAILS: usize = 64;
/// Of those, at a time.
pub const THUMBNAILS_AT_A_TIME: usize = 2;

/// A size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Whether what does not fit is cut off; else all of the picture is there.
    pub is_cropped: bool,
}

/// What a thumbnail is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailWanted {
    /// How large.
    pub size: ThumbnailSize,
    /// Whether it may move, where the picture does.
    pub is_animated: bool,
}

/// A thumbnail that a host has made.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its type.
    pub content_type: String,
    /// Width and height of the picture it was made of.
    pub source: (u32, u32),
}

/// Why a host has made none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoThumbnail {
    /// It makes none at all.
    Unsupported,
    /// It is no picture that it knows.
    NotAnImage,
    /// The picture has more pixels than it takes.
    TooLarge,
}

/// What a request asks for; what it does not say is as on Synapse.
pub fn thumbnail_of(width: UInt, height: UInt, method: Option<&Method>, animated: Option<bool>) -> ThumbnailWanted {
    let pixels = |number: UInt| u32::try_from(u64::from(number)).unwrap_or(u32::MAX);
    let size = ThumbnailSize { width: pixels(width), height: pixels(height), is_cropped: method == Some(&Method::Crop) };
    ThumbnailWanted { size, is_animated: animated == Some(true) }
}

impl ThumbnailWanted {
    /// The one of [`SIZES`] that comes closest, chosen as Synapse does, of a picture of this size
    /// if that is known: larger ones first.
    fn nearest(self, source: Option<(u32, u32)>) -> Self {
        // Wide enough for the products of any two numbers that a request can name.
        let (asked_width, asked_height) = (i128::from(self.size.width), i128::from(self.size.height));
        let rank = |size: &ThumbnailSize| {
            let (width, height) = size.of(source);
            let (width, height) = (i128::from(width), i128::from(height));
            let is_smaller = width < asked_width && height < asked_height;
            let distance = ((asked_width - width) * (asked_height - height)).abs();
            match size.is_cropped {
                true => {
                    let shape = (asked_width * height - asked_height * width).abs();
                    (is_smaller, shape, asked_width > width || asked_height > height, distance)
                }
                false => (is_smaller, 0, false, distance),
            }
        };
        let sizes = SIZES.iter().filter(|size| size.is_cropped == self.size.is_cropped);
        Self { size: sizes.min_by_key(|size| rank(size)).copied().unwrap_or(SIZES[0]), ..self }
    }

    fn variant(self) -> String {
        let ThumbnailSize { width, height, is_cropped } = self.size;
        let method = if is_cropped { "crop" } else { "scale" };
        format!("{width}x{height}-{method}{}", if self.is_animated { "-animated" } else { "" })
    }
}

impl ThumbnailSize {
    /// Width and height that a picture of this size has then.
    fn of(self, source: Option<(u32, u32)>) -> (i64, i64) {
        let (most_width, most_height) = (i64::from(self.width), i64::from(self.height));
        let Some((width, height)) = source.filter(|_| !self.is_cropped).map(|(width, height)| (i64::from(width).max(1), i64::from(height).max(1)))
        else {
            return (most_width, most_height);
        };
        let (fit_width, fit_height) = match most_width * height < most_height * width {
            true => (most_width, most_width * height / width),
            false => (most_height * width / height, most_height),
        };
        (fit_width.min(width), fit_height.min(height))
    }
}

impl Homeserver {
    /// The thumbnail of a file of this server or, where that may be asked for it, of another one.
    pub(crate) async fn find_thumbnail(
        self: &Rc<Self>,
        key: &FileKey,
        asked: ThumbnailWanted,
        wait: Duration,
        may_fetch: bool,
    ) -> Result<(Media, Body)> {
        if let Some(found) = self.kept_thumbnail(key, asked).await? {
            return Ok(found);
        }
        let _reading = self.uploads.readers.read(key);
        let Found::Whole(original) = self.find_media(key, wait, may_fetch).await?.whole().await? else {
            return Err(Failure::from(Refused::NotYetUploaded).into());
        };
        let waiting = self.uploads.thumbnails_wanted.try_acquire_arc();
        let _waiting = waiting.ok_or(Failure::Refused(Refused::TooManyFetches))?;
        let _lock = self.lock(LockKey::Thumbnails(key.0.to_string(), key.1.clone())).await;
        // Who came before may have made it.
        if let Some(found) = self.kept_thumbnail(key, asked).await? {
            return Ok(found);
        }
        let (wanted, made) = self.make_thumbnail(key, &original, asked).await?;
        let media =
            Media { size: made.bytes.len() as u64, content_type: Some(made.content_type), file_name: None, uploader: None, created: self.host.now() };
        let bytes = Bytes::from(made.bytes);
        if let Err(error) = self.keep_thumbnail(key, wanted, made.source, &media, bytes.clone()).await {
            tracing::warn!("could not keep a thumbnail: {error}");
        }
        Ok((media, bytes.into()))
    }

    async fn kept_thumbnail(self: &Rc<Self>, (server, media_id, _): &FileKey, asked: ThumbnailWanted) -> Result<Option<(Media, Body)>> {
        let source = tables::IMAGE_SIZES.get(self.store(), &(server.clone(), media_id.clone())).await?;
        let key = (server.clone(), media_id.clone(), asked.nearest(source).variant());
        let _reading = self.uploads.readers.read(&key);
        let media = tables::MEDIA.get(self.store(), &key).await?;
        Ok(media.map(|media| {
            let body = Body::stream(Download::new(self.clone(), key, 0..media.size));
            (media, body)
        }))
    }

    async fn make_thumbnail(self: &Rc<Self>, key: &FileKey, original: &Media, asked: ThumbnailWanted) -> Result<(ThumbnailWanted, Thumbnail)> {
        if original.size > LARGEST_SOURCE {
            return Err(Failure::from(Refused::NoThumbnail(NoThumbnail::TooLarge)).into());
        }
        let _turn = self.uploads.thumbnails.acquire_arc().await;
        let mut wanted = asked.nearest(None);
        loop {
            let file = self.read_picture(key, original.size).await?;
            let made = self.host.thumbnail(file, wanted).await.map_err(|none| Failure::Refused(Refused::NoThumbnail(none)))?;
            // Now the picture's size is known: where another thumbnail is the nearest by that, it
            // is made instead.
            let nearest = asked.nearest(Some(made.source));
            if nearest == wanted || asked.nearest(None) != wanted {
                return Ok((nearest, made));
            }
            wanted = nearest;
        }
    }

    /// A file as a whole, if it begins as a picture.
    async fn read_picture(self: &Rc<Self>, key: &FileKey, size: u64) -> Result<Vec<u8>> {
        // At once, since what a browser's module has grown by stays.
        let mut file = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let mut body = Download::new(self.clone(), key.clone(), 0..size);
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| crate::error::Error::Internal(format!("a picture could not be read: {error}")))?.into_data();
            file.extend_from_slice(&data.unwrap_or_default());
            if !BEGINNINGS.iter().any(|beginning| file.starts_with(beginning)) {
                break;
            }
        }
        match BEGINNINGS.iter().any(|beginning| file.starts_with(beginning)) {
            true => Ok(file),
            false => Err(Failure::from(Refused::NoThumbnail(NoThumbnail::NotAnImage)).into()),
        }
    }

    async fn keep_thumbnail(
        self: &Rc<Self>,
        (server, media_id, _): &FileKey,
        wanted: ThumbnailWanted,
        source: (u32, u32),
        media: &Media,
        bytes: Bytes,
    ) -> Result<()> {
        let key = (server.clone(), media_id.clone(), wanted.variant());
        let Some(mut upload) = Upload::begin_as(self, key).await? else { return Ok(()) };
        let kept = async {
            upload.append(bytes).await?;
            upload.store_rest().await?;
            let of = (server.clone(), media_id.clone());
            self.keep_cached(&mut upload, media.clone(), |tx| tables::IMAGE_SIZES.put(tx, &of, &source)).await
        };
        match kept.await {
            Ok(true) => Ok(()),
            other => {
                upload.abandon().await;
                other.map(|_| ())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(width: u32, height: u32, is_cropped: bool, source: Option<(u32, u32)>) -> String {
        let size = ThumbnailSize { width, height, is_cropped };
        ThumbnailWanted { size, is_animated: false }.nearest(source).variant()
    }

    #[test]
    fn the_nearest_size_is_chosen_as_on_synapse() {
        for (width, height, is_cropped, source, variant) in [
            (32, 32, true, None, "32x32-crop"),
            (33, 33, true, None, "96x96-crop"),
            (40, 20, true, None, "32x32-crop"),
            (500, 500, true, None, "96x96-crop"),
            (32, 32, false, None, "320x240-scale"),
            (320, 240, false, None, "320x240-scale"),
            (321, 241, false, None, "640x480-scale"),
            (700, 500, false, None, "800x600-scale"),
            (4000, 3000, false, None, "800x600-scale"),
            (u32::MAX, u32::MAX, false, None, "800x600-scale"),
            (0, 0, false, None, "320x240-scale"),
            // A long picture is less high than the size it is made to fit.
            (330, 239, false, None, "320x240-scale"),
            (330, 239, false, Some((1000, 100)), "640x480-scale"),
            (640, 480, false, Some((20, 20)), "320x240-scale"),
        ] {
            assert_eq!(chosen(width, height, is_cropped, source), variant, "{width}x{height} of {source:?}");
        }
    }
}
