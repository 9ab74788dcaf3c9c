//! Small pictures of large ones: JPEG, PNG, WebP and GIF, still or animated. Bytes in, bytes out;
//! no Matrix, no threads, and bounded in pixels and memory whatever the bytes say.
//!
//! A crate of its own, since decoders are large. The homeserver does not depend on it, but a host
//! may. For browsers it is a module of its own too, which is fetched when the first thumbnail is
//! asked for.

mod animation;
#[cfg(target_arch = "wasm32")]
mod browser;

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
    imageops::FilterType,
    metadata::Orientation,
};
use std::io::Cursor;

/// How good a JPEG is, of 100.
const QUALITY: u8 = 80;

/// How a picture is made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It fills the size, and what does not fit is cut off.
    Crop,
    /// All of it is there, within the size.
    Scale,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// How it is made to fit.
    pub method: Method,
    /// Whether it may move, where the picture does.
    pub animated: bool,
}

/// What a picture may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pixels of the picture, and of all frames of one that moves.
    pub pixels: u64,
    /// Bytes that a decoder may ask for.
    pub memory: u64,
}

/// As many pixels as on Synapse.
impl Default for Limits {
    fn default() -> Self {
        Self { pixels: 32 << 20, memory: 160 << 20 }
    }
}

/// A small picture.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its type.
    pub content_type: &'static str,
    /// Width and height of the large one, as it is to be seen.
    pub source: (u32, u32),
}

/// Why there is no thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no picture of a known kind, or a damaged one.
    #[error("not an image that thumbnails can be made of")]
    NotAnImage,
    /// It would take more than it may.
    #[error("the image is too large")]
    TooLarge,
}

impl From<ImageError> for Refused {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            _ => Self::NotAnImage,
        }
    }
}

/// Makes a thumbnail of a file.
///
/// # Errors
/// [`Refused`], and never a panic of ours; decoders may have faults of their own.
pub fn thumbnail(file: &[u8], wanted: Wanted, limits: Limits) -> Result<Thumbnail, Refused> {
    let format = image::guess_format(file).map_err(|_| Refused::NotAnImage)?;
    // A format that is not compiled in has no decoder, and is refused by this.
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.memory);
    reader.limits(bounds.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Refused::NotAnImage);
    }
    // Before anything of that size is made.
    if u64::from(width) * u64::from(height) > limits.pixels || decoder.total_bytes() > limits.memory {
        return Err(Refused::TooLarge);
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let source = if turns(orientation) { (height, width) } else { (width, height) };
    if wanted.animated
        && let Some(bytes) = animation::thumbnail(file, format, wanted, limits, bounds)
    {
        return Ok(Thumbnail { bytes, content_type: "image/png", source });
    }
    let picture = DynamicImage::from_decoder(decoder)?;
    let fit = Fit::of(source, wanted);
    let mut small = fit.turned(turns(orientation)).apply(picture);
    small.apply_orientation(orientation);
    let (bytes, content_type) = encoded(small, format)?;
    Ok(Thumbnail { bytes, content_type, source })
}

/// Whether width and height change places.
fn turns(orientation: Orientation) -> bool {
    matches!(orientation, Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH)
}

/// The steps from a large picture to a small one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fit {
    /// It is made this large,
    scaled: (u32, u32),
    /// and this is cut out of its middle.
    cut: (u32, u32),
}

impl Fit {
    fn of((width, height): (u32, u32), wanted: Wanted) -> Self {
        let (across, down) = (u64::from(wanted.width.max(1)) * u64::from(height), u64::from(wanted.height.max(1)) * u64::from(width));
        let scaled_to = |by_width: bool| match by_width {
            true => (wanted.width.max(1), share(wanted.width, height, width)),
            false => (share(wanted.height, width, height), wanted.height.max(1)),
        };
        match wanted.method {
            Method::Scale => {
                let (fit_width, fit_height) = scaled_to(across < down);
                // What is small already stays as it is.
                let fitting = (fit_width.min(width), fit_height.min(height));
                Self { scaled: fitting, cut: fitting }
            }
            Method::Crop => Self { scaled: scaled_to(across > down), cut: (wanted.width.max(1), wanted.height.max(1)) },
        }
    }

    fn turned(self, turns: bool) -> Self {
        let turn = |(a, b)| if turns { (b, a) } else { (a, b) };
        Self { scaled: turn(self.scaled), cut: turn(self.cut) }
    }

    fn apply(self, picture: DynamicImage) -> DynamicImage {
        let (width, height) = self.scaled;
        let scaled = match (picture.width(), picture.height()) {
            size if size == self.scaled => picture,
            // Averages of whole pixels first, which is quick, and then with care.
            (large_width, large_height) if large_width / 2 > width && large_height / 2 > height => {
                picture.thumbnail_exact(width * 2, height * 2).resize_exact(width, height, FilterType::CatmullRom)
            }
            _ => picture.resize_exact(width, height, FilterType::CatmullRom),
        };
        if self.cut == self.scaled {
            return scaled;
        }
        let (cut_width, cut_height) = (self.cut.0.min(width), self.cut.1.min(height));
        scaled.crop_imm((width - cut_width) / 2, (height - cut_height) / 2, cut_width, cut_height)
    }
}

/// `size * part / whole`, and one pixel at least.
fn share(size: u32, part: u32, whole: u32) -> u32 {
    let share = u64::from(size) * u64::from(part) / u64::from(whole.max(1));
    // No larger than any picture that is cut out of it: one that is very long is cut off.
    u32::try_from(share).unwrap_or(u32::MAX).clamp(1, LONGEST_SIDE)
}

/// Pixels of the longer side of what is scaled before it is cut.
const LONGEST_SIDE: u32 = 1 << 14;

/// As the kind of picture is best kept: JPEG has no transparency.
fn encoded(picture: DynamicImage, format: ImageFormat) -> Result<(Vec<u8>, &'static str), Refused> {
    let mut bytes = Vec::new();
    let is_photograph = format == ImageFormat::Jpeg || format == ImageFormat::WebP && !picture.color().has_alpha();
    if is_photograph {
        DynamicImage::from(picture.into_rgb8()).write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
        return Ok((bytes, "image/jpeg"));
    }
    let plain = if picture.color().has_alpha() { DynamicImage::from(picture.into_rgba8()) } else { DynamicImage::from(picture.into_rgb8()) };
    plain.write_with_encoder(PngEncoder::new(&mut bytes))?;
    Ok((bytes, "image/png"))
}

#[cfg(test)]
mod tests;
