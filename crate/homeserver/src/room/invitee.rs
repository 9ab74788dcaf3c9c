//! Whether an invitation would reach anybody. The specification lets a server accept every
//! invitation that the auth rules allow; one that nobody can ever answer is a mistake in typing,
//! and its sender is told so.

use super::{
    build::Draft,
    error::{Refused, Result},
    stop::Stop,
    write::Write,
};
use crate::homeserver::Homeserver;
use ruma::UserId;

/// What becomes of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invitee {
    /// The user gets it, as far as is known here. Also one whose account is deactivated, who will
    /// not answer.
    Reached,
    /// The user wants none.
    WantsNone,
    /// The user would be of this server, and is not.
    HasNoAccount,
    /// The user is of another server, and this one asks no others.
    OutOfReach,
}

impl Invitee {
    /// Why an invitation of `user` is refused, if it is.
    pub fn refusal(self, user: &UserId) -> Option<Refused> {
        match self {
            Self::Reached => None,
            Self::WantsNone => Some(Refused::InvitesBlocked(user.to_owned())),
            Self::OutOfReach => Some(Refused::OutOfReach(user.to_owned())),
            Self::HasNoAccount => Some(Refused::NoAccount(user.to_owned())),
        }
    }
}

impl Homeserver {
    /// What would become of an invitation of a user.
    pub(crate) async fn invitee(&self, user: &UserId) -> Result<Invitee> {
        if !self.is_local(user) {
            // Their server says whether they get it.
            return Ok(if self.asks_others() { Invitee::Reached } else { Invitee::OutOfReach });
        }
        let Some(nid) = self.find_account(user).await? else { return Ok(Invitee::HasNoAccount) };
        Ok(if self.blocks_invites(nid).await? { Invitee::WantsNone } else { Invitee::Reached })
    }
}

impl Write<'_> {
    /// Why an invitation is refused ("Invite permission", for one): [`Refused::NoAccount`],
    /// [`Refused::OutOfReach`], [`Refused::InvitesBlocked`].
    pub(super) fn invite_refused(&self, draft: &Draft) -> Result<Option<Refused>, Stop> {
        let Some(user) = draft.invited() else { return Ok(None) };
        Ok(self.invitee(&user)?.refusal(&user))
    }
}
