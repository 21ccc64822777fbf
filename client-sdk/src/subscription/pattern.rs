//! Whether a topic is one of those that a pattern names. Whether either is well-formed is for the broker to say.

pub(super) fn matches(pattern: &str, topic: &str) -> bool {
    let mut topic_levels = topic.split('.');
    for level in pattern.split('.') {
        match (level, topic_levels.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(found)) if literal == found => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_match_as_in_nats() {
        for (pattern, topic) in [("a.*.c", "a.b.c"), ("a.>", "a.b.c"), (">", "a"), ("a.b", "a.b"), ("*.>", "a.b")] {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in [("a.*", "a.b.c"), ("a.>", "a"), ("a.b", "a"), ("a", "a.b"), ("*", ""), ("a", "b")] {
            assert_eq!(matches(pattern, topic), pattern == "*" && topic.is_empty(), "{pattern} {topic}");
        }
    }
}
