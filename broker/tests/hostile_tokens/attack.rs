//! Tokens that must not be accepted, made from valid ones; wherever it can be, they carry a signature that verifies.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::signers::{ALGORITHMS, Signer, encode, name};

/// The issuer whose keys are known.
pub(crate) const ISSUER: &str = "https://issuer.example";
/// Another one whose keys are known.
pub(crate) const OTHER_ISSUER: &str = "https://other.example";
pub(crate) const AUDIENCE: &str = "veribus";

/// Makes a token of its class.
type Make = fn(&mut Attack) -> String;

/// Every class of hostile token.
pub(crate) const CLASSES: [(&str, Make); 22] = [
    ("a character is changed", Attack::changed_character),
    ("a bit of what is signed is changed", Attack::changed_bit),
    ("the segments are not three, or not in order", Attack::segments),
    ("a segment is not canonical base64url", Attack::encoding),
    ("the header asks for more", Attack::header_member),
    ("the header names another type", Attack::header_type),
    ("the header names no key, or another one", Attack::header_key),
    ("the header names another algorithm", Attack::header_algorithm),
    ("no signature is asked for", Attack::none),
    ("the public key is the secret of an HMAC", Attack::hmac),
    ("the attacker's key is in the header", Attack::embedded_key),
    ("another key has signed under the same name", Attack::impostor),
    ("the issuer is another one", Attack::issuer),
    ("the audience is another one", Attack::audience),
    ("a date is not valid, or not now", Attack::dates),
    ("a name is missing or none", Attack::names),
    ("a list is none or too long", Attack::lists),
    ("a member is there twice", Attack::duplicates),
    ("the JSON is none, or ambiguous", Attack::json),
    ("the JSON is nested too deep", Attack::depth),
    ("it is another kind of token", Attack::other_kind),
    ("it is too long", Attack::length),
];

/// Makes hostile and valid tokens, the same ones for the same seed and keys.
pub(crate) struct Attack {
    random: StdRng,
    now: i64,
    pub(crate) known: Vec<Signer>,
    pub(crate) others: Vec<Signer>,
    unknown: Vec<Signer>,
    serial: u64,
}

impl Attack {
    pub(crate) fn new(seed: u64, now: i64) -> Self {
        let signers = |prefix: &str| -> Vec<_> {
            ALGORITHMS.iter().map(|one| Signer::new(*one, &format!("{prefix}{}", name(*one)))).collect()
        };
        let (known, others) = (signers("k-"), signers("o-"));
        // Under the same names as the known ones.
        Self { random: StdRng::seed_from_u64(seed), now, known, others, unknown: signers("k-"), serial: 0 }
    }

    /// A token of a class chosen at random.
    pub(crate) fn hostile(&mut self) -> (&'static str, String) {
        let (class, make) = CLASSES[self.below(CLASSES.len())];
        (class, make(self))
    }

    /// A token that must be accepted.
    pub(crate) fn valid(&mut self) -> String {
        let mut claims = self.claims();
        let changes = [
            json!({}),
            json!({"aud": ["somebody", AUDIENCE]}),
            json!({"aud": [AUDIENCE]}),
            json!({"nbf": self.now - 5, "exp": self.now as f64 + 60.5, "iat": self.now as f64 - 9.5}),
            json!({"types": ["ticket.resolved"], "roles": [], "permissions": "openid publish:a.>"}),
            json!({"client_id": "agent", "typ": "Bearer", "nested": {"a": [{"a": 1}, {"a": 2}]}}),
        ];
        merge(&mut claims, self.pick(&changes).clone());
        let signer = self.signer();
        let mut header = self.known[signer].header();
        header["typ"] = (*self.pick(&["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt"])).into();
        if self.below(5) == 0 {
            header.as_object_mut().expect("an object").remove("typ");
        }
        self.known[signer].sign(&header, &claims)
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// RSA signs slowly: most are signed by curves.
    fn signer(&mut self) -> usize {
        if self.below(10) == 0 { 3 + self.below(2) } else { self.below(3) }
    }

    fn claims(&mut self) -> Value {
        self.serial += 1;
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "agent", "iat": self.now - 10, "exp": self.now + 3_000,
            "jti": format!("t-{}", self.serial), "roles": ["finance"], "permissions": ["publish:>"],
        })
    }

    /// Signed by a known key: claims as they should be but for `changes`, where `null` at the top takes a claim away.
    fn with_claims(&mut self, changes: Value) -> String {
        let mut claims = self.claims();
        merge(&mut claims, changes);
        let signer = self.signer();
        self.known[signer].sign(&self.known[signer].header(), &claims)
    }

    fn with_header(&mut self, changes: Value) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let mut header = self.known[signer].header();
        merge(&mut header, changes);
        self.known[signer].sign(&header, &claims)
    }

    fn good(&mut self) -> String {
        self.with_claims(json!({}))
    }

    fn changed_character(&mut self) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/= ";
        let mut bytes = self.good().into_bytes();
        let at = self.below(bytes.len());
        let others: Vec<u8> = LETTERS.iter().copied().filter(|letter| *letter != bytes[at]).collect();
        bytes[at] = *self.pick(&others);
        String::from_utf8(bytes).expect("ASCII")
    }

    fn changed_bit(&mut self) -> String {
        let token = self.good();
        let mut segments: Vec<Vec<u8>> =
            token.split('.').map(|one| BASE64URL_NOPAD.decode(one.as_bytes()).expect("base64url")).collect();
        let segment = self.below(3);
        let at = self.below(segments[segment].len());
        segments[segment][at] ^= 1 << self.below(8);
        segments.iter().map(|one| encode(one)).collect::<Vec<_>>().join(".")
    }

    fn segments(&mut self) -> String {
        let (token, other) = (self.good(), self.good());
        let [a, b, c] = parts(&token);
        let [_, other_payload, other_signature] = parts(&other);
        let all = [
            format!("{a}.{b}"),
            format!("{a}.{b}."),
            format!("{a}..{c}"),
            format!(".{b}.{c}"),
            "..".to_owned(),
            String::new(),
            format!("{b}.{a}.{c}"),
            format!("{a}.{c}.{b}"),
            format!("{a}.{b}.{c}."),
            format!("{a}.{b}.{c}.{c}"),
            format!("{a}.{b}.{c}.{b}.{c}"),
            format!("{a}.{other_payload}.{c}"),
            format!("{a}.{b}.{other_signature}"),
            format!("{token}{other}"),
            format!(" {token}"),
            format!("{a}. {b}.{c}"),
            format!("{a},{b},{c}"),
        ];
        self.pick(&all).clone()
    }

    /// The signature is over the segments as they stand.
    fn encoding(&mut self) -> String {
        let (signer, mut claims) = (self.signer(), self.claims());
        let signer = &self.known[signer];
        let header = signer.header().to_string();
        // So long that there are bits to spare.
        while claims.to_string().len() % 3 == 0 {
            claims["sub"] = format!("{}x", claims["sub"].as_str().expect("text")).into();
        }
        let payload = claims.to_string();
        let (h, p) = (encode(header.as_bytes()), encode(payload.as_bytes()));
        let choice = self.random.random_range(0..7);
        match choice {
            0 => signer.sign_segments(&h, &BASE64URL.encode(payload.as_bytes())),
            1 => signer.sign_segments(&h, &BASE64.encode(payload.as_bytes())),
            2 => signer.sign_segments(&format!("{h}="), &p),
            3 => signer.sign_segments(&h, &with_spare_bits(&p)),
            4 => signer.sign_segments(&h, &format!("{}\n{}", &p[..4], &p[4..])),
            5 => signer.sign_segments(&format!("{h}\t"), &p),
            _ => with_spare_bits(&signer.sign_segments(&h, &p)),
        }
    }

    fn header_member(&mut self) -> String {
        let names = ["crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "cty", "enc", "epk", "p2c"];
        let name = *self.pick(&names);
        let values = [
            json!("https://evil.example/keys"),
            json!(["exp"]),
            json!({}),
            json!(true),
            json!(false),
            json!("JWT"),
            json!("DEF"),
            json!(null),
        ];
        let value = self.pick(&values).clone();
        let (signer, claims) = (self.signer(), self.claims());
        let mut header = self.known[signer].header();
        header[name] = value;
        self.known[signer].sign(&header, &claims)
    }

    fn header_type(&mut self) -> String {
        let types = [
            json!("dpop+jwt"),
            json!("logout+jwt"),
            json!("secevent+jwt"),
            json!("id_token"),
            json!("JOSE"),
            json!("JWT "),
            json!("at+jwt;v=1"),
            json!("text/at+jwt"),
            json!(""),
            json!(["at+jwt"]),
            json!({"at+jwt": true}),
            json!(1),
        ];
        let typ = self.pick(&types).clone();
        self.with_header(json!({ "typ": typ }))
    }

    fn header_key(&mut self) -> String {
        let kids = [
            json!(null),
            json!(""),
            json!(1),
            json!(["k-ES256"]),
            json!("o-ES256"),
            json!("K-ES256"),
            json!("../../k-ES256"),
            json!("k-ES256\u{0}"),
            json!("' OR 1=1 --"),
            json!("x".repeat(3_000)),
        ];
        let kid = self.pick(&kids).clone();
        self.with_header(json!({ "kid": kid }))
    }

    fn header_algorithm(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let signer = &self.known[signer];
        let names = [
            "ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed448", "RS256", "RS384", "RS512", "PS256", "PS384",
            "PS512", "HS256", "RSA1_5", "dir", "es256", "ES256 ", "",
        ];
        let others: Vec<_> = names.into_iter().filter(|one| *one != name(signer.algorithm)).collect();
        let mut header = signer.header();
        let choice = self.random.random_range(0..others.len() + 3);
        header["alg"] = match choice.checked_sub(others.len()) {
            None => json!(others[choice]),
            Some(0) => json!([name(signer.algorithm)]),
            Some(1) => json!(null),
            Some(_) => json!(256),
        };
        signer.sign(&header, &claims)
    }

    fn none(&mut self) -> String {
        let alg = *self.pick(&["none", "None", "NONE", "nOnE", "null"]);
        let (signer, claims) = (self.signer(), self.claims());
        let header = json!({"alg": alg, "kid": self.known[signer].kid, "typ": "at+jwt"});
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let good = self.good();
        let signature = *self.pick(&["", "AA", parts(&good)[2]]);
        format!("{signed}.{signature}")
    }

    fn hmac(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let (alg, algorithm) = *self.pick(&[
            ("HS256", Algorithm::HS256),
            ("HS384", Algorithm::HS384),
            ("HS512", Algorithm::HS512),
            // What a verifier that goes by the key alone might do.
            ("", Algorithm::HS256),
        ]);
        let signer = &self.known[signer];
        let alg = if alg.is_empty() { name(signer.algorithm) } else { alg };
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&signer.public_der));
        let x = signer.jwk.get("x").or_else(|| signer.jwk.get("n")).and_then(Value::as_str).expect("a number");
        let secrets = [
            signer.jwk.to_string().into_bytes(),
            signer.public_der.clone(),
            pem.into_bytes(),
            x.as_bytes().to_vec(),
            BASE64URL_NOPAD.decode(x.as_bytes()).expect("base64url"),
            Vec::new(),
        ];
        let header = json!({"alg": alg, "kid": signer.kid, "typ": "at+jwt"});
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let secret = EncodingKey::from_secret(&secrets[self.random.random_range(0..secrets.len())]);
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &secret, algorithm).expect("signed");
        format!("{signed}.{signature}")
    }

    fn embedded_key(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let thief = &self.unknown[signer];
        let mut header = thief.header();
        let choice = self.random.random_range(0..4);
        match choice {
            0 => header["jwk"] = thief.jwk.clone(),
            1 => header["jku"] = json!("https://evil.example/keys"),
            2 => header["x5u"] = json!("https://evil.example/cert"),
            _ => header["x5c"] = json!([BASE64.encode(&thief.public_der)]),
        }
        thief.sign(&header, &claims)
    }

    fn impostor(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let choice = self.below(2);
        let thief = if choice == 0 { &self.unknown[signer] } else { &self.others[signer] };
        let mut header = thief.header();
        header["kid"] = json!(self.known[signer].kid);
        thief.sign(&header, &claims)
    }

    fn issuer(&mut self) -> String {
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

    fn audience(&mut self) -> String {
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

    fn dates(&mut self) -> String {
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
            json!({"iat": now + 1}),
            json!({"iat": -62_135_596_800_i64}),
            json!({"iat": i64::MIN, "exp": i64::MAX}),
            json!({"iat": format!("{now}")}),
            json!({"iat": false}),
            json!({"nbf": now + 1}),
            json!({"nbf": 1e300}),
            json!({"nbf": "0"}),
            json!({"nbf": {}}),
        ];
        let changes = self.pick(&changes).clone();
        self.with_claims(changes)
    }

    fn names(&mut self) -> String {
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

    fn lists(&mut self) -> String {
        let many: Vec<_> = (0..65).map(|number| format!("r{number}")).collect();
        let name = *self.pick(&["roles", "permissions", "types"]);
        let values = [json!(many), json!(many.join(" ")), json!(1), json!({"a": 1}), json!(["a", 1]), json!([["a"]])];
        let value = self.pick(&values).clone();
        self.with_claims(json!({ name: value }))
    }

    fn duplicates(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let signer = &self.known[signer];
        let (header, claims) = (signer.header().to_string(), claims.to_string());
        let again = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
        let choice = self.random.random_range(0..8);
        let (header, claims) = match choice {
            0 => (again(&header, r#""alg":"none""#), claims),
            1 => (again(&header, &format!(r#""kid":"{}""#, signer.kid)), claims),
            2 => (again(&header, r#""\u0061lg":"none""#), claims),
            3 => (header, again(&claims, r#""sub":"admin""#)),
            4 => (header, again(&claims, r#""exp":1"#)),
            5 => (header, again(&claims, r#""\u0073ub":"admin""#)),
            6 => (header, again(&claims, r#""a":{"b":[{"c":1,"c":2}]}"#)),
            _ => (header, again(&claims, r#""aud":"other""#)),
        };
        signer.sign_text(header.as_bytes(), claims.as_bytes())
    }

    fn json(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let signer = &self.known[signer];
        let (header, claims) = (signer.header().to_string(), claims.to_string());
        let inside = claims[1..claims.len() - 1].to_owned();
        let broken = |text: &str| {
            [
                format!("{text}{text}").into_bytes(),
                format!("{text}x").into_bytes(),
                format!("\u{feff}{text}").into_bytes(),
                format!("[{text}]").into_bytes(),
                text[..text.len() - 1].as_bytes().to_vec(),
                text.replace('"', "'").into_bytes(),
                [text.as_bytes(), b"\0"].concat(),
                [&text.as_bytes()[..text.len() - 1], b",\"x\":\"\xff\"}"].concat(),
                b"null".to_vec(),
                b"\"text\"".to_vec(),
                Vec::new(),
            ]
        };
        let choice = self.random.random_range(0..13);
        match choice {
            11 => signer.sign_text(header.as_bytes(), format!("{{{inside},\"x\":1e999}}").as_bytes()),
            12 => signer.sign_text(header.as_bytes(), format!("{{{inside},}}").as_bytes()),
            at if self.random.random() => signer.sign_text(&broken(&header)[at], claims.as_bytes()),
            at => signer.sign_text(header.as_bytes(), &broken(&claims)[at]),
        }
    }

    fn depth(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let depth = 128 + self.below(1_000);
        let (open, close) = *self.pick(&[("[", "]"), ("{\"a\":", "}")]);
        let deep = format!("{}0{}", open.repeat(depth), close.repeat(depth));
        let nested = |text: &str| format!("{{\"deep\":{deep},{}", &text[1..]);
        let in_header = self.below(2) == 0;
        let signer = &self.known[signer];
        let (header, claims) = (signer.header().to_string(), claims.to_string());
        let (header, claims) = if in_header { (nested(&header), claims) } else { (header, nested(&claims)) };
        signer.sign_text(header.as_bytes(), claims.as_bytes())
    }

    fn other_kind(&mut self) -> String {
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

    fn length(&mut self) -> String {
        let extra = 6_200 + self.below(3_000);
        self.with_claims(json!({"padding": "x".repeat(extra)}))
    }
}

/// Sets each member; `null` takes it away.
fn merge(object: &mut Value, changes: Value) {
    let members = object.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<_> = token.split('.').collect();
    parts.try_into().expect("three segments")
}

/// The same bytes for a lenient decoder: the bits that the last character has to spare are not zero. Where it has none,
/// it gets a character that is none.
fn with_spare_bits(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last_segment = text.rsplit('.').next().unwrap_or_default();
    let (head, last) = text.split_at(text.len() - 1);
    let at = ALPHABET.iter().position(|letter| letter.to_string() == last.as_bytes()[0].to_string());
    match (last_segment.len() % 4, at) {
        (2 | 3, Some(at)) => format!("{head}{}", char::from(ALPHABET[at | 1])),
        _ => format!("{text}*"),
    }
}
