//! Where tokens are asked for.

use std::net::IpAddr;

use reqwest::Url;

use crate::Error;

/// A token endpoint that may be spoken to: over TLS, or where that was allowed, in plain on this machine.
#[derive(Debug)]
pub(super) struct Endpoint {
    url: Url,
    target: String,
    is_loopback: bool,
}

impl Endpoint {
    pub(super) fn parse(text: &str, allow_loopback_http: bool) -> Result<Self, Error> {
        // The text may hold a password: it is not shown.
        let invalid = |fault: &str| Error::Configuration(format!("the token endpoint cannot be used: {fault}"));
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        let is_loopback = is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if is_loopback && allow_loopback_http => {}
            "http" => return Err(invalid("it must begin with `https://`")),
            other => return Err(invalid(&format!("its scheme is `{other}`"))),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("it may not hold a name or a password"));
        }
        if url.fragment().is_some() {
            return Err(invalid("it may not have a fragment")); // RFC 6749 §3.2
        }
        let mut bare = url.clone();
        bare.set_query(None);
        Ok(Self { url, target: bare.into(), is_loopback })
    }

    pub(super) fn url(&self) -> Url {
        self.url.clone()
    }

    /// Without the query: what a proof names.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) const fn is_loopback(&self) -> bool {
        self.is_loopback
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_and_loopback_where_it_is_allowed() {
        for (url, when_strict, when_allowed) in [
            ("https://login.example/token?tenant=1", true, true),
            ("http://127.0.0.1:1/token", false, true),
            ("http://[::1]:1/token", false, true),
            ("http://localhost:1/token", false, true),
            ("http://login.example/token", false, false),
            ("http://127.0.0.1.example/token", false, false),
            ("http://localhost.example/token", false, false),
            ("ftp://127.0.0.1/token", false, false),
            ("https://a:b@login.example/token", false, false),
            ("https://login.example/token#part", false, false),
            ("/token", false, false),
            ("", false, false),
        ] {
            assert_eq!(Endpoint::parse(url, false).is_ok(), when_strict, "{url}");
            assert_eq!(Endpoint::parse(url, true).is_ok(), when_allowed, "{url}");
        }
    }

    #[test]
    fn a_proof_names_it_without_its_query() {
        let endpoint = Endpoint::parse("https://login.example/token?tenant=1", false).expect("an endpoint");
        assert_eq!(endpoint.target(), "https://login.example/token");
    }

    #[test]
    fn a_password_in_it_is_not_shown() {
        let error = Endpoint::parse("https://name:hunter2@login.example/", false).expect_err("a password");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
