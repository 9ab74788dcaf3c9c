//! Tokens that show who somebody is (Client-Server API, "OpenID").

use crate::{
    error::{Error, Result},
    openid,
    router::UserCall,
};
use ruma::{api::client::account::request_openid_token::v3 as request_openid_token, authentication::TokenType};

/// `POST /user/{userId}/openid/request_token`
pub async fn request_token(call: UserCall, request: request_openid_token::Request) -> Result<request_openid_token::Response> {
    if request.user_id != call.session.user_id {
        return Err(Error::forbidden("You cannot request OpenID tokens for other users"));
    }
    let token = openid::token(&call.hs, call.raw.generation, &call.session)?;
    Ok(request_openid_token::Response::new(token, TokenType::Bearer, call.hs.server_name().to_owned(), openid::LIFETIME))
}
