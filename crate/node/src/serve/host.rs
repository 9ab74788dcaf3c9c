//! What a native process lends the homeserver.

use ephapse_homeserver::{EndOfSlice, Host, NoThumbnail, Thumbnail, ThumbnailSize, ThumbnailWanted, Transport};
use ephapse_store::LocalBoxFuture;
use ephapse_thumbnails::{Limits, Method, Refused, Wanted};
use icu_normalizer::ComposingNormalizerBorrowed;
use std::{
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The system's clock and randomness, Unicode's tables, tokio's timers and tasks, and its threads
/// for what computes.
pub struct NativeHost {
    transport: Rc<dyn Transport>,
}

impl NativeHost {
    /// A host from which there is this way to other servers.
    pub fn new(transport: Rc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// A host from which there is no way to other servers.
    #[cfg(test)]
    pub fn alone() -> Self {
        Self::new(Rc::new(ephapse_homeserver::transport::NoTransport))
    }
}

impl Host for NativeHost {
    fn now(&self) -> u64 {
        // A clock before 1970 is a broken one; 0 then says as much as any other value.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has randomness: a server without it could only make guessable keys");
    }

    fn nfkc(&self, text: &str) -> String {
        ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned()
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    fn yield_now(&self, _: EndOfSlice) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }

    fn transport(&self) -> Rc<dyn Transport> {
        self.transport.clone()
    }

    fn thumbnail(&self, file: Vec<u8>, wanted: ThumbnailWanted) -> LocalBoxFuture<'static, Result<Thumbnail, NoThumbnail>> {
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || {
                let ThumbnailSize { width, height, is_cropped } = wanted.size;
                let method = if is_cropped { Method::Crop } else { Method::Scale };
                ephapse_thumbnails::thumbnail(&file, Wanted { width, height, method, animated: wanted.is_animated }, Limits::default())
            });
            match made.await {
                Ok(Ok(made)) => Ok(Thumbnail { bytes: made.bytes, content_type: made.content_type.to_owned(), source: made.source }),
                Ok(Err(Refused::TooLarge)) => Err(NoThumbnail::TooLarge),
                Ok(Err(Refused::NotAnImage)) => Err(NoThumbnail::NotAnImage),
                Err(error) => {
                    tracing::warn!("a decoder of pictures panicked: {error}");
                    Err(NoThumbnail::NotAnImage)
                }
            }
        })
    }

    fn compute(&self, work: Box<dyn FnOnce() -> Vec<u8> + Send>) -> LocalBoxFuture<'static, Vec<u8>> {
        Box::pin(async move {
            match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                // The request's own panic handling takes it from here.
                Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
            }
        })
    }
}
