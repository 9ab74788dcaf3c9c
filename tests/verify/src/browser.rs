//! The same in a page, for the bench.

use ephapse_store::{IndexedDbStore, Reader};
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Verifies every event of the database of that name; resolves to how many there are, and rejects
/// with what is wrong.
#[wasm_bindgen]
pub async fn verify(database: String) -> Result<u32, JsValue> {
    let store = IndexedDbStore::open(&database).await.map_err(|error| error.to_string())?;
    let store = Reader::new(Rc::new(store));
    let verified = crate::verify(&store).await.map_err(|error| error.to_string())?;
    u32::try_from(verified).map_err(|error| error.to_string().into())
}
