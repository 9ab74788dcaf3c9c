//! One's own account: who am I, a new password, the end (Client-Server API, Account management).

use super::{
    interactive, password,
    wire::{Confirmed, Json, Own},
};
use crate::{
    damaged::LeaveOut,
    devices,
    error::{Error, Result},
    locks::LockKey,
    room::{self, Draft, Stop},
    router::UserCall,
    sync::forget_presence,
    tables::{self, Membership, MembershipKind, RoomNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{
    CanonicalJsonValue,
    api::client::account::{ThirdPartyIdRemovalStatus, change_password::v3 as change_password, deactivate::v3 as deactivate, whoami::v3 as whoami},
    events::StateEventType,
};
use serde_json::json;

/// `GET /_matrix/client/v3/account/whoami`
pub async fn whoami(call: UserCall, _: Own<whoami::Request>) -> Result<Json> {
    let is_guest = call.hs.is_guest(call.session.user).await?;
    Ok(Json::of(&json!({ "user_id": call.session.user_id, "device_id": call.session.device, "is_guest": is_guest })))
}

/// `POST /_matrix/client/v3/account/password`
pub async fn change_password(call: UserCall, Confirmed(request): Confirmed<change_password::Request>) -> Result<change_password::Response> {
    let (hs, session) = (&call.hs, &call.session);
    password::acceptable(&request.new_password)?;
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    let hash = password::hash(hs, &request.new_password).await?;

    let _lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
    let mut account =
        tables::ACCOUNTS.get(hs.store(), &session.user).await?.filter(|account| !account.deactivated).ok_or_else(Error::unknown_token)?;
    account.password = Some(hash);
    let others = match request.logout_devices {
        true => Some(devices::departing(hs, session.user, &|device| *device != *session.device).await?),
        false => None,
    };
    let changed = hs.write(call.raw.generation, |tx| {
        tables::ACCOUNTS.put(tx, &session.user, &account);
        if let Some(others) = others {
            others.forget(tx);
        }
    });
    changed?.visible();
    Ok(change_password::Response::new())
}

/// `POST /_matrix/client/v3/account/deactivate`
pub async fn deactivate(call: UserCall, Confirmed(request): Confirmed<deactivate::Request>) -> Result<deactivate::Response> {
    let (hs, session) = (&call.hs, &call.session);
    interactive::require(&call, interactive::password_flow(), request.auth.as_ref()).await?;
    // The rooms first: if this is interrupted, the user can still log in and finish it.
    hs.end_presence(session.user).await?;
    leave_all(&call).await?;

    let rooms = end_account(&call, request.erase).await?;
    if let Err(error) = purge_each(&call, rooms).await {
        tracing::warn!("could not delete forgotten rooms, will try again later: {error}");
    }
    // No third-party identifiers are kept here, so there was nothing to unbind.
    Ok(deactivate::Response::new(ThirdPartyIdRemovalStatus::Success))
}

/// Deletes those of the rooms that nobody else remembers.
async fn purge_each(call: &UserCall, rooms: Vec<RoomNid>) -> Result<()> {
    for room in rooms {
        let Some(room) = call.hs.room_by_nid(room).await.leave_out()? else { continue };
        call.hs.purge_if_forgotten(&room).await?;
    }
    Ok(())
}

/// Takes the account away, and all that is its own; with `erase` also what its user sent, from
/// those who come later. Answers which rooms it had a part in.
async fn end_account(call: &UserCall, erase: bool) -> Result<Vec<RoomNid>> {
    let (hs, session) = (&call.hs, &call.session);
    let _lock = hs.lock(LockKey::Account(session.user_id.to_string())).await;
    let mut account = tables::ACCOUNTS.get(hs.store(), &session.user).await?.ok_or_else(Error::unknown_token)?;
    account.password = None;
    account.deactivated = true;
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &session.user, Direction::Forward, usize::MAX).await?;
    let rooms: Vec<RoomNid> = memberships.into_iter().map(|((_, room), _)| room).collect();
    let devices = devices::departing(hs, session.user, &|_| true).await?;
    let ended = hs.write(call.raw.generation, |tx| {
        let user = session.user;
        tables::ACCOUNTS.put(tx, &user, &account);
        tables::PROFILES.delete_all(tx, &user);
        tables::ACCOUNT_DATA.delete_all(tx, &user);
        tables::FILTERS.delete_all(tx, &user);
        tables::UNREAD.delete_all(tx, &user);
        tables::CROSS_SIGNING_KEYS.delete_all(tx, &user);
        tables::KEY_SIGNATURES.delete_all(tx, &user);
        tables::KEY_BACKUPS.delete_all(tx, &user);
        tables::BACKED_UP_KEYS.delete_all(tx, &user);
        devices.forget(tx);
        forget_presence(tx, user);
        for room in &rooms {
            tables::ROOMS_TO_DELETE.put(tx, room, &false);
        }
        if erase {
            tables::ERASED.put(tx, &user, &());
            for room in &rooms {
                tables::RECEIPTS.delete_all(tx, &(*room, user));
            }
            tx.then(move |hs| hs.users.erased.set(user, true));
        }
    });
    ended?.visible();
    Ok(rooms)
}

/// Leaves every room, and turns down every invitation.
async fn leave_all(call: &UserCall) -> Result<()> {
    let (hs, session) = (&call.hs, &call.session);
    let slice = TimeSlice::new(&*hs.host);
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &session.user, Direction::Forward, usize::MAX).await?;
    for ((_, room), membership) in memberships {
        if !is_in(&membership) {
            continue;
        }
        let Some(room) = hs.room_by_nid(room).await.leave_out()? else { continue };
        let left = hs.write_room(&room, call.raw.generation, |write| {
            if write.member(session.user)?.as_ref().is_some_and(is_in) {
                let content: ruma::CanonicalJsonObject = [("membership".to_owned(), CanonicalJsonValue::String("leave".to_owned()))].into();
                write.send(Draft::state(session.user_id.clone(), StateEventType::RoomMember, session.user_id.as_str(), content))?;
            }
            Ok::<_, Stop>(())
        });
        match left.await {
            Ok(()) => {}
            // A room that lets nobody leave keeps no account alive.
            Err(room::Error::Refused(error)) => tracing::debug!("a deactivated user could not leave a room: {error}"),
            Err(error) => drop(Err::<(), _>(error).leave_out()?),
        }
        slice.end().await;
    }
    Ok(())
}

fn is_in(membership: &Membership) -> bool {
    matches!(membership.kind, MembershipKind::Join | MembershipKind::Invite | MembershipKind::Knock)
}
