//! Who may ask.
//!
//! A web page that an operator visits can make the browser send requests to `127.0.0.1`. Three walls: a request that names an `Origin`
//! must come from the API's own pages (forged forms); without a token the `Host` must be an address, `localhost` or the configured name,
//! since a page whose DNS name was re-pointed to us still sends its own name (DNS rebinding); an order must be declared as JSON, which
//! no form can. With a token the name does not matter: a foreign page does not know it.

use super::State;
use super::groups::error;
use crate::settings::Secret;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) async fn same_site(Extract(state): Extract<Arc<State>>, request: Request, next: Next) -> Response {
    let host = text(request.headers(), header::HOST);
    if state.settings.token.is_none() && !host.is_some_and(|host| is_ours(host, &state.settings.listen)) {
        let message = "the Host header names neither an address nor localhost nor the API's configured host; set a token to allow any name";
        return error(StatusCode::FORBIDDEN, message.to_owned());
    }
    if request.headers().contains_key(header::ORIGIN) && !is_own_origin(text(request.headers(), header::ORIGIN), host) {
        return error(StatusCode::FORBIDDEN, "the Origin header names another site".to_owned());
    }
    next.run(request).await
}

pub(super) async fn token(Extract(state): Extract<Arc<State>>, request: Request, next: Next) -> Response {
    let Some(wanted) = &state.settings.token else { return next.run(request).await };
    let given = text(request.headers(), header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    if given.is_some_and(|given| is_same(given, wanted)) {
        return next.run(request).await;
    }
    let mut response = error(StatusCode::UNAUTHORIZED, "operations need the token: Authorization: Bearer …".to_owned());
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

pub(super) async fn json_only(request: Request, next: Next) -> Response {
    let media_type = text(request.headers(), header::CONTENT_TYPE).and_then(|value| value.split(';').next());
    if media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json")) {
        return next.run(request).await;
    }
    error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "operations need Content-Type: application/json".to_owned())
}

/// A header that occurs once and is ASCII.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_ours(host_header: &str, listen: &str) -> bool {
    let host = without_port(host_header);
    host.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(without_port(listen))
}

fn is_own_origin(origin: Option<&str>, host: Option<&str>) -> bool {
    let authority = origin.and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
    authority.is_some() && authority == host
}

/// `host:port`, `[v6]:port`, `host` and `[v6]` without port and brackets.
fn without_port(authority: &str) -> &str {
    if let Some(bracketed) = authority.strip_prefix('[') {
        return bracketed.split_once(']').map_or(authority, |(host, _)| host);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// Compares in a time that depends on the lengths only, so that a token cannot be guessed byte by byte.
fn is_same(given: &str, wanted: &Secret) -> bool {
    let (given, wanted) = (given.as_bytes(), wanted.expose().as_bytes());
    let differing = given.iter().zip(wanted).fold(0u8, |differing, (a, b)| differing | std::hint::black_box(a ^ b));
    given.len() == wanted.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_our_own_name_are_ours() {
        for host in ["127.0.0.1:9999", "localhost", "LOCALHOST:1", "[::1]:9999", "10.1.2.3", "buddy.internal:80"] {
            assert!(is_ours(host, "buddy.internal:9999"), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9999", "localhost.evil.example", "", "buddy"] {
            assert!(!is_ours(host, "buddy.internal:9999"), "{host}");
        }
    }

    #[test]
    fn an_origin_must_be_the_host_itself() {
        assert!(is_own_origin(Some("http://127.0.0.1:9999"), Some("127.0.0.1:9999")));
        for origin in [Some("null"), Some("http://127.0.0.1:8000"), Some("http://evil.example"), None] {
            assert!(!is_own_origin(origin, Some("127.0.0.1:9999")), "{origin:?}");
        }
    }

    #[test]
    fn tokens_are_compared_as_a_whole() {
        let wanted = Secret::new("secret");
        assert!(is_same("secret", &wanted));
        for given in ["", "secre", "secrets", "sEcret"] {
            assert!(!is_same(given, &wanted), "{given}");
        }
    }
}
