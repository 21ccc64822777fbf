//! What stands in a line: literals, references, collections, calls.

use std::fmt::Write as _;

use super::{FIELDS, Generator, NUMBERS, Rule, TEXTS};

impl Generator {
    pub(super) fn literal(&mut self) -> String {
        match self.below(8) {
            0 => "null".to_owned(),
            1 => self.pick(&["true", "false"]).to_owned(),
            2 | 3 => self.pick(&NUMBERS).to_owned(),
            4 => self.pick(&["-1", "`a`", "`x\\y`"]).to_owned(),
            _ => format!("\"{}\"", self.pick(&TEXTS)),
        }
    }

    /// A literal or a variable: what always has a value.
    pub(super) fn atom(&mut self) -> String {
        if self.variables.is_empty() || self.chance(350) {
            return self.literal();
        }
        let variables = self.variables.clone();
        self.pick(&variables)
    }

    pub(super) fn reference(&mut self) -> String {
        let values: Vec<Rule> = self.rules.iter().filter(|rule| !matches!(rule, Rule::Function(..))).cloned().collect();
        let mut text = match self.below(12) {
            0..=5 => format!("input.{}", self.pick(&FIELDS)),
            6 => format!("data.d.{}", self.pick(&FIELDS)),
            7 if self.chance(400) => format!("data.e.{}", self.pick(&FIELDS)),
            7 => self.pick(&["d", "io", "tab", "data.lib.tab", "data.lib.ok", "data.lib.members"]).to_owned(),
            8 | 9 if !values.is_empty() => match self.pick(&values) {
                Rule::Set(name) => return name,
                Rule::Value(name) if self.chance(800) => return name,
                Rule::Value(name) => name,
                Rule::Function(..) => unreachable!("left out"),
            },
            _ if !self.variables.is_empty() => {
                let variables = self.variables.clone();
                self.pick(&variables)
            }
            _ => format!("input[\"{}\"]", self.pick(&FIELDS)),
        };
        for _ in 0..self.below(3) {
            match self.below(5) {
                0 | 1 => {
                    let _ = write!(text, ".{}", self.pick(&FIELDS));
                }
                2 => {
                    let _ = write!(text, "[{}]", self.pick(&["0", "1", "\"a\"", "\"l\"", "true"]));
                }
                3 if self.chance(150) => {
                    let _ = write!(text, "[input.{}]", self.pick(&FIELDS));
                }
                _ => {
                    let _ = write!(text, "[{}]", self.atom());
                }
            }
        }
        text
    }

    /// A path into the input or the data: no set.
    pub(super) fn document(&mut self) -> String {
        let root = self.pick(&["input", "input.o", "data.d", "data.e", "data.d.o"]);
        format!("{root}.{}", self.pick(&FIELDS))
    }

    pub(super) fn orderable(&mut self) -> String {
        match self.below(4) {
            0 => self.literal(),
            1 if !self.variables.is_empty() => format!("count({})", self.variable_in_scope()),
            _ => self.document(),
        }
    }

    /// A literal, a variable or a reference.
    pub(super) fn simple(&mut self) -> String {
        match self.below(20) {
            0 => self.reference(),
            1..=8 => self.document(),
            _ => self.atom(),
        }
    }

    pub(super) fn collection(&mut self, depth: usize) -> String {
        match self.below(8) {
            0 => format!("{{{}, {}}}", self.literal(), self.literal()),
            1 => format!("[{}, {}]", self.simple(), self.atom()),
            2 if depth > 0 => self.comprehension(depth - 1),
            3 => self.set(depth.saturating_sub(1)),
            _ => self.reference(),
        }
    }

    /// What `in` can look into.
    pub(super) fn members(&mut self) -> String {
        match self.below(4) {
            0 => format!("{{{}, {}}}", self.literal(), self.literal()),
            1 => format!("[{}, {}]", self.atom(), self.atom()),
            _ => self.reference(),
        }
    }

    /// Something that is known to be a set.
    fn set(&mut self, depth: usize) -> String {
        let sets: Vec<Rule> = self.rules.iter().filter(|rule| matches!(rule, Rule::Set(_))).cloned().collect();
        if let (false, true) = (sets.is_empty(), self.chance(500))
            && let Rule::Set(name) = self.pick(&sets)
        {
            return name;
        }
        match self.below(4) {
            0 if depth > 0 => {
                let operator = self.pick(&["|", "&", "-"]);
                format!("({} {operator} {})", self.set(0), self.set(0))
            }
            1 => format!("object.keys({})", self.reference()),
            2 => format!("{{{}, {}}}", self.literal(), self.atom()),
            _ => {
                let outer = self.variables.clone();
                let collection = self.reference();
                let variable = self.variable();
                self.variables = outer;
                format!("{{{variable} | some {variable} in {collection}}}")
            }
        }
    }

    fn comprehension(&mut self, depth: usize) -> String {
        let outer = self.variables.clone();
        let collection = self.reference();
        let variable = self.variable();
        let (body, inner) = self.inner_body(depth);
        self.variables = inner;
        let value = self.simple();
        let text = match self.below(3) {
            0 => format!("[{value} | some {variable} in {collection}; {body}]"),
            1 => format!("{{{value} | some {variable} in {collection}; {body}}}"),
            _ => format!("{{{variable}: {value} | some {variable} in {collection}; {body}}}"),
        };
        self.variables = outer;
        text
    }

    pub(super) fn term(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 6 } else { 14 }) {
            0..=2 => self.atom(),
            3..=5 => self.reference(),
            6 => format!("[{}, {}]", self.term(depth - 1), self.simple()),
            7 => format!("{{\"a\": {}, \"l\": {}}}", self.simple(), self.term(depth - 1)),
            8 => self.set(depth),
            9 => self.comprehension(depth - 1),
            10 | 11 => self.call(depth - 1),
            12 => {
                let operator = self.pick(&["==", "!="]);
                format!("{} {operator} {}", self.simple(), self.simple())
            }
            _ => {
                let operator = self.pick(&["+", "-", "*"]);
                let of = if self.variables.is_empty() { self.reference() } else { self.variable_in_scope() };
                format!("count({of}) {operator} {}", self.pick(&["1", "2", "0"]))
            }
        }
    }

    pub(super) fn call(&mut self, depth: usize) -> String {
        if self.is_odd() {
            let arguments: Vec<String> = (0..2).map(|_| self.term(depth)).collect();
            return self.call_with(&arguments);
        }
        // One that may be missing, of a kind that the text does not tell.
        let first =
            if self.variables.is_empty() || self.chance(500) { self.reference() } else { self.variable_in_scope() };
        let second = self.text();
        self.call_with(&[first, second])
    }

    fn text(&mut self) -> String {
        if self.variables.is_empty() || self.chance(600) {
            format!("\"{}\"", self.pick(&TEXTS))
        } else {
            self.variable_in_scope()
        }
    }

    fn variable_in_scope(&mut self) -> String {
        let variables = self.variables.clone();
        self.pick(&variables)
    }

    pub(super) fn call_of_atoms(&mut self) -> String {
        let first = if self.variables.is_empty() { "\"x.y\"".to_owned() } else { self.variable_in_scope() };
        let second = self.text();
        self.call_with(&[first, second])
    }

    fn call_with(&mut self, arguments: &[String]) -> String {
        let (first, second) = (&arguments[0], &arguments[1]);
        let functions: Vec<Rule> =
            self.rules.iter().filter(|rule| matches!(rule, Rule::Function(..))).cloned().collect();
        if let (false, true) = (functions.is_empty(), self.chance(450))
            && let Rule::Function(name, arity) = self.pick(&functions)
        {
            return if arity == 1 { format!("{name}({first})") } else { format!("{name}({first}, {second})") };
        }
        let text = format!("\"{}\"", self.pick(&["a", "x", "x.", ".y", "ä"]));
        match self.below(16) {
            0 => format!("count({first})"),
            1 => format!("startswith({first}, {text})"),
            2 => format!("endswith({first}, {second})"),
            3 => format!("contains({first}, {text})"),
            4 => format!("split({first}, \".\")"),
            5 => format!("trim_prefix({first}, {second})"),
            6 => format!("trim_suffix({first}, {text})"),
            7 => format!("object.get({first}, \"a\", {second})"),
            8 => format!("object.keys({first})"),
            9 => {
                let pattern = self.regular_expression(2);
                format!("regex.match(`{pattern}`, {first})")
            }
            10 => {
                let pattern = self.pick(&["x.*", "*.y", "x.**", "**", "*", "a", "*.*", "**.y", "x-1.*", "x.*.z"]);
                format!("glob.match(\"{pattern}\", [\".\"], {first})")
            }
            12 if self.chance(500) => format!("{}({first})", self.pick(&["twice", "data.lib.twice"])),
            11 if self.chance(200) => "net.cidr_contains(\"10.0.0.0/8\", input.peer.address)".to_owned(),
            _ => {
                let guard =
                    self.pick(&["is_string", "is_number", "is_array", "is_object", "is_boolean", "is_null", "is_set"]);
                format!("{guard}({first})")
            }
        }
    }

    fn regular_expression(&mut self, depth: usize) -> String {
        let mut text = String::new();
        for _ in 0..=self.below(3) {
            let atom = match self.below(if depth == 0 { 4 } else { 6 }) {
                0 | 1 => self.pick(&["a", "x", "y", "b"]).to_owned(),
                2 => self.pick(&[".", "\\.", "[a-z]", "[^a-c]", "[x.]", "[a-zA-Z0-9_\\-]"]).to_owned(),
                3 => self.pick(&["^", "$", ""]).to_owned(),
                4 => format!("({})", self.regular_expression(depth - 1)),
                _ => format!("({}|{})", self.regular_expression(depth - 1), self.regular_expression(depth - 1)),
            };
            text.push_str(&atom);
            if !matches!(atom.as_str(), "^" | "$" | "") && self.chance(300) {
                text.push_str(self.pick(&["?", "*", "+", "{2}", "{0,2}", "{1,}"]));
            }
        }
        text
    }
}
