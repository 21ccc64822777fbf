//! What is wrong in form: segments, encoding, JSON.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD};
use rand::RngExt as _;
use serde_json::json;

use super::{Attack, parts};
use crate::signers::encode;

impl Attack {
    pub(super) fn changed_character(&mut self) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/= ";
        let mut bytes = self.good().into_bytes();
        let at = self.below(bytes.len());
        let others: Vec<u8> = LETTERS.iter().copied().filter(|letter| *letter != bytes[at]).collect();
        bytes[at] = *self.pick(&others);
        String::from_utf8(bytes).expect("ASCII")
    }

    pub(super) fn changed_bit(&mut self) -> String {
        let token = self.good();
        let mut segments: Vec<Vec<u8>> =
            token.split('.').map(|one| BASE64URL_NOPAD.decode(one.as_bytes()).expect("base64url")).collect();
        let segment = self.below(3);
        let at = self.below(segments[segment].len());
        segments[segment][at] ^= 1 << self.below(8);
        segments.iter().map(|one| encode(one)).collect::<Vec<_>>().join(".")
    }

    pub(super) fn segments(&mut self) -> String {
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
    pub(super) fn encoding(&mut self) -> String {
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

    pub(super) fn duplicates(&mut self) -> String {
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

    pub(super) fn json(&mut self) -> String {
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
                text.as_bytes()[..text.len() - 1].to_vec(),
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

    pub(super) fn depth(&mut self) -> String {
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

    pub(super) fn length(&mut self) -> String {
        let extra = 6_200 + self.below(3_000);
        self.with_claims(json!({"padding": "x".repeat(extra)}))
    }
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
