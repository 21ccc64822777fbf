//! Text without its markup: what a reader of the page sees of `ign<b></b>ore`.
//!
//! In scope: taking out tags and comments. Out of scope: what they mean; all that is between the tags stays.

/// The text without tags and comments, if it has any.
pub(super) fn without_tags(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some((before, tag)) = rest.split_once('<') {
        let Some(after) = after_tag(tag) else { break };
        found = true;
        plain.push_str(before);
        rest = after;
    }
    plain.push_str(rest);
    found.then_some(plain)
}

/// What follows a tag that began before `tag`. One that is not closed is text, and so is all that follows.
fn after_tag(tag: &str) -> Option<&str> {
    if let Some(comment) = tag.strip_prefix("!--")
        && let Some((_, after)) = comment.split_once("-->")
    {
        return Some(after);
    }
    tag.split_once('>').map(|(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_comments_are_taken_out() {
        for (text, plain) in [
            ("ign<b></b>ore", "ignore"),
            ("ign<b title='x'>or</b>e<br/>", "ignore"),
            ("ign<!-- <b> -->ore", "ignore"),
            ("ign<!--->ore", "ignore"),
            ("a <b> c < d", "a  c < d"),
        ] {
            assert_eq!(without_tags(text).as_deref(), Some(plain), "{text}");
        }
    }

    #[test]
    fn text_without_tags_is_left_alone() {
        assert_eq!(without_tags("a < b, c = d"), None);
    }
}
