//! Text without its markup: what a reader of the page sees of `ign<b></b>ore`.
//!
//! In scope: taking out tags and comments. Out of scope: what they mean; all that is between the tags stays.

use super::work::{Work, looked_at};

/// The text without tags and comments, if it has any. Each search either takes what it looked at or is the last of its
/// kind, so the work is linear.
pub(super) fn without_tags(text: &str, work: &mut Work) -> Option<String> {
    let mut plain = String::new();
    let mut rest = text;
    let mut found = false;
    let mut comments_end = true;
    while let Some((before, tag)) = split_at(rest, "<", work) {
        let comment = tag.strip_prefix("!--").filter(|_| comments_end);
        let after_comment = comment.and_then(|comment| split_at(comment, "-->", work));
        comments_end &= comment.is_none() || after_comment.is_some();
        // A tag that is not closed is text, and so is all that follows.
        let Some((_, after)) = after_comment.or_else(|| split_at(tag, ">", work)) else { break };
        found = true;
        plain.push_str(before);
        rest = after;
    }
    plain.push_str(rest);
    (found && work.spend(rest.len())).then_some(plain)
}

/// What stands before and after the first `end`, a step for each byte up to there.
fn split_at<'t>(text: &'t str, end: &str, work: &mut Work) -> Option<(&'t str, &'t str)> {
    let split = text.split_once(end);
    let bytes = split.map_or(text.len(), |(before, _)| before.len() + end.len());
    looked_at(bytes);
    work.spend(bytes).then_some(split).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_of(text: &str) -> Option<String> {
        without_tags(text, &mut Work::new(text.len()))
    }

    #[test]
    fn tags_and_comments_are_taken_out() {
        for (text, plain) in [
            ("ign<b></b>ore", "ignore"),
            ("ign<b title='x'>or</b>e<br/>", "ignore"),
            ("ign<!-- <b> -->ore", "ignore"),
            ("ign<!--->ore", "ignore"),
            ("a <b> c < d", "a  c < d"),
            ("<!-- > a <!-- > b", " a  b"),
            ("<!-- a --> b <!-- > c <b>d", " b  c d"),
        ] {
            assert_eq!(plain_of(text).as_deref(), Some(plain), "{text}");
        }
    }

    #[test]
    fn text_without_tags_is_left_alone() {
        assert_eq!(plain_of("a < b, c = d"), None);
    }
}
