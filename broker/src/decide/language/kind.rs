//! What a term can be when it is evaluated, as far as the text tells.
//!
//! The answer errs on one side only: a kind may be listed that never comes; none is left out.

use std::ops::BitOr;

/// A set of kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u16);

impl Kind {
    pub(super) const NOTHING: Self = Self(0);
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(1 << 1);
    pub(super) const NUMBER: Self = Self(1 << 2);
    pub(super) const TEXT: Self = Self(1 << 3);
    pub(super) const ARRAY: Self = Self(1 << 4);
    pub(super) const OBJECT: Self = Self(1 << 5);
    pub(super) const SET: Self = Self(1 << 6);
    /// A set may be somewhere inside.
    pub(super) const SET_INSIDE: Self = Self(1 << 7);
    /// A whole number that comes from `count`, a literal, or arithmetic on such, so that no result leaves 64 bits.
    pub(super) const SMALL: Self = Self(1 << 8);

    /// What JSON can hold.
    pub(super) const JSON: Self = Self(0b11_1111);
    pub(super) const ANYTHING: Self = Self(0b1111_1111);
    /// What `count` takes.
    pub(super) const COUNTABLE: Self = Self(0b1111_1000);
    const KINDS: Self = Self(0b111_1111);

    /// Whether nothing else than `other` can come.
    pub(super) const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether it can be none of what `other` can be.
    pub(super) const fn is_apart_from(self, other: Self) -> bool {
        self.0 != 0 && self.0 & other.0 & Self::KINDS.0 == 0
    }

    /// The same without what is known of insides and sizes.
    pub(super) const fn outside(self) -> Self {
        Self(self.0 & Self::KINDS.0)
    }

    pub(super) const fn may_be(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Without sets at any depth.
    pub(super) const fn is_free_of_sets(self) -> bool {
        !self.may_be(Self(Self::SET.0 | Self::SET_INSIDE.0))
    }

    pub(super) const fn is_collection(self) -> bool {
        self.is_within(Self(Self::ARRAY.0 | Self::OBJECT.0 | Self::SET.0 | Self::SET_INSIDE.0))
    }

    /// A whole number within bounds that arithmetic keeps.
    pub(super) const fn is_small(self) -> bool {
        self.may_be(Self::SMALL) && self.is_within(Self(Self::NUMBER.0 | Self::SMALL.0))
    }

    /// What an element, a member's value or anything below can be.
    pub(super) fn element(self) -> Self {
        // Sets hold no sets: the check refuses it.
        if self.may_be(Self::SET_INSIDE) { Self::ANYTHING } else { Self::JSON }
    }

    /// An array or object with such an element.
    pub(super) fn holding(self, element: Self) -> Self {
        if element.is_free_of_sets() { self } else { self | Self::SET_INSIDE }
    }

    /// Either of the two.
    pub(super) fn or(self, other: Self) -> Self {
        let both = Self(self.0 | other.0);
        let is_small = |kind: Self| kind == Self::NOTHING || kind.is_small();
        if is_small(self) && is_small(other) { both } else { Self(both.0 & !Self::SMALL.0) }
    }
}

impl BitOr for Kind {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
