//! What people do with a client, with matrix-sdk, against the server at the URL that is given: any
//! step that fails ends the program with its words.

use matrix_sdk::{
    Client, Room, RoomState,
    config::SyncSettings,
    room::MessagesOptions,
    ruma::{
        EventId, OwnedEventId, RoomId,
        api::client::{account::register::v3 as register, room::create_room::v3 as create_room, uiaa},
        events::room::message::RoomMessageEventContent,
        uint, user_id,
    },
};
use std::{error::Error, time::Duration};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PASSWORD: &str = "correct horse battery staple";

/// A new account with cross-signing keys, after its first sync.
async fn enter(url: &str, name: &str) -> Result<Client> {
    let client = Client::builder().homeserver_url(url).build().await?;
    let mut request = register::Request::new();
    request.username = Some(name.to_owned());
    request.password = Some(PASSWORD.to_owned());
    request.auth = Some(uiaa::AuthData::Dummy(uiaa::Dummy::new()));
    client.matrix_auth().register(request).await?;
    look(&client).await?;
    let identifier = uiaa::UserIdentifier::Matrix(uiaa::MatrixUserIdentifier::new(name.to_owned()));
    let password = uiaa::AuthData::Password(uiaa::Password::new(identifier, PASSWORD.to_owned()));
    client.encryption().bootstrap_cross_signing(Some(password)).await?;
    Ok(client)
}

async fn look(client: &Client) -> Result<()> {
    client.sync_once(SyncSettings::new().timeout(Duration::from_millis(500))).await?;
    Ok(())
}

/// Syncs until the room is in that state here.
async fn until(client: &Client, room: &RoomId, state: RoomState) -> Result<Room> {
    for _ in 0..20 {
        look(client).await?;
        if let Some(room) = client.get_room(room).filter(|room| room.state() == state) {
            return Ok(room);
        }
    }
    Err(format!("{room} never became {state:?}").into())
}

async fn say(room: &Room, text: &str) -> Result<OwnedEventId> {
    Ok(room.send(RoomMessageEventContent::text_plain(text)).await?.response.event_id)
}

/// Waits until `event` can be decrypted, and is this text.
async fn reads(client: &Client, room: &Room, event: &EventId, text: &str) -> Result<()> {
    for _ in 0..20 {
        look(client).await?;
        let found = room.event(event, None).await?;
        if found.encryption_info().is_some() && found.raw().json().get().contains(text) {
            return Ok(());
        }
    }
    Err(format!("{text:?} cannot be read").into())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).ok_or("the URL of a server is missing")?;
    let (alice, bob) = (enter(&url, "alice").await?, enter(&url, "bob").await?);
    let (alice_id, bob_id) = (alice.user_id().ok_or("not logged in")?.to_owned(), bob.user_id().ok_or("not logged in")?.to_owned());

    let id = alice.create_room(create_room::Request::new()).await?.room_id().to_owned();
    let room = until(&alice, &id, RoomState::Joined).await?;
    room.enable_encryption().await?;
    look(&alice).await?;
    let mut before = Vec::new();
    for n in 0..3 {
        before.push(say(&room, &format!("Before {n}")).await?);
    }

    // A mistyped name: refused, and not asked for again and again.
    let refused = room.invite_user_by_id(user_id!("@bbo:localhost")).await.expect_err("nobody has that name");
    assert_eq!(refused.as_client_api_error().ok_or("another error")?.status_code.as_u16(), 404, "{refused}");
    room.invite_user_by_id(&bob_id).await?;
    until(&bob, &id, RoomState::Invited).await?.join().await?;
    let joined = until(&bob, &id, RoomState::Joined).await?;
    look(&alice).await?;

    // What was said before the invitation came with it.
    for (n, event) in before.iter().enumerate() {
        reads(&bob, &joined, event, &format!("Before {n}")).await?;
    }
    let hello = say(&room, "Hello Bob").await?;
    reads(&bob, &joined, &hello, "Hello Bob").await?;
    let answer = say(&joined, "Hello Alice").await?;
    reads(&alice, &room, &answer, "Hello Alice").await?;

    let mut options = MessagesOptions::backward();
    let mut ids = Vec::new();
    loop {
        options.limit = uint!(4);
        let page = joined.messages(options).await?;
        ids.extend(page.chunk.iter().filter_map(|event| event.event_id()));
        let Some(end) = page.end.filter(|_| !page.chunk.is_empty()) else { break };
        options = MessagesOptions::backward().from(Some(end.as_str()));
    }
    assert!(before.iter().all(|event| ids.contains(event)), "{ids:?}");
    let first = ids.last().ok_or("an empty room")?;
    for event in [first, &answer] {
        let around = joined.event_with_context(event, false, uint!(4), None).await?;
        assert_eq!(around.event.and_then(|event| event.event_id()).as_ref(), Some(event));
        assert_eq!(around.events_before.is_empty(), event == first);
    }

    room.kick_user(&bob_id, Some("The end")).await?;
    until(&bob, &id, RoomState::Left).await?;
    room.leave().await?;
    until(&alice, &id, RoomState::Left).await?.forget().await?;
    assert!(alice.get_room(&id).is_none(), "{alice_id} has forgotten it");
    Ok(())
}
