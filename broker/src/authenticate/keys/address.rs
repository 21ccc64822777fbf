//! Where keys may be fetched from.

use thiserror::Error;
use url::{Host, Url};

/// Why nothing is fetched from an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not an absolute URL.
    #[error("`{0}` is not a URL")]
    NotAUrl(String),
    /// Neither HTTPS nor, where that is allowed, plain HTTP on the loopback.
    #[error("`{0}` is not an `https:` URL (`http:` is for the loopback only, with `allow_loopback_http = true`)")]
    NotHttps(String),
    /// A user name, a password or a fragment stands in it.
    #[error("`{0}` holds a user name, a password or a fragment")]
    Credentials(String),
}

/// Takes a URL that keys may be fetched from.
pub(super) fn parse(text: &str, allow_loopback_http: bool) -> Result<Url, AddressError> {
    let url = Url::parse(text).map_err(|_| AddressError::NotAUrl(text.to_owned()))?;
    let is_safe = url.scheme() == "https" || (allow_loopback_http && url.scheme() == "http" && is_loopback(&url));
    if !is_safe {
        return Err(AddressError::NotHttps(text.to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(AddressError::Credentials(url.host_str().unwrap_or_default().to_owned()));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_accepted_and_plain_http_only_on_the_loopback_and_by_setting() {
        for (text, by_default, by_setting) in [
            ("https://login.example/keys", true, true),
            ("http://localhost:1/keys", false, true),
            ("http://127.0.0.1:1/keys", false, true),
            ("http://[::1]:1/keys", false, true),
            ("http://login.example/keys", false, false),
            ("http://localhost.example/keys", false, false),
            ("http://10.0.0.1/keys", false, false),
            ("file:///etc/keys", false, false),
            ("ftp://localhost/keys", false, false),
            ("keys", false, false),
            ("https://user:password@login.example/keys", false, false),
            ("https://login.example/keys#1", false, false),
        ] {
            assert_eq!(parse(text, false).is_ok(), by_default, "{text}");
            assert_eq!(parse(text, true).is_ok(), by_setting, "{text}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        let error = parse("https://user:secret@login.example/", false).expect_err("credentials").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
