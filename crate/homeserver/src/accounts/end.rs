//! The end of an account (Client-Server API, Account deactivation): its user leaves every room, and
//! all that is its own goes. The name stays taken.

use super::{Error, Refused};
use crate::{
    account_data,
    damaged::LeaveOut,
    devices,
    homeserver::Homeserver,
    keys,
    locks::LockKey,
    room::{self, Draft, Stop},
    sync::forget_presence,
    tables::{self, Membership, MembershipKind, RoomNid, UserNid},
    time_slice::TimeSlice,
};
use ephapse_store::Direction;
use ruma::{CanonicalJsonValue, UserId, events::StateEventType};

/// Ends an account for good; with `erase` also what its user sent, for those who come later.
pub async fn deactivate(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId, erase: bool) -> Result<(), Error> {
    // The rooms first: if this is interrupted, the user can still log in and finish it.
    hs.end_presence(user).await?;
    leave_all(hs, generation, user, user_id).await?;

    let rooms = end_account(hs, generation, user, user_id, erase).await?;
    if let Err(error) = purge_each(hs, rooms).await {
        tracing::warn!("could not delete forgotten rooms, will try again later: {error}");
    }
    Ok(())
}

/// Deletes those of the rooms that nobody else remembers.
async fn purge_each(hs: &Homeserver, rooms: Vec<RoomNid>) -> Result<(), Error> {
    for room in rooms {
        let Some(room) = hs.room_by_nid(room).await.leave_out()? else { continue };
        hs.purge_if_forgotten(&room).await?;
    }
    Ok(())
}

/// Takes the account away, and all that is its own; with `erase` also what its user sent, from
/// those who come later. Answers which rooms it had a part in.
async fn end_account(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId, erase: bool) -> Result<Vec<RoomNid>, Error> {
    let _lock = hs.lock(LockKey::Account(user_id.to_string())).await;
    let mut account = tables::ACCOUNTS.get(hs.store(), &user).await?.ok_or(Refused::Deactivated)?;
    account.password = None;
    account.deactivated = true;
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    let rooms: Vec<RoomNid> = memberships.into_iter().map(|((_, room), _)| room).collect();
    let rooms_with_data = account_data::rooms_of(hs, user).await?;
    let signed = keys::signed_by(hs, user).await?;
    let devices = devices::departing(hs, user, &|_| true).await?;
    let pending = tables::PENDING_MEDIA_OF.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    let ended = hs.write(generation, |tx| {
        tables::ACCOUNTS.put(tx, &user, &account);
        tables::PROFILES.delete_all(tx, &user);
        tables::ACCOUNT_DATA.delete_all(tx, &user);
        for room in rooms_with_data {
            tables::ROOM_ACCOUNT_DATA.delete(tx, &(room, user));
        }
        tables::FILTERS.delete_all(tx, &user);
        tables::UNREAD.delete_all(tx, &user);
        tables::CROSS_SIGNING_KEYS.delete_all(tx, &user);
        tables::KEY_SIGNATURES.delete_all(tx, &user);
        for of in signed {
            tables::KEY_SIGNATURES.delete_all(tx, &(of, user));
        }
        tables::KEY_BACKUPS.delete_all(tx, &user);
        tables::BACKED_UP_KEYS.delete_all(tx, &user);
        for ((_, media_id), _) in pending {
            tables::PENDING_MEDIA.delete(tx, &media_id);
        }
        tables::PENDING_MEDIA_OF.delete_all(tx, &user);
        tables::MEDIA_USED.delete(tx, &user);
        devices.forget(tx);
        tables::DEVICE_LIST_VERSIONS.delete(tx, &user);
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
async fn leave_all(hs: &Homeserver, generation: u64, user: UserNid, user_id: &UserId) -> Result<(), Error> {
    let slice = TimeSlice::new(&*hs.host);
    let memberships = tables::MEMBERSHIPS.scan(hs.store(), &user, Direction::Forward, usize::MAX).await?;
    for ((_, room), membership) in memberships {
        if !is_in(&membership) {
            continue;
        }
        let Some(room) = hs.room_by_nid(room).await.leave_out()? else { continue };
        let left = hs.write_room(&room, generation, |write| {
            if write.member(user)?.as_ref().is_some_and(is_in) {
                let content: ruma::CanonicalJsonObject = [("membership".to_owned(), CanonicalJsonValue::String("leave".to_owned()))].into();
                write.send(Draft::state(user_id.to_owned(), StateEventType::RoomMember, user_id.as_str(), content))?;
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
