//! Thumbnails: which are made, when, for whom, and how long they are kept. What they look like is
//! the host's; these of a test say what they are.

use crate::{
    media::{UPLOAD, path_of, request, upload},
    support::{TestServer, TestUser, config},
};
use bytes::Bytes;
use ephapse_homeserver::{Body, Config, Entrance, NoThumbnail, Thumbnail, ThumbnailWanted};
use ephapse_store::unreliable::UnreliableStore;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

const PNG: &[u8] = b"\x89PNG of a picture";

/// Has thumbnails made that say what was wanted, of pictures of 1000 by 500 pixels; counts them.
fn with_thumbnailer(server: &TestServer) -> Rc<Cell<usize>> {
    let made = Rc::new(Cell::new(0));
    let count = made.clone();
    server.host.thumbnailer.replace(Some(Box::new(move |file: &[u8], wanted: ThumbnailWanted| {
        count.set(count.get() + 1);
        match file {
            b"GIF8 of many pixels" => Err(NoThumbnail::TooLarge),
            b"GIF8 without pixels" => Err(NoThumbnail::NotAnImage),
            file => {
                let size = wanted.size;
                let bytes = format!("{}x{} {} {} of {} bytes", size.width, size.height, size.is_cropped, wanted.is_animated, file.len()).into_bytes();
                Ok(Thumbnail { bytes, content_type: "image/png".to_owned(), source: (1000, 500) })
            }
        }
    })));
    made
}

fn thumbnail_path(path: &str, query: &str) -> String {
    format!("{}?{query}", path.replace("/download/", "/thumbnail/"))
}

#[track_caller]
fn get(server: &TestServer, user: Option<&TestUser>, method: &str, path: &str) -> (http::response::Parts, Bytes) {
    let (hs, request) = (server.hs.clone(), request(method, path, user, &[], Body::from("")));
    server.run(async move {
        let (parts, body) = hs.handle(Entrance::Client, request).await.into_parts();
        (parts, body.read(usize::MAX).await.expect("it does not break off"))
    })
}

#[track_caller]
fn text(server: &TestServer, user: &TestUser, path: &str) -> String {
    let (parts, body) = get(server, Some(user), "GET", path);
    assert_eq!(parts.status, 200, "{body:?}");
    assert_eq!(
        (&parts.headers["content-type"], &parts.headers["x-content-type-options"]),
        (&"image/png".parse().expect("a header"), &"nosniff".parse().expect("a header"))
    );
    String::from_utf8(body.to_vec()).expect("text")
}

#[test]
fn a_thumbnail_is_made_once_for_all_who_ask_for_about_that_size() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = with_thumbnailer(&server);
    // Whatever type it was said to have.
    let path = path_of(upload(&server, &alice, UPLOAD, &[("content-type", "text/plain")], Body::from(PNG)));
    for (query, expected, count) in [
        ("width=320&height=240", "320x240 false false of 17 bytes", 1),
        ("width=300&height=100&method=scale", "320x240 false false of 17 bytes", 1),
        ("width=300&height=100&animated=false", "320x240 false false of 17 bytes", 1),
        ("width=32&height=32&method=crop", "32x32 true false of 17 bytes", 2),
        ("width=20&height=20&method=crop", "32x32 true false of 17 bytes", 2),
        ("width=96&height=96&method=crop&animated=true", "96x96 true true of 17 bytes", 3),
        ("width=5000&height=5000", "800x600 false false of 17 bytes", 4),
        ("width=700&height=500", "800x600 false false of 17 bytes", 4),
    ] {
        assert_eq!(text(&server, &alice, &thumbnail_path(&path, query)), expected, "{query}");
        assert_eq!(made.get(), count, "{query}");
    }
    let both = || server.start("GET", &thumbnail_path(&path, "width=640&height=480"), Some(&alice.token), None);
    let (first, second) = server.run(futures_util::future::join(both(), both()));
    assert_eq!((first.status, second.status, made.get()), (200, 200, 5));
    let (parts, body) = get(&server, Some(&alice), "HEAD", &thumbnail_path(&path, "width=640&height=480"));
    assert_eq!((parts.status.as_u16(), &parts.headers["content-length"], body.len()), (200, &"31".parse().expect("a header"), 0));
    let server = server.restart();
    let made = with_thumbnailer(&server);
    assert_eq!(text(&server, &alice, &thumbnail_path(&path, "width=640&height=480")), "640x480 false false of 17 bytes");
    assert_eq!(made.get(), 0);
}

/// A picture of 1000 by 500 pixels is 320 by 160 within 320 by 240: too small for who asks for
/// more.
#[test]
fn the_size_is_chosen_by_that_of_the_picture_once_it_is_known() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = with_thumbnailer(&server);
    let path = path_of(upload(&server, &alice, UPLOAD, &[], Body::from(PNG)));
    for _ in 0..2 {
        assert_eq!(text(&server, &alice, &thumbnail_path(&path, "width=330&height=239")), "640x480 false false of 17 bytes");
        assert_eq!(made.get(), 2);
    }
}

#[test]
fn what_no_thumbnail_can_be_made_of_is_said() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = with_thumbnailer(&server);
    let of = |content: &'static [u8]| {
        let path = path_of(upload(&server, &alice, UPLOAD, &[("content-type", "image/png")], Body::from(content)));
        server.get(&alice, &thumbnail_path(&path, "width=32&height=32"))
    };
    of(b"GIF8 without pixels").fails(400, "M_UNKNOWN");
    of(b"GIF8 of many pixels").fails(413, "M_TOO_LARGE");
    let before = made.get();
    of(b"<svg/>").fails(400, "M_UNKNOWN");
    of(b"").fails(400, "M_UNKNOWN");
    assert_eq!(made.get(), before, "what begins as no picture is not looked at");
    let path = path_of(upload(&server, &alice, UPLOAD, &[], Body::from(PNG)));
    let mut large = PNG.to_vec();
    large.resize((32 << 20) + 1, 0);
    let large = path_of(upload(&server, &alice, UPLOAD, &[], Body::from(large)));
    server.get(&alice, &thumbnail_path(&large, "width=32&height=32")).fails(413, "M_TOO_LARGE");
    for (query, errcode) in [
        ("width=32", "M_MISSING_PARAM"),
        ("width=a&height=1", "M_INVALID_PARAM"),
        ("width=-1&height=1", "M_INVALID_PARAM"),
        ("width=1&height=1&method=x", "M_INVALID_PARAM"),
    ] {
        server.get(&alice, &thumbnail_path(&path, query)).fails(400, errcode);
    }
    server.get(&alice, "/_matrix/client/v1/media/thumbnail/test.example/nothing?width=1&height=1").fails(404, "M_NOT_FOUND");
    server.host.thumbnailer.replace(None);
    server.get(&alice, &thumbnail_path(&path, "width=32&height=32")).fails(404, "M_UNRECOGNIZED");
}

#[test]
fn a_thumbnail_is_for_who_may_have_the_file() {
    let server = TestServer::new();
    let alice = server.register("alice");
    with_thumbnailer(&server);
    let path = path_of(upload(&server, &alice, UPLOAD, &[], Body::from(PNG)));
    let new = thumbnail_path(&path, "width=32&height=32");
    let old = new.replace("/client/v1/media/", "/media/v3/");
    server.request("GET", &new, None, None).fails(401, "M_MISSING_TOKEN");
    assert_eq!(get(&server, Some(&alice), "GET", &new).0.status, 200);
    for path in [old.clone(), old.replace("v3", "r0"), old.replace("v3", "v1")] {
        server.request("GET", &path, None, None).fails(404, "M_NOT_FOUND");
    }
    let store = server.store.clone();
    drop(server);
    let server = TestServer::with(store, Config { authenticated_media: false, ..config() });
    with_thumbnailer(&server);
    assert_eq!(get(&server, None, "GET", &old).0.status, 200);
}

#[test]
fn thumbnails_take_no_more_than_they_may_and_files_stay() {
    let store = UnreliableStore::new();
    let server = TestServer::with(Rc::new(store.clone()), Config { media_cache: 100, ..config() });
    let alice = server.register("alice");
    let made = with_thumbnailer(&server);
    let paths: Vec<String> = (0..5).map(|_| path_of(upload(&server, &alice, UPLOAD, &[], Body::from(PNG)))).collect();
    let counts = RefCell::new(Vec::new());
    let look = |path: &str| {
        server.host.advance(std::time::Duration::from_secs(1));
        assert_eq!(text(&server, &alice, &thumbnail_path(path, "width=320&height=240")), "320x240 false false of 17 bytes");
        counts.borrow_mut().push(made.get());
    };
    // Three of 31 bytes have room.
    for path in &paths {
        look(path);
    }
    for path in &paths[2..] {
        look(path);
    }
    look(&paths[0]);
    look(&paths[3]);
    look(&paths[2]);
    assert_eq!(*counts.borrow(), [1, 2, 3, 4, 5, 5, 5, 5, 6, 6, 7]);
    for path in &paths {
        assert_eq!(get(&server, Some(&alice), "GET", path).1, PNG);
    }
    // One that has no room is made each time.
    let server = TestServer::with(Rc::new(store.clone()), Config { media_cache: 10, ..config() });
    let made = with_thumbnailer(&server);
    for count in 1..4 {
        text(&server, &alice, &thumbnail_path(&paths[0], "width=640&height=480"));
        assert_eq!(made.get(), count);
    }
}
