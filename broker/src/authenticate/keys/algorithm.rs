//! The signature algorithms that are verified; there are no others, and never a symmetric one.

use std::fmt;

use jsonwebtoken::Algorithm;

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

impl SignatureAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Es256, Self::Es384, Self::EdDsa, Self::Rs256, Self::Ps256];

    /// By its `alg` name, exactly. `Ed25519` is the newer name of what is written `EdDSA` here (RFC 9864, section 2.2).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "Ed25519" { Self::EdDsa.name() } else { name };
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Its `alg` name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    pub(super) const fn jws(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
            Self::Rs256 => Algorithm::RS256,
            Self::Ps256 => Algorithm::PS256,
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The algorithms that an issuer may sign with. Empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithms(Vec<SignatureAlgorithm>);

impl Algorithms {
    /// These.
    #[must_use]
    pub const fn new(algorithms: Vec<SignatureAlgorithm>) -> Self {
        Self(algorithms)
    }

    pub(super) fn allow(&self, algorithm: SignatureAlgorithm) -> bool {
        self.0.contains(&algorithm)
    }
}

/// All that are verified here.
impl Default for Algorithms {
    fn default() -> Self {
        Self(SignatureAlgorithm::ALL.to_vec())
    }
}
