use std::fs;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::seal::{OVERHEAD_BYTES, envelope::Derived};

const TOKEN: [u8; 32] = [7; 32];

fn context() -> Context<'static> {
    Context {
        scope: "tickets",
        epoch: Epoch(3),
        resource: "tickets/4711",
        previous_revision: Revision(41),
        issuer: "https://issuer.example",
        subject: "support-agent",
        token_id: "token-1",
        confirmation: "x5t#S256:abc",
        token_sha256: &TOKEN,
    }
}

/// The context with one field after another changed, and with what could run together moved over.
fn other_contexts() -> Vec<Context<'static>> {
    let same = context();
    vec![
        Context { scope: "ticket", ..same },
        Context { epoch: Epoch(4), ..same },
        Context { resource: "tickets/4712", ..same },
        Context { previous_revision: Revision(0), ..same },
        Context { issuer: "https://issuer.example/", ..same },
        Context { subject: "billing-agent", ..same },
        Context { token_id: "token-2", ..same },
        Context { confirmation: "", ..same },
        Context { token_sha256: &[8; 32], ..same },
        Context { scope: "ticketst", resource: "ickets/4711", ..same },
        Context { issuer: "https://issuer.examples", subject: "upport-agent", ..same },
        Context { subject: same.issuer, issuer: same.subject, ..same },
    ]
}

fn key() -> ScopeKey {
    ScopeKey::generate().expect("a key")
}

#[test]
fn what_is_sealed_opens_with_the_same_key_and_context_and_is_larger_by_the_overhead() {
    let key = key();
    for len in [0, 1, 15, 16, 17, 512, 65_536] {
        let plaintext = vec![0xA5; len];
        let sealed = seal(&key, &context(), &plaintext).expect("sealed");
        assert_eq!(sealed.len(), len + OVERHEAD_BYTES);
        assert_eq!(open(&key, &context(), &sealed), Ok(plaintext));
    }
}

#[test]
fn one_value_sealed_twice_shares_nothing_but_the_format() {
    let key = key();
    let [one, two] = [(), ()].map(|()| seal(&key, &context(), &[0; 64]).expect("sealed"));
    assert_eq!(one[..2], two[..2]);
    for (one, two) in one[2..].chunks(16).zip(two[2..].chunks(16)) {
        assert_ne!(one, two);
    }
}

#[test]
fn a_text_cut_off_anywhere_or_longer_than_it_was_does_not_open() {
    let key = key();
    let sealed = seal(&key, &context(), &[1; 100]).expect("sealed");
    for len in 0..sealed.len() {
        assert_eq!(open(&key, &context(), &sealed[..len]), Err(OpenError), "cut to {len}");
        assert_eq!(open(&key, &context(), &sealed[sealed.len() - len..]), Err(OpenError), "the last {len}");
    }
    assert_eq!(open(&key, &context(), &[&sealed[..], &[0]].concat()), Err(OpenError));
}

#[test]
fn a_text_with_any_bit_flipped_does_not_open() {
    let key = key();
    let mut sealed = seal(&key, &context(), &[1; 100]).expect("sealed");
    for bit in 0..sealed.len() * 8 {
        sealed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key, &context(), &sealed), Err(OpenError), "bit {bit}");
        sealed[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(open(&key, &context(), &sealed).is_ok());
}

#[test]
fn a_value_opens_in_no_other_context_than_its_own() {
    let key = key();
    let mut contexts = other_contexts();
    contexts.push(context());
    let sealed: Vec<_> = contexts.iter().map(|context| seal(&key, context, b"value").expect("sealed")).collect();
    for (written, sealed) in sealed.iter().enumerate() {
        for (read, context) in contexts.iter().enumerate() {
            assert_eq!(open(&key, context, sealed).is_ok(), written == read, "{written} read as {read}");
        }
    }
}

#[test]
fn a_value_opens_with_no_other_key() {
    let sealed = seal(&key(), &context(), b"value").expect("sealed");
    assert_eq!(open(&key(), &context(), &sealed), Err(OpenError));
}

/// Without a commitment, AES-GCM lets one make a text that opens under two keys. So a right tag is not enough, whichever
/// commitment it covers.
#[test]
fn a_text_with_a_right_tag_and_another_commitment_does_not_open() {
    let (key, id) = (key(), [9; SALT_BYTES]);
    let encoded = context().encode().expect("a context");
    let derived = Derived::new(key.bytes(), &VALUE, &encoded, &id).expect("keys");
    let (right, wrong) = (derived.commitment, [0; 32]);
    let open_made_with = |covered: &[u8], stored: &[u8]| {
        let body = encrypt(&derived, &[&[VERSION][..], &id, &encoded, covered].concat());
        open(&key, &context(), &[&[VERSION, SUITE][..], &id, stored, &body].concat())
    };
    assert_eq!(open_made_with(&right, &right), Ok(b"value".to_vec()));
    assert_eq!(open_made_with(&right, &wrong), Err(OpenError));
    assert_eq!(open_made_with(&wrong, &wrong), Err(OpenError));
    assert_eq!(open_made_with(&wrong, &right), Err(OpenError));
}

fn encrypt(derived: &Derived, aad: &[u8]) -> Vec<u8> {
    use aes_gcm::{
        Aes256Gcm, KeyInit as _,
        aead::{Aead as _, Payload},
    };
    let cipher = Aes256Gcm::new((&*derived.key).into());
    cipher.encrypt(&[0; 12].into(), Payload { msg: b"value", aad }).expect("encrypted")
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens_to_the_same(plaintext: Vec<u8>, scope: String, resource: String, subject: String, revision: u64) {
        let key = key();
        let context = Context {
            scope: &scope, resource: &resource, subject: &subject, previous_revision: Revision(revision), ..context()
        };
        let sealed = seal(&key, &context, &plaintext).expect("sealed");
        prop_assert_eq!(open(&key, &context, &sealed), Ok(plaintext));
    }

    #[test]
    fn no_bytes_from_elsewhere_open(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), is_headed: bool) {
        if let (true, [version, suite, ..]) = (is_headed, &mut bytes[..]) {
            (*version, *suite) = (VERSION, SUITE);
        }
        prop_assert_eq!(open(&key(), &context(), &bytes), Err(OpenError));
    }

    #[test]
    fn contexts_that_differ_never_look_alike(one: [String; 6], two: [String; 6]) {
        let encode = |parts: &[String; 6]| {
            let [scope, resource, issuer, subject, token_id, confirmation] = parts;
            let same = context();
            Context { scope, resource, issuer, subject, token_id, confirmation, ..same }.encode().expect("a context")
        };
        prop_assert_eq!(one == two, encode(&one) == encode(&two));
    }
}

/// The vectors in `proto/docs`, by which others check their own implementations.
mod vectors {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/docs/sealing-vectors.json");

    struct Vector(Value);

    impl Vector {
        fn text<'a>(&'a self, path: &str) -> &'a str {
            self.0.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no text {path}"))
        }

        fn number(&self, path: &str) -> u64 {
            self.0.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {path}"))
        }

        fn bytes(&self, path: &str) -> Vec<u8> {
            HEXLOWER.decode(self.text(path).as_bytes()).expect("hexadecimal")
        }

        fn block(&self, path: &str) -> [u8; 32] {
            self.bytes(path).try_into().expect("32 bytes")
        }

        fn context<'a>(&'a self, token_sha256: &'a [u8; 32]) -> Context<'a> {
            Context {
                scope: self.text("/context/scope"),
                epoch: Epoch(self.number("/context/epoch").try_into().expect("an epoch")),
                resource: self.text("/context/resource"),
                previous_revision: Revision(self.number("/context/previous_revision")),
                issuer: self.text("/context/issuer"),
                subject: self.text("/context/subject"),
                token_id: self.text("/context/token_id"),
                confirmation: self.text("/context/confirmation"),
                token_sha256,
            }
        }
    }

    fn vectors() -> Vec<Vector> {
        let file: Value = serde_json::from_str(&fs::read_to_string(FILE).expect("the vectors")).expect("JSON");
        let vectors: Vec<_> = file["vectors"].as_array().expect("a list").iter().cloned().map(Vector).collect();
        assert!(vectors.len() >= 4, "only {}", vectors.len());
        vectors
    }

    #[test]
    fn the_published_vectors_are_what_is_sealed() {
        for vector in vectors() {
            let token_sha256 = vector.block("/context/token_sha256");
            let (key, context) = (ScopeKey::from_bytes(&vector.block("/scope_key")), vector.context(&token_sha256));
            let (id, encoded) = (vector.block("/message_id"), context.encode().expect("a context"));
            let derived = Derived::new(key.bytes(), &VALUE, &encoded, &id).expect("keys");
            let sealed = seal_as(&id, &key, &context, &vector.bytes("/plaintext")).expect("sealed");
            assert_eq!(encoded, vector.bytes("/encoded_context"), "{}", vector.text("/name"));
            assert_eq!(*derived.key, vector.block("/derived_key"), "{}", vector.text("/name"));
            assert_eq!(derived.commitment, vector.block("/commitment"), "{}", vector.text("/name"));
            assert_eq!(HEXLOWER.encode(&sealed), vector.text("/sealed"), "{}", vector.text("/name"));
        }
    }

    #[test]
    fn the_published_vectors_open() {
        for vector in vectors() {
            let token_sha256 = vector.block("/context/token_sha256");
            let key = ScopeKey::from_bytes(&vector.block("/scope_key"));
            let opened = open(&key, &vector.context(&token_sha256), &vector.bytes("/sealed"));
            assert_eq!(opened, Ok(vector.bytes("/plaintext")), "{}", vector.text("/name"));
        }
    }
}
