//! What is wrong with the header, and with the key that signs.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{Attack, parts};
use crate::signers::{encode, name};

impl Attack {
    pub(super) fn header_member(&mut self) -> String {
        let names = ["crit", "b64", "jwk", "zip", "cty", "enc", "epk", "p2c"];
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
        // Another `cty` is ignored.
        header[name] = if name == "cty" { json!("JWT") } else { value };
        self.known[signer].sign(&header, &claims)
    }

    pub(super) fn header_type(&mut self) -> String {
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

    pub(super) fn header_key(&mut self) -> String {
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

    pub(super) fn header_algorithm(&mut self) -> String {
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

    pub(super) fn none(&mut self) -> String {
        let alg = *self.pick(&["none", "None", "NONE", "nOnE", "null"]);
        let (signer, claims) = (self.signer(), self.claims());
        let header = json!({"alg": alg, "kid": self.known[signer].kid, "typ": "at+jwt"});
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let good = self.good();
        let signature = *self.pick(&["", "AA", parts(&good)[2]]);
        format!("{signed}.{signature}")
    }

    pub(super) fn hmac(&mut self) -> String {
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

    pub(super) fn embedded_key(&mut self) -> String {
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

    pub(super) fn impostor(&mut self) -> String {
        let (signer, claims) = (self.signer(), self.claims());
        let choice = self.below(2);
        let thief = if choice == 0 { &self.unknown[signer] } else { &self.others[signer] };
        let mut header = thief.header();
        header["kid"] = json!(self.known[signer].kid);
        thief.sign(&header, &claims)
    }
}
