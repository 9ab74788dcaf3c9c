use super::{Fit, Limits, Method, Refused, Thumbnail, Wanted, thumbnail};
use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, GenericImageView, ImageFormat, Rgba, RgbaImage,
    codecs::{gif::GifEncoder, png::PngDecoder},
};
use std::io::Cursor;

const LIMITS: Limits = Limits { pixels: 32 << 20, memory: 160 << 20 };

fn wanted(width: u32, height: u32, method: Method) -> Wanted {
    Wanted { width, height, method, animated: false }
}

/// Red on the left, blue on the right, and a green line at the top.
fn picture(width: u32, height: u32) -> DynamicImage {
    RgbaImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 8) {
        (_, true) => Rgba([0, 200, 0, 255]),
        (true, _) => Rgba([200, 0, 0, 255]),
        (false, _) => Rgba([0, 0, 200, 255]),
    })
    .into()
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let picture = if format == ImageFormat::Jpeg { picture.to_rgb8().into() } else { picture.clone() };
    picture.write_to(&mut bytes, format).expect("a picture");
    bytes.into_inner()
}

fn read(made: &Thumbnail) -> DynamicImage {
    let format = ImageFormat::from_mime_type(made.content_type).expect("a type");
    image::load_from_memory_with_format(&made.bytes, format).expect("a picture of that type")
}

/// Which of red, green and blue a pixel has most of.
fn colour(picture: &DynamicImage, x: u32, y: u32) -> &'static str {
    let Rgba([red, green, blue, _]) = picture.get_pixel(x, y);
    if red > green && red > blue {
        "red"
    } else if green > blue {
        "green"
    } else {
        "blue"
    }
}

#[test]
fn every_kind_is_made_small() {
    for (format, kind) in
        [(ImageFormat::Jpeg, "image/jpeg"), (ImageFormat::Png, "image/png"), (ImageFormat::Gif, "image/png"), (ImageFormat::WebP, "image/png")]
    {
        let file = written(&picture(640, 400), format);
        let made = thumbnail(&file, wanted(320, 240, Method::Scale), LIMITS).expect("a thumbnail");
        let small = read(&made);
        assert_eq!((made.content_type, made.source, small.dimensions()), (kind, (640, 400), (320, 200)), "{format:?}");
        assert_eq!((colour(&small, 10, 150), colour(&small, 310, 150), colour(&small, 160, 5)), ("red", "blue", "green"));
        let made = thumbnail(&file, wanted(96, 96, Method::Crop), LIMITS).expect("a thumbnail");
        assert_eq!(read(&made).dimensions(), (96, 96));
    }
    let opaque = DynamicImage::from(picture(640, 400).to_rgb8());
    let made = thumbnail(&written(&opaque, ImageFormat::WebP), wanted(320, 240, Method::Scale), LIMITS).expect("a thumbnail");
    assert_eq!(made.content_type, "image/jpeg");
}

#[test]
fn sizes_are_as_on_synapse() {
    let scaled = |width, height| Fit { scaled: (width, height), cut: (width, height) };
    for (source, asked, fit) in [
        ((640, 400), wanted(320, 240, Method::Scale), scaled(320, 200)),
        ((400, 640), wanted(320, 240, Method::Scale), scaled(150, 240)),
        ((100, 100), wanted(320, 240, Method::Scale), scaled(100, 100)),
        ((10_000, 1), wanted(320, 240, Method::Scale), scaled(320, 1)),
        ((640, 400), wanted(96, 96, Method::Crop), Fit { scaled: (153, 96), cut: (96, 96) }),
        ((400, 640), wanted(96, 96, Method::Crop), Fit { scaled: (96, 153), cut: (96, 96) }),
        ((10, 10), wanted(32, 32, Method::Crop), Fit { scaled: (32, 32), cut: (32, 32) }),
        ((1, 4_000_000_000), wanted(32, 32, Method::Crop), Fit { scaled: (32, 16_384), cut: (32, 32) }),
    ] {
        assert_eq!(Fit::of(source, asked), fit, "{source:?} {asked:?}");
    }
}

/// A JPEG of a camera that was turned: "Orientation" in its EXIF data.
fn turned(file: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    let mut bytes = file[..2].to_vec();
    bytes.extend_from_slice(&[0xff, 0xe1]);
    bytes.extend_from_slice(&(exif.len() as u16 + 2).to_be_bytes());
    bytes.extend_from_slice(&exif);
    bytes.extend_from_slice(&file[2..]);
    bytes
}

#[test]
fn a_photograph_stands_as_its_camera_says() {
    let file = written(&picture(640, 400), ImageFormat::Jpeg);
    for (orientation, size, top, left) in [(1, (320, 200), "green", "red"), (3, (320, 200), "blue", "blue"), (6, (150, 240), "red", "blue")] {
        let made = thumbnail(&turned(&file, orientation), wanted(320, 240, Method::Scale), LIMITS).expect("a thumbnail");
        let small = read(&made);
        assert_eq!(small.dimensions(), size, "{orientation}");
        assert_eq!(made.source, if size.0 > size.1 { (640, 400) } else { (400, 640) });
        let (width, height) = size;
        // The line was at the top, red to the left of what is below it.
        let found = (colour(&small, width / 4, 3), colour(&small, 3, height * 3 / 4));
        assert_eq!(found, (top, left), "{orientation}");
    }
}

#[test]
fn bombs_and_what_is_no_picture_are_refused() {
    // 30,000 by 30,000 pixels in a few bytes: only the head says so.
    let mut bomb = written(&picture(8, 8), ImageFormat::Png);
    bomb[16..20].copy_from_slice(&30_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&30_000u32.to_be_bytes());
    let sum = crc(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&sum.to_be_bytes());
    let scale = wanted(320, 240, Method::Scale);
    assert_eq!(thumbnail(&bomb, scale, LIMITS).err(), Some(Refused::TooLarge));
    let gif = written(&picture(8, 8), ImageFormat::Gif);
    let mut large_gif = gif.clone();
    large_gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(thumbnail(&large_gif, scale, LIMITS).err(), Some(Refused::TooLarge));
    let small = Limits { pixels: 1000, memory: 1 << 20 };
    assert_eq!(thumbnail(&written(&picture(40, 40), ImageFormat::Jpeg), scale, small).err(), Some(Refused::TooLarge));
    for nothing in [&b""[..], b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", b"BM\0\0\0\0", &gif[..10], &bomb[..20], b"\xff\xd8\xff\xe0"] {
        assert_eq!(thumbnail(nothing, scale, LIMITS).err(), Some(Refused::NotAnImage), "{nothing:?}");
    }
    // Whatever is damaged is refused, or made something of.
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
        let file = written(&picture(60, 40), format);
        for at in 0..file.len().min(400) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x55;
            thumbnail(&damaged, Wanted { animated: true, ..scale }, LIMITS).ok();
            thumbnail(&file[..at], scale, LIMITS).ok();
        }
    }
}

/// CRC-32 as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 }))
}

fn moving(frames: u32, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
    for n in 0..frames {
        let mut frame = picture(width, height).to_rgba8();
        frame.put_pixel(n % width, height - 1, Rgba([255, 255, 255, 255]));
        encoder.encode_frame(Frame::from_parts(frame, 0, 0, Delay::from_numer_denom_ms(70, 1))).expect("a frame");
    }
    drop(encoder);
    bytes
}

#[test]
fn what_moves_goes_on_moving_where_it_may() {
    let file = moving(5, 320, 200);
    let animated = Wanted { animated: true, ..wanted(96, 96, Method::Crop) };
    let made = thumbnail(&file, animated, LIMITS).expect("a thumbnail");
    let decoder = PngDecoder::new(Cursor::new(&made.bytes[..])).expect("a picture");
    assert!(decoder.is_apng().expect("readable"));
    let frames = decoder.apng().expect("it moves").into_frames().collect_frames().expect("whole");
    assert_eq!((frames.len(), frames[0].buffer().dimensions(), frames[0].delay().numer_denom_ms()), (5, (96, 96), (70, 1)));
    // It moves on in a smaller one of its own kind.
    let again = thumbnail(&made.bytes, Wanted { animated: true, ..wanted(32, 32, Method::Crop) }, LIMITS).expect("a thumbnail");
    assert!(PngDecoder::new(Cursor::new(&again.bytes[..])).expect("a picture").is_apng().expect("readable"));
    // Not where nobody asks for it, nor where it would take too much.
    let is_still = |made: Thumbnail| !PngDecoder::new(Cursor::new(&made.bytes[..])).expect("a picture").is_apng().expect("readable");
    assert!(is_still(thumbnail(&file, wanted(96, 96, Method::Crop), LIMITS).expect("a thumbnail")));
    assert!(is_still(thumbnail(&file, animated, Limits { pixels: 4 * 320 * 200, ..LIMITS }).expect("a thumbnail")));
    assert!(is_still(thumbnail(&moving(300, 40, 40), animated, LIMITS).expect("a thumbnail")));
    assert!(is_still(thumbnail(&moving(1, 40, 40), animated, LIMITS).expect("a thumbnail")));
}
