//! The URL that a proof must be for: where clients reach the broker, and the method that they call there.

use url::Url;

/// The broker's URL as its clients know it.
#[derive(Debug, Clone)]
pub(super) struct Target(Url);

impl Target {
    /// Takes a URL that the configuration found to be one of a server, without query and fragment.
    pub(super) const fn new(public_url: Url) -> Self {
        Self(public_url)
    }

    /// Whether `htu` names the method at `path`, for example `/veribus.v1.BrokerService/Publish`. Both are compared after
    /// normalisation, without query and fragment (RFC 9449, section 4.3, check 9).
    pub(super) fn is(&self, htu: &str, path: &str) -> bool {
        // The parser is made for browsers and forgives more than RFC 3986 does.
        let is_plain = htu.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if !is_plain || !htu.contains("://") {
            return false;
        }
        let Ok(mut claimed) = Url::parse(htu) else { return false };
        claimed.set_query(None);
        claimed.set_fragment(None);
        claimed == self.method(path)
    }

    fn method(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/veribus.v1.BrokerService/Publish";

    fn is(public: &str, htu: &str) -> bool {
        Target::new(Url::parse(public).expect("a URL")).is(htu, PATH)
    }

    #[test]
    fn spellings_of_one_url_are_one() {
        for htu in [
            "https://broker.example/veribus.v1.BrokerService/Publish",
            "HTTPS://Broker.EXAMPLE/veribus.v1.BrokerService/Publish",
            "https://broker.example:443/veribus.v1.BrokerService/Publish",
            "https://broker.example/x/../veribus.v1.BrokerService/./Publish",
            "https://broker.example/veribus.v1.BrokerService/Publish?a=b#c",
        ] {
            assert!(is("https://broker.example", htu), "{htu}");
            assert!(is("https://broker.example/", htu), "{htu}");
        }
        assert!(is(
            "https://proxy.example:7443/bus/",
            "https://proxy.example:7443/bus/veribus.v1.BrokerService/Publish"
        ));
    }

    #[test]
    fn another_scheme_host_port_or_method_is_another_url() {
        for htu in [
            "",
            "/veribus.v1.BrokerService/Publish",
            "http://broker.example/veribus.v1.BrokerService/Publish",
            "https://other.example/veribus.v1.BrokerService/Publish",
            "https://broker.example.other.example/veribus.v1.BrokerService/Publish",
            "https://broker.example:8443/veribus.v1.BrokerService/Publish",
            "https://a@broker.example/veribus.v1.BrokerService/Publish",
            "https://broker.example/veribus.v1.BrokerService/PublishStream",
            "https://broker.example/veribus.v1.BrokerService/publish",
            "https://broker.example/veribus.v1.BrokerService/Publish/",
            "https://broker.example//veribus.v1.BrokerService/Publish",
            "https://broker.example/",
            "https://broker.example",
            " https://broker.example/veribus.v1.BrokerService/Publish",
            "https:\\\\broker.example/veribus.v1.BrokerService/Publish",
            "https:broker.example/veribus.v1.BrokerService/Publish",
            "https://broker.example/veribus.v1.\nBrokerService/Publish",
        ] {
            assert!(!is("https://broker.example", htu), "{htu:?}");
        }
    }
}
