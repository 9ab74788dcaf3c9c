//! Thumbnails that move: GIF, WebP and PNG become PNG, which keeps colours and transparency, and
//! which whoever does not know of the motion shows the first frame of.

use super::{Fit, Limits, Wanted};
use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageFormat, ImageResult,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
    metadata::LoopCount,
};
use png::{BitDepth, BlendOp, ColorType, Encoder};
use std::{io::Cursor, time::Duration};

/// Frames that a thumbnail may have.
const MOST_FRAMES: usize = 256;
/// Pixels of all of its frames.
const MOST_PIXELS: u64 = 12 << 20;

/// A small frame, and how long it is shown.
struct Small {
    pixels: Vec<u8>,
    size: (u32, u32),
    delay: (u16, u16),
}

/// The thumbnail, if the picture moves and takes no more than it may: else the first frame will do.
pub fn thumbnail(file: &[u8], format: ImageFormat, wanted: Wanted, limits: Limits, bounds: image::Limits) -> Option<Vec<u8>> {
    let file = Cursor::new(file);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file).ok()?;
            decoder.set_limits(bounds).ok()?;
            of(decoder, wanted, limits)
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, bounds).ok()?;
            if decoder.is_apng().ok()? { of(decoder.apng().ok()?, wanted, limits) } else { None }
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file).ok()?;
            if decoder.has_animation() { of(decoder, wanted, limits) } else { None }
        }
        _ => None,
    }
}

fn of<'a>(decoder: impl AnimationDecoder<'a>, wanted: Wanted, limits: Limits) -> Option<Vec<u8>> {
    let plays = match decoder.loop_count() {
        LoopCount::Infinite => 0,
        LoopCount::Finite(times) => times.get(),
    };
    let (mut frames, mut seen, mut made) = (Vec::new(), 0, 0);
    for frame in decoder.into_frames() {
        let frame: ImageResult<Frame> = frame;
        let frame = frame.ok()?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = Duration::from_micros(u64::from(numerator) * 1000 / u64::from(denominator.max(1)));
        let picture = DynamicImage::from(frame.into_buffer());
        let source = (picture.width(), picture.height());
        seen += u64::from(source.0) * u64::from(source.1);
        let small = Fit::of(source, wanted).apply(picture).into_rgba8();
        made += u64::from(small.width()) * u64::from(small.height());
        if seen > limits.pixels || made > MOST_PIXELS || frames.len() == MOST_FRAMES {
            return None;
        }
        let millis = u16::try_from(delay.as_millis()).unwrap_or(u16::MAX);
        frames.push(Small { size: small.dimensions(), pixels: small.into_raw(), delay: (millis, 1000) });
    }
    if frames.len() < 2 { None } else { encoded(&frames, plays).ok() }
}

fn encoded(frames: &[Small], plays: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let (width, height) = frames[0].size;
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgba);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_animated(u32::try_from(frames.len()).unwrap_or(u32::MAX), plays)?;
    encoder.set_blend_op(BlendOp::Source)?;
    let mut writer = encoder.write_header()?;
    for frame in frames {
        writer.set_frame_delay(frame.delay.0, frame.delay.1)?;
        writer.write_image_data(&frame.pixels)?;
    }
    writer.finish()?;
    Ok(bytes)
}
