"""What people do with a client, with matrix-nio, against the server at the URL that is given: any step that fails ends the program with its words."""

import asyncio
import sys
import tempfile

import nio

PASSWORD = "correct horse battery staple"


def good(response, kind):
    """The response, when it is of that kind."""
    assert isinstance(response, kind), f"{kind.__name__} was expected: {response}"
    return response


async def look(client):
    """A sync, and what is due after it."""
    response = good(await client.sync(timeout=2000, full_state=False), nio.SyncResponse)
    await client.send_to_device_messages()
    if client.should_upload_keys:
        good(await client.keys_upload(), nio.KeysUploadResponse)
    if client.should_query_keys:
        good(await client.keys_query(), nio.KeysQueryResponse)
    return response


async def until(client, what, found):
    """Syncs until there is something."""
    for _ in range(10):
        got = found(await look(client))
        if got:
            return got
    raise AssertionError(f"waited in vain for {what}")


async def enter(url, name):
    """A new account, after its first sync."""
    config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = nio.AsyncClient(url, name, store_path=tempfile.mkdtemp(), config=config)
    registered = good(await client.register(name, PASSWORD), nio.RegisterResponse)
    client.restore_login(registered.user_id, registered.device_id, registered.access_token)
    await look(client)
    return client


async def say(client, room, text):
    """Sends a text, encrypted; gives its event's id."""
    content = {"msgtype": "m.text", "body": text}
    sent = await client.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
    return good(sent, nio.RoomSendResponse).event_id


def text_in(room, body):
    """Looks for a decrypted text in what a sync gave."""
    def found(response):
        events = response.rooms.join[room].timeline.events if room in response.rooms.join else []
        return next((event for event in events if isinstance(event, nio.RoomMessageText) and event.body == body), None)
    return found


async def journey(alice, bob):
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    created = await alice.room_create(name="A room with history", initial_state=[encryption])
    room = good(created, nio.RoomCreateResponse).room_id
    await until(alice, "the room", lambda _: room in alice.rooms and alice.rooms[room].encrypted)
    before = [await say(alice, room, f"Before {n}") for n in range(3)]

    mistyped = good(await alice.room_invite(room, "@bbo:localhost"), nio.RoomInviteError)
    assert mistyped.status_code == "M_NOT_FOUND", mistyped
    good(await alice.room_invite(room, bob.user_id), nio.RoomInviteResponse)
    await until(bob, "the invitation", lambda _: room in bob.invited_rooms)
    good(await bob.join(room), nio.JoinResponse)
    await until(bob, "the room", lambda _: room in bob.rooms)
    await until(alice, "the other's arrival", lambda _: bob.user_id in alice.rooms[room].users)
    assert not alice.should_query_keys, alice.users_for_key_query

    await say(alice, room, "Hello Bob")
    heard = await until(bob, "the first message", text_in(room, "Hello Bob"))
    assert heard.decrypted and heard.sender == alice.user_id
    last = await say(bob, room, "Hello Alice")
    await until(alice, "the answer", text_in(room, "Hello Alice"))

    # All of it, backwards; an empty beginning is the end of what is known.
    events, start = [], ""
    while True:
        page = good(await bob.room_messages(room, start, direction=nio.MessageDirection.back, limit=4), nio.RoomMessagesResponse)
        events += page.chunk
        if not page.end or not page.chunk:
            break
        start = page.end
    ids = [event.event_id for event in events]
    assert len(set(ids)) == len(ids) and set(before) <= set(ids), ids
    assert isinstance(events[-1], nio.RoomCreateEvent), events[-1]
    for event_id in (ids[-1], last):
        around = good(await bob.room_context(room, event_id, limit=4), nio.RoomContextResponse)
        assert around.event.event_id == event_id
    assert around.events_after == [] and around.events_before

    good(await alice.room_kick(room, bob.user_id, "The end"), nio.RoomKickResponse)
    await until(bob, "the kick", lambda response: room in response.rooms.leave)
    good(await alice.room_leave(room), nio.RoomLeaveResponse)
    await until(alice, "the end", lambda response: room in response.rooms.leave)
    good(await alice.room_forget(room), nio.RoomForgetResponse)


async def main(url):
    clients = [await enter(url, "alice"), await enter(url, "bob")]
    try:
        await journey(*clients)
    finally:
        for client in clients:
            await client.close()


asyncio.run(main(sys.argv[1]))
