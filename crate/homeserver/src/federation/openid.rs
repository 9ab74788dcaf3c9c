//! Who somebody is that has an OpenID token of this server (Server-Server API, "OpenID"): for
//! whoever was given it, who need be no server.

use crate::{
    error::{Error, Result},
    openid,
    router::Call,
};
use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

/// `GET /_matrix/federation/v1/openid/userinfo`
pub async fn userinfo(call: Call, request: Request) -> Result<Response> {
    let user = openid::user_of(&call.hs, &request.access_token).await?;
    Ok(Response::new(user.ok_or_else(Error::unknown_token)?))
}
