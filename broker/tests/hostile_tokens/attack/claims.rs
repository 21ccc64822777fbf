//! What is wrong with the claims; the signature verifies.

use serde_json::json;

use super::{Attack, ISSUER, OTHER_ISSUER, merge};

impl Attack {
    pub(super) fn issuer(&mut self) -> String {
        if self.below(3) == 0 {
            // A key of one trusted issuer, in the name of another.
            let (signer, mut claims) = (self.signer(), self.claims());
            let forged = self.below(2) == 0;
            let (thief, iss) = if forged { (&self.others, ISSUER) } else { (&self.known, OTHER_ISSUER) };
            claims["iss"] = json!(iss);
            return thief[signer].sign(&thief[signer].header(), &claims);
        }
        let issuers = [
            json!(null),
            json!([ISSUER]),
            json!([ISSUER, "https://evil.example"]),
            json!({ISSUER: true}),
            json!(format!("{ISSUER}/")),
            json!(ISSUER.to_uppercase()),
            json!(format!(" {ISSUER}")),
            json!("https://evil.example"),
            json!(""),
            json!(1),
        ];
        let iss = self.pick(&issuers).clone();
        self.with_claims(json!({ "iss": iss }))
    }

    pub(super) fn audience(&mut self) -> String {
        let audiences = [
            json!(null),
            json!(""),
            json!("VERIBUS"),
            json!("veribus "),
            json!("veribus,other"),
            json!("other"),
            json!([]),
            json!([["veribus"]]),
            json!(["veribus", 1]),
            json!([null, "veribus"]),
            json!({"veribus": true}),
            json!({"0": "veribus"}),
            json!(true),
            json!(0),
        ];
        let aud = self.pick(&audiences).clone();
        self.with_claims(json!({ "aud": aud }))
    }

    pub(super) fn dates(&mut self) -> String {
        let now = self.now;
        let changes = [
            json!({"exp": null}),
            json!({"iat": null}),
            json!({"exp": now}),
            json!({"exp": now - 1}),
            json!({"exp": now as f64 + 0.5}),
            json!({"exp": 0}),
            json!({"exp": -1}),
            json!({"exp": i64::MIN}),
            json!({"exp": i64::MAX}),
            json!({"exp": u64::MAX}),
            json!({"exp": 1e300}),
            json!({"exp": -1e300}),
            json!({"exp": format!("{}", now + 60)}),
            json!({"exp": [now + 60]}),
            json!({"exp": true}),
            json!({"exp": now + 86_400}),
            json!({"iat": now + 61}),
            json!({"iat": -62_135_596_800_i64}),
            json!({"iat": i64::MIN, "exp": i64::MAX}),
            json!({"iat": format!("{now}")}),
            json!({"iat": false}),
            json!({"nbf": now + 61}),
            json!({"nbf": 1e300}),
            json!({"nbf": "0"}),
            json!({"nbf": {}}),
        ];
        let changes = self.pick(&changes).clone();
        self.with_claims(changes)
    }

    pub(super) fn names(&mut self) -> String {
        let values = [
            json!(null),
            json!(""),
            json!(1),
            json!(["agent"]),
            json!({"id": "agent"}),
            json!("a b"),
            json!("a\u{200b}b"),
            json!("a\u{202e}b"),
            json!("a\nb"),
            json!("\u{0}"),
            json!("ägent"),
            json!("a".repeat(256)),
        ];
        let value = self.pick(&values).clone();
        let name = *self.pick(&["sub", "jti"]);
        if name == "sub" && self.below(8) == 0 {
            return self.with_claims(json!({"sub": "role:compliance"}));
        }
        self.with_claims(json!({ name: value }))
    }

    pub(super) fn lists(&mut self) -> String {
        let name = *self.pick(&["roles", "permissions", "types"]);
        let values = [json!(1), json!({"a": 1}), json!(["a", 1]), json!([["a"]])];
        let value = self.pick(&values).clone();
        self.with_claims(json!({ name: value }))
    }

    pub(super) fn binding(&mut self) -> String {
        let digest = "A".repeat(43);
        let confirmations = [
            json!({"x5t#S256": digest}),
            json!({"jkt": digest}),
            json!({"jkt": digest, "x5t#S256": digest}),
            json!({"jwk": self.known[0].jwk}),
            json!({"kid": "k-ES256"}),
            json!({"x5t#S256": "short"}),
            json!({"x5t#S256": [digest]}),
            json!({"x5t": digest}),
            json!({}),
            json!([]),
            json!(false),
            json!(""),
        ];
        let confirmation = self.pick(&confirmations).clone();
        self.with_claims(json!({ "cnf": confirmation }))
    }

    pub(super) fn actors(&mut self) -> String {
        let endless = (0..20).fold(json!({"sub": "a"}), |inner, _| json!({"sub": "a", "act": inner}));
        let actors = [
            endless,
            json!("assistant"),
            json!(["assistant"]),
            json!([{"sub": "assistant"}]),
            json!({"sub": 1}),
            json!({"sub": "role:compliance"}),
            json!({"sub": "a", "iss": 1}),
            json!({"sub": "a", "act": "b"}),
        ];
        let actor = self.pick(&actors).clone();
        self.with_claims(json!({ "act": actor }))
    }

    pub(super) fn other_kind(&mut self) -> String {
        if self.below(4) == 0 {
            // A token in a token.
            let (signer, inner) = (self.signer(), self.good());
            let signer = &self.known[signer];
            return signer.sign_text(signer.header().to_string().as_bytes(), inner.as_bytes());
        }
        let kinds = [
            json!({"nonce": "n"}),
            json!({"at_hash": "h"}),
            json!({"c_hash": "h"}),
            json!({"s_hash": "h"}),
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
            json!({"typ": "ID"}),
            json!({"typ": "Refresh"}),
            json!({"typ": "Offline"}),
            json!({"typ": ["Bearer"]}),
        ];
        let mut claims = self.claims();
        merge(&mut claims, self.pick(&kinds).clone());
        let signer = self.signer();
        let mut header = self.known[signer].header();
        header["typ"] = json!("JWT");
        self.known[signer].sign(&header, &claims)
    }
}
