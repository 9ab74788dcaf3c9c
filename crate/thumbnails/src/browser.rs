//! What a worker of a browser calls: once, since it then ends, and its memory with it. That has a
//! maximum (`build.rs`), beyond which the module traps.

use crate::{Limits, Method, Refused, Thumbnail, Wanted};
use wasm_bindgen::prelude::*;

/// A small picture.
#[wasm_bindgen]
pub struct Made(Thumbnail);

#[wasm_bindgen]
impl Made {
    /// The file.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.bytes.clone()
    }

    /// Its type.
    #[wasm_bindgen(getter, js_name = contentType)]
    pub fn content_type(&self) -> String {
        self.0.content_type.to_owned()
    }

    /// Pixels of the large one.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> u32 {
        self.0.source.0
    }

    /// Pixels of the large one.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> u32 {
        self.0.source.1
    }
}

/// Makes a thumbnail of a file.
///
/// # Errors
/// `not-an-image` or `too-large`, as a text.
#[wasm_bindgen]
pub fn thumbnail(file: &[u8], width: u32, height: u32, is_cropped: bool, is_animated: bool) -> Result<Made, JsValue> {
    let method = if is_cropped { Method::Crop } else { Method::Scale };
    let made = crate::thumbnail(file, Wanted { width, height, method, animated: is_animated }, Limits::default());
    made.map(Made).map_err(|refused| {
        JsValue::from_str(match refused {
            Refused::NotAnImage => "not-an-image",
            Refused::TooLarge => "too-large",
        })
    })
}
